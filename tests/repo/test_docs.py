"""The documents are right: their tables come from the code, their links have targets, their errors exist.

tests/repo/test_readme.py and tests/repo/test_code_blocks.py look at their commands and code, tests/repo/test_packaging.py at versions, at make
targets, and at variables in the image and in deploy/.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml  # type: ignore[import-untyped]

from app.config.settings import Settings
from app.config.variables import known_variables
from app.errors import ApiError
from app.extraction.forms import FORMS
from app.protocol.dialects import DIALECTS
from docs.error_texts import ERROR_TEXTS
from docs.pages import IMPORTED, entries, for_site, llms_txt
from docs.tables import SUBJECTS, TABLES, is_retried, variables_in, with_tables
from tests.repo.test_architecture import MAY_IMPORT
from tests.support.markdown import DOCUMENTS, ROOT, without_blocks


@pytest.mark.parametrize("page", TABLES)
def test_the_tables_are_generated_from_the_code(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert with_tables(page, text) == text, f"docs/{page} is behind the code: run make docs-tables"


def test_a_page_without_a_place_for_its_table_is_an_error() -> None:
    with pytest.raises(SystemExit, match=r"docs/errors\.md has no place for: errors"):
        with_tables("errors.md", "# Errors\n")


NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]


def test_every_page_is_in_the_navigation() -> None:
    """`make docs` itself fails on links that lead nowhere."""
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(name for _, _, name in entries(NAV)) == sorted([*pages, *IMPORTED])
    assert [next(iter(section)) for section in NAV] == ["Start", "Configure", "Run", "Reference", "Project"]


def test_a_page_on_the_site_links_to_other_pages_and_not_to_sources() -> None:
    text = (
        "[a](../docs/scaling.md#x) ![b](../docs/images/d.png) [c](https://c) [`d`](../app/x.py) [e](#e) [f](README.md)"
    )
    turned = "[a](scaling.md#x) ![b](images/d.png) [c](https://c) `d` [e](#e) [f](deployment-files.md)"
    assert for_site(text, "deployment-files.md") == turned
    assert for_site("[a](../architecture.md) [b](../../SECURITY.md)", "decisions/README.md") == (
        "[a](../architecture.md) [b](../security-policy.md)"
    )


def test_llms_txt_lists_every_page_by_section() -> None:
    nav: list[dict[str, Any]] = [
        {"Start": [{"Limner": "index.md"}]},
        {"Project": [{"All": [{"1. One": "decisions/1.md"}]}]},
    ]
    assert llms_txt("Limner", "A server.", nav) == (
        "# Limner\n\n> A server.\n\n## Start\n\n- [Limner](index.md)\n\n## Project\n\n- [1. One](decisions/1.md)\n"
    )


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


def test_every_setting_has_one_subject() -> None:
    assert sorted(name for names in SUBJECTS.values() for name in names) == sorted(Settings.model_fields)


def test_every_setting_is_documented() -> None:
    assert variables_in((ROOT / "docs/settings.md").read_text()) == set(known_variables())


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
    assert f"\n| `{name}` | " in (ROOT / "docs/upstreams.md").read_text()


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


def raised() -> set[tuple[str, str]]:
    """Return the code and the class of each error that is raised with a code of its own."""
    found = set()
    names = {error.__name__ for error in error_classes()}
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                given = [
                    each.value.value
                    for each in node.keywords
                    if each.arg == "code" and isinstance(each.value, ast.Constant)
                ]
                found |= {(str(code), node.func.id) for code in given}
    return found


def test_every_error_is_documented_with_its_code() -> None:
    documented = {(text.code, kind.__name__) for text in ERROR_TEXTS for kind in text.kinds}
    with_own_code = {(error.code, error.__name__) for error in error_classes() if error.code}
    assert (raised() | with_own_code) - documented == set()
    assert {text.code for text in ERROR_TEXTS if text.code} - literals() == set()


def test_every_status_and_type_is_documented() -> None:
    documented = {(kind.status, text.type or kind.type) for text in ERROR_TEXTS for kind in text.kinds}
    assert {(error.status, error.type) for error in error_classes()} <= documented


def test_errors_are_listed_by_status_and_only_once() -> None:
    statuses = [text.kinds[0].status for text in ERROR_TEXTS]
    assert statuses == sorted(statuses)
    named = [text.code for text in ERROR_TEXTS if text.code]
    assert len(set(named)) == len(named)
    assert all(text.happened.endswith(".") and text.remedy.endswith(".") for text in ERROR_TEXTS)


def test_sdks_retry_only_what_surely_cost_nothing() -> None:
    retried = [text for text in ERROR_TEXTS if any(map(is_retried, text.kinds)) and text.is_retried is not False]
    codes = ["rate_limit_exceeded", "image_store_unavailable", "spool_full", "server_is_overloaded"]
    assert [text.code for text in retried] == codes
    assert all(text.costs.startswith("no") or "without paying again" in text.costs for text in retried)


def test_the_counts_in_the_readme_are_right() -> None:
    words = " ".join((ROOT / "README.md").read_text().split())
    replies = (ROOT / "tests/data/replies.jsonl").read_text().count("\n")
    assert f"in {len(FORMS)} forms" in words
    assert f"All {replies} recorded replies" in words
    chinese = (ROOT / "README.zh-CN.md").read_text()
    assert f"识别 {len(FORMS)} 种形式" in chinese
    assert f"录制的 {replies} 个回复" in chinese


#: Words that the glossary has replaced, beside those that tests/repo/test_architecture.py forbids everywhere. Names of
#: commands, variables and metrics stand in backquotes.
OLD_WORDS = re.compile(
    r"\b(pictures?|paint(?:s|ed|ing|ers?)?|questions?|patience|whoever|nobody|anew)\b",
    re.IGNORECASE,
)
#: The changelog describes releases before the glossary; decision 8 names the words that the glossary replaced.
OLD_DOCUMENTS = {"CHANGELOG.md", "008-packages-and-words.md"}


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name not in OLD_DOCUMENTS], ids=lambda path: path.name
)
def test_a_document_uses_the_words_of_the_glossary(path: Path) -> None:
    prose = re.sub(r"`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", "", without_blocks(path.read_text()))
    assert OLD_WORDS.findall(prose) == []


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
