"""The shape of the code: who may import whom, and the house rules that no linter knows."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Who may import which of our files, by name or pattern. A file that no row names fails.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "log": set(),
    "metrics": set(),
    "names": set(),
    "pure/*": {"errors", "pure/*"},
    "formats": {"pure/dialects", "pure/netguard", "store"},
    "roster": {"formats"},
    "contradictions": {"formats"},
    "settings": {"contradictions", "formats", "roster"},
    "objections": {"formats"},
    "keys": {"errors", "log", "pure/*"},
    "access": {"errors", "keys"},
    "state": {"errors", "log", "metrics"},
    "leases": {"state"},
    "limits": {"errors", "access", "keys", "leases", "state", "pure/*"},
    "blobs": {"errors", "metrics"},
    "traces": {"metrics"},
    "ledger": {"log", "metrics"},
    "places": {"formats", "roster", "settings"},
    "report": set(),
    "jobs": {"errors", "log"},
    "pipeline": {"errors", "pure/*"},
    "upstream": {"errors", "pure/*"},
    "upstreams": {"errors", "log", "metrics", "roster", "upstream", "pure/*"},
    "fetch": {"errors", "log", "names", "blobs", "pure/*"},
    "stored": {"errors", "pure/*"},
    "disk": {"blobs", "stored", "pure/*"},
    "memory": {"blobs", "stored", "pure/*"},
    "bucket": {"blobs", "stored", "pure/*"},
    "store": {"blobs", "bucket", "disk", "memory", "stored", "pure/*"},
    "kept": {"stored", "pure/*"},
    "codec": {"errors", "blobs", "pure/*"},
    "masking": {"errors", "blobs", "codec", "pure/*"},
    "transcode": {"errors", "blobs", "codec", "masking", "pure/*"},
    "forms": {"errors", "blobs", "pure/*"},
    "responses": {"errors", "pure/*"},
    "exchange": {"errors", "jobs", "pipeline", "responses", "traces", "pure/*"},
    "accounts": {"access", "exchange", "ledger", "log", "metrics", "once", "traces", "pure/*"},
    "middleware": {"errors", "log", "responses"},
    "examples": {"errors", "pure/*"},
    "openapi": {"examples", "pure/*"},
    # A request's way from one part to the next: the parts do not know each other, the workbench knows them.
    "workbench": {
        "errors",
        "blobs",
        "board",
        "fetch",
        "formats",
        "metrics",
        "once",
        "pipeline",
        "store",
        "traces",
        "transcode",
        "upstream",
        "upstreams",
        "pure/*",
    },
    "studio": {
        "errors",
        "access",
        "blobs",
        "exchange",
        "handover",
        "jobs",
        "limits",
        "once",
        "pipeline",
        "responses",
        "workbench",
        "pure/*",
    },
    "once": {"errors", "access", "blobs", "exchange", "jobs", "pure/*"},
    "board": {"errors", "once", "state"},
    "hints": {"state"},
    "letters": {"errors", "blobs", "exchange", "once", "pipeline", "store", "pure/*"},
    "handover": {"errors", "blobs", "board", "letters", "log", "once", "pipeline", "store"},
    "routes": {"errors", "access", "accounts", "blobs", "forms", "openapi", "settings", "studio", "pure/*"},
    "ops": {"errors", "access", "kept", "metrics", "openapi", "responses", "stored"},
    "pages": {"errors", "settings", "pure/sizes"},
    "status": {"errors", "access", "exchange", "formats", "once", "responses", "settings", "studio", "upstreams"},
    "demo/*": {"errors", "pure/*", "demo/*"},
    "parts": {
        "__init__",
        "access",
        "accounts",
        "formats",
        "keys",
        "ledger",
        "once",
        "pipeline",
        "places",
        "roster",
        "settings",
        "stored",
        "traces",
        "upstream",
        "upstreams",
    },
    "main": {"*"},
    "connection": {"errors", "log"},
    "server": {"connection", "keys", "log", "main", "metrics", "settings", "studio"},
    "workers": {"log", "server", "settings"},
    "silence": {"errors", "access", "responses"},
    "explanation": {"pure/*"},
    "diagnosis": {"errors", "access", "explanation", "responses", "routes", "pure/*"},
    "terminal": set(),
    "painting": {"settings", "terminal", "pure/*"},
    "steps": {"settings"},
    "stopwatch": set(),
    "surroundings": {"errors", "blobs", "parts", "settings", "state", "steps", "store", "stored", "pure/*"},
    "check": {
        "errors",
        "main",
        "parts",
        "places",
        "settings",
        "steps",
        "stopwatch",
        "surroundings",
        "upstream",
        "pure/*",
    },
    "showcase": {"log", "main", "objections", "roster", "settings", "pure/*", "demo/*"},
    "__main__": {"*"},
}

#: What translation needs of the world: nothing that reads a clock, a disk, a socket or chance.
PURE_LIBRARIES = {
    *(
        "codecs",
        "collections",
        "collections.abc",
        "contextlib",
        "dataclasses",
        "datetime",
        "email.utils",
        "enum",
        "functools",
        "html",
    ),
    *("ipaddress", "itertools", "math", "re", "string", "struct", "typing", "unicodedata", "urllib.parse", "zlib"),
    *("orjson", "pybase64"),
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "now", "today", "utcnow", "formatdate", "localtime"}
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager"}

#: Where a bug that nobody foresaw is logged and becomes a 500: nobody above could do it.
LAST_RESORTS = {"jobs", "middleware"}

#: Tests of the whole, which belong to no single file.
TESTS_OF_THE_WHOLE = {
    "test_architecture",
    "test_bench",
    "test_blocks",
    "test_browser",
    "test_caddy",
    "test_clients",
    "test_compose",
    "test_conftest",
    "test_docs",
    "test_deploy",
    "test_hostile",
    "test_nginx",
    "test_node_clients",
    "test_packaging",
    "test_prometheus",
    "test_readme",
    "test_recipes",
    "test_releases",
    "test_replicas",
    "test_secrets",
    "test_wire",
    "test_workflows",
}

SOURCES = {
    path.relative_to(ROOT / "app").with_suffix("").as_posix(): ast.parse(path.read_bytes())
    for path in sorted((ROOT / "app").rglob("*.py"))
}
MODULES = {name: tree for name, tree in SOURCES.items() if not name.endswith("__init__")}
TESTS = {
    path.relative_to(ROOT / "tests").with_suffix("").as_posix(): ast.parse(path.read_bytes())
    for path in sorted((ROOT / "tests").rglob("*.py"))
}

each_source = pytest.mark.parametrize("name", SOURCES)
each_module = pytest.mark.parametrize("name", MODULES)


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Dotted names, `from a import b` as both `a` and `a.b` where that is one of our files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            ours = [f"{node.module}.{alias.name}" for alias in node.names if _file_of(f"{node.module}.{alias.name}")]
            yield from ours or [str(node.module)]


def _file_of(module: str) -> str | None:
    """`app.pure.sse` → `pure/sse`, `app` → `__init__`; None where it is not ours."""
    package, _, rest = module.partition(".")
    path = rest.replace(".", "/")
    return next((file for file in (path, f"{path}/__init__".lstrip("/")) if package == "app" and file in SOURCES), None)


def imports(name: str) -> set[str]:
    return {file for module in imported_modules(SOURCES[name]) if (file := _file_of(module))}


def rule(name: str) -> set[str] | None:
    rows = [row for row in MAY_IMPORT if fnmatch(name, row)]
    return MAY_IMPORT[max(rows, key=len)] if rows else None


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """`path.open(…)` and `open(…)` are both calls of `open`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


