"""What other replicas may come back for is handed over to them, and what they have is taken from them."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from app.errors import ApiError, NotFound, QuestionLost, Unavailable
from app.images.blob import Spool
from app.images.store import Store
from app.letters import Letter, read_letter, write_letter
from app.observability.logging import log
from app.once import Errand, Once
from app.pipeline import Answer
from app.state.job_table import Board


@dataclass(slots=True)
class Handover:
    """Alone, everything stays with `once`. `under_way`: what is still to be told or handed over."""

    once: Once
    board: Board
    store: Store
    under_way: set[asyncio.Task[None]] = field(default_factory=set)

    async def follow(self, errand: Errand) -> Answer | None:
        """The answer of another replica; None: the work is to be done here, with the `replies` of the errand.

        Raises what the other one has raised, and QuestionLost.
        """
        outcome = await self.board.wait(errand)
        if outcome is None:
            errand.follows = False
            return None
        letter = await read_letter(outcome, self.store, errand.spool)
        if letter.fault is None:
            return letter.answer
        if letter.may_be_tried_again and await self.board.adopt(errand):
            errand.replies += letter.replies
            errand.follows = False
            return None
        raise letter.fault

    async def recall(self, id: str, caller: str, spool: Spool) -> Letter | None:  # noqa: A002  the API's word
        """What came of an errand that is not known here, None while it is under way. Raises NotFound, QuestionLost,
        and Unavailable.
        """
        heard = await self.board.find(id, caller)
        match heard.word:
            case "done":
                return await read_letter(heard.about, self.store, spool)
            case "under way":
                return None
            case "lost":
                raise QuestionLost(detail=f"errand {id}")
            case "" if self.board.is_shared:
                raise Unavailable("The server cannot look for this result at the moment. Please try again.")
        raise NotFound("There is no such result, or its time is over.", code="result_not_found")

    def note(self, errand: Errand) -> None:
        """A reader has gone before the end."""
        if self.board.owns(errand) and not errand.job.task.done():
            self._go(self._tell(errand))

    def settle(self, errand: Errand) -> None:
        """The work has ended, and nobody here reads it; or so it was: a repeat may have started it once more."""
        if not errand.is_idle:
            return
        if self.board.is_shared:
            self._go(self._settle(errand))
        else:
            self.once.settle(errand)

    async def beat(self) -> None:
        """Signs of life again and again, and what nobody could hear when it ended, since Redis was away."""
        while self.board.is_shared:
            await self.board.rest()
            # A bug in one of them is logged, and must not be the last: without them this replica looks dead.
            await asyncio.wait({self._go(self._beat())})

    async def _beat(self) -> None:
        for errand in await self.board.beat():
            if errand.is_idle and not errand.telling.locked():
                self._go(self._settle(errand))

    async def drain(self, seconds: float) -> None:
        """All that others may come back for is theirs, or the time is over."""
        if self.under_way:
            await asyncio.wait(self.under_way, timeout=seconds)

    async def _settle(self, errand: Errand) -> None:
        """Who comes meanwhile reads it here, and has it settled again when he leaves."""
        is_told = False
        async with errand.telling:
            try:
                if errand.is_idle:
                    is_told = await (self._hand_over(errand) if self.board.owns(errand) else self.board.leave(errand))
            except BaseException:  # reason: tidied up, and raised again
                self.board.let_go(errand.id)
                raise
            finally:
                if errand.is_idle:
                    (self.once.forget if is_told else self.once.settle)(errand)

    async def _hand_over(self, errand: Errand) -> bool:
        """False: nobody could be told, so this replica keeps it."""
        if errand.is_cut_off and (errand.identity.key is not None or not errand.delivered):
            # As if this replica had died: who asks again is told that it may have been paid for.
            self.board.let_go(errand.id)
            return True
        is_here = self.once.known(errand.id) is errand
        wanted = is_here and errand.is_worth_keeping
        if not wanted and (word := await self.board.withdraw(errand.id, errand.identity)) != "kept":
            return word != ""
        if not is_here:
            # It was not kept for as long as nobody could be told.
            self.board.let_go(errand.id)
            return True
        try:
            letter = await write_letter(errand, self.store)
            is_told = await self.board.finish(errand, letter, briefly=not wanted)
        except ApiError as error:
            log.warning("handover", errand=errand.id, error=error.detail or error.message)
            return False
        return is_told and not errand.is_bound_here

    async def _tell(self, errand: Errand) -> None:
        try:
            await self.board.tell(errand)
        except Unavailable as error:
            log.warning("handover", errand=errand.id, error=error.message)

    def _go(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self.under_way.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("fault", exc_info=bug)
