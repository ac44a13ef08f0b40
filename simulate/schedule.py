"""One schedule: three replicas, their clients and all faults of a plan, from the first request to the last look."""

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import structlog

from simulate.clients import Client
from simulate.clock import Clock, ScheduleEndless
from simulate.history import Group, History
from simulate.plan import REPLICAS, Fault, Plan, Wish, make_plan
from simulate.redis import SimulatedRedis
from simulate.replica import Outside, Replica
from simulate.upstream import SimulatedUpstream

#: Virtual seconds after which every client must have its answer, and that cleaning up may take.
_LATEST, _CLEAN_UP = 400.0, 60.0

#: Schedules between two collections of garbage, which take as long as one of them.
_COLLECT_EVERY = 20


#: Faults that are a value of Redis or of the world outside; afterwards it is false or 0 again.
_SWITCHES: dict[str, tuple[str, str, bool | float]] = {
    "redis down": ("redis", "is_down", True),
    "redis slow": ("redis", "extra_delay", 1.5),
    "redis loses packets": ("redis", "lost", 0.3),
    "redis doubles packets": ("redis", "doubled", 0.5),
    "store full": ("outside", "full_store", True),
    "disk full": ("outside", "full_disk", True),
}


@dataclass(slots=True)
class Outcome:
    """What a schedule has shown."""

    seed: int
    violations: list[str]
    events: list[tuple[float, str]]
    faults: Counter[str]
    requests: int
    calls: int
    turns: int
    redis_commands: Counter[str] = field(default_factory=Counter)


