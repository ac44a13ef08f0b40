"""The commands: serve, demo, check, explain."""

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from app import __version__
from app.check import check
from app.explanation import explain
from app.log import configure, log
from app.objections import complaints
from app.server import Server
from app.settings import Settings, unknown_variables
from app.showcase import demo


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 well, 1 a check failed or the port is taken, 2 a bad setting or command line."""
    parser = argparse.ArgumentParser(
        "limner", description="The OpenAI Images API in front of a chat model that paints."
    )
    parser.add_argument("--version", action="version", version=f"limner {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="run the server; its settings are LIMNER_ variables")
    demo_parser = commands.add_parser("demo", help="run the server with a painter of its own: no key, no network")
    demo_parser.add_argument(
        "--once", metavar="DIR", help="paint one picture and edit it, write both into DIR, and end"
    )
    check_parser = commands.add_parser("check", help="ask the configured upstream, step by step")
    check_parser.add_argument(
        "--paint", action="store_true", help="also have one real picture painted, which costs money"
    )
    add_explain(commands)
    options = parser.parse_args(arguments)
    if options.command == "explain":
        return explain(options.file, sent=options.sent, as_json=options.json)
    if options.command == "demo":
        return demo(options.once)
    try:
        settings = Settings()
    except ValidationError as error:
        print(*complaints(error), sep="\n", file=sys.stderr)
        return 2
    configure(settings.log_format, settings.log_level)
    return check(settings, paint=options.paint) if options.command == "check" else serve(settings)


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


def serve(settings: Settings) -> int:
    for name in unknown_variables():
        log.warning("unknown variable", name=name, see="README.md#settings")
    if not settings.pass_through and not settings.api_keys:
        log.warning("no LIMNER_API_KEYS: whoever reaches this address spends the upstream key", host=settings.host)
    try:
        server = Server(settings)
    except OSError as error:
        print(f"LIMNER_IMAGE_STORE: cannot be opened: {error}. See README.md#settings", file=sys.stderr)
        return 2
    try:
        server.run()
    except SystemExit:
        # uvicorn's way to say that it cannot listen; it has logged why.
        return 1
    except KeyboardInterrupt:
        # The second Ctrl-C: 128 + SIGINT, as shells count.
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
