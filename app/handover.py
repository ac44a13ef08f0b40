"""What other replicas may come back for is handed over to them, and what they have is taken from them."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from app.blobs import Spool
from app.board import Board
from app.errors import ApiError, NotFound, QuestionLost, Unavailable
from app.letters import Letter, read_letter, write_letter
from app.log import log
from app.once import Errand, Once
from app.pipeline import Answer
from app.store import Store


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
            return None
        letter = await read_letter(outcome, self.store, errand.spool)
        if letter.fault is None:
            return letter.answer
        if letter.may_be_tried_again and await self.board.adopt(errand):
            errand.replies += letter.replies
            return None
        raise letter.fault

    async def recall(self, id: str, caller: str, spool: Spool) -> Letter | None:  # noqa: A002  the API's word
        """What came of an errand that is not known here, None while it is under way. Raises NotFound, QuestionLost."""
        heard = await self.board.find(id, caller)
        match heard.word:
            case "done":
                return await read_letter(heard.about, self.store, spool)
            case "under way":
                return None
            case "lost":
                raise QuestionLost(detail=f"errand {id}")
        raise NotFound("There is no such result, or its time is over.", code="result_not_found")

    def note(self, errand: Errand) -> None:
        """A reader has gone before the end."""
        if self.board.owns(errand) and not errand.job.task.done():
            self._go(self._tell(errand))

    def settle(self, errand: Errand) -> None:
        """The work has ended, and nobody here reads it."""
        if self.board.is_shared:
            self._go(self._settle(errand))
        else:
            self.once.settle(errand)

    async def drain(self, seconds: float) -> None:
        """All that others may come back for is theirs, or the time is over."""
        if self.under_way:
            await asyncio.wait(self.under_way, timeout=seconds)

    async def _settle(self, errand: Errand) -> None:
        if self.board.owns(errand):
            is_told = await self._hand_over(errand)
        else:
            is_told = await self.board.leave(errand)
        if is_told and not errand.job.readers:
            self.once.forget(errand)
        elif not is_told:
            self.once.settle(errand)

    async def _hand_over(self, errand: Errand) -> bool:
        """False: nobody could be told, so this replica keeps it."""
        wanted = errand.is_worth_keeping
        if not wanted and await self.board.withdraw(errand.id, errand.identity):
            return True
        try:
            letter = await write_letter(errand, self.store)
            return await self.board.finish(errand, letter, briefly=not wanted)
        except ApiError as error:
            log.warning("handover", errand=errand.id, error=error.detail or error.message)
            return False

    async def _tell(self, errand: Errand) -> None:
        try:
            await self.board.tell(errand)
        except Unavailable as error:
            log.warning("handover", errand=errand.id, error=error.message)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
