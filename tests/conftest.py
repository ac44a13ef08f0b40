"""Give every test a clean environment, no network beyond this machine, and the same examples in every CI run.

A test that needs a program (nginx, Redis, Chromium) is skipped, with the program's name as the reason, on machines
without it. `.ci/run` installs these programs and counts a skipped test as a failure.
"""

import ipaddress
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import pytest
import structlog
from hypothesis import settings

#: Fixtures that several files use.
pytest_plugins = ["tests.support.replica_fixtures", "tests.support.store_fixtures", "tests.support.upstream_fixtures"]

#: Prefixes of the variables from which the tools of object stores take keys and addresses.
CLOUD_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "ws_proxy", "wss_proxy", "no_proxy"}

# The same examples in each run, so that a change is judged by what it changes. `make fuzz` searches by chance.
settings.register_profile("limner", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("limner")

# Programs set up the log, tests do not. structlog's default stack trace shows the values of all variables, which takes
# seconds: so long nothing else would run in a server of this process.
structlog.get_config()["processors"][-1].exception_formatter = structlog.dev.plain_traceback

#: Connections and name lookups beyond this machine that the running test has tried.
blocked: list[str] = []


class NetworkBlocked(AssertionError):
    """A test tried to reach another machine. Not an `OSError`, which the code under test would handle as a failure."""


def _block_network(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse connections and lookups beyond this machine.

    As an audit hook it also sees those of asyncio, aiohttp and C code; connections that uvloop opens itself it does not.
    """
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        address = arguments[1]
        if isinstance(address, tuple) and isinstance(address[0], str) and not _is_local(address[0]):
            _block(f"{event} to {address}")
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        if isinstance(host, str) and host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # RFC 6761: it never resolves
        if isinstance(host, str) and not _is_literal(host) and not _is_local(host):
            _block(f"{event} of {host!r}")


def _block(attempt: str) -> None:
    blocked.append(attempt)
    raise NetworkBlocked(attempt)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_local(host: str) -> bool:
    if _is_literal(host):
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    return host in {"", "localhost", socket.gethostname()}


sys.addaudithook(_block_network)


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    """Fail a test that tried to reach another machine, even if the code under test handled the refusal."""
    blocked.clear()
    yield
    assert not blocked, f"beyond this machine: {blocked}"


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
            if name.startswith(("LIMNER_", *CLOUD_PREFIXES)) or name.lower() in PROXIES:
                patch.delenv(name)
        patch.chdir(work)
        yield
