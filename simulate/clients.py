"""Clients on the virtual clock: they ask, leave, come back, and take what they get."""

import re
from collections.abc import Callable
from random import Random
from typing import Protocol

import orjson
import pybase64

from simulate.attempts import Attempt, Received
from simulate.clock import Clock
from simulate.history import History
from simulate.images import call_of, call_of_link
from simulate.plan import Wish
from simulate.replica import Exchange, Replica

#: Seconds on the way between a client and a replica.
_WAY = (0.0005, 0.02)

#: Seconds after which a replica notices that a client is gone whose connection was not closed.
_SILENCE = 40.0

#: Seconds between two looks of a client that does not wait, and looks before it gives up.
_LOOK_EVERY, _MAX_LOOKS = 3.0, 12

#: Statuses that the official SDKs repeat, where `x-should-retry` does not say otherwise.
_REPEATED = {408, 409, 429, 500, 502, 503, 504}

_EVENT = re.compile(rb"^data: (\{.*\})$", re.MULTILINE)


class World(Protocol):
    """What clients need of the schedule."""

    clock: Clock
    chance: Random
    history: History

    def choose_replica(self) -> Replica | None:
        """Return a living replica."""
        ...

    def next_number(self) -> int:
        """Return the number of the next request."""
        ...


class Client:
    """One client with one wish.

    Attributes:
        number: To tell clients apart in the history.
        attempts: Its requests so far.
        is_done: It asks no more.
    """

    def __init__(self, number: int, wish: Wish, world: World, on_done: Callable[[], None] = lambda: None) -> None:
        self.number, self.wish, self.world = number, wish, world
        self.attempts: list[Attempt] = []
        self.is_done = False
        self.job_id = ""
        self._looks = 0
        self._has_repeated_success = False
        self._on_done = on_done

    def start(self) -> None:
        self._later(self.wish.starts_at, lambda: self.ask(is_repeat=False))

    def _later(self, seconds: float, happen: Callable[[], None]) -> None:
        self.world.clock.after(seconds, happen)

    def ask(self, *, is_repeat: bool, result_id: str = "") -> None:
        """Send the request, or look for the result of an earlier one."""
        replica = self.world.choose_replica()
        if replica is None:
            self._later(1.0, lambda: self.ask(is_repeat=is_repeat, result_id=result_id))
            return
        attempt = Attempt(self.world.next_number(), self, replica, is_repeat and "count" in self.wish.mark)
        self.attempts.append(attempt)
        attempt.exchange = Exchange(
            replica,
            attempt.id,
            self._headers(attempt),
            b"" if result_id else self._body(),
            lambda _: self._on_answered(attempt),
            result_id=result_id or None,
            stalls=self.wish.stalls,
        )
        self.world.history.sent(attempt, result_id)
        self._later(self._way(), lambda: self._arrive(attempt))

    def _way(self) -> float:
        return _WAY[0] + (_WAY[1] - _WAY[0]) * self.world.chance.random()

    def _headers(self, attempt: Attempt) -> list[tuple[bytes, bytes]]:
        wish = self.wish
        headers = [(b"authorization", b"Bearer sk-%d" % wish.caller), (b"content-type", b"application/json")]
        if wish.key is not None:
            headers.append((b"idempotency-key", wish.key.encode()))
        if "count" in wish.mark:
            count = max(1, len(self.attempts) - 1) if attempt.is_marked else 0
            headers.append((b"x-stainless-retry-count", b"%d" % count))
        if wish.is_async:
            headers.append((b"prefer", b"respond-async"))
        return headers

    def _body(self) -> bytes:
        wish = self.wish
        body = {"prompt": wish.prompt, "n": wish.n}
        if wish.stream:
            return orjson.dumps({**body, "stream": True})
        return orjson.dumps({**body, "response_format": "url" if wish.wants_url else "b64_json"})

    def _arrive(self, attempt: Attempt) -> None:
        if not attempt.replica.is_alive:
            self.cut(attempt)
            return
        index = len(self.attempts) - 1
        wish, loop = self.wish, attempt.replica.loop
        attempt.arrived_at = self.world.clock.now
        self.world.history.arrived(attempt)
        attempt.replica.serve(attempt.exchange)
        if index < len(wish.patience) and (patience := wish.patience[index]) is not None:
            steps = wish.leaves_after_steps[index]
            if steps is not None:
                loop.after_steps(steps, lambda: self.leave(attempt, vanishes=False, at_once=True))
            else:
                self._later(patience, lambda: self.leave(attempt, vanishes=wish.vanishes[index], at_once=False))

    def leave(self, attempt: Attempt, *, vanishes: bool, at_once: bool) -> None:
        """Close the connection, or vanish without closing it, and perhaps come back later."""
        if attempt.is_over:
            return
        attempt.is_over, attempt.left_at = True, self.world.clock.now
        self.world.history.left(attempt, vanishes=vanishes)
        notice = attempt.exchange.disconnect
        if at_once:
            attempt.replica.loop.deliver(notice)
        else:
            way = _SILENCE if vanishes else self._way()
            self._later(way, lambda: attempt.replica.loop.deliver(notice))
        self._come_back()

    def cut(self, attempt: Attempt) -> None:
        """Lose the connection, since the replica is gone."""
        if not attempt.is_over:
            attempt.is_over = True
            self.world.history.cut(attempt)
            self._come_back()

    def _come_back(self) -> None:
        index = len(self.attempts) - 1
        if index < len(self.wish.pauses):
            pause = self.wish.pauses[index]
            if self.job_id:
                self._later(pause, lambda: self.ask(is_repeat=True, result_id=self.job_id))
            else:
                self._later(pause, lambda: self.ask(is_repeat=True))
        else:
            self._end()

    def _end(self) -> None:
        self.is_done = True
        self._on_done()

    def _on_answered(self, attempt: Attempt) -> None:
        if attempt.exchange.status == 499:
            return
        attempt.answered_at = self.world.clock.now
        received = read_response(attempt.exchange)
        self.world.history.answered(attempt, received)
        self._later(self._way(), lambda: self._receive(attempt, received))

    def _receive(self, attempt: Attempt, received: Received) -> None:
        if attempt.is_over:
            return
        attempt.is_over, attempt.code = True, received.code
        self.world.history.received(attempt, received)
        if received.code == "accepted":
            self.job_id, self._looks = received.job_id, self._looks + 1
            if self._looks <= _MAX_LOOKS:
                self._later(_LOOK_EVERY, lambda: self.ask(is_repeat=True, result_id=self.job_id))
            else:
                self._end()
        elif received.code == "ok" and self.wish.repeats_success and not self._has_repeated_success:
            self._has_repeated_success = True
            self._later(self.wish.pauses[0], lambda: self.ask(is_repeat=False))
        elif received.code != "ok" and received.may_repeat and not self.job_id:
            self._come_back()
        else:
            self._end()


def read_response(exchange: Exchange) -> Received:
    """Return what a complete response says to its client."""
    body = bytes(exchange.body)
    if exchange.headers.get("content-type", "").startswith("text/event-stream"):
        body = _EVENT.findall(body)[-1]
    document = orjson.loads(body.rstrip(b"!"))
    if "error" in document:
        error = document["error"]
        should = exchange.headers.get("x-should-retry")
        may_repeat = exchange.status in _REPEATED if should is None else should == "true"
        return Received(error["code"] or error["type"], message=error["message"], may_repeat=may_repeat)
    if exchange.status == 202:
        return Received("accepted", job_id=document["id"])
    images = document.get("data", [document])
    return Received("ok", tuple(_image_of(image) for image in images))


def _image_of(image: dict[str, str]) -> int:
    if "b64_json" in image:
        return call_of(pybase64.b64decode(image["b64_json"]))
    return call_of_link(image["url"])
