"""Serve a chat upstream that costs next to nothing: documented replies, at once or after a delay, and their images.

The prompt controls the reply: `bench SIZE DELAY FORM`, where SIZE is the size of the image in bytes, DELAY the time
until the reply in milliseconds, and FORM `link`, `data` or `paced`: a link whose image comes at 50 MiB/s. Below
`/openrouter` the reply has OpenRouter's form.
Requests of the Images API, from servers that only forward them, get its responses. `/count` returns the bytes of all
requests since its last call.

Run it with `python -m bench.upstream PORT`.
"""

import asyncio
import functools
import re
import sys
from collections.abc import Mapping

import orjson
import pybase64
import uvloop

from bench.padded_png import padded_png
from bench.process import MIB
from bench.wire import Message, response_head, serve

#: Bytes of a request body that are kept. The prompt of a generation lies within them.
_MAX_BODY = 4096
_INSTRUCTION = re.compile(rb"bench ([0-9]+) ([0-9]+) (link|data|paced)")
#: Some servers write the prompt of an edit after the images. Each edit of the workloads wants a link.
_MARKS_OF_EDITS = (b"data:image/png;base64,", b"image/png\r\n")
#: The host of links that clients get as they are. Limner would store what only its own machine can download. Nobody
#: connects to this address.
_PUBLIC_HOST = "93.184.216.34"
_PUBLIC_URL = f"http://{_PUBLIC_HOST}/generated/0.png"
#: Bytes a second of a paced image, and of each of its pieces.
_PACE, _PIECE = 50 * MIB, 256 * 1024
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream:
    def __init__(self, port: int) -> None:
        self._port = port
        self._received = 0

    def answer(self, request: Message, transport: asyncio.Transport) -> None:
        if request.url.startswith(b"/generated/"):
            data = padded_png(int(request.url.removeprefix(b"/generated/").removesuffix(b".png")))
            transport.write(response_head(len(data), "image/png"))
            transport.write(data)
        elif request.url.startswith(b"/paced/"):
            data = padded_png(int(request.url.removeprefix(b"/paced/").removesuffix(b".png")))
            transport.write(response_head(len(data), "image/png"))
            _write_paced(transport, memoryview(data), asyncio.get_running_loop().time())
        elif request.url == b"/count":
            body = str(self._received).encode()
            self._received = 0
            transport.write(response_head(len(body)) + body)
        else:
            self._received += request.size
            self._chat(request, transport)

    def _chat(self, request: Message, transport: asyncio.Transport) -> None:
        instruction = read_instruction(request.body)
        if instruction is None:
            transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            return
        size, delay, form = instruction
        if request.url.startswith((b"/v1/images/", b"/openrouter/")):
            is_chat = request.url.startswith(b"/openrouter/")
            body = openrouter_json(size, form) if is_chat else images_json(size)
            transport.write(response_head(len(body)))
            transport.write(body)
            return
        is_stream = b'"stream":true' in request.body
        if is_stream:
            transport.write(_STREAM_HEAD + _chunk({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}))
        reply = functools.partial(self._stream if is_stream else self._reply, size, form, transport)
        if delay:
            asyncio.get_running_loop().call_later(delay, reply)
        else:
            reply()

    def _reply(self, size: int, form: str, transport: asyncio.Transport) -> None:
        body = reply_json(self._port, size, form)
        transport.write(response_head(len(body)))
        transport.write(body)

    def _stream(self, size: int, form: str, transport: asyncio.Transport) -> None:
        delta = {"content": content(self._port, size, form)}
        last = _chunk({"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]})
        transport.write(last + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def _write_paced(transport: asyncio.Transport, data: memoryview, due_at: float) -> None:
    """Write a piece of `data` now, and the next ones when they are due."""
    transport.write(data[:_PIECE])
    if len(data) > _PIECE and not transport.is_closing():
        due_at += _PIECE / _PACE
        asyncio.get_running_loop().call_at(due_at, _write_paced, transport, data[_PIECE:], due_at)


def _chunk(document: object) -> bytes:
    event = b"data: " + orjson.dumps(document) + b"\n\n"
    return f"{len(event):x}\r\n".encode() + event + b"\r\n"


def read_instruction(body: bytes) -> tuple[int, float, str] | None:
    """Return the size of the image in bytes, the delay in seconds and the form of the reply."""
    found = _INSTRUCTION.search(body)
    if found is not None:
        return int(found[1]), int(found[2]) / 1000, found[3].decode()
    return (0, 0.0, "link") if any(mark in body for mark in _MARKS_OF_EDITS) else None


def content(port: int, size: int, form: str) -> str:
    if form == "data":
        return f"![image]({_data_url(size)})"
    host = f"127.0.0.1:{port}" if size else _PUBLIC_HOST
    return f"已生成图片:http://{host}/{'paced' if form == 'paced' else 'generated'}/{size}.png"


def _data_url(size: int) -> str:
    return f"data:image/png;base64,{pybase64.b64encode_as_string(padded_png(size))}"


@functools.cache
def images_json(size: int) -> bytes:
    """Return a response of the Images API: an image of this size, or a URL."""
    image = {"b64_json": pybase64.b64encode_as_string(padded_png(size))} if size else {"url": _PUBLIC_URL}
    return orjson.dumps({"created": 1741570283, "data": [image]})


@functools.cache
def openrouter_json(size: int, form: str) -> bytes:
    """Return a reply with the image in a field of its own, as OpenRouter has it."""
    url = _data_url(size) if form == "data" else _PUBLIC_URL
    return _reply_json({"content": "", "images": [{"type": "image_url", "image_url": {"url": url}}]})


@functools.cache
def reply_json(port: int, size: int, form: str) -> bytes:
    """Return the reply exactly as documented."""
    return _reply_json({"content": content(port, size, form)})


def _reply_json(message: Mapping[str, object]) -> bytes:
    document = {
        "id": "chatcmpl-example",
        "object": "chat.completion",
        "created": 1741570283,
        "model": "gpt-image-2-chat",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1117, "completion_tokens": 46, "total_tokens": 1163},
    }
    return orjson.dumps(document)


if __name__ == "__main__":
    uvloop.run(serve(Upstream(int(sys.argv[1])).answer, int(sys.argv[1]), _MAX_BODY))
