"""The addresses of this machine are recognized by the address from which the kernel would send to them."""

import errno
import socket
from ipaddress import ip_address
from types import TracebackType
from typing import Any

import pytest

from app.images.own_addresses import is_own_address


class Probe:
    """A socket of a machine with the address 203.0.113.9, whose only way out is IPv4."""

    def __init__(self, family: int, kind: int) -> None:
        assert kind == socket.SOCK_DGRAM
        self.family = family

    def connect(self, address: tuple[str, int]) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    def getsockname(self) -> tuple[str, int]:
        return ("203.0.113.9", 54321)

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None: ...


@pytest.mark.parametrize(
    ("address", "is_own"),
    [
        pytest.param("203.0.113.9", True, id="that of the interface"),
        pytest.param("203.0.113.10", False, id="its neighbor"),
        pytest.param("8.8.8.8", False, id="one far away"),
        pytest.param("2001:db8::1", False, id="one that cannot be reached"),
    ],
)
def test_an_address_is_own_if_the_kernel_would_send_from_it(
    address: str, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake: Any = Probe
    monkeypatch.setattr("app.images.own_addresses.socket.socket", fake)
    assert is_own_address(ip_address(address)) is is_own


def test_the_kernel_of_this_machine_knows_its_loopback_address() -> None:
    assert is_own_address(ip_address("127.0.0.1"))
