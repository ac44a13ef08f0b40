"""The command line: exit codes and readable lines, in processes of their own if signals or ports matter."""

import hashlib
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
import structlog

from app import __version__
from app.access.keys import parse_keys
from app.cli.main import BROKEN_PIPE, COMMANDS, COMMANDS_PAGE, ENV_LINES, START_PAGE, main
from app.cli.main import limner as limner_group
from app.cli.messages import PAGES
from app.cli.paint import PaintOptions
from app.config.settings import Settings
from app.protocol.webhook_signature import derive_secret, write_secret
from tests.support.command_line import limner
from tests.support.raw_http import build_request, connect, send_request
from tests.support.servers import run_demo

pytestmark = pytest.mark.usefixtures("default_log")

NOWHERE = "http://127.0.0.1:9/v1"
WHERE = {"LIMNER_UPSTREAM_BASE_URL": NOWHERE}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMNER_IMAGE_STORE", f"disk://{tmp_path}/store")
    return tmp_path


def records(text: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in text.splitlines()]


def wait_until_ready(process: subprocess.Popen[str]) -> str:
    """Return the address that the server logs when it is ready."""
    assert process.stderr is not None
    for line in process.stderr:
        record = orjson.loads(line)
        if record["event"] == "server_ready":
            return str(record["address"]).removesuffix("/v1")
    raise AssertionError("the server ended before it was ready")


@dataclass(frozen=True, slots=True)
class Bad:
    """`lines` are all that is printed."""

    name: str
    variables: dict[str, str]
    lines: tuple[str, ...]
    arguments: tuple[str, ...] = ("serve",)


