"""Slots are granted fairly, and none is lost when clients disconnect."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.access.concurrency import FairSemaphore
from app.errors import RateLimited


class Clients:
    """Requests that compete for slots: `start` starts one, `running` lists those that got slots, in that order."""

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.semaphore = FairSemaphore(limit, max_waiting)
        self.running: list[str] = []
        self.ends = dict[str, asyncio.Event]()
        self.tasks = dict[str, asyncio.Task[None]]()

    async def start(self, name: str, slots: int = 1) -> None:
        """Start a request. The first letter of `name` is its caller."""
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self.run(name, slots))
        await self.settle()

    async def run(self, name: str, slots: int) -> None:
        async with self.semaphore.acquire(name[0], slots):
            self.running.append(name)
            await self.ends[name].wait()

    async def finish(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
            await self.settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def with_clients(limit: int, max_waiting: int, steps: Callable[[Clients], Awaitable[None]]) -> None:
    async def run() -> None:
        clients = Clients(limit, max_waiting)
        await steps(clients)
        await clients.finish(*clients.tasks)
        assert (clients.semaphore.in_use, clients.semaphore.waiting) == (0, 0)

    asyncio.run(run())


def test_a_released_slot_goes_to_a_waiting_request() -> None:
    async def steps(clients: Clients) -> None:
        await clients.start("a1")
        await clients.start("a2")
        assert (clients.running, clients.semaphore.waiting) == (["a1"], 1)
        await clients.finish("a1")
        assert clients.running == ["a1", "a2"]

    with_clients(1, 5, steps)


def test_many_requests_of_one_caller_do_not_starve_the_single_one_of_another() -> None:
    async def steps(clients: Clients) -> None:
        for name in ("a1", "a2", "a3", "a4", "b1"):
            await clients.start(name)
        await clients.finish("a1", "a2", "b1", "a3")
        assert clients.running == ["a1", "a2", "b1", "a3", "a4"]

    with_clients(1, 10, steps)


def test_a_full_queue_rejects_requests_with_a_retry_after() -> None:
    async def steps(clients: Clients) -> None:
        await clients.start("a1")
        await clients.start("a2")
        await clients.start("b1")
        with pytest.raises(RateLimited) as caught:
            clients.tasks["b1"].result()
        assert caught.value.headers["retry-after"] == "2"
        assert caught.value.headers["retry-after-ms"] == "2000"
        await clients.finish("a1")
        assert clients.running == ["a1", "a2"]

    with_clients(1, 1, steps)


def test_room_is_refused_exactly_where_a_request_would_be() -> None:
    async def steps(clients: Clients) -> None:
        clients.semaphore.check_room("a", 7)
        await clients.start("a1")
        clients.semaphore.check_room("a")
        await clients.start("a2")
        for caller in ("a", "b"):
            with pytest.raises(RateLimited):
                clients.semaphore.check_room(caller)
        await clients.finish("a1")
        clients.semaphore.check_room("b")

    with_clients(1, 1, steps)


def test_there_is_room_without_a_queue_while_a_slot_is_free() -> None:
    async def steps(clients: Clients) -> None:
        clients.semaphore.check_room("a")
        await clients.start("a1")
        with pytest.raises(RateLimited):
            clients.semaphore.check_room("a")

    with_clients(1, 0, steps)


def test_there_is_room_for_a_caller_that_takes_the_place_of_one_with_more() -> None:
    async def steps(clients: Clients) -> None:
        for name in ("a1", "a2", "a3"):
            await clients.start(name)
        clients.semaphore.check_room("b")
        with pytest.raises(RateLimited):
            clients.semaphore.check_room("a")

    with_clients(1, 2, steps)


def test_a_request_gets_all_its_slots_together_and_is_not_overtaken() -> None:
    async def steps(clients: Clients) -> None:
        await clients.start("a1", 2)
        await clients.start("b1", 2)
        await clients.start("c1", 1)
        assert clients.running == ["a1"]
        await clients.finish("a1")
        assert clients.running == ["a1", "b1", "c1"]

    with_clients(3, 5, steps)


def test_a_request_for_more_slots_than_there_are_gets_all() -> None:
    async def steps(clients: Clients) -> None:
        await clients.start("a1", 10)
        assert (clients.running, clients.semaphore.in_use) == (["a1"], 2)

    with_clients(2, 0, steps)


def test_a_request_cancelled_while_waiting_leaves_the_queue() -> None:
    async def steps(clients: Clients) -> None:
        for name in ("a1", "a2", "a3", "b1"):
            await clients.start(name)
        await clients.cancel("b1")
        await clients.cancel("a2")
        assert clients.semaphore.waiting == 1
        await clients.finish("a1")
        assert clients.running == ["a1", "a3"]

    with_clients(1, 5, steps)


def test_a_request_cancelled_just_when_it_got_a_slot_passes_it_on() -> None:
    async def steps(clients: Clients) -> None:
        for name in ("a1", "a2", "a3"):
            await clients.start(name)
        clients.ends["a1"].set()
        await asyncio.sleep(0)  # a1 ends and a slot is granted to a2, whose task has not run yet
        assert clients.semaphore.waiting == 1
        await clients.cancel("a2")
        assert clients.running == ["a1", "a3"]

    with_clients(1, 5, steps)


def test_a_slot_released_just_when_the_next_request_is_cancelled_goes_to_the_one_after() -> None:
    async def steps(clients: Clients) -> None:
        for name in ("a1", "a2", "a3"):
            await clients.start(name)
        clients.ends["a1"].set()
        clients.tasks["a2"].cancel()  # a1 runs first and finds a2 at the head of the queue
        await clients.settle()
        assert clients.running == ["a1", "a3"]

    with_clients(1, 5, steps)


def test_a_full_queue_evicts_a_request_of_the_caller_with_most() -> None:
    async def steps(clients: Clients) -> None:
        for name in ("a1", "a2", "a3", "a4", "b1", "b2"):
            await clients.start(name)
        for name in ("a4", "b2"):
            with pytest.raises(RateLimited):
                clients.tasks[name].result()
        assert clients.semaphore.waiting == 3
        await clients.finish("a1", "a2", "b1")
        assert clients.running == ["a1", "a2", "b1", "a3"]

    with_clients(1, 3, steps)


def test_a_request_cancelled_just_when_it_was_evicted_releases_no_slot() -> None:
    async def steps(clients: Clients) -> None:
        for name in ("a1", "a2", "a3"):
            await clients.start(name)
        clients.ends["b1"] = asyncio.Event()
        clients.tasks["b1"] = asyncio.create_task(clients.run("b1", 1))
        await asyncio.sleep(0)  # b1 evicts a3, whose task has not run yet
        await clients.cancel("a3")
        assert (clients.semaphore.in_use, clients.semaphore.waiting) == (1, 2)

    with_clients(1, 2, steps)


def test_a_request_evicted_just_when_it_is_cancelled_stays_cancelled() -> None:
    async def steps(clients: Clients) -> None:
        for name in ("a1", "a2", "a3"):
            await clients.start(name)
        clients.ends["b1"] = asyncio.Event()
        clients.tasks["b1"] = asyncio.create_task(clients.run("b1", 1))
        clients.tasks["a3"].cancel()  # b1 runs first and evicts a3
        await clients.settle()
        assert clients.semaphore.waiting == 2
        await clients.finish("a1", "a2")
        assert clients.running == ["a1", "a2", "b1"]

    with_clients(1, 2, steps)


def test_a_raised_limit_gives_slots_to_waiting_requests() -> None:
    async def steps(clients: Clients) -> None:
        for name in ("a1", "a2", "a3", "a4"):
            await clients.start(name)
        clients.semaphore.set_limit(3)
        await clients.settle()
        assert clients.running == ["a1", "a2", "a3"]

    with_clients(1, 5, steps)


def test_a_waiting_request_for_more_slots_than_a_lowered_limit_gets_all() -> None:
    async def steps(clients: Clients) -> None:
        await clients.start("a1", 4)
        await clients.start("b1", 4)
        clients.semaphore.set_limit(2)
        await clients.finish("a1")
        assert (clients.running, clients.semaphore.in_use) == (["a1", "b1"], 2)

    with_clients(4, 5, steps)
