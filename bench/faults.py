"""The benchmark's upstream, with faults: the prompt `soak NAME NUMBER` says which, `/calls` counts by number.

`python -m bench.faults PORT`
"""

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Callable

import orjson
import uvloop

from bench.upstream import Upstream, content, reply_json
from bench.wire import Message, answer_head, head, serve

_HEAD = 4096
_ORDER = re.compile(rb"soak ([a-z-]+) ([0-9]+)")

#: Bytes of the pictures: a link's, one that is held in memory, one that is spooled.
SMALL, LARGE = 100 * 1024, 1024 * 1024

#: Seconds of a question whose client does not wait for it.
SLOW = 0.3


class Faults:
    def __init__(self, port: int) -> None:
        self.port = port
        self._upstream = Upstream(port)
        self._calls: Counter[str] = Counter()

    def answer(self, request: Message, transport: asyncio.Transport) -> None:
        order = _ORDER.search(request.body)
        if request.url == b"/calls":
            write(transport, orjson.dumps(self._calls))
        elif order is None:
            self._upstream.answer(request, transport)
        else:
            number = order[2].decode()
            self._calls[number] += 1
            ANSWERS[order[1].decode()](self, transport, b'"stream":true' in request.body, self._calls[number] == 1)


#: What is done with a question: whether a stream is asked for, whether it is asked for the first time.
Answer = Callable[[Faults, asyncio.Transport, bool, bool], None]


def write(transport: asyncio.Transport, body: bytes, status: str = "200 OK", *more: str) -> None:
    transport.write(head(f"HTTP/1.1 {status}", len(body), "application/json", *more) + body)


def _paint(size: int, form: str = "link") -> Answer:
    def paint(faults: Faults, transport: asyncio.Transport, streamed: bool, _first: bool) -> None:
        if streamed:
            delta = {"content": content(faults.port, size, form)}
            document = orjson.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]})
            body = b"data: " + document + b"\n\ndata: [DONE]\n\n"
            transport.write(answer_head(len(body), "text/event-stream") + body)
        else:
            write(transport, reply_json(faults.port, size, form))

    return paint


def _say(text: str) -> Answer:
    document = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    return lambda _faults, transport, _streamed, _first: write(transport, orjson.dumps(document))


def _fail(status: str, message: str, *more: str) -> Answer:
    body = orjson.dumps({"error": {"message": message, "code": "moderation_blocked" if "safety" in message else None}})
    return lambda _faults, transport, _streamed, _first: write(transport, body, status, *more)


def _at_first(fault: Answer) -> Answer:
    def answer(faults: Faults, transport: asyncio.Transport, streamed: bool, first: bool) -> None:
        (fault if first else _paint(SMALL))(faults, transport, streamed, first)

    return answer


def _reset(_faults: Faults, transport: asyncio.Transport, _streamed: bool, _first: bool) -> None:
    transport.abort()


def _break_off(faults: Faults, transport: asyncio.Transport, _streamed: bool, _first: bool) -> None:
    body = reply_json(faults.port, SMALL, "data")
    transport.write(answer_head(len(body)) + body[: len(body) // 2])
    transport.close()


def _wait(faults: Faults, transport: asyncio.Transport, streamed: bool, first: bool) -> None:
    asyncio.get_running_loop().call_later(SLOW, _paint(LARGE, "data"), faults, transport, streamed, first)


ANSWERS: dict[str, Answer] = {
    "link": _paint(SMALL),
    "data": _paint(LARGE, "data"),
    "slow": _wait,
    "busy": _at_first(_fail("503 Service Unavailable", "busy")),
    "limited": _at_first(_fail("429 Too Many Requests", "slow down", "retry-after: 0")),
    "broken": _fail("500 Internal Server Error", "oh"),
    "html": lambda _faults, transport, _streamed, _first: write(transport, b"<html>502</html>", "502 Bad Gateway"),
    "reset": _reset,
    "cut": _break_off,
    "text": _say("What colour shall it have?"),
    "refused": _fail("400 Bad Request", "rejected by the safety system"),
    "missing": lambda faults, transport, streamed, first: _say(f"![a](http://127.0.0.1:{faults.port}/missing.png)")(
        faults, transport, streamed, first
    ),
}


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvloop.run(serve(Faults(port).answer, port, _HEAD))
