"""Serve the benchmark's upstream with faults.

The prompt `soak NAME NUMBER` chooses the behavior; `/calls` returns how often each NUMBER was sent.

Run it with `python -m bench.faulty_upstream PORT`.
"""

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Callable

import orjson
import uvloop

from bench.upstream import Upstream, content, reply_json
from bench.wire import Message, head, response_head, serve

_MAX_BODY = 4096
_INSTRUCTION = re.compile(rb"soak ([a-z-]+) ([0-9]+)")

#: Sizes of the images in bytes: Limner holds the small one in memory and spools the large one.
SMALL_IMAGE, LARGE_IMAGE = 100 * 1024, 1024 * 1024

#: Seconds until the reply to a client that disconnects first.
SLOW_REPLY = 0.3


class FaultyUpstream:
    def __init__(self, port: int) -> None:
        self.port = port
        self._healthy = Upstream(port)
        self._calls: Counter[str] = Counter()

    def answer(self, request: Message, transport: asyncio.Transport) -> None:
        instruction = _INSTRUCTION.search(request.body)
        if request.url == b"/calls":
            write(transport, orjson.dumps(self._calls))
        elif instruction is None:
            self._healthy.answer(request, transport)
        else:
            number = instruction[2].decode()
            self._calls[number] += 1
            BEHAVIORS[instruction[1].decode()](
                self, transport, b'"stream":true' in request.body, self._calls[number] == 1
            )


#: Answers a request, given whether it wants a stream and whether its number is new.
Behavior = Callable[[FaultyUpstream, asyncio.Transport, bool, bool], None]


def write(transport: asyncio.Transport, body: bytes, status: str = "200 OK", *headers: str) -> None:
    transport.write(head(f"HTTP/1.1 {status}", len(body), "application/json", *headers) + body)


def _image(size: int, form: str = "link") -> Behavior:
    def behavior(upstream: FaultyUpstream, transport: asyncio.Transport, is_stream: bool, _is_first: bool) -> None:
        if is_stream:
            delta = {"content": content(upstream.port, size, form)}
            document = orjson.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]})
            body = b"data: " + document + b"\n\ndata: [DONE]\n\n"
            transport.write(response_head(len(body), "text/event-stream") + body)
        else:
            write(transport, reply_json(upstream.port, size, form))

    return behavior


def _text(text: str) -> Behavior:
    document = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    return lambda _upstream, transport, _is_stream, _is_first: write(transport, orjson.dumps(document))


def _fail(status: str, message: str, *headers: str) -> Behavior:
    body = orjson.dumps({"error": {"message": message, "code": "moderation_blocked" if "safety" in message else None}})
    return lambda _upstream, transport, _is_stream, _is_first: write(transport, body, status, *headers)


def _first_time(failure: Behavior) -> Behavior:
    def answer(upstream: FaultyUpstream, transport: asyncio.Transport, is_stream: bool, is_first: bool) -> None:
        (failure if is_first else _image(SMALL_IMAGE))(upstream, transport, is_stream, is_first)

    return answer


def _reset(_upstream: FaultyUpstream, transport: asyncio.Transport, _is_stream: bool, _is_first: bool) -> None:
    transport.abort()


def _truncate(upstream: FaultyUpstream, transport: asyncio.Transport, _is_stream: bool, _is_first: bool) -> None:
    body = reply_json(upstream.port, SMALL_IMAGE, "data")
    transport.write(response_head(len(body)) + body[: len(body) // 2])
    transport.close()


def _delay(upstream: FaultyUpstream, transport: asyncio.Transport, is_stream: bool, is_first: bool) -> None:
    asyncio.get_running_loop().call_later(
        SLOW_REPLY, _image(LARGE_IMAGE, "data"), upstream, transport, is_stream, is_first
    )


BEHAVIORS: dict[str, Behavior] = {
    "link": _image(SMALL_IMAGE),
    "data": _image(LARGE_IMAGE, "data"),
    "slow": _delay,
    "busy": _first_time(_fail("503 Service Unavailable", "busy")),
    "limited": _first_time(_fail("429 Too Many Requests", "slow down", "retry-after: 0")),
    "broken": _fail("500 Internal Server Error", "oh"),
    "html": lambda _upstream, transport, _is_stream, _is_first: write(
        transport, b"<html>502</html>", "502 Bad Gateway"
    ),
    "reset": _reset,
    "cut": _truncate,
    "text": _text("What color shall it have?"),
    "refused": _fail("400 Bad Request", "rejected by the safety system"),
    "missing": lambda upstream, transport, is_stream, is_first: _text(
        f"![a](http://127.0.0.1:{upstream.port}/missing.png)"
    )(upstream, transport, is_stream, is_first),
}


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvloop.run(serve(FaultyUpstream(port).answer, port, _MAX_BODY))
