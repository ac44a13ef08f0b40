"""Error messages of commands: one line, with the documentation page that helps."""

import sys

from app.cli.main import COMMANDS_PAGE

#: The pages for commands whose errors `COMMANDS_PAGE` does not explain.
PAGES = {"keys": "docs/keys-and-limits.md", "paint": "docs/errors.md"}


def print_error(command: str, message: str, page: str | None = None) -> None:
    """Print the message to the standard error, without a period at its end or with one. `page`: another one."""
    page = page or PAGES.get(command, COMMANDS_PAGE)
    print(f"limner {command}: {message.removesuffix('.')}. See {page}", file=sys.stderr)
