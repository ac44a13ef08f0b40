"""The commands and the code of the README do what it says.

Blocks after `<!-- run -->` are run as they stand, but for what is somewhere else in a test, in one folder with a picture
and a mask in it.
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

#: What a reader has on port 8000, at the upstream and in .venv is somewhere else in a test.
UPSTREAM, COMMAND = "https://api.aiearth.dev/v1", ".venv/bin/limner"


def runnable(language: str) -> list[str]:
    return [block.code for block in BLOCKS if block.where == "run" and block.language == language]


def only(language: str) -> str:
    (code,) = [block.code for block in BLOCKS if block.language == language]
    return code


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Desk"]:
    """Limner before the demo upstream, and a folder as a reader has it."""
    folder = tmp_path_factory.mktemp("desk")
    Image.new("RGB", (64, 64), "teal").save(folder / "photo.png")
    Image.new("RGBA", (64, 64)).save(folder / "mask.png")
    ledger = folder / "ledger.jsonl"
    with run_demo() as demo, run_limner(demo.url, rehost="always", ledger=str(ledger)) as limner:
        yield Desk(folder, limner.url, demo.url, demo.state)


class Desk:
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

    def here(self, code: str) -> str:
        for there, here in self.substitutions.items():
            code = code.replace(there, here)
        return code

    def run(self, *command: str) -> str:
        """Run a command, return its output, and fail the test unless its exit status is 0."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


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
    free = ["store", "address", "tls", "key"]
    assert re.findall(r"^ok +(\w+)", said, re.MULTILINE) == [*free, *free, "paint"]


def test_paint_does_what_the_readme_says(desk: Desk) -> None:
    (commands,) = [code for code in runnable("sh") if f"{COMMAND} paint" in code]
    said = desk.run("bash", "-euc", desk.here(commands))
    assert re.findall(r"^(\S+): (\S+ \w+)", said, re.MULTILINE) == [("fox.png", "1536x1024 png"), ("scarf-1.webp", "1024x1024 webp"), ("scarf-2.webp", "1024x1024 webp")]  # fmt: skip


def test_explain_says_what_the_readme_says(desk: Desk) -> None:
    (command,) = [code for code in runnable("sh") if f"{COMMAND} explain" in code]
    (printed,) = [block.code for block in BLOCKS if block.code.startswith("read as")]
    assert desk.run("bash", "-euc", desk.here(command)) == printed


def test_the_ledger_is_summed_up_as_the_readme_says(desk: Desk) -> None:
    (command,) = [code for code in runnable("sh") if f"{COMMAND} ledger" in code]
    with httpx.Client(base_url=desk.limner, trust_env=False, timeout=30) as client:
        client.post("/v1/images/generations", json={"prompt": "a fox"}).raise_for_status()
    assert re.search(r"^20\d\d-\d\d-\d\d +\d", desk.run("bash", "-euc", desk.here(command)), re.MULTILINE)


def test_the_python_client_does_what_the_readme_says(desk: Desk) -> None:
    (code,) = runnable("python")
    desk.run(sys.executable, "-W", "error", "-c", desk.here(code))
    with Image.open(desk.folder / "fox.png") as fox, Image.open(desk.folder / "scarf.png") as scarf:
        assert (fox.size, scarf.size) == ((1024, 1024), (1024, 1536))


def test_the_node_client_does_what_the_readme_says(desk: Desk) -> None:
    need_node_clients()
    (code,) = runnable("js")
    (desk.folder / "node_modules").symlink_to(NODE / "node_modules")
    (desk.folder / "fox.png").unlink(missing_ok=True)
    (desk.folder / "client.mjs").write_text(desk.here(code))
    desk.run("node", "client.mjs")
    with Image.open(desk.folder / "fox.png") as fox:
        assert fox.size == (1024, 1024)


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


def test_make_demo_is_the_demo_after_an_installation_of_no_more_than_it_needs() -> None:
    need("make")
    command = ("make", "--dry-run", "--always-make", "--no-print-directory", "demo")
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"-r (\S+)", told) == ["requirements.lock", "requirements-build.lock"]
    assert told.endswith("\n.venv/bin/limner demo \n")


def test_the_demo_prints_the_curl_of_the_readme_and_ends_on_ctrl_c(desk: Desk) -> None:
    need("curl")
    (port,) = free_ports(1)
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


def test_the_first_page_paints(desk: Desk) -> None:
    (code,) = [block.code for block in blocks((ROOT / "docs/index.md").read_text()) if block.where == "run"]
    desk.run("bash", "-euc", desk.here(code.strip()) + f" --base-url {desk.limner}/v1")
    with Image.open(desk.folder / "lighthouse.png") as image:
        assert image.size == (1536, 1024)


def test_the_list_of_upstreams_in_the_readme_is_read(tmp_path: Path) -> None:
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


def test_every_block_that_is_to_be_run_is_run() -> None:
    """Here, and in docs/clients.md each by its language, where it has a proof."""
    starts = ("curl ", f"{COMMAND} check", f"{COMMAND} paint", f"{COMMAND} ledger", "echo 'Here it is")
    assert [code for code in runnable("sh") if not code.startswith(starts)] == []
    assert {block.language for block in BLOCKS if block.where} == {"sh", "python", "js"}
    marked = {path.relative_to(ROOT).as_posix() for path in DOCUMENTS if any(b.where for b in blocks(path.read_text()))}
    assert marked == {"README.md", "docs/index.md", "docs/clients.md"}
