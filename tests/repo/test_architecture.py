"""The shape of the code: which package may import which, and the rules of this project that no linter knows.

The rules are explained in docs/architecture.md. A rule that holds for all but some files lists these files by name.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_CORE = {
    "errors",
    "connection_ends",
    "bounded_responses",
    "fair_queue",
    "loop_turns",
    "observability",
    "protocol",
    "extraction",
    "access",
    "images",
    "state",
    "upstream",
    "jobs",
    "config",
}

#: For each package or top-level module: what it may import besides itself. `*` stands for everything.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "bounded_responses": set(),
    "connection_ends": set(),
    "fair_queue": set(),
    "loop_turns": set(),
    "observability": set(),
    "protocol": {"errors"},
    "extraction": {"errors", "protocol"},
    "state": {"errors", "observability"},
    "access": {"errors", "fair_queue", "observability", "protocol", "state"},
    "images": {"errors", "bounded_responses", "fair_queue", "loop_turns", "observability", "protocol"},
    "upstream": {
        "errors",
        "bounded_responses",
        "connection_ends",
        "loop_turns",
        "observability",
        "protocol",
        "extraction",
    },
    "jobs": _CORE - {"bounded_responses", "connection_ends", "fair_queue", "config", "jobs"},
    "config": {"protocol", "images", "upstream/spec"},
    "api": _CORE,
    "services": _CORE,
    "main": {*_CORE, "api", "services"},
    "server": {"errors", "connection_ends", "observability", "config", "main"},
    "cli": {"*"},
    "demo": set(),
}

#: A package stands one floor above the highest package that it imports.
MAX_FLOORS = 9

#: Files with fewer rights than their package: the way of a request knows neither HTTP nor Redis nor the disk.
MAY_IMPORT_ONLY = {
    "jobs/pipeline": {
        "errors",
        "loop_turns",
        "protocol",
        "extraction",
        "jobs/concurrent_work",
        "jobs/pipeline_interface",
    },
    "jobs/pipeline_interface": {"protocol"},
}

#: The libraries that open connections or speak HTTP, each with the files that may import it.
MAY_USE = {
    # Outgoing connections. The commands connect as a client of Limner or to check an upstream, the demo to its own image host.
    "httpx": (
        "upstream/client",
        "upstream/transport",
        "upstream/connection_errors",
        "upstream/response_body",
        "cli/*",
        "demo/*",
    ),
    "aiohttp": (
        "bounded_responses",
        "upstream/transport",
        "upstream/connection_errors",
        "images/fetch",
        "images/guarded_http",
        "images/download_proxy",
    ),
    "obstore": ("images/bucket",),
    "redis": ("state/*",),
    "opentelemetry": ("observability/tracing",),
    "ssl": ("upstream/transport", "images/fetch", "images/guarded_http", "config/connections", "cli/*"),
    # `images/guarded_http` resolves host names, decoders have socket pairs, the servers bind the sockets on which they listen.
    # `bounded_responses` reads what is left on a connection that was reset.
    "socket": (
        "bounded_responses",
        "connection_ends",
        "images/guarded_http",
        "images/dns",
        "images/own_addresses",
        "images/decoder",
        "images/decoder_pool",
        "server/*",
        "cli/*",
        "demo/server",
    ),
    # Images are decoded in processes of their own: the server does not import Pillow.
    "PIL": ("images/codec", "images/conversions", "images/decode_cost", "images/decoder", "demo/*"),
    # Files that others have signed are parsed where the key is, but never in the server.
    **dict.fromkeys(("c2pa", "cryptography"), ("images/manifests",)),
    **dict.fromkeys(("http", "urllib.request", "ftplib", "smtplib", "requests", "urllib3", "anyio"), ()),
    # Incoming connections.
    "starlette": ("api/*", "main", "server/draining", "demo/*"),
    "starlette.datastructures": ("access/auth", "access/sites", "api/*"),
    # It only describes the routes, when somebody asks for the schema.
    "fastapi": ("api/route_table",),
    "uvicorn": ("server/*", "demo/*"),
}

#: Pure packages and files: values in, values out.
PURE = (
    "protocol/*",
    "extraction/*",
    *(f"upstream/{name}" for name in ("selection", "circuit_breaker", "retry", "decoding", "wait_windows")),
    *(
        f"upstream/{name}"
        for name in ("error_mapping", "error_body", "error_words", "request_fields", "work_evidence", "mending")
    ),
    "images/decompression",
    "images/ssrf",
    "images/location",
)

#: The libraries of pure code: none of them reads a clock, a disk, a socket or randomness.
PURE_LIBRARIES = {
    *(
        "codecs",
        "collections",
        "collections.abc",
        "contextlib",
        "dataclasses",
        "datetime",
        "decimal",
        "email.utils",
        "enum",
    ),
    *("functools", "html", "ipaddress", "itertools", "json", "math", "re", "string", "struct", "typing", "unicodedata"),
    *("hashlib", "hmac", "urllib.parse", "zlib", "orjson", "pybase64", "idna"),
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "now", "today", "utcnow", "formatdate", "localtime"}

#: Words that name no subject, in file names.
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager"}

#: Words of the vocabulary that docs/glossary.md replaced, as parts of identifiers.
FORBIDDEN_WORDS = {
    *("errand", "errands", "studio", "studios", "workbench", "board", "boards", "letter", "handover", "handovers"),
    *("visit", "visits", "commission", "told", "heard", "said"),
}

#: Those of them that have no other meaning here, in texts. Cherry Studio is a client.
FORBIDDEN_IN_TEXTS = re.compile(r"(?i)\b(errand|workbench|handover|(?<!cherry )studio)s?\b")

#: Where any exception is logged and becomes a 500, since no caller could do it. In the pipeline a caller could, but a bug
#: with one image would take those of the other replies with it, which are paid for.
LAST_RESORTS = {"jobs/job_run", "jobs/pipeline", "api/middleware", "images/decoder"}


def parse(folder: str) -> dict[str, ast.Module]:
    return {
        path.relative_to(ROOT / folder).with_suffix("").as_posix(): ast.parse(path.read_bytes())
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "node_modules" not in path.parts
    }


SOURCES, TESTS = parse("app"), parse("tests")
TOOLS = {
    f"{folder}/{name}": tree for folder in ("bench", "fuzz", "simulate", "docs") for name, tree in parse(folder).items()
}

each_source = pytest.mark.parametrize("name", SOURCES)


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Yield dotted names; `from a import b` gives `a.b` where that is one of our files, else `a`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            ours = [f"{node.module}.{alias.name}" for alias in node.names if _file_of(f"{node.module}.{alias.name}")]
            yield from ours or [str(node.module)]


def _file_of(module: str) -> str | None:
    """Return the file of a module: `app.protocol.sse` is `protocol/sse`, `app` is `__init__`; None if it is not ours."""
    package, _, rest = module.partition(".")
    path = rest.replace(".", "/")
    return next((file for file in (path, f"{path}/__init__".lstrip("/")) if package == "app" and file in SOURCES), None)


def imports(name: str) -> set[str]:
    return {file for module in imported_modules(SOURCES[name]) if (file := _file_of(module))}


def package_of(name: str) -> str:
    return "cli" if name == "__main__" else name.partition("/")[0]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def is_pure(name: str) -> bool:
    return matches(name, PURE)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call with its name, which is `open` for both `path.open(…)` and `open(…)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


@each_source
def test_a_file_imports_only_what_its_package_may(name: str) -> None:
    package = package_of(name)
    allowed = MAY_IMPORT_ONLY.get(name, MAY_IMPORT.get(package, set()) | {package})
    strangers = {file for file in imports(name) if not {"*", package_of(file), file} & allowed}
    # Every package but the pure ones may read the version.
    assert strangers <= (set() if is_pure(name) else {"__init__"})


def test_no_file_imports_itself_in_a_circle() -> None:
    tuple(TopologicalSorter({name: imports(name) for name in SOURCES}).static_order())


def test_no_tool_imports_itself_in_a_circle() -> None:
    """Not even where only the types are needed."""
    known = {name.replace("/", ".").removesuffix(".__init__"): tree for name, tree in TOOLS.items()}
    graph = {
        name: {
            f"{node.module}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in known and node.module != name
        }
        for name, tree in known.items()
    }
    tuple(TopologicalSorter(graph).static_order())


def test_the_packages_stand_on_few_floors() -> None:
    below: dict[str, set[str]] = defaultdict(set)
    for name in SOURCES:
        below[package_of(name)] |= {package_of(file) for file in imports(name)}
    floors: dict[str, int] = {}
    for package in TopologicalSorter({package: below[package] - {package} for package in below}).static_order():
        floors[package] = 1 + max((floors[each] for each in below[package] - {package}), default=0)
    # The version, `__init__`, is read from everywhere and is no floor.
    assert max(floors.values()) - 1 <= MAX_FLOORS, floors


def libraries(tree: ast.Module) -> set[str]:
    """Return the names of `MAY_USE` that a file imports, the most exact one of each import."""
    found = set()
    for module in imported_modules(tree):
        parts = module.split(".")
        names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        found |= {name for name in [next((name for name in names if name in MAY_USE), None)] if name}
    return found


@each_source
def test_only_listed_files_use_network_libraries(name: str) -> None:
    used = {library for library in libraries(SOURCES[name]) if not matches(name, MAY_USE[library])}
    assert used == set()


@pytest.mark.parametrize("name", [name for name in SOURCES if is_pure(name)])
def test_pure_code_has_no_input_or_output(name: str) -> None:
    tree = SOURCES[name]
    assert {module for module in imported_modules(tree) if module.partition(".")[0] != "app"} <= PURE_LIBRARIES
    assert not [f"line {call.lineno}: {called}" for called, call in calls(tree) if called in IMPURE_CALLS]


@each_source
def test_only_the_settings_read_the_environment(name: str) -> None:
    readers = [node for node in ast.walk(SOURCES[name]) if isinstance(node, ast.Attribute)]
    found = [node.lineno for node in readers if node.attr in {"environ", "environb", "getenv"}]
    assert name in {"config/variables", "config/environment"} or not found, f"lines {found}"


def test_no_class_name_is_defined_twice() -> None:
    """The demo upstream shares no code with the rest, so it has its own words."""
    defined: dict[str, list[str]] = defaultdict(list)
    for name in SOURCES:
        for node in ast.walk(SOURCES[name]) if package_of(name) != "demo" else ():
            if isinstance(node, ast.ClassDef):
                defined[node.name].append(name)
    assert not {twin: files for twin, files in defined.items() if len(files) > 1}


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Yield every name that a file defines or uses, names of parameters, attributes and modules among them."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


def words_of(identifier: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("_SAID_SO", {"said", "so"}),
        ("read_letter", {"read", "letter"}),
        ("OtelSpan2", {"otel", "span"}),
        ("HTTPError", {"http", "error"}),
        ("behaviors", {"behaviors"}),
    ],
)
def test_an_identifier_consists_of_words(identifier: str, words: set[str]) -> None:
    assert words_of(identifier) == words


@pytest.mark.parametrize("name", [*SOURCES, *(f"tests/{name}" for name in TESTS), *TOOLS])
def test_no_identifier_has_a_forbidden_word(name: str) -> None:
    tree = SOURCES.get(name) or TOOLS.get(name) or TESTS[name.removeprefix("tests/")]
    found = {word for word in [*identifiers(tree), *name.split("/")] if words_of(word) & FORBIDDEN_WORDS}
    assert not found


TEXTS = [
    path.relative_to(ROOT).as_posix()
    for folder in ("app", "bench", "deploy", "docs", "fuzz", "simulate", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".html", ".js", ".lua", ".md", ".py", ".toml", ".yaml"} and "node_modules" not in path.parts
]


def test_no_text_has_a_forbidden_word() -> None:
    exempt = {"docs/decisions/008-packages-and-words.md", "tests/repo/test_architecture.py"}
    found = {name: FORBIDDEN_IN_TEXTS.findall((ROOT / name).read_text()) for name in TEXTS if name not in exempt}
    assert not {name: words for name, words in found.items() if words}


@pytest.mark.parametrize("library", [library for library, files in MAY_USE.items() if files])
def test_every_file_that_may_use_a_library_does(library: str) -> None:
    """An exception that no file needs any more would hide the next mistake."""
    users = {name for name in SOURCES if library in libraries(SOURCES[name])}
    assert not [pattern for pattern in MAY_USE[library] if not any(fnmatch(name, pattern) for name in users)]


@each_source
def test_a_file_states_its_role_in_its_first_line(name: str) -> None:
    first = (ast.get_docstring(SOURCES[name]) or "").split("\n", maxsplit=1)[0]
    assert first.endswith((".", ":"))


@each_source
def test_every_except_names_its_exception(name: str) -> None:
    """`except BaseException` may tidy up, where it ends with a bare `raise`."""
    handlers = [node for node in ast.walk(SOURCES[name]) if isinstance(node, ast.ExceptHandler)]
    caught = {handler: ast.unparse(handler.type) if handler.type else "" for handler in handlers}
    broad = [handler for handler, kind in caught.items() if kind in {"", "Exception", "BaseException"}]
    swallowed = [handler.lineno for handler in broad if ast.unparse(handler.body[-1]) != "raise"]
    assert bool(swallowed) == (name in LAST_RESORTS), f"lines {swallowed}"


@each_source
def test_files_and_functions_stay_short(name: str) -> None:
    lines = (ROOT / "app" / f"{name}.py").read_text().count("\n")
    assert lines <= 500
    functions = [node for node in ast.walk(SOURCES[name]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in functions}
    assert not {function: length for function, length in lengths.items() if length > 40}


def test_no_file_has_a_meaningless_name() -> None:
    words = {word for name in (*SOURCES, *TESTS) for part in name.split("/") for word in part.split("_")}
    assert not words & EMPTY_NAMES


#: Test files whose table is the subject of another test.
SUBJECTS = {"tests.repo.test_architecture", "tests.e2e.test_client_requests"}


@pytest.mark.parametrize("name", TESTS)
def test_a_test_file_imports_no_other_one(name: str) -> None:
    """It would run the imports and fixtures of the other one, and could not be read alone. `tests/support` is for both."""
    others = {each for each in imported_modules(TESTS[name]) if re.search(r"^tests\..*\btest_", each)}
    assert others <= SUBJECTS


@pytest.mark.parametrize("name", TESTS)
def test_no_test_sleeps(name: str) -> None:
    """`asyncio.sleep(0)` lets others run and costs no time."""
    sleeps = [call for called, call in calls(TESTS[name]) if called == "sleep"]
    assert not [call.lineno for call in sleeps if not call.args or ast.unparse(call.args[0]) != "0"]
