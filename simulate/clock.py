"""A virtual clock with one asyncio event loop for each replica. Nothing here waits, and nothing reads a real clock."""

import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

#: Turns of all loops after which a schedule is taken for one that never ends.
_MAX_TURNS = 50_000


class ScheduleEndless(Exception):
    """The loops have had more turns than any schedule needs."""


class SimulatedTask(asyncio.Task[Any]):
    """A task whose place in a set is the same in each run: asyncio keeps tasks in sets and goes through them."""

    def __init__(self, coro: Any, number: int, **more: Any) -> None:
        self.number = number
        super().__init__(coro, **more)
        # Nobody asks for all tasks, and those of earlier schedules have the same numbers.
        asyncio._unregister_task(self)

    def __hash__(self) -> int:
        return self.number


class Clock:
    """Virtual seconds, what happens at which of them, and whose turn it is when several replicas are ready.

    Attributes:
        now: The present second. It moves on when no loop is ready.
        turns: Turns that loops have had.
    """

    def __init__(self, chance: Random) -> None:
        self.now = 0.0
        self.turns = 0
        self._chance = chance
        self._loops: list[ReplicaLoop] = []
        self._sequence = 0
        self._due: list[tuple[float, int, ReplicaLoop | None, asyncio.Handle | Callable[[], None]]] = []

    def add(self, loop: "ReplicaLoop") -> None:
        self._loops.append(loop)

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Let something happen outside of all replicas."""
        self._sequence += 1
        heappush(self._due, (self.now + seconds, self._sequence, None, happen))

    def push_timer(self, when: float, loop: "ReplicaLoop", handle: asyncio.TimerHandle) -> None:
        self._sequence += 1
        heappush(self._due, (when, self._sequence, loop, handle))

    def run(self, until: Callable[[], bool], latest: float) -> None:
        """Run until nothing happens at this moment and the condition holds, or the clock would pass `latest`.

        Raises:
            ScheduleEndless: The replicas go round in circles.
        """
        while True:
            ready = [loop for loop in self._loops if loop.ready and not loop.is_stopped]
            if ready:
                self.turns += 1
                if self.turns > _MAX_TURNS:
                    raise ScheduleEndless
                loop = ready[0] if len(ready) == 1 else ready[int(self._chance.random() * len(ready))]
                loop.take_turn()
            elif until() or not self._advance(latest):
                return

    def _advance(self, latest: float) -> bool:
        """Go to the next moment and do what is due then. Returns False where there is none until `latest`."""
        due = self._due
        while due and due[0][2] is not None and (due[0][2].is_dead or due[0][3]._cancelled):  # type: ignore[union-attr]
            heappop(due)
        if not due or due[0][0] > latest:
            return False
        self.now = max(self.now, due[0][0])
        while due and due[0][0] <= self.now:
            _, _, loop, item = heappop(due)
            if loop is not None:
                loop.ready.append(item)  # type: ignore[arg-type]
            else:
                item()  # type: ignore[operator]
        return True


class ReplicaLoop(asyncio.AbstractEventLoop):
    """The event loop of one replica. As in asyncio, one turn runs what was ready at its beginning, in order.

    Attributes:
        is_stopped: It has no turns: paused, or dead.
        is_dead: Nothing reaches it any more.
        ready: What the next turn runs.
        steps: Turns so far.
        bugs: Exceptions that reached the loop.
    """

    def __init__(self, clock: Clock) -> None:
        self.is_stopped = self.is_dead = False
        self.ready: deque[asyncio.Handle] = deque()
        self.steps = 0
        self.bugs: list[BaseException | str] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._clock = clock
        self._at_step: list[tuple[int, Callable[[], None]]] = []
        clock.add(self)

    def take_turn(self) -> None:
        """Run everything that is ready now, not what becomes ready meanwhile."""
        self.steps += 1
        if self._at_step:
            self._do_what_is_due()
        ready = self.ready
        asyncio._set_running_loop(self)
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001  # reason: it is a finding, and the other replicas go on
            self.bugs.append(error)
        finally:
            asyncio._set_running_loop(None)

    def after_steps(self, steps: int, happen: Callable[[], None]) -> None:
        """Let something happen before a later turn: between any two awaits of this replica."""
        self._at_step.append((self.steps + steps, happen))

    def _do_what_is_due(self) -> None:
        due = [happen for step, happen in self._at_step if step <= self.steps]
        self._at_step = [(step, happen) for step, happen in self._at_step if step > self.steps]
        for happen in due:
            happen()

    def deliver(self, callback: Callable[..., object], *args: object) -> None:
        """Hand over what has come from outside; lost where the replica is dead."""
        if not self.is_dead:
            self.ready.append(asyncio.Handle(callback, args, self))

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Create a task from outside of the loop."""
        return self.do(lambda: self.create_task(work))

    def do(self, work: Callable[[], T]) -> T:
        """Do something as if a callback of the loop did it."""
        asyncio._set_running_loop(self)
        try:
            return work()
        finally:
            asyncio._set_running_loop(None)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to be run."""
        return not self.ready and all(task.done() for task in self.tasks)

    def cancel_tasks(self) -> None:
        """Cancel everything that is left, as the end of a process does."""
        for task in self.tasks:
            if not task.done():
                task.cancel()

    # The part of an event loop that asyncio, FastAPI and Limner use.

    def time(self) -> float:
        return self._clock.now

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._clock.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._clock.push_timer(when, self, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task = SimulatedTask(coro, len(self.tasks), loop=self, name=name or "task", context=context)
        self.tasks.append(task)
        return task

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run the function at once: threads would bring an order of their own."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # reason: handed on
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_dead:
            self.bugs.append(context.get("exception") or context["message"])

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False


# Contexts are copied for each callback; asyncio's generators of other loops must not call hooks of a loop that is gone.
sys.set_asyncgen_hooks(None, None)
