"""What the documents say is so: their commands run, their tables come from the code, their links lead somewhere.

Blocks of the README after `<!-- run -->` are run as they stand, but for SUBSTITUTIONS, in one folder with a picture and a
mask in it. tests/test_packaging.py looks at versions, at make targets, and at variables in the image and in deploy/.
"""

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from PIL import Image

from app.demo.state import DemoState
from app.errors import ApiError
from app.formats import variable
from app.pure.replies import FORMS
from app.settings import Settings
from docs.pages import PAGES
from docs.tables import README, with_tables
from tests.servers import run_demo, run_limner

ROOT = README.parent
TEXT = README.read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], key=str)

#: What a reader has on port 8000, at the upstream and in .venv is somewhere else in a test.
LIMNER, UPSTREAM, COMMAND = "http://127.0.0.1:8000", "https://api.aiearth.dev/v1", ".venv/bin/limner"

#: A block of code: whether it is to be run, its language, its lines.
BLOCK = re.compile(r"(<!-- run -->\n)?```([a-z]+)\n(.*?)```", re.DOTALL)
BLOCKS = [(bool(match[1]), match[2], match[3]) for match in BLOCK.finditer(TEXT)]


def runnable(language: str) -> list[str]:
    return [code for runs, name, code in BLOCKS if runs and name == language]


def only(language: str) -> str:
    (code,) = [code for _, name, code in BLOCKS if name == language]
    return code


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Desk"]:
    """Limner before the demo upstream, and a folder as a reader has it."""
    folder = tmp_path_factory.mktemp("desk")
    Image.new("RGB", (64, 64), "teal").save(folder / "photo.png")
    Image.new("RGBA", (64, 64)).save(folder / "mask.png")
    with run_demo() as demo, run_limner(demo.url, rehost="always") as limner:
        yield Desk(folder, limner.url, demo.url, demo.state)


