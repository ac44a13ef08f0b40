"""What replicas tell each other of their errands, in Redis: who works on what, who waits for it, what came of it.

Nothing that a client says is written there, only digests of it. The rules are in job_table.lua, since each is one step.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import orjson

from app.errors import IdempotencyKeyReused, JobLost, ServiceUnavailable
from app.jobs.job import Errand, Identity
from app.jobs.registry import REUSED
from app.state.shared_state import SharedState

#: Seconds between two signs of life, and without one after which an owner is taken for dead.
BEAT, PATIENCE = 2.0, 15.0

#: So many of the former without a sign, and it may be dead.
_SILENCE = 2.5

#: Seconds between two looks at what another replica works on.
LOOK = 0.5

#: Seconds for which somebody counts as a reader: who looks again and again, and who is being sent what he has found.
_LEASE, _SENDING = 15, 60

#: Signs of life in one command, and errands that have ended while Redis was away, of which it is told later.
_AT_ONCE, _UNTOLD = 200, 1000

#: One tag in all keys, so that a cluster keeps them together.
_PREFIX = "limner:{errands}:"

_TAKEN_OVER = "Another replica of this server has taken over the question. Please ask again: that costs nothing more."


class Heard(NamedTuple):
    """What the board answers: a word, and an id or an outcome with it. Empty where Redis does not answer."""

    word: str
    about: bytes = b""


class Board:
    """`ttl` and `key_ttl`: seconds for which an errand is remembered, without and with an Idempotency-Key.

    Where nothing is shared, and while Redis is away, every call is as if nobody else were there; only `enter` raises
    Unavailable then, where a replica may not go on alone.
    """

    def __init__(
        self,
        state: SharedState,
        *,
        ttl: float,
        key_ttl: float,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._state = state
        self._ttl, self._key_ttl = ttl, key_ttl
        self._sleep = sleep
        self._owner = secrets.token_hex(8)
        self._mine: dict[str, Errand] = {}

    @property
    def is_shared(self) -> bool:
        return self._state.is_shared

    def owns(self, errand: Errand) -> bool:
        return errand.id in self._mine

    async def enter(self, id: str, identity: Identity, *, is_async: bool) -> str | None:  # noqa: A002  the API's word
        """The id of an errand to join; None: there is none, and others find this one from now on.

        Raises IdempotencyKeyReused, and QuestionLost where the question has died with its replica.
        """
        if not self.is_shared:
            return None
        fields = self._fields(identity, is_async=is_async, here=0 if is_async else 1)
        said: dict[str, Any] = {"reader": id, "again": identity.again, "fields": fields}
        heard = await self._call("enter", id, identity, vital=True, ttl=self._memory(identity), **said)
        match heard.word:
            case "reused":
                raise IdempotencyKeyReused(REUSED)
            case "lost":
                raise JobLost(detail=f"errand {heard.about.decode()}")
            case "joined":
                return heard.about.decode()
        return None

    async def withdraw(self, id: str, identity: Identity) -> str:  # noqa: A002  the API's word
        """Nothing will come of it: `dropped`, or `kept` where somebody waits for what does; empty: nobody has heard."""
        word = (await self._call("drop", id, identity)).word
        if word in {"dropped", "taken"}:
            self.let_go(id)
        return word

    def own(self, errand: Errand) -> None:
        """From now on its signs of life are given."""
        if self.is_shared:
            self._mine[errand.id] = errand

    def let_go(self, id: str) -> None:  # noqa: A002  the API's word
        """No more signs of life: it is told, or it looks as if its replica were dead."""
        self._mine.pop(id, None)

    async def announce(self, errand: Errand) -> None:
        """Before it may cost something: who finds this replica dead then must not ask again.

        Raises Unavailable where another replica has taken it over, or this one may not go on alone.
        """
        async with errand.telling:
            if not self.owns(errand):
                raise ServiceUnavailable(_TAKEN_OVER)
            await self._tell(errand, asked=True, vital=True)

    async def tell(self, errand: Errand) -> None:
        """How it stands. Raises Unavailable where another replica has taken it over."""
        async with errand.telling:
            if self.owns(errand) and not errand.is_idle:
                await self._tell(errand)

    async def finish(self, errand: Errand, outcome: bytes, *, briefly: bool) -> bool:
        """What has come of it. False where nobody has heard it. `briefly`: for those only who wait for it now.

        Raises Unavailable where another replica has taken it over.
        """
        kept = self._ttl if errand.identity.key is None else self._key_ttl
        is_heard = await self._tell(errand, outcome, seconds=_SENDING if briefly else kept)
        if is_heard:
            self.let_go(errand.id)
        return is_heard

    async def _tell(
        self,
        errand: Errand,
        outcome: bytes = b"",
        *,
        asked: bool = False,
        seconds: float | None = None,
        vital: bool = False,
    ) -> bool:
        identity = errand.identity
        fields = self._fields(
            identity,
            is_async=errand.is_async,
            here=errand.job.readers,
            asked=asked or errand.was_submitted,
            delivered=errand.delivered,
            free=bool(outcome) and errand.may_be_tried_again,
        )
        ttl = self._memory(identity) if seconds is None else seconds
        heard = await self._call("tell", errand.id, identity, outcome, vital=vital, fields=fields, ttl=ttl)
        if heard.word == "taken":
            self.let_go(errand.id)
            raise ServiceUnavailable(_TAKEN_OVER)
        return heard.word == "told"

    async def wait(self, errand: Errand) -> bytes | None:
        """What came of an errand of another replica; None where it is ours now, since nothing has been asked yet.

        Raises QuestionLost.
        """
        missed = 0.0
        while missed < PATIENCE:
            heard = await self._call("look", errand.id, errand.identity, reader=errand.reader)
            match heard.word:
                case "done":
                    return heard.about
                case "lost":
                    break
                case "orphan" if await self.adopt(errand):
                    return None
            # A Redis that has forgotten everything is told again by the owners.
            missed = missed + LOOK if heard.word in {"gone", ""} else 0.0
            await self._sleep(LOOK)
        raise JobLost(detail=f"errand {errand.id}")

    async def adopt(self, errand: Errand) -> bool:
        """Take over what has cost nothing yet, or is paid for and was not delivered; one of several gets it."""
        fields = self._fields(errand.identity, is_async=errand.is_async, here=errand.job.readers)
        heard = await self._call(
            "adopt", errand.id, errand.identity, reader=errand.reader, fields=fields, ttl=self._memory(errand.identity)
        )
        if heard.word == "adopted":
            self.own(errand)
        return heard.word == "adopted"

    async def leave(self, errand: Errand) -> bool:
        """Nobody here waits for an errand of another replica any more. False where nobody has heard it."""
        delivered = errand.delivered and errand.job.fault is None
        said: dict[str, Any] = {"reader": errand.reader, "delivered": delivered}
        return (await self._call("leave", errand.id, errand.identity, **said)).word == "left"

    async def find(self, id: str, caller: str) -> Heard:  # noqa: A002  the API's word
        """For who comes back with an id alone: `done` with what came of it, `under way`, `lost`, `gone`."""
        return await self._call("find", id, Identity(caller, ""), caller=caller)

    async def beat(self) -> list[Errand]:
        """Signs of life of all that this replica has. What has ended and could not be told of, if Redis is back."""
        for errand in [errand for errand in self._mine.values() if errand.is_idle][:-_UNTOLD]:
            self.let_go(errand.id)
        mine = list(self._mine.values())
        for first in range(0, len(mine), _AT_ONCE):
            unknown = await self._give_signs(mine[first : first + _AT_ONCE])
            if unknown is None:
                return []
            for errand in unknown:
                # Who is telling of it at this moment may take long, and the others must not look dead meanwhile.
                if not errand.telling.locked():
                    await self._tell_anew(errand)
        return [errand for errand in mine if errand.is_idle and self.owns(errand)]

    async def rest(self) -> None:
        await self._sleep(BEAT)

    async def _give_signs(self, errands: list[Errand]) -> list[Errand] | None:
        """In one command, for Redis may be slow. Those that are not known as ours; None where it does not answer."""
        signs = [
            {
                "id": errand.id,
                "here": errand.job.readers,
                "asked": errand.was_submitted,
                "ttl": round(self._memory(errand.identity) * 1000),
            }
            for errand in errands
        ]
        heard = await self._run("beat", [_place(errand.identity) for errand in errands], {"signs": signs})
        return None if heard is None else [errand for errand in errands if errand.id.encode() in heard]

    async def _tell_anew(self, errand: Errand) -> None:
        try:
            await self.tell(errand)
        except ServiceUnavailable:
            # What it will bring is given to those who wait here; the others have another one that works for them.
            return

    def _fields(self, identity: Identity, *, is_async: bool, here: int, **more: bool) -> dict[str, Any]:
        flags = {"asked": False, "delivered": False, "free": False, **more, "async": is_async}
        return {
            "caller": identity.caller,
            "fingerprint": identity.fingerprint,
            "here": here,
            **{name: "1" if value else "0" for name, value in flags.items()},
        }

    def _memory(self, identity: Identity) -> float:
        """An owner that has died is remembered for as long as its answer would be."""
        return max(self._ttl if identity.key is None else self._key_ttl, 4 * PATIENCE)

    async def _call(
        self,
        command: str,
        id: str,  # noqa: A002  the API's word
        identity: Identity,
        outcome: bytes = b"",
        *,
        vital: bool = False,
        ttl: float = 0,
        **said: Any,
    ) -> Heard:
        told = {"id": id, "keyed": identity.key is not None, "ttl": max(1, round(ttl * 1000)), **said}
        heard = await self._run(command, [_place(identity)], told, outcome, vital=vital)
        return Heard("") if heard is None else Heard(heard[0].decode(), *heard[1:])

    async def _run(
        self, command: str, places: list[str], told: dict[str, Any], outcome: bytes = b"", *, vital: bool = False
    ) -> list[bytes] | None:
        """What job_table.lua answers; None where Redis does not."""
        told |= {
            "prefix": _PREFIX,
            "owner": self._owner,
            "silence": _SILENCE * BEAT * 1000,
            "patience": PATIENCE * 1000,
            "lease": _LEASE * 1000,
            "sending": _SENDING * 1000,
        }
        said = [command, orjson.dumps(told), outcome]
        heard: list[bytes] | None = await self._state.run_script("job_table.lua", places, said, required=vital)
        return heard


def _place(identity: Identity) -> str:
    """A key may be a secret of the client's."""
    return _PREFIX + "at:" + hashlib.sha256("\0".join(identity.place).encode()).hexdigest()