BAD = [
    Bad("no upstream, and another mistake", {"LIMNER_PORT": "99999"}, ("LIMNER_UPSTREAM_BASE_URL: required but not set. See docs/settings.md", "LIMNER_PORT: invalid value '99999' (format: less than or equal to 65535). See docs/settings.md")),
    Bad("an address without a scheme", {"LIMNER_UPSTREAM_BASE_URL": "api.example.com"}, ("LIMNER_UPSTREAM_BASE_URL: invalid value 'api.example.com' (format: an http(s) address without user name and query, like https://api.example.com/v1). See docs/settings.md",)),
    Bad("two variables, a line each", WHERE | {"LIMNER_PORT": "99999", "LIMNER_UPSTREAM_DIALECT": "french"}, ("LIMNER_UPSTREAM_DIALECT: invalid value 'french' (format: one of gpt-image-2-chat, metadata, words, top-level, buckets, google, openrouter, vercel, poe). See docs/settings.md", "LIMNER_PORT: invalid value '99999' (format: less than or equal to 65535). See docs/settings.md")),
    Bad("open to others with a key to spend", WHERE | {"LIMNER_UPSTREAM_API_KEY": "sk-secret", "LIMNER_HOST": "0.0.0.0"}, ("LIMNER_API_KEYS: unset, while LIMNER_HOST=0.0.0.0 is reachable by others: anyone could spend the upstream key. Set LIMNER_API_KEYS, or LIMNER_ALLOW_ANONYMOUS=true if that is intended. See docs/settings.md",)),
    Bad("a file of keys that is none", WHERE | {"LIMNER_KEYS_FILE": __file__}, ("LIMNER_KEYS_FILE: Expected '=' after a key in a key/value pair (at line 1, column 3). See docs/settings.md",)),
    Bad("a file of keys that is not there", WHERE | {"LIMNER_KEYS_FILE": "/nowhere"}, ("LIMNER_KEYS_FILE: invalid value (format: a file that exists). See docs/settings.md",)),
    Bad("a file of keys that is none, before any worker is started", WHERE | {"LIMNER_KEYS_FILE": __file__, "LIMNER_WORKERS": "2", "LIMNER_SHARED_STATE": "redis://h"}, ("LIMNER_KEYS_FILE: Expected '=' after a key in a key/value pair (at line 1, column 3). See docs/settings.md",)),
    Bad("certificates that are none", WHERE | {"LIMNER_SIGN_CERTIFICATES": __file__, "LIMNER_SIGN_KEY": "k"}, ("LIMNER_SIGN_CERTIFICATES: has no certificates that can be read, as PEM. See docs/settings.md",)),
    Bad("certificates that are none, before any worker is started", WHERE | {"LIMNER_SIGN_CERTIFICATES": __file__, "LIMNER_SIGN_KEY": "k", "LIMNER_WORKERS": "2", "LIMNER_SHARED_STATE": "redis://h"}, ("LIMNER_SIGN_CERTIFICATES: has no certificates that can be read, as PEM. See docs/settings.md",)),
    Bad("a certificate without a key", WHERE | {"LIMNER_SIGN_CERTIFICATES": __file__}, ("LIMNER_SIGN_KEY: unset, while LIMNER_SIGN_CERTIFICATES is set. Set it, or LIMNER_SIGN_KEY_FILE. See docs/settings.md",)),
    Bad("a key without a certificate", WHERE | {"LIMNER_SIGN_KEY_FILE": __file__}, ("LIMNER_SIGN_KEY_FILE: has no effect without LIMNER_SIGN_CERTIFICATES. See docs/settings.md",)),
    Bad("time stamps without a certificate", WHERE | {"LIMNER_SIGN_TIMESTAMPS": "http://tsa.example"}, ("LIMNER_SIGN_TIMESTAMPS: has no effect without LIMNER_SIGN_CERTIFICATES. See docs/settings.md",)),
    Bad("which images are signed, without a certificate", WHERE | {"LIMNER_SIGN": "converted"}, ("LIMNER_SIGN: has no effect without LIMNER_SIGN_CERTIFICATES. See docs/settings.md",)),
    Bad("a store that cannot be made, before any worker is started", WHERE | {"LIMNER_IMAGE_STORE": "disk:///dev/null/images", "LIMNER_WORKERS": "2", "LIMNER_SHARED_STATE": "redis://h"}, ("LIMNER_IMAGE_STORE: cannot be opened: [Errno 20] Not a directory: '/dev/null/images'. See docs/settings.md",)),
    Bad("a store that cannot be made", WHERE | {"LIMNER_IMAGE_STORE": "disk:///dev/null/images"}, ("LIMNER_IMAGE_STORE: cannot be opened: [Errno 20] Not a directory: '/dev/null/images'. See docs/settings.md",)),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    case: Bad, environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in case.variables.items():
        monkeypatch.setenv(name, value)
    assert main(case.arguments) == 2
    out, err = capsys.readouterr()
    assert (out, tuple(err.splitlines())) == ("", case.lines)


@pytest.mark.parametrize("command", ["serve", "check"])
def test_without_settings_a_command_explains_the_first_three(
    command: str, environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(environment)
    assert main([command]) == 2
    out, err = capsys.readouterr()
    first, *explanation = err.splitlines()
    assert (out, first) == ("", "LIMNER_UPSTREAM_BASE_URL: required but not set. See docs/settings.md")
    assert str(environment) in err
    assert ENV_LINES in err
    assert "limner demo" in explanation[-1]
    # The lines are what they are said to be: settings.
    (environment / ".env").write_text(ENV_LINES.replace("    ", ""))
    monkeypatch.setattr("app.cli.check.run_checks", lambda *_, **__: 0)
    monkeypatch.setattr("app.cli.serve.DrainingServer", Ended())
    assert main([command]) == 0


def test_without_a_command_the_next_steps_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    steps = ["limner demo", ENV_LINES, "limner check", "limner serve", "limner --help", "docs/index.md"]
    places = [err.index(step) for step in steps]
    assert places == sorted(places)


@pytest.mark.parametrize("page", [START_PAGE, COMMANDS_PAGE, *PAGES.values()])
def test_messages_name_pages_that_exist(page: str) -> None:
    assert (Path(__file__).parents[2] / page).is_file()


def test_a_wrong_setting_ends_the_process_with_2(tmp_path: Path) -> None:
    with limner("serve", folder=tmp_path, LIMNER_UPSTREAM_BASE_URL="nonsense") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err.startswith("LIMNER_UPSTREAM_BASE_URL: invalid value 'nonsense'")
    assert err.count("\n") == 1


USAGE = {
    "the version": (["--version"], 0, f"limner {__version__}\n"),
    "help": (["--help"], 0, "Commands:\n  serve "),
    "help for a command": (["paint", "-h"], 0, "Usage: limner paint [OPTIONS] PROMPT"),
    "an unknown command": (["draw"], 2, "Error: No such command 'draw'."),
    "a module that is no command": (["main"], 2, "Error: No such command 'main'."),
    "too much silence": (["check", "--patience", "1e3"], 2, "Error: Invalid value for '--patience': The length of the silence must be between 0 and 900 seconds."),
    "no file to write to": (["paint", "a fox"], 2, "Error: Missing option '-o'."),
    "no image at all": (["paint", "a fox", "-o", "a.png", "-n", "0"], 2, "Error: Invalid value for '-n': 0 is not in the range 1<=x<=10."),
    "an unknown option": (["serve", "--port", "1"], 2, "Error: No such option '--port'."),
    "an option that is a setting": (["serve", "--max-queue", "1"], 2, "Settings are variables, not options: set LIMNER_MAX_QUEUE.\n"),
    "an option of a client": (["paint", "a fox", "--models", "a"], 2, "Error: No such option '--models'."),
    "help for keys": (["keys", "--help"], 0, "Commands:\n  new "),
    "a group that a ledger does not have": (["ledger", "--by", "hour"], 2, "Error: Invalid value for '--by': 'hour' is not one of 'key', 'day', 'outcome', 'model'."),
}  # fmt: skip


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage_ends_with_2_and_help_with_0(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, code, text = USAGE[name]
    assert main(arguments) == code
    output = capsys.readouterr()[code == 2]
    assert text in output
    assert ("Settings are variables" in output) == (name in {"an unknown option", "an option that is a setting"})
    if "Error: " in output:
        assert output.splitlines()[-1] == "See docs/cli.md"


def test_the_demo_and_the_check_get_their_options(
    monkeypatch: pytest.MonkeyPatch, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[object] = []

    def run_checks(settings: Settings, **options: object) -> int:
        calls.append((settings.upstream_base_url, *options.values()))
        return 7

    def run_demo(once: str | None) -> int:
        calls.append(once)
        return 7

    monkeypatch.setattr("app.cli.demo.run_demo", run_demo)
    monkeypatch.setattr("app.cli.check.run_checks", run_checks)
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", NOWHERE)
    lines = (["demo"], ["demo", "--once", "out"], ["check"], ["check", "--patience", "--paint"], ["check", "--paint", "--patience"], ["check", "--patience", "2.5"])  # fmt: skip
    assert [main(line) for line in lines] == [7] * 6
    assert capsys.readouterr().out.splitlines() == ["      See docs/cli.md"] * 4
    assert calls == [None, "out", (NOWHERE, False, None), (NOWHERE, True, 150), (NOWHERE, True, 150), (NOWHERE, False, 2.5)]  # fmt: skip


def test_ctrl_c_ends_a_command_with_130(monkeypatch: pytest.MonkeyPatch, environment: Path) -> None:
    def interrupt(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.cli.check.run_checks", interrupt)
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", NOWHERE)
    assert main(["check"]) == 130


def test_a_command_loads_no_other_command() -> None:
    """The memory of `limner serve` is what an operator pays for."""
    code = (
        "import sys; from app.cli.main import limner; limner.get_command(None, 'serve');"
        "print(*sorted(name for name in sys.modules if name.startswith(('app.cli.', 'app.demo'))))"
    )
    root = Path(__file__).parents[2]
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    assert loaded.split() == ["app.cli.main", "app.cli.serve", "app.cli.settings"]
    modules = {path.stem for path in (root / "app/cli").glob("*.py")}
    shared = {
        "__init__",
        "bills",
        "key_files",
        "main",
        "messages",
        "probe_report",
        "settings",
        "tapped_stream",
        "terminal",
    }
    assert modules == {*COMMANDS, *shared}


def test_help_and_completion_load_no_command() -> None:
    """Importing all commands takes more than a second."""
    code = (
        "import sys; from app.cli.main import main; main(['--help']);"
        "print(*sorted(name for name in sys.modules if name.startswith('app.')))"
    )
    root = Path(__file__).parents[2]
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).splitlines()
    assert printed[-1].split() == ["app.cli", "app.cli.main"]
    assert [line.split()[0] for line in printed[printed.index("Commands:") + 1 :] if line][: len(COMMANDS)] == [
        *COMMANDS
    ]


@pytest.mark.parametrize(("word", "completions"), [("e", ["explain"]), ("--v", ["--version"]), ("x", [])])
def test_a_word_is_completed_to_commands_and_options(word: str, completions: list[str]) -> None:
    assert [item.value for item in limner_group.shell_complete(click.Context(limner_group), word)] == completions


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_is_the_first_sentence_of_the_command(name: str) -> None:
    command = limner_group.get_command(click.Context(limner_group), name)
    assert command is not None
    assert (command.help or "").startswith(COMMANDS[name])
    assert command.get_short_help_str(200) == COMMANDS[name]


def test_the_ledger_needs_no_settings(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = environment / "ledger.jsonl"
    path.write_text("nothing\n")
    assert main(["ledger", str(path), "--by", "day"]) == 0
    assert capsys.readouterr().out.startswith("day  requests")


def test_explain_needs_no_settings(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (environment / "reply.txt").write_text("![a](https://e.com/a.png) ![b](https://e.com/b.png)")
    assert main(["explain", str(environment / "reply.txt"), "--sent", "https://e.com/a.png"]) == 0
    assert "1. markdown-image: https://e.com/b.png" in capsys.readouterr().out
    assert main(["explain", str(environment / "reply.txt"), "--json"]) == 0
    assert len(orjson.loads(capsys.readouterr().out)["found"]) == 2


PAINT = {
    "only what is required": (["a fox", "-o", "a.png"], PaintOptions("a fox", Path("a.png"))),
    "every option": (
        ["a", "-o", "b.jpg", "--size", "1x1", "--quality", "low", "--image", "c", "--image", "d", "--mask", "e", "-n", "4", "--model", "m", "--base-url", "http://f/v1", "--api-key-file", "g", "--partial-images", "2", "--no-stream", "--timeout", "1.5"],
        PaintOptions("a", Path("b.jpg"), "http://f/v1", Path("g"), "m", 4, "1x1", "low", (Path("c"), Path("d")), Path("e"), False, 2, 1.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAINT)
def test_paint_needs_no_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    given: list[PaintOptions] = []

    def paint(options: PaintOptions) -> int:
        given.append(options)
        return 7

    monkeypatch.setattr("app.cli.paint.paint", paint)
    arguments, options = PAINT[name]
    assert main(["paint", *arguments]) == 7
    assert given == [options]


def test_paint_takes_address_and_key_from_the_variables_of_the_openai_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[PaintOptions] = []

    def paint(options: PaintOptions) -> int:
        given.append(options)
        return 0

    monkeypatch.setattr("app.cli.paint.paint", paint)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://a/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a")
    assert main(["paint", "a fox", "-o", "a.png"]) == 0
    assert main(["paint", "a fox", "-o", "a.png", "--base-url", "http://b/v1", "--api-key-file", "key"]) == 0
    assert [(each.base_url, each.api_key, each.api_key_file) for each in given] == [
        ("http://a/v1", "sk-a", None),
        ("http://b/v1", "sk-a", Path("key")),
    ]
    assert "sk-a" not in repr(given)


def test_a_new_key_is_shown_once_and_its_table_can_be_appended_to_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "alice"]) == 0
    out, err = capsys.readouterr()
    [row] = parse_keys(out)
    key = err.removeprefix("The key of alice, shown only here: ").strip()
    assert (row.name, row.sha256) == ("alice", hashlib.sha256(key.encode()).digest())
    assert key not in out


def test_a_wrong_name_of_a_key_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "no body"]) == 2
    err = (
        "limner keys: NAME: expected 1 to 64 letters, digits and the characters . _ @ -. See docs/keys-and-limits.md\n"
    )
    assert capsys.readouterr() == ("", err)


def test_the_secrets_of_webhooks_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = hashlib.sha256(b"sk-shop")
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[keys]]\nname = "shop"\nsha256 = "{digest.hexdigest()}"\n')
    for name, value in (WHERE | {"LIMNER_API_KEYS": "sk-plain", "LIMNER_KEYS_FILE": str(keys)}).items():
        monkeypatch.setenv(name, value)
    assert main(["keys", "webhook-secrets"]) == 0
    rows = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(rows) == ["shop", hashlib.sha256(b"sk-plain").hexdigest()[:16]]
    assert rows["shop"] == write_secret(derive_secret(digest.digest(), digest.hexdigest()[:16]))
    monkeypatch.setenv("LIMNER_WEBHOOK_SECRET", "a secret of all servers of ours")
    assert main(["keys", "webhook-secrets", "shop"]) == 0
    line = capsys.readouterr().out
    assert line.split()[0] == "shop"
    assert line.split()[1] not in rows.values()
    assert main(["keys", "webhook-secrets", "other"]) == 2
    assert "there is no key other" in capsys.readouterr().err
    keys.write_text("keys")
    assert main(["keys", "webhook-secrets"]) == 2
    assert str(keys) in capsys.readouterr().err
    monkeypatch.delenv("LIMNER_KEYS_FILE")
    assert main(["keys", "webhook-secrets"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    monkeypatch.delenv("LIMNER_API_KEYS")
    assert main(["keys", "webhook-secrets"]) == 2
    assert "there are no client keys: set LIMNER_API_KEYS or LIMNER_KEYS_FILE" in capsys.readouterr().err


CLOSED = {
    "a long report": ("explain", "reply.txt"),
    "a ledger": ("ledger", "ledger.jsonl", "--by", "day"),
    "help": ("--help",),
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_reader_that_leaves_is_no_traceback(name: str, tmp_path: Path) -> None:
    """The pipe is closed before the command writes, as by `head` after its first lines."""
    (tmp_path / "reply.txt").write_text("\n".join(f"![a](https://e.com/{number}.png)" for number in range(5000)))
    (tmp_path / "ledger.jsonl").write_text("nothing\n")
    with limner(*CLOSED[name], folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        process.wait(30)
    assert err == ""
    # Help is written by click, which has a code of its own.
    assert process.returncode == (1 if name == "help" else BROKEN_PIPE)


def test_the_rest_of_the_output_is_dropped_when_its_reader_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ledger.jsonl").write_text("nothing\n")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["ledger", str(tmp_path / "ledger.jsonl")]) == BROKEN_PIPE
        print("more", flush=True)


def test_a_closed_output_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ledger.jsonl").write_text("nothing\n")
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["ledger", str(tmp_path / "ledger.jsonl")]) == 0


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    """With the line that `limner --help` shows."""
    program = tmp_path / "limner"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m app "$@"\n')
    program.chmod(0o755)
    line = re.search(r"eval .*", subprocess.check_output([sys.executable, "-m", "app", "-h"], text=True))
    assert line is not None
    script = f"""
        {line[0]}
        complete_words() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _limner_completion limner; echo "${{COMPREPLY[@]}}"; }}
        complete_words limner ex
        complete_words limner ''
        complete_words limner paint --par
        complete_words limner ledger --by o
    """
    root = str(Path(__file__).parents[2])
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": root, "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout.splitlines(), done.stderr) == (
        ["explain", " ".join(COMMANDS), "--partial-images", "outcome"],
        "",
    )


@dataclass(slots=True)
class Ended:
    """Stands in for the server, and ends at once in one of several ways."""

    by: type[BaseException] | None = None
    force_exit: bool = False
    settings: list[Any] = field(default_factory=list)

    def __call__(self, settings: Any) -> "Ended":
        self.settings.append(settings)
        return self

    def run(self) -> None:
        if self.by is not None:
            raise self.by


@pytest.mark.parametrize(
    ("by", "code"),
    [
        pytest.param(None, 0, id="it was told to stop"),
        pytest.param(None, 130, id="Ctrl-C, twice"),
        pytest.param(SystemExit, 1, id="it could not listen"),
        pytest.param(KeyboardInterrupt, 130, id="Ctrl-C"),
    ],
)
def test_the_exit_code_tells_how_the_server_ended(
    by: type[BaseException] | None, code: int, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", NOWHERE)
    ended = Ended(by, force_exit=code == 130)
    monkeypatch.setattr("app.cli.serve.DrainingServer", ended)
    assert main(["serve"]) == code
    assert ended.settings[0].upstream_base_url == NOWHERE


@pytest.fixture(autouse=True)
def _restore_hangup() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("command", "survives"), [("serve", True), ("check", False)])
def test_a_reload_does_not_end_a_server_that_is_being_imported(command: str, survives: bool) -> None:
    code = (
        "import os, signal; from app.cli.main import limner; "
        f"limner.get_command(None, {command!r}); os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == ((0, "alive\n") if survives else (-signal.SIGHUP, ""))


def test_several_workers_are_supervised(environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text("")
    for name, value in (
        WHERE
        | {"LIMNER_WORKERS": "3", "LIMNER_ALLOW_UNSHARED": "true", "LIMNER_KEYS_FILE": str(tmp_path / "keys.toml")}
    ).items():
        monkeypatch.setenv(name, value)
    ended = Ended()
    monkeypatch.setattr("app.server.supervisor.Supervisor", ended)
    assert main(["serve"]) == 0
    assert ended.settings[0].workers == 3


WARNED = {
    "nothing to warn of": ({}, []),
    "a misspelled variable": ({"LIMNER_UPSTREM_KEY": "x", "LIMNER_ZOO": "y"}, ["unknown_variable", "unknown_variable"]),
    "no keys on loopback": (
        {"LIMNER_UPSTREAM_API_KEY": "sk-secret"},
        ["open_access_warning"],
    ),
    "a file of keys": ({"LIMNER_UPSTREAM_API_KEY": "sk-secret", "LIMNER_KEYS_FILE": __file__}, []),
    "workers that share nothing": (
        {"LIMNER_WORKERS": "4", "LIMNER_ALLOW_UNSHARED": "true"},
        ["unshared_workers_warning"],
    ),
    "replicas that share nothing": (
        {"LIMNER_REPLICAS": "2", "LIMNER_ALLOW_UNSHARED": "true"},
        ["unshared_workers_warning"],
    ),
    "workers that share a Redis": ({"LIMNER_WORKERS": "4", "LIMNER_SHARED_STATE": "redis://h"}, []),
    "keys on both sides": ({"LIMNER_UPSTREAM_API_KEY": "sk-secret", "LIMNER_API_KEYS": "sk-client"}, []),
}


@pytest.mark.parametrize("name", WARNED)
def test_the_server_warns_of_probable_mistakes_when_it_starts(
    name: str, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, events = WARNED[name]
    for variable, value in (WHERE | variables).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("app.cli.serve.DrainingServer", Ended())
    monkeypatch.setattr("app.cli.serve.open_supervisor", Ended())
    # With another configuration, this test could not capture the records.
    monkeypatch.setattr("app.cli.settings.configure_logging", lambda *_: None)
    with structlog.testing.capture_logs() as records:
        assert main(["serve"]) == 0
    assert [record["event"] for record in records] == events
    assert [record["name"] for record in records if "name" in record] == [
        variable for variable in variables if "unknown_variable" in events
    ]
    assert "sk-secret" not in str(records)


def test_the_package_can_be_run_as_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["limner", "--version"])
    with pytest.raises(SystemExit) as ended, pytest.warns(RuntimeWarning, match="unpredictable"):
        runpy.run_module("app", run_name="__main__", alter_sys=True)
    assert (ended.value.code, capsys.readouterr().out) == (0, f"limner {__version__}\n")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_server_runs_until_a_signal(sent: signal.Signals, tmp_path: Path) -> None:
    with limner("serve", folder=tmp_path, **WHERE) as process:
        url = wait_until_ready(process)
        assert send_request(url, build_request("GET /healthz")).status == 200
        process.send_signal(sent)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


def test_a_second_signal_ends_the_server_while_a_request_is_in_flight(tmp_path: Path) -> None:
    with (
        run_demo() as demo,
        limner(
            "serve", folder=tmp_path, LIMNER_UPSTREAM_BASE_URL=f"{demo.url}/v1", LIMNER_UPSTREAM_MODEL="holds"
        ) as process,
        connect(wait_until_ready(process)) as wire,
    ):
        wire.send(build_request("POST /v1/images/generations", "authorization: Bearer x", body=b'{"prompt":"a fox"}'))
        assert demo.state.wait_for_calls(1)
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert any(orjson.loads(line)["event"] == "server_draining" for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        demo.state.release()
    assert process.returncode == 130
    # Every line is a record: Python has printed no traceback.
    assert records(err)


def test_a_port_that_is_in_use_is_logged_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with limner("serve", folder=tmp_path, **WHERE | {"LIMNER_PORT": port}) as process:
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    reason, fault = [record for record in records(err) if record["level"] == "error"]
    assert "address already in use" in reason["event"]
    assert (fault["event"], fault["see"]) == ("server_bind_failed", "LIMNER_HOST, LIMNER_PORT")
