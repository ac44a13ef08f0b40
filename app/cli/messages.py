"""Error messages of commands: one line, with the documentation page that helps."""

import sys

#: The page for each command that prints such messages.
PAGES = {
    "check": "docs/upstreams.md",
    "demo": "docs/index.md",
    "explain": "docs/upstreams.md",
    "keys": "docs/security.md",
    "ledger": "docs/operations.md",
    "paint": "docs/errors.md",
}


def print_error(command: str, message: str) -> None:
    """Print the message to the standard error, without a period at its end or with one."""
    print(f"limner {command}: {message.removesuffix('.')}. See {PAGES[command]}", file=sys.stderr)
