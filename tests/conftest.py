"""What holds for every test: a clean environment, no network beyond this machine, the same examples in every CI run.

A test that needs a program (nginx, Redis, Chromium) is skipped with the program's name as the reason where it is
missing; `.ci/run` installs it, and counts a skipped test as a failure.
"""

import ipaddress
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

#: Fixtures of more than one file.
pytest_plugins = ["tests.support.store_fixtures"]

#: Where object stores' own tools look for keys and addresses.
CLOUDS = ("AWS_", "AZURE_", "GOOGLE_")
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "ws_proxy", "wss_proxy", "no_proxy"}

settings.register_profile("limner", deadline=None, max_examples=60, derandomize="CI" in os.environ)
settings.load_profile("limner")

#: Addresses and names beyond this machine that the running test reached for.
strayed: list[str] = []


class Strayed(AssertionError):
    """A test reached beyond this machine. No OSError, so that no code under test takes it for a broken network."""


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: it sees what asyncio, aiohttp and C code do too, uvloop's own connections excepted."""
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        address = arguments[1]
        if isinstance(address, tuple) and isinstance(address[0], str) and not _is_here(address[0]):
            _refuse(f"{event} to {address}")
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        if isinstance(host, str) and host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # RFC 6761: it never resolves
        if isinstance(host, str) and not _is_literal(host) and not _is_here(host):
            _refuse(f"{event} of {host!r}")


def _refuse(what: str) -> None:
    strayed.append(what)
    raise Strayed(what)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_here(host: str) -> bool:
    if _is_literal(host):
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    return host in {"", "localhost", socket.gethostname()}


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def _stay_here() -> Iterator[None]:
    """Fails the test even where the code under test swallowed the refusal."""
    strayed.clear()
    yield
    assert not strayed, f"beyond this machine: {strayed}"


@pytest.fixture(autouse=True, scope="session")
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the developer's LIMNER_ variables, proxies and object stores, and run in a folder without a .env file.

    Each pytest-xdist worker gets a folder of its own for temporary files, since some tests look for what a server has
    left there. Its path is short: the path of a Unix socket holds about a hundred characters.
    """
    work = tmp_path_factory.mktemp("empty")
    with TemporaryDirectory(prefix="limner-") as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", temporary)
        patch.setattr(tempfile, "tempdir", None)
        for name in os.environ:
            if name.startswith(("LIMNER_", *CLOUDS)) or name.lower() in PROXIES:
                patch.delenv(name)
        patch.chdir(work)
        yield