class Desk:
    def __init__(self, folder: Path, limner: str, demo: str, state: DemoState) -> None:
        self.folder, self.limner, self.state = folder, limner, state
        self.substitutions = {LIMNER: limner, UPSTREAM: f"{demo}/v1", COMMAND: f"{sys.executable} -m app"}
        own = {name: value for name, value in os.environ.items() if not name.startswith("LIMNER_")}
        self.environment = own | {
            "LIMNER_FETCH_ALLOW": urlsplit(demo).netloc,
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONPATH": str(ROOT),
        }

    def here(self, code: str) -> str:
        for there, here in self.substitutions.items():
            code = code.replace(there, here)
        return code

    def run(self, *command: str) -> str:
        """What it prints. Whatever it complains of fails the test."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_the_list_of_upstreams_in_the_readme_is_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1")
    file = tmp_path / "limner.toml"
    file.write_text(re.sub(r"/run/secrets/\w+", f"{tmp_path}/key", only("toml")))
    main, spare = Settings(config=file).roster
    assert (main.name, main.max_concurrency, main.priority) == ("main", 20, 0)
    assert (spare.priority, spare.weight, spare.dialect) == (1, 2, "openrouter")
    assert (spare.model_for("gpt-image-2"), spare.rest) == ("openai/gpt-image-2", "google/gemini-3-pro-image")


@pytest.mark.parametrize("code", [code for code in runnable("sh") if code.startswith("curl")])
def test_a_curl_of_the_readme_brings_a_picture(desk: Desk, code: str) -> None:
    need("curl")
    desk.state.reset()
    answer = desk.run("bash", "-euc", desk.here(code).replace("curl ", "curl --silent --show-error --fail "))
    if "respond-async" in code:
        assert answer.startswith("HTTP/1.1 202")
        place = re.search(r"^location: (/v1/images/results/\S+)$", answer, re.MULTILINE)
        assert place is not None
        assert httpx.get(f"{desk.limner}{place[1]}", trust_env=False).status_code in {200, 202}
        assert desk.state.wait_for_calls(1)
        return
    assert desk.state.calls == 1
    if "stream" in code:
        event, data = answer.strip().split("\n")[-2:]
        assert event == "event: image_generation.completed"
        assert orjson.loads(data.removeprefix("data: "))["b64_json"]
    else:
        url = orjson.loads(answer)["data"][0]["url"]
        assert httpx.get(url, trust_env=False).headers["content-type"] == "image/png"


def test_a_stranger_can_follow_the_upstream_chapter(desk: Desk) -> None:
    (desk.folder / ".env").write_text(desk.here(only("ini")))
    (commands,) = [code for code in runnable("sh") if f"{COMMAND} check" in code]
    said = desk.run("bash", "-euc", desk.here(commands))
    assert re.findall(r"^ok +(\w+)", said, re.MULTILINE) == ["address", "tls", "key", "address", "tls", "key", "paint"]


def test_paint_does_what_the_readme_says(desk: Desk) -> None:
    (commands,) = [code for code in runnable("sh") if f"{COMMAND} paint" in code]
    said = desk.run("bash", "-euc", desk.here(commands))
    assert re.findall(r"^(\S+): (\S+ \w+)", said, re.MULTILINE) == [("fox.png", "1536x1024 png"), ("scarf-1.webp", "1024x1024 webp"), ("scarf-2.webp", "1024x1024 webp")]  # fmt: skip


def test_explain_says_what_the_readme_says(desk: Desk) -> None:
    (command,) = [code for code in runnable("sh") if f"{COMMAND} explain" in code]
    assert desk.run("bash", "-euc", desk.here(command)) == only("text")


def test_the_python_client_does_what_the_readme_says(desk: Desk) -> None:
    (code,) = runnable("python")
    desk.run(sys.executable, "-W", "error", "-c", desk.here(code))
    with Image.open(desk.folder / "fox.png") as fox, Image.open(desk.folder / "scarf.png") as scarf:
        assert (fox.size, scarf.size) == ((1024, 1024), (1024, 1536))


def test_the_node_client_is_written_in_valid_javascript(desk: Desk) -> None:
    need("node")
    (code,) = runnable("js")
    (desk.folder / "client.mjs").write_text(desk.here(code))
    desk.run("node", "--check", "client.mjs")


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


def test_the_demo_prints_the_curl_of_the_readme_and_ends_on_ctrl_c(desk: Desk) -> None:
    """`make demo` is `limner demo` after an installation."""
    need("curl")
    assert "demo: install" in (ROOT / "Makefile").read_text()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    demo = subprocess.Popen(
        (sys.executable, "-m", "app", "demo"),
        cwd=desk.folder,
        env=desk.environment | {"LIMNER_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with demo:
        try:
            assert demo.stdout
            said = read_until_ready(demo.stdout)
            command = said[said.index("curl ") : said.index("}'") + 2]
            told = runnable("sh")[0].strip()
            assert squeeze(command) == squeeze(told).replace(LIMNER, f"http://127.0.0.1:{port}")
            answer = desk.run("bash", "-euc", command)
            assert orjson.loads(answer)["size"] == "1536x1024"
        finally:
            demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=10) == 0


def read_until_ready(lines: Any) -> str:
    read = ""
    while "Ctrl-C" not in read:
        line = lines.readline()
        assert line, f"ended without a ready line: {read}"
        read += line
    return read


def squeeze(command: str) -> str:
    return " ".join(command.replace("\\\n", " ").split())


def test_the_tables_come_from_the_code() -> None:
    assert with_tables(TEXT) == TEXT, "README.md is behind the code: run make docs-tables"


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_come_from_the_code(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), f"docs/{name} is behind the code: run make docs-tables"


def test_every_page_has_its_place_in_the_documentation() -> None:
    """`make docs` itself fails on links that lead nowhere."""
    listed = re.findall(r"^ +- (?:.+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)


def test_the_first_page_paints(desk: Desk) -> None:
    (code,) = [match[3] for match in BLOCK.finditer((ROOT / "docs/index.md").read_text()) if match[1]]
    desk.run("bash", "-euc", desk.here(code.strip()) + f" --base-url {desk.limner}/v1")
    with Image.open(desk.folder / "lighthouse.png") as image:
        assert image.size == (1536, 1024)


def test_every_setting_is_in_the_readme() -> None:
    assert {variable(field) for field in Settings.model_fields} <= set(
        re.findall(r"^\| `(LIMNER_\w+)`", TEXT, re.MULTILINE)
    )


@pytest.mark.parametrize("path", [*DOCUMENTS, *sorted((ROOT / "app").rglob("*.py"))], ids=lambda path: path.name)
def test_every_variable_that_a_document_or_a_message_names_is_a_setting(path: Path) -> None:
    spoken = set(re.findall(r"\bLIMNER_[A-Z0-9_]*[A-Z0-9]\b(?!_)", path.read_text()))
    assert spoken <= {variable(field) for field in Settings.model_fields}


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    prose = BLOCK.sub("", path.read_text())
    return {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_inside_the_project_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not urlsplit(link).scheme:
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_every_anchor_that_a_message_names_is_in_the_readme() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    named = set(re.findall(r"README\.md#([\w-]+)", sources))
    assert named
    assert named <= anchors(README)


def table_below(heading: str) -> list[list[str]]:
    chapter = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in chapter.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def kinds() -> list[type[ApiError]]:
    found = [ApiError]
    for kind in found:
        found += kind.__subclasses__()
    return found


def literals() -> set[str]:
    """Codes that are given where an error is raised are literal texts."""
    trees = (ast.parse(path.read_bytes()) for path in (ROOT / "app").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def codes() -> set[str]:
    """Those of the tree, and those that are given where an error is raised."""
    given = {error.code for error in kinds() if error.code}
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            is_code = isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant)
            if is_code and "demo" not in path.parts:
                given.add(node.value.value)  # type: ignore[attr-defined]
    return given


ROWS = [line.split(" | ") for line in (ROOT / "docs/errors.md").read_text().splitlines() if line.startswith("| `")]


def test_every_error_has_its_line_that_says_what_to_do() -> None:
    told = {code for row in ROWS for code in re.findall(r"`(\w+)`", row[0])}
    readme = {code for row in table_below("When something goes wrong") for code in re.findall(r"`(\w+)`", row[3])}
    assert (codes() | readme) - told == set()
    assert told - literals() == set()


@pytest.mark.parametrize("error", [error for error in kinds() if error.code], ids=lambda error: error.__name__)
def test_every_error_is_told_with_its_status(error: type[ApiError]) -> None:
    assert str(error.status) in {row[1] for row in ROWS if f"`{error.code}`" in row[0]}


@pytest.mark.parametrize("row", table_below("When something goes wrong"), ids=lambda row: row[0])
def test_every_error_of_the_readme_exists(row: list[str]) -> None:
    _, status, kind, codes, repeated = row
    said = literals()
    for code in re.findall(r"`(\w+)`", codes):
        assert code in said | {error.code for error in kinds()}, code
    # A 429 for a used-up account is given its type and its header where it is raised.
    if kind == "`insufficient_quota`":
        assert (status, repeated) == ("429", "no")
        return
    same = [error for error in kinds() if f"{error.status}" == status and f"`{error.type}`" == kind]
    assert {"no" if error.asked_again is False else "yes" for error in same} == {repeated}


def test_every_status_and_type_of_the_tree_is_in_the_readme() -> None:
    told = {(row[1], row[2]) for row in table_below("When something goes wrong")}
    raised = {(f"{error.status}", f"`{error.type}`") for error in kinds()}
    assert raised <= told


def test_the_counts_in_the_readme_are_right() -> None:
    words = " ".join(TEXT.split())
    replies = (ROOT / "tests/replies.jsonl").read_text().count("\n")
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


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs/images").iterdir())
    assert {path.name for path in pictures} == set(re.findall(r"\(docs/images/(\S+)\)", TEXT))
    assert max(path.stat().st_size for path in pictures) < 100_000
