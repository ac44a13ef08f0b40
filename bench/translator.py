"""Translate with the least code possible: no framework, no checks, everything held in memory.

Run it with `python -m bench.translator PORT UPSTREAM_PORT`.
"""

import asyncio
import re
import sys
from collections.abc import Sequence

import orjson
import pybase64
import uvloop

from bench.wire import Connection, Message, connect, head, response_head, serve

_UNLIMITED = 1 << 40
_LINK = re.compile(r"http://[0-9.:]+(/[a-z0-9/.]+)")
_DATA = "data:image/png;base64,"


class Translator:
    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._idle: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, request: Message, transport: asyncio.Transport) -> None:
        if request.url == b"/healthz":
            transport.write(response_head(0))
            return
        task = asyncio.create_task(self._translate(request, transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _translate(self, request: Message, transport: asyncio.Transport) -> None:
        if request.headers[b"content-type"] == b"application/json":
            fields, images = orjson.loads(request.body), list[bytes]()
        else:
            fields, images = read_form(request)
        reply = orjson.loads((await self._send(chat_request(fields, images))).body)
        content, response_format = reply["choices"][0]["message"]["content"], fields["response_format"].encode()
        image = await self._image(content, response_format)
        body = [b'{"created":1741570283,"data":[{"', response_format, b'":"', image, b'"}]}']
        transport.write(response_head(sum(map(len, body))))
        for chunk in body:
            transport.write(chunk)

    async def _image(self, content: str, response_format: bytes) -> bytes:
        link = _LINK.search(content)
        if link is None:
            start = content.index(_DATA) + len(_DATA)
            return content[start : content.index(")", start)].encode()
        if response_format == b"url":
            return link[0].encode()
        response = await self._send([f"GET {link[1]} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()])
        return pybase64.b64encode(response.body)

    async def _send(self, chunks: Sequence[bytes]) -> Message:
        connection = self._idle.pop() if self._idle else await connect(self._upstream_port, _UNLIMITED)
        response = await connection.send(chunks)
        self._idle.append(connection)
        return response


def chat_request(fields: dict[str, str], images: Sequence[bytes]) -> list[bytes]:
    content: list[dict[str, object]] = [{"type": "text", "text": f"{fields['size']} '{fields['prompt']}'"}]
    content += [{"type": "image_url", "image_url": {"url": f"{_DATA}?"}} for _ in images]
    document = {"model": "gpt-image-2-chat", "messages": [{"role": "user", "content": content}]}
    parts = orjson.dumps(document).split(b"?")
    chunks = [parts[0]]
    for data, part in zip(images, parts[1:], strict=True):
        chunks += [pybase64.b64encode(data), part]
    start_line = "POST /v1/chat/completions HTTP/1.1"
    key = "authorization: Bearer sk-upstream"
    return [head(start_line, sum(map(len, chunks)), "application/json", key), *chunks]


def read_form(request: Message) -> tuple[dict[str, str], list[bytes]]:
    boundary = b"--" + request.headers[b"content-type"].partition(b"boundary=")[2]
    fields: dict[str, str] = {}
    images: list[bytes] = []
    start = len(boundary)
    while (end := request.body.find(boundary, start)) > 0:
        blank = request.body.index(b"\r\n\r\n", start) + 4
        disposition = request.body[start:blank]
        if b"filename=" in disposition:
            images.append(request.body[blank : end - 2])
        else:
            name = disposition.partition(b'name="')[2].partition(b'"')[0]
            fields[name.decode()] = request.body[blank : end - 2].decode()
        start = end + len(boundary)
    return fields, images


if __name__ == "__main__":
    uvloop.run(serve(Translator(int(sys.argv[2])).answer, int(sys.argv[1]), _UNLIMITED))
