"""Looks up host names: in threads of its own, with a time limit, answers remembered for seconds."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

#: A name server that hangs takes one of these for its whole time, and never one that others work in.
THREADS = 16

#: Seconds for one answer, the wait for a free thread counted.
TIMEOUT = 5.0

#: Seconds an answer is good for. A lookup costs as much as all the rest of a small download.
REMEMBERED = 10.0
MOST_REMEMBERED = 1000


def ask_system(name: str) -> list[str]:
    """Blocks. Families that this machine has no address of are left out."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(answer[4][0]) for answer in found]


class Names:
    """To be closed. What is remembered was not checked: whoever connects checks each time."""

    def __init__(self, ask: Callable[[str], list[str]] = ask_system) -> None:
        self._ask = ask
        self._threads = ThreadPoolExecutor(THREADS, "limner-names")
        self._remembered: dict[str, tuple[float, list[str]]] = {}

    async def look_up(self, name: str) -> list[str]:
        """Raises TimeoutError, or the OSError of the system."""
        loop = asyncio.get_running_loop()
        until, answers = self._remembered.get(name, (0.0, []))
        if loop.time() < until:
            return answers
        async with asyncio.timeout(TIMEOUT):
            answers = await loop.run_in_executor(self._threads, self._ask, name)
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[name] = (loop.time() + REMEMBERED, answers)
        return answers

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
