"""What came of a question, written down for another replica: its pictures in the shared store, the rest as JSON."""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import orjson

from app.errors import ApiError, ImageUnavailable
from app.exchange import answer_of
from app.images.blob import Blob, Spool
from app.images.store import Store
from app.once import Errand
from app.pipeline import Answer
from app.protocol.chat_reply import ChatReply, read_reply
from app.protocol.image_format import ImageInfo, measure
from app.protocol.image_request import ImagesRequest, Operation
from app.protocol.image_response import Painted
from app.protocol.json_stream import Hole
from app.protocol.sizes import read_size
from app.protocol.usage import Usage

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


async def write_letter(errand: Errand, store: Store) -> bytes:
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


async def _write_painted(picture: Painted, store: Store) -> dict[str, Any]:
    told: dict[str, Any] = {"form": picture.form, "info": None if picture.info is None else astuple(picture.info)}
    source = picture.url.source if isinstance(picture.url, Hole) else picture.source
    if source is None:
        return told | {"url": picture.url}
    if not isinstance(source, Blob) or picture.info is None:
        raise TypeError("a picture of an answer is a measured blob")
    name = await store.keep(source, picture.info)
    return told | {"name": name, "prefix": picture.url.prefix if isinstance(picture.url, Hole) else None}


async def read_letter(data: bytes, store: Store, spool: Spool) -> Letter:
    """The pictures go into the spool. Raises ImageUnavailable where one is not in this replica's store."""
    told = orjson.loads(data)
    said = told["request"]
    request = ImagesRequest(
        operation=Operation(said.pop("operation")),
        prompt="",
        size=read_size(said.pop("size")),
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


async def _read_painted(told: dict[str, Any], store: Store, spool: Spool) -> Painted:
    info = None if told["info"] is None else ImageInfo(*told["info"])
    if "url" in told:
        return Painted(told["form"], url=told["url"], info=info)
    blob = await _fetch(told["name"], store, spool)
    if told["prefix"] is None:
        return Painted(told["form"], source=blob, info=measure(blob.read_at))
    return Painted(told["form"], url=Hole(blob, told["prefix"]), info=info)


async def _fetch(name: str, store: Store, spool: Spool) -> Blob:
    stored = await store.find(name)
    if stored is None:
        raise ImageUnavailable(_NOT_SHARED, detail="LIMNER_IMAGE_STORE: not there; do all replicas share it?")
    blob = spool.blob()
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