@each_source
def test_a_file_imports_only_what_its_row_names(name: str) -> None:
    allowed = rule(name)
    assert allowed is not None, f"app/{name}.py has no row in MAY_IMPORT"
    strangers = {file for file in imports(name) if not any(fnmatch(file, row) for row in allowed)}
    # The version may be read by anyone but pure code.
    assert strangers <= (set() if name.startswith("pure/") else {"__init__"})


def test_no_file_imports_itself_in_a_circle() -> None:
    tuple(TopologicalSorter({name: imports(name) for name in SOURCES}).static_order())


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("pure/")])
def test_pure_code_sees_nothing_of_the_world(name: str) -> None:
    tree = SOURCES[name]
    assert {module for module in imported_modules(tree) if module.partition(".")[0] != "app"} <= PURE_LIBRARIES
    assert not [f"line {call.lineno}: {called}" for called, call in calls(tree) if called in IMPURE_CALLS]


@each_source
def test_only_the_settings_read_the_environment(name: str) -> None:
    readers = [node for node in ast.walk(SOURCES[name]) if isinstance(node, ast.Attribute)]
    found = [node.lineno for node in readers if node.attr in {"environ", "environb", "getenv"}]
    assert name == "settings" or not found, f"lines {found}"


@each_source
def test_a_file_says_its_responsibility_in_its_first_line(name: str) -> None:
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
    assert lines <= 300
    functions = [node for node in ast.walk(SOURCES[name]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in functions}
    assert not {function: length for function, length in lengths.items() if length > 40}


def test_no_name_is_empty() -> None:
    words = {word for name in (*SOURCES, *TESTS) for part in name.split("/") for word in part.split("_")}
    assert not words & EMPTY_NAMES


@each_module
def test_every_file_has_its_test_file(name: str) -> None:
    folder, _, file = name.rpartition("/")
    test = f"{folder}/test_{file}".lstrip("/")
    assert test in list(TESTS), f"tests/{test}.py is missing"


@pytest.mark.parametrize("name", [name for name in TESTS if name.rpartition("/")[2].startswith("test_")])
def test_every_test_file_has_its_file(name: str) -> None:
    file = name.replace("test_", "", 1)
    assert name in TESTS_OF_THE_WHOLE or file in list(MODULES), f"app/{file}.py is missing"


@pytest.mark.parametrize("name", TESTS)
def test_no_test_sleeps(name: str) -> None:
    """`asyncio.sleep(0)` lets others run and costs no time."""
    sleeps = [call for called, call in calls(TESTS[name]) if called == "sleep"]
    assert not [call.lineno for call in sleeps if not call.args or ast.unparse(call.args[0]) != "0"]
