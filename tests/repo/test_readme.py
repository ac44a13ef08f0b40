"""The commands and the code of the README and the pages of docs/ do what the pages say.

Blocks after `<!-- run -->` are run in one folder that holds an image and a mask. Only addresses and paths are replaced.
tests/e2e/test_recipes.py runs those of docs/clients.md. The Chinese README has the blocks of the English one.
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from PIL import Image

from app.config.settings import Settings
from app.demo.state import DemoState
from app.protocol.dialects import DIALECTS as DIALECT_PRESETS
from app.protocol.webhook_signature import signed_headers, write_secret
from tests.support.markdown import DOCUMENTS, LIMNER, README, ROOT, Block, blocks
from tests.support.ports import free_ports
from tests.support.raw_http_lines import wait_until
from tests.support.servers import run_demo, run_limner

CHINESE = ROOT / "README.zh-CN.md"

#: Addresses and commands of the documents that a test replaces by its own.
UPSTREAM, COMMAND = "https://api.aiearth.dev/v1", ".venv/bin/limner"


def blocks_of(name: str) -> list[Block]:
    return list(blocks((ROOT / name).read_text()))


#: Every block that is run here, with its document.
RUN = [
    (path.relative_to(ROOT).as_posix(), block)
    for path in DOCUMENTS
    if path not in {CHINESE, ROOT / "docs/clients.md"}
    for block in blocks(path.read_text())
    if block.where == "run"
]


def runnable(start: str, document: str | None = None) -> list[str]:
    """Return the blocks that are run and begin with `start`, of all documents or of one."""
    return [block.code for name, block in RUN if block.code.startswith(start) and document in {None, name}]


def test_the_chinese_readme_has_the_blocks_of_the_english_one() -> None:
    assert blocks_of("README.zh-CN.md") == blocks_of("README.md")


def test_the_chinese_readme_has_the_links_and_the_names_of_the_english_one() -> None:
    english, chinese = (
        sorted(re.findall(r"\]\(([^)]+)\)|(LIMNER_\w+)", path.read_text())) for path in (README, CHINESE)
    )
    swapped = [("README.zh-CN.md" if link == "README.md" else link, name) for link, name in chinese]
    assert sorted(swapped) == english


def test_the_readme_is_short() -> None:
    assert all(len(path.read_text().splitlines()) <= 200 for path in (README, CHINESE))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Workspace"]:
    """Run Limner in front of the demo upstream, and make a folder like a reader's."""
    folder = tmp_path_factory.mktemp("workspace")
    Image.new("RGB", (64, 64), "teal").save(folder / "photo.png")
    Image.new("RGBA", (64, 64)).save(folder / "mask.png")
    ledger = folder / "ledger.jsonl"
    with run_demo() as demo, run_limner(demo.url, rehost="always", ledger=str(ledger)) as limner:
        yield Workspace(folder, limner.url, demo.url, demo.state)


