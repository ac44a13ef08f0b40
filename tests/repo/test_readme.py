"""The commands and the code of the README do what it says.

Blocks after `<!-- run -->` are run in one folder that holds an image and a mask. Only addresses and paths are replaced.
"""

import os
import re
import shutil
import signal
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

from app.config.settings import Settings
from app.demo.state import DemoState
from tests.e2e.test_node_clients import FOLDER as NODE
from tests.e2e.test_node_clients import need_node_clients
from tests.support.markdown import DOCUMENTS, LIMNER, README, ROOT, blocks
from tests.support.ports import free_ports
from tests.support.servers import run_demo, run_limner

BLOCKS = list(blocks(README.read_text()))

#: Addresses and commands of the README that a test replaces by its own.
UPSTREAM, COMMAND = "https://api.aiearth.dev/v1", ".venv/bin/limner"


def runnable(language: str) -> list[str]:
    return [block.code for block in BLOCKS if block.where == "run" and block.language == language]


def only(language: str) -> str:
    (code,) = [block.code for block in BLOCKS if block.language == language]
    return code


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
        """Replace the addresses and paths of the README by those of the test."""
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


@pytest.mark.parametrize("code", [code for code in runnable("sh") if code.startswith("curl")])
def test_a_curl_command_of_the_readme_returns_an_image(workspace: Workspace, code: str) -> None:
    need("curl")
    workspace.state.reset()
    response = workspace.run(
        "bash", "-euc", workspace.localize(code).replace("curl ", "curl --silent --show-error --fail ")
    )
    if "respond-async" in code:
        assert response.startswith("HTTP/1.1 202")
        location = re.search(r"^location: (/v1/images/results/\S+)$", response, re.MULTILINE)
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
    (workspace.folder / ".env").write_text(workspace.localize(only("ini")))
    (commands,) = [code for code in runnable("sh") if f"{COMMAND} check" in code]
    output = workspace.run("bash", "-euc", workspace.localize(commands))
    free = ["store", "address", "tls", "key"]
    assert re.findall(r"^ok +(\w+)", output, re.MULTILINE) == [*free, *free, "paint"]


def test_paint_does_what_the_readme_says(workspace: Workspace) -> None:
    (commands,) = [code for code in runnable("sh") if f"{COMMAND} paint" in code]
    output = workspace.run("bash", "-euc", workspace.localize(commands))
    assert re.findall(r"^(\S+): (\S+ \w+)", output, re.MULTILINE) == [("fox.png", "1536x1024 png"), ("scarf-1.webp", "1024x1024 webp"), ("scarf-2.webp", "1024x1024 webp")]  # fmt: skip


def test_explain_says_what_the_readme_says(workspace: Workspace) -> None:
    (command,) = [code for code in runnable("sh") if f"{COMMAND} explain" in code]
    (printed,) = [block.code for block in BLOCKS if block.code.startswith("read as")]
    assert workspace.run("bash", "-euc", workspace.localize(command)) == printed


def test_the_ledger_command_of_the_readme_prints_a_summary(workspace: Workspace) -> None:
    (command,) = [code for code in runnable("sh") if f"{COMMAND} ledger" in code]
    with httpx.Client(base_url=workspace.limner, trust_env=False, timeout=30) as client:
        client.post("/v1/images/generations", json={"prompt": "a fox"}).raise_for_status()
    assert re.search(r"^20\d\d-\d\d-\d\d +\d", workspace.run("bash", "-euc", workspace.localize(command)), re.MULTILINE)


def test_the_python_client_does_what_the_readme_says(workspace: Workspace) -> None:
    (code,) = runnable("python")
    workspace.run(sys.executable, "-W", "error", "-c", workspace.localize(code))
    with Image.open(workspace.folder / "fox.png") as fox, Image.open(workspace.folder / "scarf.png") as scarf:
        assert (fox.size, scarf.size) == ((1024, 1024), (1024, 1536))


def test_the_node_client_does_what_the_readme_says(workspace: Workspace) -> None:
    need_node_clients()
    (code,) = runnable("js")
    (workspace.folder / "node_modules").symlink_to(NODE / "node_modules")
    (workspace.folder / "fox.png").unlink(missing_ok=True)
    (workspace.folder / "client.mjs").write_text(workspace.localize(code))
    workspace.run("node", "client.mjs")
    with Image.open(workspace.folder / "fox.png") as fox:
        assert fox.size == (1024, 1024)


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
            documented = runnable("sh")[0].strip()
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


def test_the_command_of_the_first_page_generates_an_image(workspace: Workspace) -> None:
    (code,) = [block.code for block in blocks((ROOT / "docs/index.md").read_text()) if block.where == "run"]
    workspace.run("bash", "-euc", workspace.localize(code.strip()) + f" --base-url {workspace.limner}/v1")
    with Image.open(workspace.folder / "lighthouse.png") as image:
        assert image.size == (1536, 1024)


def test_the_list_of_upstreams_in_the_readme_is_valid(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1")
    (tables,) = [block.code for block in BLOCKS if "[[upstreams]]" in block.code]
    file = tmp_path / "limner.toml"
    file.write_text(re.sub(r"/run/secrets/\w+", f"{tmp_path}/key", tables))
    main, spare = Settings(config=file).effective_upstreams
    assert (main.name, main.max_concurrency, main.priority) == ("main", 20, 0)
    assert (spare.priority, spare.weight, spare.dialect) == (1, 2, "openrouter")
    assert (spare.model_map.resolve("gpt-image-2"), spare.model_map.default) == (
        "openai/gpt-image-2",
        "google/gemini-3-pro-image",
    )


def test_every_block_marked_to_be_run_is_run_by_a_test() -> None:
    """The tests of this file and the recipes of docs/clients.md run them."""
    starts = ("curl ", f"{COMMAND} check", f"{COMMAND} paint", f"{COMMAND} ledger", "echo 'Here it is")
    assert [code for code in runnable("sh") if not code.startswith(starts)] == []
    assert {block.language for block in BLOCKS if block.where} == {"sh", "python", "js"}
    marked = {path.relative_to(ROOT).as_posix() for path in DOCUMENTS if any(b.where for b in blocks(path.read_text()))}
    assert marked == {"README.md", "docs/index.md", "docs/clients.md"}