class Schedule:
    """Everything that one seed sets in motion."""

    def __init__(self, plan: Plan, *, with_commands: bool = False) -> None:
        self.plan = plan
        self.chance = Random(plan.seed ^ 0x5EED)
        self.clock = Clock(self.chance)
        self.history = History(self.clock, plan)
        redis = SimulatedRedis(
            self.clock,
            self.chance,
            held=plan.held,
            note=self.history.note if with_commands else None,
            on_lost=self.history.loss_reported,
            on_claimed=self.history.claimed,
            on_taken_over=self.history.taken_over,
            on_announced=self.history.announced,
        )
        upstream = SimulatedUpstream(
            self.clock, self.chance, {name: list(each) for name, each in plan.behaviors.items()}, self.history.called
        )
        self.outside = Outside(
            self.clock,
            self.chance,
            redis,
            upstream,
            plan.fail_closed,
            plan.keepalive_after,
            plan.is_shared,
            {name: list(each) for name, each in plan.failing_downloads.items()},
            on_charge=self.history.charged,
            on_joined=self.history.joined,
        )
        self.replicas = [Replica(number, self.outside) for number in range(REPLICAS if plan.is_shared else 1)]
        self.dead: list[Replica] = []
        self.clients = [Client(index, wish, self) for index, wish in enumerate(plan.wishes)]
        self._is_over = False
        self._requests = 0
        self._only: Replica | None = None

    def next_number(self) -> int:
        self._requests += 1
        return self._requests

    def choose_replica(self) -> Replica | None:
        if self._only is not None:
            return self._only
        living = [replica for replica in self.replicas if replica.is_alive]
        return living[int(self.chance.random() * len(living))] if living else None

    def play(self) -> Outcome:
        """Play the schedule to its end, and check it."""
        for fault in self.plan.faults:
            self.clock.after(fault.at, lambda fault=fault: self._begin(fault))  # type: ignore[misc]
        for client in self.clients:
            self.history.add_client(client)
            client.start()
        try:
            self._run_until_quiet()
            self._look_for_waiting_images()
            self._check_that_nothing_is_held()
        except ScheduleEndless:
            self.history.violate("the schedule does not end")
        self.history.check_end()
        self._report_bugs()
        turns = self.clock.turns
        self._clean_up()
        history, redis = self.history, self.outside.redis
        return Outcome(
            self.plan.seed,
            history.violations,
            history.events,
            history.faults,
            self._requests,
            len(self.outside.upstream.calls),
            turns,
            redis.executed,
        )

    def _run_until_quiet(self) -> None:
        last_fault = max((fault.at + fault.seconds for fault in self.plan.faults), default=0.0)
        until = self.clock.now + _LATEST
        self.clock.run(lambda: all(client.is_done for client in self.clients) and self._is_quiet(last_fault), until)
        for client in self.clients:
            if not client.is_done:
                self.history.violate(f"client {client.number} waits for ever")

    def _is_quiet(self, last_fault: float) -> bool:
        if self.clock.now < last_fault + (5.0 if self.plan.faults else 0.0):
            return False
        services = [replica.service for replica in self.replicas if replica.is_alive]
        return not any(service.tasks or service.sharing.background for service in services)

    # Faults.

    def _begin(self, fault: Fault) -> None:
        replica, redis = self.replicas[fault.replica % len(self.replicas)], self.outside.redis
        self.history.fault(fault.kind)
        self.history.note(f"{fault.kind}, replica {fault.replica}, for {fault.seconds:.2f} s")
        if fault.kind in _SWITCHES:
            self._switch(fault)
        elif fault.kind == "redis empty":
            redis.flush()
        elif fault.kind == "redis falls back":
            redis.fall_back(fault.seconds)
        elif fault.kind == "redis stalls":
            redis.stall(fault.seconds)
        elif fault.kind == "replica killed":
            replica.loop.after_steps(fault.after_steps, lambda: self._kill(replica, fault))
            replica.loop.deliver(lambda: None)
        elif fault.kind == "replica paused":
            replica.loop.is_stopped = True
            self.clock.after(fault.seconds, lambda: self._resume(replica))
        else:
            replica.loop.start(self._drain(replica, fault))

    def _switch(self, fault: Fault) -> None:
        """Change one value for a while."""
        part, name, value = _SWITCHES[fault.kind]
        owner = self.outside.redis if part == "redis" else self.outside
        before = getattr(owner, name)
        setattr(owner, name, value)
        self.clock.after(fault.seconds, lambda: setattr(owner, name, type(before)()))

    def _kill(self, replica: Replica, fault: Fault) -> None:
        if self._is_over or not replica.is_alive:
            return
        self.history.note(f"replica {replica.number} dies")
        self.history.kills.append((self.clock.now, replica.number))
        replica.kill()
        self.dead.append(replica)
        for attempt in list(self.history.attempts.values()):
            if attempt.replica is replica and attempt.arrived_at is not None:
                self.clock.after(0.01, lambda attempt=attempt: attempt.client.cut(attempt))  # type: ignore[misc]
        self.clock.after(fault.seconds, lambda: self._start(replica.number))

    def _start(self, number: int) -> None:
        if self._is_over:
            return
        self.history.note(f"replica {number} starts")
        self.replicas[number] = Replica(number, self.outside)

    def _resume(self, replica: Replica) -> None:
        if replica.is_alive:
            self.history.note(f"replica {replica.number} goes on")
            replica.loop.is_stopped = False

    async def _drain(self, replica: Replica, fault: Fault) -> None:
        await replica.service.drain(fault.seconds)
        self.clock.after(0.5, lambda: self._kill(replica, fault))

    # The end.

    def _look_for_waiting_images(self) -> None:
        """Come back for every paid image that no client has got, as its client would."""
        self.outside.failing_downloads.clear()
        for group in list(self.history.groups.values()):
            # One of several equal jobs is found after the others, and some are known to one replica only.
            tries = len(self.replicas) * (1 + len({call.job_id for call in group.calls}))
            while self.history.missing(group) and tries:
                tries -= 1
                self._look(group, tries)

    def _look(self, group: Group, tries: int) -> None:
        """Send one more request for a missing image, or look for it by one of the ids that clients know."""
        first = group.clients[0].wish
        mark = "count" if group.key is None else "key"
        wish = Wish(
            first.caller, first.prompt, mark, 0.0, group.key, first.n, first.stream, first.wants_url, first.is_async
        )
        client = Client(len(self.clients), wish, self)
        self.clients.append(client)
        group.clients.append(client)
        round_number, number = divmod(tries, len(self.replicas))
        job_ids = self._known_ids(group)
        client.job_id = job_ids[round_number % len(job_ids)] if job_ids else ""
        self._only = self.replicas[number]
        missing = len(self.history.missing(group))
        client.ask(is_repeat=True, result_id=client.job_id)
        self._run_until_quiet()
        if client.job_id and len(self.history.missing(group)) == missing:
            client.job_id, client.is_done = "", False
            client.ask(is_repeat=True)
            self._run_until_quiet()
        self._only = None

    def _known_ids(self, group: Group) -> list[str]:
        """Return the ids of jobs by which clients can still get an image. Under a key each request brings it."""
        if group.key is not None:
            return []
        known = [client.job_id for client in group.clients if client.job_id]
        missing = {call.job_id for call in self.history.missing(group)}
        return [job_id for job_id in known if job_id in missing] or known[-1:]

    def _check_that_nothing_is_held(self) -> None:
        for replica in self.replicas:
            if replica.is_alive and (replica.service.semaphore.in_use or replica.service.registry.active()):
                self.history.violate(f"replica {replica.number} still holds a slot or a run")

    def _report_bugs(self) -> None:
        for replica in (*self.replicas, *self.dead):
            for bug in replica.loop.bugs:
                self.history.violate(f"a bug in replica {replica.number}: {bug!r}")
        for attempt in self.history.attempts.values():
            task = attempt.exchange.task
            if task is not None and task.done() and not task.cancelled() and (error := task.exception()) is not None:
                self.history.violate(f"{attempt.id} ended with {error!r}")

    def _clean_up(self) -> None:
        """End every task, also those of dead replicas, so that nothing of this schedule lives on in the next one.

        Nothing breaks any more, but what is on its way to Redis or back still arrives.
        """
        redis = self.outside.redis
        self._is_over = redis.is_closing = True
        redis.extra_delay = redis.lost = 0.0
        self.clock.turns = 0
        replicas = dict.fromkeys((*self.replicas, *self.dead))
        for replica in replicas:
            replica.loop.is_stopped = replica.loop.is_dead = False
            replica.loop.do(replica.service.registry.close)
        for _ in range(8):
            for replica in replicas:
                replica.loop.do(replica.loop.cancel_tasks)
            self.clock.run(lambda: all(replica.loop.is_idle for replica in replicas), self.clock.now + _CLEAN_UP)
            if all(replica.loop.is_idle for replica in replicas):
                break
        for replica in replicas:
            for task in replica.loop.tasks:
                if not task.done():
                    self.history.violate(f"a task of replica {replica.number} does not end: {task.get_coro()!r}")
                elif not task.cancelled():
                    task.exception()


def play(seed: int, *, with_commands: bool = False, situation: Callable[[Plan, Random], None] | None = None) -> Outcome:
    """Play the schedule of a seed.

    `with_commands`: its history tells of every command that Redis got. `situation`: changes the plan, with chance.

    The same seed gives the same history: garbage is collected between schedules only, since finalizers would change the
    course of one, and code that measures how long it has been busy finds that it took no time.
    """
    is_enabled, perf_counter = gc.isenabled(), time.perf_counter
    if seed % _COLLECT_EVERY == 0:
        gc.collect()
    plan = make_plan(seed)
    if situation is not None:
        situation(plan, Random(seed))
    schedule = Schedule(plan, with_commands=with_commands)
    gc.disable()
    time.perf_counter = lambda: schedule.clock.now
    try:
        return schedule.play()
    finally:
        time.perf_counter = perf_counter
        if is_enabled:
            gc.enable()


def silence_log() -> Callable[[], None]:
    """Let nothing be logged; returns what restores the log."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return lambda: structlog.configure(**before)
