"""The bare minimum that translates: no framework, no checks, everything held in memory.

`python -m bench.translator PORT UPSTREAM_PORT`
"""

import asyncio
import re
import sys
from collections.abc import Sequence

import orjson
import pybase64
import uvloop

from bench.wire import Connection, Message, answer_head, connect, head, serve

_EVERYTHING = 1 << 40
_LINK = re.compile(r"https?://127\.0\.0\.1:[0-9]+(/[^\s)]+)")
_DATA = "data:image/png;base64,"


class Translator:
    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._idle: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, request: Message, transport: asyncio.Transport) -> None:
        if request.url == b"/healthz":
            transport.write(answer_head(0))
            return
        task = asyncio.create_task(self._translate(request, transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _translate(self, request: Message, transport: asyncio.Transport) -> None:
        if request.headers[b"content-type"] == b"application/json":
            order = orjson.loads(request.body)
            fields, pictures = order, list[bytes]()
        else:
            fields, pictures = read_form(request)
        reply = orjson.loads((await self._ask(chat_request(fields, pictures))).body)
        text = reply["choices"][0]["message"]["content"]
        name = fields["response_format"].encode()
        body = [b'{"created":1741570283,"data":[{"', name, b'":"', await self._image(text, name), b'"}]}']
        transport.write(answer_head(sum(map(len, body))))
        for piece in body:
            transport.write(piece)

    async def _image(self, text: str, wanted: bytes) -> bytes:
        link = _LINK.search(text)
        if link is None:
            start = text.index(_DATA) + len(_DATA)
            return text[start : text.index(")", start)].encode()
        if wanted == b"url":
            return link[0].encode()
        answer = await self._ask([f"GET {link[1]} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()])
        return pybase64.b64encode(answer.body)

    async def _ask(self, pieces: Sequence[bytes]) -> Message:
        connection = self._idle.pop() if self._idle else await connect(self._upstream, _EVERYTHING)
        answer = await connection.ask(pieces)
        self._idle.append(connection)
        return answer


def chat_request(fields: dict[str, str], pictures: Sequence[bytes]) -> list[bytes]:
    content: list[dict[str, object]] = [{"type": "text", "text": f"{fields['size']} '{fields['prompt']}'"}]
    content += [{"type": "image_url", "image_url": {"url": f"{_DATA}?"}} for _ in pictures]
    document = {"model": "gpt-image-2-chat", "messages": [{"role": "user", "content": content}]}
    texts = orjson.dumps(document).split(b"?")
    pieces = [texts[0]]
    for data, text in zip(pictures, texts[1:], strict=True):
        pieces += [pybase64.b64encode(data), text]
    first = "POST /v1/chat/completions HTTP/1.1"
    key = "authorization: Bearer sk-upstream"
    return [head(first, sum(map(len, pieces)), "application/json", key), *pieces]


def read_form(request: Message) -> tuple[dict[str, str], list[bytes]]:
    boundary = b"--" + request.headers[b"content-type"].partition(b"boundary=")[2]
    fields: dict[str, str] = {}
    pictures: list[bytes] = []
    start = len(boundary)
    while (end := request.body.find(boundary, start)) > 0:
        blank = request.body.index(b"\r\n\r\n", start) + 4
        disposition = request.body[start:blank]
        if b"filename=" in disposition:
            pictures.append(request.body[blank : end - 2])
        else:
            name = disposition.partition(b'name="')[2].partition(b'"')[0]
            fields[name.decode()] = request.body[blank : end - 2].decode()
        start = end + len(boundary)
    return fields, pictures


if __name__ == "__main__":
    uvloop.run(serve(Translator(int(sys.argv[2])).answer, int(sys.argv[1]), _EVERYTHING))
