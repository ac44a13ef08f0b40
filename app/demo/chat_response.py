"""Sends a chat reply as one JSON object or as a stream of chunks, whole or damaged on purpose."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from app.demo.chat_request import DemoChatRequest
from app.demo.image_host import TruncatedResponse
from app.demo.reply_forms import Delta, Reply, merge

Sleep = Callable[[float], Awaitable[object]]

#: Letters of a streamed piece: few enough to cut a link in the middle, while a data URL still comes in 64 pieces.
PIECE, PIECES = 12, 64

PROGRESS = (13, 55, 88)

#: About what the documentation's example counts for one input picture.
INPUT_IMAGE_TOKENS = 1105


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """How an answer travels. Seconds: `pace` between the pieces of a stream, `stalls` of silence in its middle."""

    body_type: Literal["as asked", "json", "stream"] = "as asked"
    chunk_pause: float = 0
    stall_seconds: float = 0
    with_done: bool = True
    with_usage: bool = True
    line_end: str = "\n"
    with_comments: bool = False
    bytewise: bool = False
    repeat_message: bool = False
    with_progress: bool = False
    with_choices: bool = True
    breaks: Literal["never", "inside the link", "after the link", "inside the JSON"] = "never"


class TruncatedStream(StreamingResponse):
    """Leaves without the end of the body: the server then closes the connection."""

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self.body_iterator:
            await send({"type": "http.response.body", "body": piece, "more_body": True})


def respond(question: DemoChatRequest, reply: Reply, wire: TransportOptions, number: int, sleep: Sleep) -> Response:
    """`number` of the call: its id is made of it."""
    streams = question.stream if wire.body_type == "as asked" else wire.body_type == "stream"
    kind = "chat.completion.chunk" if streams else "chat.completion"
    head = {"id": f"chatcmpl-{number:06}", "object": kind, "created": int(time.time()), "model": question.model}
    usage = _count_tokens(question, reply)
    if not streams:
        return _whole(head, reply, usage, wire)
    pieces = _pace([piece for event in _events(head, reply, usage, wire) for piece in _cut(event, wire)], wire, sleep)
    respond_with = StreamingResponse if wire.breaks in {"never", "inside the JSON"} else TruncatedStream
    return respond_with(pieces, headers={"cache-control": "no-cache"}, media_type="text/event-stream")


def _whole(head: dict[str, Any], reply: Reply, usage: dict[str, int], wire: TransportOptions) -> Response:
    choice = {"index": 0, "message": merge(reply.deltas), "finish_reason": reply.finish_reason}
    document = head | {"choices": [choice] if wire.with_choices else []} | ({"usage": usage} if wire.with_usage else {})
    body = orjson.dumps(document)
    if wire.breaks == "inside the JSON":
        body = body[: len(body) // 2]
    kind = Response if wire.breaks in {"never", "inside the JSON"} else TruncatedResponse
    return kind(body, media_type="application/json")


def _events(head: dict[str, Any], reply: Reply, usage: dict[str, int], wire: TransportOptions) -> Iterator[bytes]:
    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return _event(orjson.dumps(head | {"choices": choices if wire.with_choices else []} | more), wire)

    def choice(delta: Delta, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "finish_reason": finish_reason} | more

    *deltas, broken_off = _deltas(reply, wire)
    yield from (chunk([choice(delta)]) for delta in deltas)
    if wire.breaks == "inside the link":
        return
    if wire.breaks == "inside the JSON":
        yield _event(orjson.dumps(head)[:-9], wire)
        return
    yield chunk([choice(broken_off)])
    if wire.breaks == "after the link":
        yield chunk([choice({"content": "\n"})])
        return
    yield chunk([choice({}, reply.finish_reason, **({"message": merge(reply.deltas)} if wire.repeat_message else {}))])
    if wire.with_usage:
        yield chunk([], usage=usage)
    if wire.with_done:
        yield _event(b"[DONE]", wire)


def _deltas(reply: Reply, wire: TransportOptions) -> Iterator[Delta]:
    """The role, then the deltas in pieces, with lines of progress spread before them."""
    yield {"role": "assistant"}
    for number, delta in enumerate(reply.deltas):
        for index, percent in enumerate(PROGRESS if wire.with_progress else ()):
            if index * len(reply.deltas) // len(PROGRESS) == number:
                yield {"content": "\n" * bool(number) + f"> 进度 **{percent}%**\n"}
        ((key, value),) = delta.items()
        step = max(PIECE, len(value) // PIECES) if isinstance(value, str) else 1
        yield from ({key: value[start : start + step]} for start in range(0, len(value), step))


def _event(data: bytes, wire: TransportOptions) -> bytes:
    end = wire.line_end.encode()
    return (b": keep-alive" + end + end if wire.with_comments else b"") + b"data: " + data + end + end


def _cut(event: bytes, wire: TransportOptions) -> Sequence[bytes]:
    return [event[at : at + 1] for at in range(len(event))] if wire.bytewise else [event]


async def _pace(pieces: Sequence[bytes], wire: TransportOptions, sleep: Sleep) -> AsyncIterator[bytes]:
    for index, piece in enumerate(pieces):
        if wire.stall_seconds and index == len(pieces) // 2:
            await sleep(wire.stall_seconds)
        if wire.chunk_pause and index:
            await sleep(wire.chunk_pause)
        yield piece


def _count_tokens(question: DemoChatRequest, reply: Reply) -> dict[str, int]:
    """Plausible, and nothing more: a data URL in the reply would not be counted by its letters."""
    asked = 8 + len(question.prompt.encode()) // 3 + INPUT_IMAGE_TOKENS * len(question.image_urls)
    answered = 12 + sum(min(len(str(delta)), 400) for delta in reply.deltas) // 4
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
