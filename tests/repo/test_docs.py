"""The documents are right: their tables come from the code, their links have targets, their errors exist.

tests/repo/test_readme.py and tests/repo/test_code_blocks.py look at their commands and code, tests/repo/test_packaging.py at versions, at make
targets, and at variables in the image and in deploy/.
"""

import ast
import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.config.settings import Settings, known_variables
from app.errors import ApiError
from app.extraction.forms import FORMS
from app.protocol.dialects import DIALECTS
from docs.pages import PAGES
from docs.tables import README, with_tables
from tests.repo.test_architecture import MAY_IMPORT
from tests.support.markdown import DOCUMENTS, ROOT, without_blocks

TEXT = README.read_text()


def test_the_tables_are_generated_from_the_code() -> None:
    assert with_tables(TEXT) == TEXT, "README.md is behind the code: run make docs-tables"


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_generated_from_the_code(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), f"docs/{name} is behind the code: run make docs-tables"


def test_every_page_is_in_the_navigation() -> None:
    """`make docs` itself fails on links that lead nowhere."""
    listed = re.findall(r"^ +- (?:.+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)


ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


def test_the_tree_of_the_architecture_lists_every_file_once() -> None:
    tree = ARCHITECTURE.partition("```text\n")[2].partition("\n```")[0]
    listed, folder = [], ""
    for line in tree.splitlines():
        if found := re.match(r"(  |    )(\w+)(/|\.\w+) ", line):
            indent, name, ending = found.groups()
            folder = f"{name}/" if ending == "/" else folder if len(indent) == 4 else ""
            listed += [f"{folder}{name}{ending}"] if ending != "/" else []
    files = {
        path.relative_to(ROOT / "app").as_posix()
        for path in (ROOT / "app").rglob("*")
        if path.suffix in {".py", ".lua"}
    }
    assert sorted(listed) == sorted(file for file in files if not file.endswith("/__init__.py"))


def test_the_table_of_imports_is_the_one_that_is_enforced() -> None:
    table = ARCHITECTURE.partition("| package | may import |")[2].partition("\n\n")[0]
    documented: dict[str, set[str]] = {}
    for package, allowed in re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE):
        above = (
            set(documented) if allowed.startswith("all of the above") else {"*"} if allowed == "everything" else set()
        )
        but = re.search(r" but `(\w+)`", allowed)
        documented[package] = above - {but[1]} if but else above | set(re.findall(r"`([\w/]+)`", allowed))
    assert documented == MAY_IMPORT


def test_every_setting_is_in_the_readme() -> None:
    assert set(known_variables()) <= set(re.findall(r"^\| `(LIMNER_\w+)`", TEXT, re.MULTILINE))


@pytest.mark.parametrize("path", [*DOCUMENTS, *sorted((ROOT / "app").rglob("*.py"))], ids=lambda path: path.name)
def test_every_variable_in_a_document_or_message_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"\bLIMNER_[A-Z0-9_]*[A-Z0-9]\b(?!_)", path.read_text()))
    assert named <= set(known_variables())


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of headings."""
    prose = without_blocks(path.read_text())
    return {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_inside_the_project_has_a_target(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not urlsplit(link).scheme:
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_every_page_named_in_a_message_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    assert "README.md" not in sources
    assert {name for name in re.findall(r"\bdocs/[\w/-]+\.md", sources) if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_documented(name: str) -> None:
    """It is in the description of its setting and on the page about dialects."""
    assert f"`{name}`" in (Settings.model_fields["upstream_dialect"].description or "")
    assert f"\n| `{name}` | " in (ROOT / "docs/upstreams.md").read_text()


def table_below(heading: str) -> list[list[str]]:
    chapter = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in chapter.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def error_classes() -> list[type[ApiError]]:
    found = [ApiError]
    for each in found:
        found += each.__subclasses__()
    return found


@cache
def literals() -> set[str]:
    """Return all string literals of the code; error codes are among them."""
    trees = (ast.parse(path.read_bytes()) for path in (ROOT / "app").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def codes() -> set[str]:
    """Return the codes of the error classes and those that are passed where an error is raised."""
    given = {error.code for error in error_classes() if error.code}
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            is_code = isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant)
            if is_code and "demo" not in path.parts:
                given.add(node.value.value)  # type: ignore[attr-defined]
    return given


ROWS = [line.split(" | ") for line in (ROOT / "docs/errors.md").read_text().splitlines() if line.startswith("| `")]


def test_every_error_code_is_documented() -> None:
    documented = {code for row in ROWS for code in re.findall(r"`(\w+)`", row[0])}
    readme = {code for row in table_below("When something goes wrong") for code in re.findall(r"`(\w+)`", row[3])}
    assert (codes() | readme) - documented == set()
    assert documented - literals() == set()


@pytest.mark.parametrize("error", [error for error in error_classes() if error.code], ids=lambda error: error.__name__)
def test_every_error_is_documented_with_its_status(error: type[ApiError]) -> None:
    assert str(error.status) in {row[1] for row in ROWS if f"`{error.code}`" in row[0]}


@pytest.mark.parametrize("row", table_below("When something goes wrong"), ids=lambda row: row[0])
def test_every_error_of_the_readme_exists(row: list[str]) -> None:
    _, status, error_type, codes, repeated = row
    texts = literals()
    for code in re.findall(r"`(\w+)`", codes):
        assert code in texts | {error.code for error in error_classes()}, code
    # A 429 for a used-up account is given its type and its header where it is raised.
    if error_type == "`insufficient_quota`":
        assert (status, repeated) == ("429", "no")
        return
    same = [error for error in error_classes() if f"{error.status}" == status and f"`{error.type}`" == error_type]
    assert {"no" if error.should_retry is False else "yes" for error in same} == {repeated}


def test_every_status_and_type_of_the_tree_is_in_the_readme() -> None:
    documented = {(row[1], row[2]) for row in table_below("When something goes wrong")}
    raised = {(f"{error.status}", f"`{error.type}`") for error in error_classes()}
    assert raised <= documented


def test_the_counts_in_the_readme_are_right() -> None:
    words = " ".join(TEXT.split())
    replies = (ROOT / "tests/data/replies.jsonl").read_text().count("\n")
    assert f"in {len(FORMS)} forms" in words
    assert f"All {replies} recorded replies" in words


def test_decisions_are_short_numbered_and_listed() -> None:
    listed = re.findall(r"\]\((\S+\.md)\)", (ROOT / "docs/decisions/README.md").read_text())
    assert listed == sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    for number, name in enumerate(listed, 1):
        lines = (ROOT / "docs/decisions" / name).read_text().splitlines()
        assert lines[0].startswith(f"# {number}. ")
        assert len(lines) <= 60
        assert "## Turned down" in lines


def test_images_of_the_documentation_are_small() -> None:
    images = list((ROOT / "docs/images").iterdir())
    shown = (name for path in DOCUMENTS for name in re.findall(r"\((?:docs/)?images/(\S+)\)", path.read_text()))
    assert {path.name for path in images} == set(shown)
    assert max(path.stat().st_size for path in images) < 100_000
