"""Mutation test: change the pure code in small ways, one at a time, and see whether its own unit tests fail.

`python -m bench.mutants [--minutes N] [--seed N] [--only FILES]` tries mutants in random order until the time is over.
It prints the mutants that no test has noticed, and the score, which is the share of those that were noticed.

mutmut 3 does not fit: much of the logic here is in tables, and it changes only the bodies of functions.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory

_ROOT = Path(__file__).parents[1]

#: Pure files, each with the tests that must notice a change in it.
TARGETS = (
    ("app/protocol/*.py", ("tests/unit/protocol",)),
    ("app/extraction/*.py", ("tests/unit/extraction",)),
    *(
        (f"app/upstream/{name}.py", ("tests/unit/upstream",))
        for name in (
            *("selection", "circuit_breaker", "retry", "error_mapping", "error_body", "error_words", "request_fields"),
            *("work_evidence", "wait_windows", "decoding"),
        )
    ),
    ("app/images/ssrf.py", ("tests/unit/images/test_ssrf.py", "tests/unit/images/test_host_names.py")),
)

#: Seconds after which a mutant counts as noticed, since it has made the tests run without end. They take 4 to 12 s.
_TIMEOUT = 120.0

_PAIRS = (
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn), (ast.Is, ast.IsNot)),
    *((ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.FloorDiv)),
)
_OPPOSITES: dict[type[ast.AST], type[ast.AST]] = {
    **dict(_PAIRS),
    **{other: one for one, other in _PAIRS},
    ast.Mod: ast.Mult,
}

#: Nodes with a position in the source.
Node = ast.expr | ast.stmt


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file: the source from byte `start` to `end` is replaced."""

    file: str
    tests: tuple[str, ...]
    line: int
    start: int
    end: int
    old: str
    new: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {' '.join(self.old.split())}  ->  {' '.join(self.new.split())}"


def find_mutants(file: str, tests: tuple[str, ...]) -> Iterator[Mutant]:
    source = (_ROOT / file).read_bytes()
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    for node in _code(ast.parse(source)):
        for old, new in _changes(node):
            start = offsets[old.lineno - 1] + old.col_offset
            end = offsets[(old.end_lineno or old.lineno) - 1] + (old.end_col_offset or 0)
            yield Mutant(file, tests, old.lineno, start, end, source[start:end].decode(), ast.unparse(new))


def _code(tree: ast.AST) -> Iterator[Node]:
    """Yield the code that runs, without decorators, annotations, docstrings and the insides of f-strings."""
    for field, value in ast.iter_fields(tree):
        if field in {"annotation", "returns", "decorator_list"}:
            continue
        for node in value if isinstance(value, list) else [value]:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.AST) and not is_docstring and not isinstance(node, ast.JoinedStr):
                if isinstance(node, Node):
                    yield node
                yield from _code(node)


def _changes(node: Node) -> Iterator[tuple[Node, ast.AST]]:
    """Yield nodes to replace and their replacements."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _OPPOSITES:
            yield node, _with(node, ops=[_OPPOSITES[type(operator)]()])
        case ast.BoolOp(op=operator) | ast.BinOp(op=operator) if type(operator) in _OPPOSITES:
            yield node, _with(node, op=_OPPOSITES[type(operator)]())
        case ast.UnaryOp(op=ast.Not()):
            yield node, node.operand
        case ast.If() | ast.IfExp() | ast.While():
            yield node.test, ast.UnaryOp(ast.Not(), node.test)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield node, ast.Return(ast.Constant(None))
        case ast.Break():
            yield node, ast.Continue()
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield node, ast.Pass()
        case ast.Constant():
            yield from ((node, ast.Constant(value)) for value in _other_values(node.value))


def _other_values(value: object) -> Iterator[bool | int | str | bytes]:
    """Yield another value for a constant. Texts with spaces are messages, whose wording no test needs to repeat."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, str | bytes) and value and " " not in str(value):
        yield value[:-1]


def _with(node: Node, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def copy_tree(folder: Path) -> None:
    ignored = shutil.ignore_patterns("node_modules", "__pycache__")
    for name in ("app", "tests"):
        shutil.copytree(_ROOT / name, folder / name, ignore=ignored)
    shutil.copy(_ROOT / "pyproject.toml", folder)


def is_noticed(mutant: Mutant, folder: Path, attempt: int) -> bool:
    """Return whether a test fails in a copy of the tree with this change."""
    file = folder / mutant.file
    source = file.read_bytes()
    file.write_bytes(mutant.apply(source))
    # Python compares whole seconds to see whether cached bytecode is out of date.
    os.utime(file, (attempt, attempt))
    try:
        return run_tests(folder, closest_tests(mutant)) != 0 or run_tests(folder, mutant.tests) != 0
    finally:
        file.write_bytes(source)


def closest_tests(mutant: Mutant) -> Sequence[str]:
    """Return the test files that import the changed module, which notice most of the changes and start faster."""
    module = mutant.file.removesuffix(".py").replace("/", ".")
    files = [file for name in mutant.tests for file in sorted(_ROOT.glob(f"{name}/test_*.py"))]
    close = [file.relative_to(_ROOT).as_posix() for file in files if f"from {module} import" in file.read_text()]
    return close or mutant.tests


def run_tests(folder: Path, tests: Sequence[str]) -> int:
    """Return the exit status of pytest; a run that takes too long counts as failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-qq", "--no-header", "-p", "no:cacheprovider", *tests]
    # In CI hypothesis tries the same examples each time.
    environment = {**os.environ, "CI": "1", "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return 1
    return done.returncode


def try_mutants(mutants: Sequence[Mutant], seconds: float, jobs: int) -> dict[Mutant, bool]:
    """Try mutants in their order until the time is over; the values say whether a test has noticed them."""
    deadline = time.monotonic() + seconds
    with TemporaryDirectory(prefix="mutants-") as parent, ThreadPoolExecutor(jobs) as pool:
        folders: Queue[Path] = Queue()
        for number in range(jobs):
            copy_tree(Path(parent, str(number)))
            folders.put(Path(parent, str(number)))
        for tests in {mutant.tests for mutant in mutants}:
            if run_tests(Path(parent, "0"), tests):
                raise RuntimeError(f"the tests fail without any change: {' '.join(tests)}")

        def attempt(number: int, mutant: Mutant) -> tuple[Mutant, bool] | None:
            if time.monotonic() > deadline:
                return None
            folder = folders.get()
            try:
                return mutant, is_noticed(mutant, folder, number + 1)
            finally:
                folders.put(folder)

        return dict(filter(None, pool.map(attempt, range(len(mutants)), mutants)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("mutants", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--only", default="*", help="files, such as 'app/protocol/s*'")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    files = [
        (path.relative_to(_ROOT).as_posix(), tests) for name, tests in TARGETS for path in sorted(_ROOT.glob(name))
    ]
    mutants = [each for file, tests in files if fnmatch(file, options.only) for each in find_mutants(file, tests)]
    random.Random(options.seed).shuffle(mutants)
    noticed = try_mutants(mutants, options.minutes * 60, options.jobs)
    survivors = sorted(map(str, (mutant for mutant, was_noticed in noticed.items() if not was_noticed)))
    print(*survivors, sep="\n")
    share = 100 * (1 - len(survivors) / len(noticed))
    print(f"seed {options.seed}: {len(noticed)} of {len(mutants)} mutants tried, {share:.1f} % noticed by a test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