class Workspace:
    def __init__(self, folder: Path, limner: str, demo: str, state: DemoState) -> None:
        self.folder, self.limner, self.state = folder, limner, state
        command = f"{sys.executable} -m app"
        self.substitutions = {LIMNER: limner, UPSTREAM: f"{demo}/v1", COMMAND: command, "/var/log/limner/": ""}
        own = {name: value for name, value in os.environ.items() if not name.startswith("LIMNER_")}
        self.environment = own | {
            "LIMNER_FETCH_ALLOW": urlsplit(demo).netloc,
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONPATH": str(ROOT),
        }

    def localize(self, code: str) -> str:
        """Replace the addresses and paths of a document by those of the test."""
        for documented, own in self.substitutions.items():
            code = code.replace(documented, own)
        return code

    def run(self, *command: str) -> str:
        """Run a command, return its output, and fail the test unless its exit status is 0."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.mark.parametrize("code", runnable("curl "))
def test_a_curl_command_returns_an_image(workspace: Workspace, code: str) -> None:
    need("curl")
    workspace.state.reset()
    response = workspace.run(
        "bash", "-euc", workspace.localize(code).replace("curl ", "curl --silent --show-error --fail ")
    )
    if "async" in code:
        assert response.startswith("HTTP/1.1 202")
        location = re.search(r"^location: (/v1/images/(?:results|tasks)/\S+)$", response, re.MULTILINE)
        assert location is not None
        assert httpx.get(f"{workspace.limner}{location[1]}", trust_env=False).status_code in {200, 202}
        assert workspace.state.wait_for_calls(1)
        return
    assert workspace.state.calls == 1
    if "stream" in code:
        event, data = response.strip().split("\n")[-2:]
        assert event == "event: image_generation.completed"
        assert orjson.loads(data.removeprefix("data: "))["b64_json"]
    else:
        url = orjson.loads(response)["data"][0]["url"]
        assert httpx.get(url, trust_env=False).headers["content-type"] == "image/png"


def test_the_commands_of_the_upstream_chapter_work(workspace: Workspace) -> None:
    (settings,) = [block.code for block in blocks_of("README.md") if block.language == "ini"]
    (workspace.folder / ".env").write_text(workspace.localize(settings))
    (commands,) = runnable(f"{COMMAND} check")
    output = workspace.run("bash", "-euc", workspace.localize(commands))
    free = ["store", "address", "tls", "key"]
    assert re.findall(r"^ok +(\w+)", output, re.MULTILINE) == [*free, *free, "paint"]


FOX, SCARF, SCARF_2 = (
    ("fox.png", "1536x1024 png"),
    ("scarf-1.webp", "1024x1024 webp"),
    ("scarf-2.webp", "1024x1024 webp"),
)
LIGHTHOUSE = ("lighthouse.png", "1536x1024 png")


@pytest.mark.parametrize(
    ("document", "written"),
    [("README.md", [FOX]), ("docs/cli.md", [FOX, SCARF, SCARF_2]), ("docs/index.md", [LIGHTHOUSE])],
)
def test_paint_writes_the_images_that_the_page_names(
    workspace: Workspace, document: str, written: list[tuple[str, str]]
) -> None:
    (commands,) = runnable(f"{COMMAND} paint", document)
    if "--base-url" not in commands:
        # The page relies on the default of the command.
        commands = commands.replace(f"{COMMAND} paint", f"{COMMAND} paint --base-url {LIMNER}/v1")
    output = workspace.run("bash", "-euc", workspace.localize(commands))
    assert re.findall(r"^(\S+): (\S+ \w+)", output, re.MULTILINE) == written


def test_explain_prints_what_the_page_shows(workspace: Workspace) -> None:
    (command,) = runnable("echo 'Here it is")
    (printed,) = [block.code for block in blocks_of("docs/cli.md") if block.code.startswith("read as")]
    assert workspace.run("bash", "-euc", workspace.localize(command)) == printed


def test_the_ledger_command_prints_a_summary(workspace: Workspace) -> None:
    (command,) = runnable(f"{COMMAND} ledger")
    with httpx.Client(base_url=workspace.limner, trust_env=False, timeout=30) as client:
        client.post("/v1/images/generations", json={"prompt": "a fox"}).raise_for_status()
    assert re.search(r"^20\d\d-\d\d-\d\d +\d", workspace.run("bash", "-euc", workspace.localize(command)), re.MULTILINE)


def test_the_python_client_does_what_the_readme_says(workspace: Workspace) -> None:
    (code,) = runnable("from base64")
    workspace.run(sys.executable, "-W", "error", "-c", workspace.localize(code))
    with Image.open(workspace.folder / "fox.png") as fox, Image.open(workspace.folder / "scarf.png") as scarf:
        assert (fox.size, scarf.size) == ((1024, 1024), (1024, 1536))


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


def test_make_demo_installs_only_the_packages_that_the_demo_needs() -> None:
    need("make")
    command = ("make", "--dry-run", "--always-make", "--no-print-directory", "demo")
    commands = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"-r (\S+)", commands) == ["requirements.lock", "requirements-build.lock"]
    assert commands.endswith("\n.venv/bin/limner demo \n")


def test_the_demo_prints_the_curl_of_the_readme_and_ends_on_ctrl_c(workspace: Workspace) -> None:
    need("curl")
    (port,) = free_ports(1)
    demo = subprocess.Popen(
        (sys.executable, "-m", "app", "demo"),
        cwd=workspace.folder,
        env=workspace.environment | {"LIMNER_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with demo:
        try:
            assert demo.stdout
            output = read_until_ready(demo.stdout)
            command = output[output.index("curl ") : output.index("}'") + 2]
            documented = runnable("curl ", "README.md")[0].strip()
            assert squeeze(command) == squeeze(documented).replace(LIMNER, f"http://127.0.0.1:{port}")
            response = workspace.run("bash", "-euc", command)
            assert orjson.loads(response)["size"] == "1536x1024"
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


TABLES = "[[upstreams]]\nname = 'a'\nbase_url = 'https://h/v1'\napi_key = 'k'\n"
DIALECTS = [block.code for block in blocks_of("docs/upstreams.md") if "[upstreams.dialect]" in block.code]


@pytest.mark.parametrize("table", DIALECTS)
def test_the_documented_dialects_are_valid(table: str, tmp_path: Path) -> None:
    file = tmp_path / "limner.toml"
    file.write_text(table if "[[upstreams]]" in table else TABLES + table)
    (entry,) = Settings(config=file).effective_upstreams
    assert entry.dialect.build().size
    assert entry.dialect.build().qualities["high"] in {"best", "hd"}


FIVE_LINES = {
    block.code.rpartition("dialect = ")[2].strip('"\n'): block.code
    for block in blocks_of("docs/upstreams.md")
    if block.code.count("\n") == 6 and 'dialect = "' in block.code
}


def test_each_family_has_its_lines() -> None:
    assert list(FIVE_LINES) == list(DIALECT_PRESETS)


@pytest.mark.parametrize("preset", FIVE_LINES)
def test_the_lines_for_a_family_are_valid(preset: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1")
    file = tmp_path / "limner.toml"
    file.write_text(re.sub(r"/run/secrets/\w+", f"{tmp_path}/key", FIVE_LINES[preset]))
    (entry,) = Settings(config=file).effective_upstreams
    assert entry.dialect.build() is DIALECT_PRESETS[preset]
    assert entry.model_map.default == entry.model


def test_the_documented_list_of_upstreams_is_valid(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1")
    (tables,) = [block.code for block in blocks_of("docs/upstreams.md") if block.code.count("[[upstreams]]") == 2]
    file = tmp_path / "limner.toml"
    file.write_text(re.sub(r"/run/secrets/\w+", f"{tmp_path}/key", tables))
    main, spare = Settings(config=file).effective_upstreams
    assert (main.name, main.max_concurrency, main.priority) == ("main", 20, 0)
    assert (spare.priority, spare.weight, spare.dialect.preset) == (1, 2, "openrouter")
    assert (spare.model_map.resolve("gpt-image-2"), spare.model_map.default) == (
        "openai/gpt-image-2",
        "google/gemini-3-pro-image",
    )


def test_every_block_marked_to_be_run_is_run_by_a_test() -> None:
    starts = (
        "curl ",
        f"{COMMAND} check",
        f"{COMMAND} paint",
        f"{COMMAND} ledger",
        "echo 'Here it is",
        "from base64",
        "import base64",
    )
    assert [block.code for _, block in RUN if not block.code.startswith(starts)] == []
    assert {name for name, block in RUN if block.code.startswith(f"{COMMAND} paint")} == {"README.md", "docs/cli.md", "docs/index.md"}  # fmt: skip
    assert {name for name, _ in RUN} == {
        *("README.md", "docs/cli.md", "docs/idempotency.md", "docs/images-api.md", "docs/index.md", "docs/webhooks.md"),
    }


def test_the_receiver_of_webhooks_accepts_what_limner_sends_and_nothing_else(tmp_path: Path) -> None:
    (code,) = runnable("import base64", "docs/webhooks.md")
    (port,) = free_ports(1)
    secret = bytes(range(32))
    environment = os.environ | {"WEBHOOK_SECRET": write_secret(secret), "PORT": str(port)}
    digest = hashlib.sha256(b"sk-shop").hexdigest()
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[keys]]\nname = "shop"\nsha256 = "{digest}"\nwebhook_secret = "{write_secret(secret)}"\n')
    program = (sys.executable, "-W", "error", "-c", code)
    with ExitStack() as stack:
        receiver = stack.enter_context(
            subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
        stack.callback(receiver.kill)
        demo = stack.enter_context(run_demo())
        allow = f"{urlsplit(demo.url).netloc},127.0.0.1:{port}"
        options = {"webhooks": True, "keys_file": str(keys), "fetch_allow": allow}
        limner = stack.enter_context(run_limner(demo.url, **options))
        wait_until(lambda: is_listening(port))
        address = f"http://127.0.0.1:{port}/"
        task = httpx.post(
            f"{limner.url}/v1/images/generations/async",
            json={"prompt": "a fox", "webhook_url": address},
            headers={"authorization": "Bearer sk-shop"},
        ).json()
        assert receiver.stdout is not None
        assert receiver.stdout.readline().startswith(f"{task['id']} completed http")
        now = int(time.time())
        for secret_used, sent_at in ((bytes(32), now), (secret, now - 3600)):
            forged = signed_headers(secret_used, "msg_2", sent_at, b"{}")
            assert httpx.post(address, content=b"{}", headers=forged).status_code == 401


def is_listening(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0
