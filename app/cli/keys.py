"""`limner keys new`: make a key for a client, and its table for the file that `LIMNER_KEYS_FILE` names."""

import sys

import click

from app.access.keys import InvalidKeyFile, generate_key
from app.cli.messages import print_error


@click.group("keys")
def command() -> None:
    """Make keys for clients."""


@command.command("new")
@click.argument("name")
def new(name: str) -> int:
    """Make a key for the client NAME. It is shown only once; its table is for the file of LIMNER_KEYS_FILE."""
    try:
        key, table = generate_key(name)
    except InvalidKeyFile as error:
        print_error("keys", f"NAME: {error}")
        return 2
    # The table alone goes to the standard output, so that it can be appended to the file.
    print(f"The key of {name}, shown only here: {key}", file=sys.stderr)
    print(table)
    return 0
