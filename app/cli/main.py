"""The `limner` command. Each subcommand is a module of this package with a `command`."""

import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from app import __version__

#: Subcommands with their short help, in its order; each name is that of a module too. The help is repeated from the
#: modules because importing them all takes more than a second, too long for help and completion.
COMMANDS = {
    "serve": "Run the server.",
    "demo": "Run the server with a demo upstream: no key, no network.",
    "check": "Try the image store, the shared state, and each upstream.",
    "probe": "Find the dialect of an upstream with a few small images.",
    "paint": "Generate or edit images with any server of the Images API.",
    "explain": "Show which images are found in a chat reply, and why not others.",
    "keys": "Show what client keys have used, and make new ones.",
    "ledger": "Sum up what LIMNER_LEDGER has recorded.",
    "reconcile": "Compare the ledger with the bill of an upstream.",
}

#: Subcommands that do what the settings say, and take few options.
_WITH_SETTINGS = {"serve", "demo", "check"}

#: Libraries that others import if they find them: structlog for colored tracebacks and for the contexts of greenlets,
#: uvicorn for its reloader, httpx for its command, aiohttp for responses in zstd. Nothing here uses any of that.
_UNUSED = ("rich", "greenlet", "watchfiles", "pygments", "backports.zstd")

#: The exit code after Ctrl-C: 128 + SIGINT, as shells count.
INTERRUPTED = 130

#: The exit code after the reader of the output has gone, as `head` does: 128 + SIGPIPE.
BROKEN_PIPE = 141

#: The first page of the documentation, and the page that explains the commands.
START_PAGE = "docs/index.md"
COMMANDS_PAGE = "docs/cli.md"

#: What connects an upstream. The values are examples.
ENV_LINES = """\
    LIMNER_UPSTREAM_BASE_URL=https://api.example.com/v1
    LIMNER_UPSTREAM_API_KEY=sk-the-key-of-the-upstream
    LIMNER_API_KEYS=a-key-that-you-choose-for-your-clients
"""

_NEXT_STEPS = f"""\
Limner serves the OpenAI Images API in front of a chat model that generates images.

1. See it work. This needs no key and no network:

    limner demo

2. Connect an upstream. Write three lines into a file named .env in this folder:

{ENV_LINES}
3. Check these settings, then start the server:

    limner check
    limner serve

All commands: limner --help. Documentation: {START_PAGE}
"""

_EPILOG = f"""To see it work: limner demo. With an upstream of your own: limner check, then limner serve.
Documentation: {COMMANDS_PAGE}

\b
Completion, for bash (also zsh_source; for fish, pipe fish_source into source):
  eval "$(_LIMNER_COMPLETE=bash_source limner)"
"""


@contextmanager
def _lean_imports() -> Iterator[None]:
    """Import without what libraries use only where it is installed, and without collecting garbage.

    This saves 6 MiB and a fifth of the time that `limner serve` needs to start.
    """
    hidden = [name for name in _UNUSED if name not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # None means that it cannot be imported
    gc.disable()
    try:
        with _certificates_where_needed():
            yield
    finally:
        # What was imported stays. Otherwise the first collection would look at all of it: 40 ms.
        gc.freeze()
        gc.enable()
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _certificates_where_needed() -> Iterator[None]:
    """Load no certificates into a TLS context that verifies nothing.

    aiohttp makes one when it is imported, besides the one that verifies, and nothing here uses it: 16 ms and 1 MiB
    where the certificates of the system are one file.
    """
    import ssl  # noqa: PLC0415  # reason: help and completion do without

    load = ssl.SSLContext.set_default_verify_paths

    def load_where_needed(context: ssl.SSLContext) -> None:
        if context.verify_mode is not ssl.CERT_NONE:
            load(context)

    ssl.SSLContext.set_default_verify_paths = load_where_needed  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        ssl.SSLContext.set_default_verify_paths = load  # type: ignore[method-assign]


class _LimnerGroup(click.Group):
    """Import a subcommand when it is used: `limner serve` must not hold the check and the demo in memory."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name == "serve":
            # Imports take a third of a second, and a SIGHUP would end the process meanwhile: as systemd sees it, on
            # purpose and for good. What it asks for, to read the file of client keys, is done at the start anyway.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with _lean_imports():
            command: click.Command = import_module(f"app.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        commands = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> int:
        """Run the subcommand, and end quietly if the reader of its output has gone."""
        try:
            code = int(super().invoke(ctx))
            # Unlike `sys.stdout.flush()`, this works if the standard output is closed.
            print(end="", flush=True)
        except BrokenPipeError:
            # Python writes the rest of its buffer when it ends, which would fail again with a message.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        return code


@click.group(
    cls=_LimnerGroup,
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="limner %(version)s")
@click.pass_context
def limner(context: click.Context) -> int:
    """Serve the OpenAI Images API in front of a chat model that generates images."""
    if context.invoked_subcommand is None:
        print(_NEXT_STEPS, end="", file=sys.stderr)
    return 2


def _variable_for(error: click.UsageError) -> str | None:
    """Return the variable to set in place of an option that a command does not have: `limner serve --port 80`."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None or error.ctx.command.name not in _WITH_SETTINGS:
        return None
    from app.config.field_types import variable  # noqa: PLC0415  # reason: help and completion do without
    from app.config.variables import known_variables  # noqa: PLC0415

    name = variable(error.option_name.removeprefix("--").replace("-", "_"))
    return name if name in known_variables() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code.

    That is 0 if all went well, 1 if a check failed or the port is taken, 2 if a setting or the command line is wrong or
    there is no command, 130 after Ctrl-C, and 141 if the reader of the output has gone.
    """
    try:
        return int(limner.main(arguments, prog_name="limner", standalone_mode=False))
    except click.UsageError as error:
        error.show()
        if (name := _variable_for(error)) is not None:
            print(f"Settings are variables, not options: set {name}.", file=sys.stderr)
        print(f"See {COMMANDS_PAGE}", file=sys.stderr)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
