"""The commands: serve, demo, check, paint, explain, keys, ledger."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from app import __version__
from app.access.keys import InvalidKeyFile, KeyFile, generate_key
from app.api.diagnostics import parse_seconds
from app.cli.explain import explain_file
from app.cli.ledger import GROUPS, report_ledger
from app.cli.paint import BASE_URL, MODEL, TIMEOUT, PaintOptions, paint
from app.config.settings import Settings, unknown_variables
from app.config.validation import describe_errors
from app.errors import InvalidRequest
from app.images.stores import open_store
from app.observability.logging import configure_logging, log
from app.server.draining import DrainingServer
from app.services import store_config

if TYPE_CHECKING:
    from app.server.supervisor import Supervisor

#: The second Ctrl-C: 128 + SIGINT, as shells count.
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 well, 1 a check failed or the port is taken, 2 a bad setting or command line."""
    options = command_line().parse_args(arguments)
    if options.command == "paint":
        return paint(order_of(options))
    if options.command == "explain":
        return explain_file(options.file, sent=options.sent, as_json=options.json)
    if options.command == "keys":
        return tell_new_key(options.name)
    if options.command == "ledger":
        return report_ledger(options.file, options.by)
    if options.command == "demo":
        return demo(options.once)
    try:
        settings = Settings()
    except ValidationError as error:
        print(*describe_errors(error), sep="\n", file=sys.stderr)
        return 2
    configure_logging(settings.log_format, settings.log_level)
    if options.command == "check":
        return check(settings, paint=options.paint, patience=options.patience)
    return serve(settings)


def check(settings: Settings, *, paint: bool, patience: float | None) -> int:
    """Loaded here, like the demo: the server needs none of it."""
    from app.cli import check as steps  # noqa: PLC0415

    return steps.run_checks(settings, with_generation=paint, idle_seconds=patience)


def demo(once: str | None) -> int:
    """Loaded here: the server that pays for its memory needs no painter."""
    from app.cli import demo as showcase  # noqa: PLC0415

    return showcase.run_demo(once)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "limner",
        description="The OpenAI Images API in front of a chat model that paints.",
        epilog="To see it work: limner demo. With an upstream of your own: limner check, then limner serve.",
    )
    parser.add_argument("--version", action="version", version=f"limner {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="run the server; its settings are LIMNER_ variables, .env and limner.toml")
    demo_parser = commands.add_parser("demo", help="run the server with a painter of its own: no key, no network")
    demo_parser.add_argument(
        "--once", metavar="DIR", help="paint one picture and edit it, write both into DIR, and end"
    )
    check_parser = commands.add_parser("check", help="try the settings: the store, the shared state, each upstream")
    check_parser.add_argument(
        "--paint", action="store_true", help="also have one real picture painted, which costs money"
    )
    check_parser.add_argument(
        "--patience",
        nargs="?",
        const=150.0,
        type=silence,
        metavar="SECONDS",
        help="also try that much silence through LIMNER_PUBLIC_URL of the running server, 150 s if unset",
    )
    add_paint(commands)
    add_explain(commands)
    add_keys(commands)
    add_ledger(commands)
    return parser


def silence(text: str) -> float:
    try:
        return parse_seconds(text)
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(error.message) from None


def add_paint(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    said = "have a picture painted by any server of the Images API"
    parser = commands.add_parser("paint", help=said, argument_default=argparse.SUPPRESS)
    add = parser.add_argument
    add("prompt", metavar="PROMPT", help="what to paint, or what to change")
    add("-o", dest="out", type=Path, required=True, metavar="FILE", help="where to; out-1.png, … where -n is above 1")
    add("--size", metavar="WxH", help="like 1536x1024")
    add("--quality", metavar="Q", help="low, medium or high")
    add("--image", dest="images", type=Path, action="append", metavar="FILE", help="a picture to edit")
    add("--mask", type=Path, metavar="FILE", help="a PNG; where it is transparent, the first picture is edited")
    add("-n", type=count, metavar="COUNT", help="how many pictures, 1 if unset")
    add("--model", metavar="NAME", help=f"{MODEL} if unset")
    add("--base-url", metavar="URL", help=f"{BASE_URL} if unset")
    add("--api-key-file", type=Path, metavar="FILE", help="holds the key; without it the key is 'limner'")
    add("--partial-images", type=count, metavar="COUNT", help="pictures on the way, which may cost extra")
    add("--no-stream", dest="stream", action="store_false", help="for servers that know no streams")
    add("--timeout", type=float, metavar="SECONDS", help=f"of silence, {TIMEOUT} if unset")


def count(text: str) -> int:
    if text not in {str(number) for number in range(1, 11)}:
        raise argparse.ArgumentTypeError("a number from 1 to 10")
    return int(text)


def order_of(options: argparse.Namespace) -> PaintOptions:
    said = {name: value for name, value in vars(options).items() if name != "command"}
    return PaintOptions(**said | {"images": tuple(said.get("images", ()))})


def add_explain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "explain", help="show which pictures are found in a chat reply, and why others are not"
    )
    parser.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="the reply: a body, a stream, a message or its words"
    )
    parser.add_argument(
        "--sent", action="append", default=[], metavar="URL", help="a picture that the question had brought along"
    )
    parser.add_argument("--json", action="store_true", help="for programs, with addresses in full")


