"""The state of the demo upstream, for tests to inspect: bounded, and safe to use from another thread."""

import asyncio
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

from app.demo.image_host import ImageHost

MAX_REQUESTS = 1000
#: Total size of the recorded bodies; the oldest are dropped first, but the last one always stays.
MAX_BYTES = 64 * 1024 * 1024
MAX_PROMPTS = 1000


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A recorded request. `headers` have lower-case names; `body` is parsed JSON, or None; `size` is in bytes."""

    path: str
    headers: dict[str, str]
    body: Any
    size: int


class DemoState:
    """Counters and recorded requests.

    Attributes:
        calls: Chat requests since the last reset.
        in_flight: Requests of any kind whose response has not ended.
        images_drawn: Images since the last reset, drafts included.
    """

    def __init__(self) -> None:
        self.image_host = ImageHost()
        self.requests: deque[SeenRequest] = deque(maxlen=MAX_REQUESTS)
        self.calls = self.in_flight = self.images_drawn = 0
        self._times: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._held: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._released = False
        self._changed = threading.Condition()

    def reset(self) -> None:
        """Clear everything. Requests that wait for a release keep waiting."""
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
        """Add `step` (+1 or -1) to the requests in flight."""
        with self._changed:
            self.in_flight += step
            self._changed.notify_all()

    def count_repeat(self, model: str, prompt: str) -> int:
        """Count one more request for a prompt, and return how many came before it."""
        times = self._times.pop((model, prompt), 0)
        self._times[model, prompt] = times + 1
        if len(self._times) > MAX_PROMPTS:
            self._times.popitem(last=False)
        return times

    def wait_for_calls(self, number: int, timeout: float = 10) -> bool:
        """Block a test's thread until `number` calls have arrived. Returns False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.calls >= number, timeout)

    def wait_until_idle(self, timeout: float = 10) -> bool:
        """Block until no request is in flight. Returns False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.in_flight, timeout)

    async def wait_for_release(self) -> None:
        """Wait until a test calls `release`."""
        event = asyncio.Event()
        with self._changed:
            if self._released:
                return
            self._held.append((asyncio.get_running_loop(), event))
        await event.wait()

    def release(self) -> None:
        """Let all waiting requests continue, and all later ones too, until `reset`."""
        with self._changed:
            self._released = True
            held, self._held = self._held, []
        for loop, event in held:
            loop.call_soon_threadsafe(event.set)
