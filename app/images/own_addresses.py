"""Recognize the addresses of this machine, on which its other services listen."""

import socket
from ipaddress import IPv4Address, ip_address

from app.images.ssrf import Address

#: Any port: nothing is sent to it.
_PORT = 9


def is_own_address(address: Address) -> bool:
    """Return whether an address belongs to an interface of this machine.

    The kernel sends to its own address from this very address. Connecting a socket of datagrams makes it choose the
    sender's address, and sends nothing.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), _PORT))
            sender = probe.getsockname()[0]
    except OSError:
        # There is no way to this address, or no IPv6.
        return False
    return ip_address(sender) == address
