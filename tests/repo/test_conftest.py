"""The rules that hold for every test are enforced."""

import os
import socket
from itertools import islice
from pathlib import Path

import pytest

from tests import conftest
from tests.support import ports


def test_a_connection_beyond_this_machine_fails_the_test() -> None:
    with socket.socket() as client, pytest.raises(conftest.NetworkBlocked):
        client.connect(("192.0.2.1", 80))
    assert conftest.blocked.pop() == "socket.connect to ('192.0.2.1', 80)"


def test_a_datagram_beyond_this_machine_fails_the_test() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as client, pytest.raises(conftest.NetworkBlocked):
        client.sendto(b"?", ("192.0.2.1", 53))
    assert conftest.blocked.pop() == "socket.sendto to ('192.0.2.1', 53)"


def test_a_name_lookup_beyond_this_machine_fails_the_test() -> None:
    with pytest.raises(conftest.NetworkBlocked):
        socket.getaddrinfo("images.example.com", 443)
    assert conftest.blocked.pop() == "socket.getaddrinfo of 'images.example.com'"


def test_a_name_that_can_never_exist_is_not_looked_up() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("nowhere.invalid", 443)


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_the_settings_of_the_developer_are_hidden() -> None:
    assert not [name for name in os.environ if name.startswith("LIMNER_") or name.lower() in conftest.PROXIES]
    assert not Path(".env").exists()


def test_parallel_test_processes_take_their_ports_from_separate_ranges() -> None:
    ranges = [set(islice(ports._candidates(f"gw{worker}", process=worker), 2000)) for worker in range(16)]
    assert all(len(one) > 1000 for one in ranges)
    assert len(set().union(*ranges)) == sum(map(len, ranges))


def test_a_port_on_which_a_program_listens_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not ports._is_free(server.getsockname()[1])
    first, second = ports.free_ports(2)
    assert first != second
