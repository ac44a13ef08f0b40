"""What other replicas may come back for is handed over to them, and what they have is taken from them."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from dataclasses import astuple, dataclass, field
from typing import Any

import orjson

from app.errors import ApiError, ImageUnavailable, JobLost, NotFound, ServiceUnavailable
from app.images.blob import Blob, Spool
from app.images.store import ImageStore
from app.jobs.job import Errand, answer_of
from app.jobs.pipeline import Answer
from app.jobs.registry import Once
from app.observability.logging import log
from app.protocol.chat_reply import ChatReply, read_reply
from app.protocol.image_format import ImageInfo, read_info
from app.protocol.image_request import ImagesRequest, Operation
from app.protocol.image_response import OutputImage
from app.protocol.json_stream import Base64String
from app.protocol.sizes import parse_size
from app.protocol.usage import Usage
from app.state.job_table import Board

#: Bytes of a picture that are read at a time.
_PIECE = 2**20

#: Of the request what an answer repeats, and what is logged of it: not what it says.
_REPEATED = ("model", "n", "quality", "safety_identifier", "stream", "ignored")

_NOT_SHARED = "The image was painted, but this server cannot find it any more."


@dataclass(frozen=True, slots=True)
class Letter:
    """`fault` where there is no `answer`.

    `may_be_tried_again`: at no further cost, with the `replies`, which are paid for.
    """

    request: ImagesRequest
    answer: Answer | None = None
    fault: ApiError | None = None
    replies: tuple[ChatReply, ...] = ()
    may_be_tried_again: bool = False

    async def items(self) -> AsyncGenerator[Answer, None]:
        """As a job brings them. Raises the fault."""
        if self.answer is None:
            raise self.fault or ApiError()
        yield self.answer


async def write_letter(errand: Errand, store: ImageStore) -> bytes:
    """Of an errand that has ended. Raises ImageUnavailable where a picture cannot be kept."""
    request, answer = errand.exchange.request, answer_of(errand.job)
    repeated = {name: getattr(request, name) for name in _REPEATED}
    letter: dict[str, Any] = {"request": {**repeated, "operation": request.operation, "size": request.size_text}}
    if answer is not None:
        painted = [await _write_painted(picture, store) for picture in answer.painted]
        letter["answer"] = {"painted": painted, "usage": astuple(answer.usage), "failed": answer.failed}
    else:
        fault = errand.job.fault or ApiError()
        letter["fault"] = {"class": type(fault).__name__, "headers": fault.headers, **fault.body}
        letter["replies"] = [reply.raw for reply in errand.replies]
        letter["again"] = errand.may_be_tried_again and not errand.is_bound_here
    return orjson.dumps(letter)


async def _write_painted(picture: OutputImage, store: ImageStore) -> dict[str, Any]:
    told: dict[str, Any] = {"form": picture.form, "info": None if picture.info is None else astuple(picture.info)}
    source = picture.url.source if isinstance(picture.url, Base64String) else picture.source
    if source is None:
        return told | {"url": picture.url}
    if not isinstance(source, Blob) or picture.info is None:
        raise TypeError("a picture of an answer is a measured blob")
    name = await store.put(source, picture.info)
    return told | {"name": name, "prefix": picture.url.prefix if isinstance(picture.url, Base64String) else None}


async def read_letter(data: bytes, store: ImageStore, spool: Spool) -> Letter:
    """The pictures go into the spool. Raises ImageUnavailable where one is not in this replica's store."""
    told = orjson.loads(data)
    said = told["request"]
    request = ImagesRequest(
        operation=Operation(said.pop("operation")),
        prompt="",
        size=parse_size(said.pop("size")),
        **said | {"ignored": tuple(said["ignored"])},
    )
    if (answer := told.get("answer")) is not None:
        painted = [await _read_painted(picture, store, spool) for picture in answer["painted"]]
        return Letter(request, Answer(tuple(painted), Usage(*answer["usage"]), answer["failed"]))
    fault = _read_fault(told["fault"])
    if not told["again"]:
        return Letter(request, fault=fault)
    replies = tuple(read_reply(raw.encode()) for raw in told["replies"])
    return Letter(request, fault=fault, replies=replies, may_be_tried_again=True)


async def _read_painted(told: dict[str, Any], store: ImageStore, spool: Spool) -> OutputImage:
    info = None if told["info"] is None else ImageInfo(*told["info"])
    if "url" in told:
        return OutputImage(told["form"], url=told["url"], info=info)
    blob = await _fetch(told["name"], store, spool)
    if told["prefix"] is None:
        return OutputImage(told["form"], source=blob, info=read_info(blob.read_at))
    return OutputImage(told["form"], url=Base64String(blob, told["prefix"]), info=info)


async def _fetch(name: str, store: ImageStore, spool: Spool) -> Blob:
    stored = await store.get(name)
    if stored is None:
        raise ImageUnavailable(_NOT_SHARED, detail="LIMNER_IMAGE_STORE: not there; do all replicas share it?")
    blob = spool.new_blob()
    try:
        while blob.size < stored.size:
            blob.write(await stored.read(blob.size, min(_PIECE, stored.size - blob.size)))
    finally:
        stored.close()
    return blob


def _read_fault(told: dict[str, Any]) -> ApiError:
    """Of the class that it had, as if it had happened here."""
    known = {kind.__name__: kind for kind in _all_kinds(ApiError)}
    kind = known.get(told["class"], ApiError)
    fault, extra = kind.__new__(kind), told["error"]
    standard = {name: extra.pop(name) for name in ("param", "code", "type")}
    ApiError.__init__(fault, extra.pop("message"), extra=extra, headers=told["headers"], **standard)
    return fault


def _all_kinds(kind: type[ApiError]) -> Iterator[type[ApiError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _all_kinds(child)


@dataclass(slots=True)
class Handover:
    """Alone, everything stays with `once`. `under_way`: what is still to be told or handed over."""

    once: Once
    board: Board
    store: ImageStore
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
                raise JobLost(detail=f"errand {id}")
            case "" if self.board.is_shared:
                raise ServiceUnavailable("The server cannot look for this result at the moment. Please try again.")
        raise NotFound("This result does not exist or has expired.", code="result_not_found")

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
            log.warning("job_sharing_failed", errand=errand.id, error=error.detail or error.message)
            return False
        return is_told and not errand.is_bound_here

    async def _tell(self, errand: Errand) -> None:
        try:
            await self.board.tell(errand)
        except ServiceUnavailable as error:
            log.warning("job_sharing_failed", errand=errand.id, error=error.message)

    def _go(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self.under_way.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("unhandled_error", exc_info=bug)
