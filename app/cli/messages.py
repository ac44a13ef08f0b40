"""Error messages of commands: one line, with the documentation page that helps."""

import sys

from app.cli.main import COMMANDS_PAGE

#: The pages for commands whose errors `COMMANDS_PAGE` does not explain.
PAGES = {"keys": "docs/keys-and-limits.md", "paint": "docs/errors.md"}


def print_error(command: str, message: str) -> None:
    """Print the message to the standard error, without a period at its end or with one."""
    print(f"limner {command}: {message.removesuffix('.')}. See {PAGES.get(command, COMMANDS_PAGE)}", file=sys.stderr)
