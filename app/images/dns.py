"""Look up host names for downloads, without occupying the threads of other work."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

#: A name server that does not answer occupies one of these threads until its timeout, and none that other work needs.
DNS_THREADS = 16

#: Seconds for one query, the wait for a free thread included.
DNS_TIMEOUT = 5.0

#: Seconds for which an answer is cached: a query costs as much as the rest of a small download. And names in the cache.
DNS_CACHE_SECONDS = 10.0
DNS_CACHE_SIZE = 1000


class DnsResolver:
    """Resolve host names in threads of its own, and cache the answers. Has to be closed.

    The addresses are not checked. Whoever connects to them must check them each time.
    """

    def __init__(self, lookup: Callable[[str], list[str]] | None = None) -> None:
        """`lookup`: returns the addresses of a name and may block."""
        self._lookup = lookup or system_lookup
        self._threads = ThreadPoolExecutor(DNS_THREADS, "limner-names")
        self._cache: dict[str, tuple[float, list[str]]] = {}

    async def resolve(self, name: str) -> list[str]:
        """Return the addresses of a host name.

        Raises:
            TimeoutError: The system has not answered within `DNS_TIMEOUT`.
            OSError: The system's error.
        """
        loop = asyncio.get_running_loop()
        expires_at, addresses = self._cache.get(name, (0.0, []))
        if loop.time() < expires_at:
            return addresses
        async with asyncio.timeout(DNS_TIMEOUT):
            addresses = await loop.run_in_executor(self._threads, self._lookup, name)
        if len(self._cache) >= DNS_CACHE_SIZE:
            self._cache.clear()
        self._cache[name] = (loop.time() + DNS_CACHE_SECONDS, addresses)
        return addresses

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def system_lookup(name: str) -> list[str]:
    """Query the system, which blocks. Families (IPv4, IPv6) of which this machine has no address are left out."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(address[4][0]) for address in found]
