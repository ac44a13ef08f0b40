"""What the demo upstream remembers, for tests to look at: bounded, and safe to ask from another thread."""

import asyncio
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

from app.demo.image_host import ImageHost

MAX_REQUESTS = 1000
#: What all remembered bodies may hold together; the oldest go first, but for the last one.
MAX_BYTES = 64 * 1024 * 1024
MAX_PROMPTS = 1000


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """`headers` by lower-case name; `body` as parsed, None where it was no JSON; `size` of the body in bytes."""

    path: str
    headers: dict[str, str]
    body: Any
    size: int


class DemoState:
    """`calls`: chat requests; `under_way`: requests not answered to the end yet; `painted`: pictures, drafts too."""

    def __init__(self) -> None:
        self.image_host = ImageHost()
        self.requests: deque[SeenRequest] = deque(maxlen=MAX_REQUESTS)
        self.calls = self.in_flight = self.images_drawn = 0
        self._times: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._held: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._released = False
        self._changed = threading.Condition()

    def reset(self) -> None:
        """Forgets everything; questions that are held stay so."""
        self.image_host.clear()
        self.requests.clear()
        self._times.clear()
        self._released = False
        self.calls = self.images_drawn = 0

    def record_request(self, seen: SeenRequest) -> None:
        self.requests.append(seen)
        while sum(request.size for request in self.requests) > MAX_BYTES and len(self.requests) > 1:
            self.requests.popleft()
        with self._changed:
            self.calls += 1
            self._changed.notify_all()

    def change_in_flight(self, step: int) -> None:
        """One more (+1) or one less (-1) under way."""
        with self._changed:
            self.in_flight += step
            self._changed.notify_all()

    def count_repeat(self, model: str, prompt: str) -> int:
        """How often this was counted before."""
        times = self._times.pop((model, prompt), 0)
        self._times[model, prompt] = times + 1
        if len(self._times) > MAX_PROMPTS:
            self._times.popitem(last=False)
        return times

    def wait_for_calls(self, number: int, timeout: float = 10) -> bool:
        """Blocks a test's thread until so many calls came; False where they did not within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.calls >= number, timeout)

    def wait_until_idle(self, timeout: float = 10) -> bool:
        """Blocks until nothing is under way."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.in_flight, timeout)

    async def wait_for_release(self) -> None:
        """Waits for `release`."""
        event = asyncio.Event()
        with self._changed:
            if self._released:
                return
            self._held.append((asyncio.get_running_loop(), event))
        await event.wait()

    def release(self) -> None:
        """Lets everything go that is held, and everything that would be held from now on until `reset`."""
        with self._changed:
            self._released = True
            held, self._held = self._held, []
        for loop, event in held:
            loop.call_soon_threadsafe(event.set)