def add_keys(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    actions = commands.add_parser("keys", help="keys for clients").add_subparsers(required=True, metavar="ACTION")
    parser = actions.add_parser("new", help="make a key: it is shown once, its table is for LIMNER_KEYS_FILE")
    parser.add_argument("name", metavar="NAME", help="who is to have it")


def tell_new_key(name: str) -> int:
    """The table alone goes to the standard output, so that it can be appended to the file."""
    try:
        key, table = generate_key(name)
    except InvalidKeyFile as error:
        print(f"NAME: {error}", file=sys.stderr)
        return 2
    print(f"The key of {name}, shown only here: {key}", file=sys.stderr)
    print(table)
    return 0


def add_ledger(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("ledger", help="sum up what LIMNER_LEDGER has recorded")
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="the ledger; without it, standard input")
    parser.add_argument("--by", choices=tuple(GROUPS), default="key", help="a line for each of these")


def serve(settings: Settings) -> int:
    for name in unknown_variables():
        log.warning("unknown_variable", name=name, see="docs/settings.md")
    if not settings.pass_through and not settings.has_client_keys:
        log.warning(
            "open_access_warning",
            host=settings.host,
            reason="LIMNER_API_KEYS is not set: everyone who can reach this address spends the upstream key",
        )
    warn_of_workers(settings)
    try:
        server = open_workers(settings) if settings.workers > 1 else DrainingServer(settings)
    except InvalidKeyFile as error:
        print(f"LIMNER_KEYS_FILE: {error}. See docs/settings.md", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"LIMNER_IMAGE_STORE: cannot be opened: {error}. See docs/settings.md", file=sys.stderr)
        return 2
    try:
        server.run()
    except SystemExit:
        # uvicorn's way to say that it cannot listen; it has logged why.
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    # Where SIGINT was ignored when the process began, as in a background job, there is no KeyboardInterrupt.
    return _INTERRUPTED if server.force_exit else 0


def warn_of_workers(settings: Settings) -> None:
    if settings.workers > 1 and settings.shared_state == "memory:":
        log.warning(
            "unshared_workers_warning",
            workers=settings.workers,
            reason="LIMNER_SHARED_STATE is not set to redis://…: limits and results are each worker's own",
        )


def open_workers(settings: Settings) -> "Supervisor":
    """Loaded here, for the same reason. What would keep every worker from starting is found first, and told once."""
    from app.server.supervisor import Supervisor  # noqa: PLC0415

    if settings.keys_file is not None:
        KeyFile(settings.keys_file)
    open_store(store_config(settings)).close()
    return Supervisor(settings)
