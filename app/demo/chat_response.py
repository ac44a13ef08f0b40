"""Send a chat reply as one JSON object or as a stream of chunks, complete or damaged on purpose."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from app.demo.chat_request import DemoChatRequest
from app.demo.image_host import TruncatedResponse
from app.demo.reply_forms import Delta, Reply, merge

Sleep = Callable[[float], Awaitable[object]]

#: A text is streamed in chunks of 12 characters, so that links are cut in the middle; long texts in 64 chunks.
MIN_CHUNK_CHARS, MAX_CHUNKS = 12, 64

#: Percentages of the progress lines.
PROGRESS = (13, 55, 88)

#: About the number of tokens that the documentation's example counts for one input image.
INPUT_IMAGE_TOKENS = 1105


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """How a reply is sent.

    `chunk_pause`: seconds between the chunks of a stream; `stall_seconds`: silence in its middle; `cost`: USD in usage.
    """

    body_type: Literal["as requested", "json", "stream"] = "as requested"
    chunk_pause: float = 0
    stall_seconds: float = 0
    with_done: bool = True
    with_usage: bool = True
    cost: float | None = None
    line_end: str = "\n"
    with_comments: bool = False
    bytewise: bool = False
    repeat_message: bool = False
    with_progress: bool = False
    with_choices: bool = True
    breaks: Literal["never", "inside the link", "after the link", "inside the JSON"] = "never"


class TruncatedStream(StreamingResponse):
    """A stream without the end of its body, so that the server closes the connection."""

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self.body_iterator:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


def respond(request: DemoChatRequest, reply: Reply, transport: TransportOptions, number: int, sleep: Sleep) -> Response:
    """Build the response. Its id is made from `number`, the number of the call."""
    streams = request.stream if transport.body_type == "as requested" else transport.body_type == "stream"
    kind = "chat.completion.chunk" if streams else "chat.completion"
    head = {"id": f"chatcmpl-{number:06}", "object": kind, "created": int(time.time()), "model": request.model}
    usage = _count_tokens(request, reply) | ({} if transport.cost is None else {"cost": transport.cost})
    if reply.document is not None:
        return JSONResponse(reply.document | {"usage": usage})
    if not streams:
        return _whole(head, reply, usage, transport)
    chunks = _pace(
        [chunk for event in _events(head, reply, usage, transport) for chunk in _cut(event, transport)],
        transport,
        sleep,
    )
    respond_with = StreamingResponse if transport.breaks in {"never", "inside the JSON"} else TruncatedStream
    return respond_with(chunks, headers={"cache-control": "no-cache"}, media_type="text/event-stream")


def _whole(head: dict[str, Any], reply: Reply, usage: dict[str, Any], transport: TransportOptions) -> Response:
    choice = {"index": 0, "message": merge(reply.deltas), "finish_reason": reply.finish_reason}
    document = (
        head
        | {"choices": [choice] if transport.with_choices else []}
        | ({"usage": usage} if transport.with_usage else {})
    )
    body = orjson.dumps(document)
    if transport.breaks == "inside the JSON":
        body = body[: len(body) // 2]
    kind = Response if transport.breaks in {"never", "inside the JSON"} else TruncatedResponse
    return kind(body, media_type="application/json")


def _events(head: dict[str, Any], reply: Reply, usage: dict[str, Any], transport: TransportOptions) -> Iterator[bytes]:
    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return _event(orjson.dumps(head | {"choices": choices if transport.with_choices else []} | more), transport)

    def choice(delta: Delta, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "finish_reason": finish_reason} | more

    *deltas, broken_off = _deltas(reply, transport)
    yield from (chunk([choice(delta)]) for delta in deltas)
    if transport.breaks == "inside the link":
        return
    if transport.breaks == "inside the JSON":
        yield _event(orjson.dumps(head)[:-9], transport)
        return
    yield chunk([choice(broken_off)])
    if transport.breaks == "after the link":
        yield chunk([choice({"content": "\n"})])
        return
    yield chunk(
        [choice({}, reply.finish_reason, **({"message": merge(reply.deltas)} if transport.repeat_message else {}))]
    )
    if transport.with_usage:
        yield chunk([], usage=usage)
    if transport.with_done:
        yield _event(b"[DONE]", transport)


def _deltas(reply: Reply, transport: TransportOptions) -> Iterator[Delta]:
    """Yield the role, then the deltas in chunks, with progress lines spread before them."""
    yield {"role": "assistant"}
    for number, delta in enumerate(reply.deltas):
        for index, percent in enumerate(PROGRESS if transport.with_progress else ()):
            if index * len(reply.deltas) // len(PROGRESS) == number:
                yield {"content": "\n" * bool(number) + f"> 进度 **{percent}%**\n"}
        ((key, value),) = delta.items()
        step = max(MIN_CHUNK_CHARS, len(value) // MAX_CHUNKS) if isinstance(value, str) else 1
        yield from ({key: value[start : start + step]} for start in range(0, len(value), step))


def _event(data: bytes, transport: TransportOptions) -> bytes:
    end = transport.line_end.encode()
    return (b": keep-alive" + end + end if transport.with_comments else b"") + b"data: " + data + end + end


def _cut(event: bytes, transport: TransportOptions) -> Sequence[bytes]:
    return [event[at : at + 1] for at in range(len(event))] if transport.bytewise else [event]


async def _pace(chunks: Sequence[bytes], transport: TransportOptions, sleep: Sleep) -> AsyncIterator[bytes]:
    for index, chunk in enumerate(chunks):
        if transport.stall_seconds and index == len(chunks) // 2:
            await sleep(transport.stall_seconds)
        if transport.chunk_pause and index:
            await sleep(transport.chunk_pause)
        yield chunk


def _count_tokens(request: DemoChatRequest, reply: Reply) -> dict[str, Any]:
    """Return plausible numbers. A data URL in the reply is not counted by its length."""
    prompt_tokens = 8 + len(request.prompt.encode()) // 3 + INPUT_IMAGE_TOKENS * len(request.image_urls)
    completion_tokens = 12 + sum(min(len(str(delta)), 400) for delta in reply.deltas) // 4
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
