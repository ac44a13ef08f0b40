"""The `limner` command. Each subcommand is a module of this package with a `command`."""

from collections.abc import Sequence
from importlib import import_module

import click

from app import __version__

#: Subcommands, in the order of the help text; each is the name of its module too.
COMMANDS = ("serve", "demo", "check", "paint", "explain", "keys", "ledger")

#: The exit code after Ctrl-C: 128 + SIGINT, as shells count.
INTERRUPTED = 130


class _LazyGroup(click.Group):
    """Import a subcommand when it is used: `limner serve` must not hold the check and the demo in memory."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"app.cli.{cmd_name}").command
        return command


@click.group(
    cls=_LazyGroup,
    epilog="To see it work: limner demo. With an upstream of your own: limner check, then limner serve.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="limner %(version)s")
def limner() -> None:
    """Serve the OpenAI Images API in front of a chat model that generates images."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code.

    That is 0 if all went well, 1 if a check failed or the port is taken, 2 if a setting or the command line is wrong,
    and 130 after Ctrl-C.
    """
    try:
        return int(limner.main(arguments, prog_name="limner", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
