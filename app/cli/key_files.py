"""Keys that a command presents to a server, from files or variables."""

import re
from pathlib import Path


class UnusableKey(ValueError):
    """The text cannot be a key, or its file cannot be read. The message says where it is, and does not contain it."""


def read_key_file(path: Path) -> str:
    """Return the key in a file, without surrounding white space. Raises `UnusableKey`."""
    try:
        return check_key(path.read_bytes().strip(), str(path))
    except OSError as error:
        raise UnusableKey(f"{path}: {error.strerror}") from None


def check_key(key: bytes, location: str) -> str:
    """Return the key, if it can be sent in a header. Raises `UnusableKey`, which names the location."""
    if not re.fullmatch(rb"[!-~]+", key):
        raise UnusableKey(f"{location}: a key is one line of visible ASCII characters")
    return key.decode()
