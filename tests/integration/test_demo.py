"""`limner demo`: both servers, in a process of their own if signals or ports matter."""

import errno
import io
import re
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.cli import demo as demo_module
from app.cli.demo import run_demo
from app.cli.main import BROKEN_PIPE, main
from tests.support.command_line import limner
from tests.support.raw_http import build_request, send_request

pytestmark = pytest.mark.usefixtures("default_log")

SIZES = {"generated.png": (1536, 1024), "edited.png": (1024, 1536)}


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.load()
            found[path.name] = image.size
    return found


def test_once_writes_two_images_and_prints_their_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "some" / "where"
    assert run_demo(str(folder)) == 0
    assert sizes(folder) == SIZES
    lines = capsys.readouterr().out.splitlines()
    for line, (name, (width, height)) in zip(lines, SIZES.items(), strict=True):
        length = (folder / name).stat().st_size
        assert line == f"{folder / name}: {width}x{height}, {length:,} bytes"


def test_once_without_a_folder_writes_into_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--once"]) == 0
    assert sorted(path.name for path in (tmp_path / "limner-demo").iterdir()) == ["edited.png", "generated.png"]


def test_once_as_a_process(tmp_path: Path) -> None:
    with limner("demo", "--once", "out", folder=tmp_path) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, sizes(tmp_path / "out")) == (0, SIZES)
    assert out.count("\n") == 2
    assert "Traceback" not in err


def test_once_into_a_file_instead_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    assert run_demo(str(tmp_path / "out")) == 1
    text = capsys.readouterr().err.splitlines()[-1]
    assert text == f"limner demo: --once: [Errno 17] File exists: '{tmp_path / 'out'}'. See docs/cli.md"


def test_once_with_a_setting_that_allows_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMNER_MAX_IMAGE_BYTES", "1KiB")
    assert run_demo(str(tmp_path)) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("limner demo: --once: Server error '500 ")


@dataclass(frozen=True, slots=True)
class Named:
    """`setting` is LIMNER_UPSTREAM_MODEL, `model` what the client names; the response has this status and code."""

    name: str
    setting: str | None
    model: str
    status: int = 200
    code: str | None = None


NAMED = [
    Named("any name", None, "gpt-image-2"),
    Named("a behavior", None, "refuses-400", 400, "moderation_blocked"),
    Named("a behavior with a number", None, "error-402", 500, "upstream_quota"),
    Named("any name, if the setting is a behavior", "error-in-200-401", "gpt-image-2", 500, "upstream_auth"),
    Named("a behavior, if the setting is another one", "error-401", "text-only", 400, "no_image_in_reply"),
    Named("any name, if the setting belongs to another upstream", "openai/gpt-5-image", "gpt-image-2"),
]


@pytest.mark.parametrize("case", NAMED, ids=lambda case: case.name)
def test_a_model_name_selects_a_behavior(case: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.setting is not None:
        monkeypatch.setenv("LIMNER_UPSTREAM_MODEL", case.setting)
    with demo_module.running(fixed_port=False) as url:
        body = {"model": case.model, "prompt": "a fox", "response_format": "url"}
        response = httpx.post(f"{url}/v1/images/generations", json=body, trust_env=False, timeout=30)
        listed = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]
    assert response.status_code == case.status
    assert response.json().get("error", {}).get("code") == case.code
    assert {"gpt-image-2", "refuses-400", "slow-30"} <= {card["id"] for card in listed}


def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LIMNER_LOG_LEVEL", "loud")
    assert main(["demo", "--once", "out"]) == 2
    assert capsys.readouterr().err.startswith("LIMNER_LOG_LEVEL: invalid value 'loud' (format: ")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_runs_until_a_signal(sent: signal.Signals, tmp_path: Path) -> None:
    with limner("demo", folder=tmp_path) as process:
        text = ready_line(process)
        command = text[text.index("curl ") : text.index("In an existing client")]
        url = re.findall(r"http://127\.0\.0\.1:[0-9]+", text)[0]
        # The command can be pasted into a shell.
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=True)
        (link,) = re.findall(rb'"url":"([^"]+)"', done.stdout)
        download = httpx.get(link.decode(), trust_env=False)
        with Image.open(io.BytesIO(download.content)) as image:
            assert image.size == (1536, 1024)
        assert send_request(url, build_request("GET /v1/models", "authorization: Bearer demo")).status == 200
        process.send_signal(sent)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in err


def ready_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    text = ""
    while "Ctrl-C" not in text:
        line = process.stdout.readline()
        assert line, "the demo ended before it was ready"
        text += line
    return text


def test_a_port_that_is_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with limner("demo", folder=tmp_path, LIMNER_PORT=str(port)) as process:
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    line = (
        f"limner demo: cannot listen on 127.0.0.1 port {port}: Address already in use. Set LIMNER_PORT to a free port"
    )
    assert err == f"{line}. See docs/cli.md\n"


def test_the_demo_waits_for_a_signal_and_unblocks_signals_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs in this process without any signal, since those of the test run must not be affected."""
    waited: list[set[signal.Signals]] = []
    monkeypatch.setattr(signal, "sigwait", waited.append)
    monkeypatch.setenv("LIMNER_PORT", "0")
    monkeypatch.setenv("LIMNER_HOST", "0.0.0.0")
    assert run_demo(None) == 0
    assert waited == [{signal.SIGINT, signal.SIGTERM}]
    assert "curl http://127.0.0.1:" in capsys.readouterr().out
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


def test_a_port_that_is_in_use_in_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("LIMNER_PORT", str(taken.getsockname()[1]))
        assert run_demo(None) == 1
    assert "cannot listen" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_a_host_of_another_machine_is_named(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMNER_HOST", host)
    monkeypatch.setenv("LIMNER_PORT", "0")
    assert run_demo(None) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"limner demo: cannot listen on {host} port 0: ")
    assert "(" not in err
    assert err.endswith(". Set LIMNER_HOST to an address of this machine. See docs/cli.md\n")


def test_another_problem_at_the_start_is_not_blamed_on_the_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryDirectory", fail)
    assert run_demo(None) == 1
    line = "limner demo: cannot start: [Errno 2] No usable temporary directory found. See docs/cli.md\n"
    assert capsys.readouterr().err == line


def test_a_reader_that_leaves_ends_the_demo_without_a_message(tmp_path: Path) -> None:
    with limner("demo", folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        process.wait(30)
    assert (process.returncode, err) == (BROKEN_PIPE, "")


def test_a_broken_pipe_is_left_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(signal, "sigwait", fail)
    monkeypatch.setenv("LIMNER_PORT", "0")
    with pytest.raises(BrokenPipeError):
        run_demo(None)


def test_a_result_that_is_not_an_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = httpx.Request("POST", "http://limner/v1/images/generations")
    response = httpx.Response(200, json={"data": [{"b64_json": "bm90aGluZw=="}]}, request=sent)
    assert demo_module.save_image(response, tmp_path / "a.png") == b"nothing"
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}: not an image, 7 bytes\n"
