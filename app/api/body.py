"""Read request bodies: JSON and multipart forms, with limits on size and time."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from app.access.capacity import Upload
from app.api.content_encoding import PeekableBody, decompress_body, rewrite_as_utf8
from app.config.settings import Settings
from app.errors import InvalidRequest, RequestTimeout, RequestTooLarge, UserError
from app.images.blob import Blob, Spool
from app.protocol.image_request import ImagesRequest
from app.protocol.inline_images import InlineImageSpooler, may_hold_base64
from app.protocol.json_text import decode_text, parse_json, wide_encoding
from app.protocol.pace import Pace
from app.protocol.parameters import FormPart, Operation
from app.protocol.request_parser import read_form, read_json
from app.protocol.size_fit import SizeMode
from app.protocol.validation_errors import header_safe_name, quote

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: Bytes of JSON, or of all text fields of a form, without their images: a hundred times the longest prompt.
MAX_TEXT = 4 * 2**20

#: Bytes of a body that is read as a whole. Between the pieces of a larger one, other requests pass.
_SMALL = 64 * 1024

#: Bytes of a text that go through the spooler at a time. Most texts are shorter, and go through it at once.
_TEXT_PIECE = 4 * 1024

#: Seconds of parsing after which other requests pass.
_SLOW = 0.002

#: Parts of a form: 16 images, a mask, and several times the parameters of the API.
MAX_PARTS = 256

_MALFORMED = "We could not parse the multipart body of your request."
_NO_BOUNDARY = f"{_MALFORMED} It does not begin with the boundary of its content type."

#: Bytes before the first boundary of a form.
_MAX_PREAMBLE = 4 * 1024

#: The extension of an ASGI scope by which `app/server` tells whether more of the body is there, or the end of it.
ARRIVED = "limner.arrived"

#: Bytes of a body that have to arrive within the time limit: 1 KiB/s with the default of 60 s. A client that sends
#: a byte now and then would otherwise hold its connection, its blobs and its share of the uploads for ever.
MIN_PROGRESS = 64 * 1024


async def read_image_request(
    operation: Operation,
    http: Request,
    spool: Spool,
    settings: Settings,
    upload: Upload,
    *,
    size_mode: SizeMode = SizeMode.NATIVE,
) -> ImagesRequest:
    """Read a request body, JSON or a multipart form. Images go into blobs of the spool while they arrive.

    `upload` counts the bytes as they arrive, compressed as they are. `size_mode`: which sizes can be made.

    Raises:
        InvalidRequest: The body is neither JSON nor a form, or a parameter is wrong.
        RequestTooLarge: The body, an image or the text is larger than the limits of the settings.
        RequestTimeout: The client has stopped sending, or sends too slowly.
        RateLimited, ServiceUnavailable: Too many bytes of requests are being received.
    """
    headers = http.headers
    content_type = headers.get("content-type", "application/json")
    max_bytes, max_image = settings.max_request_bytes, settings.max_image_bytes
    encoding = headers.get("content-encoding", "")
    chunks = LimitedBody(http, max_bytes, settings.client_body_timeout, upload.add)
    # An equal request is recognized by the checksums of its images.
    new_blob = partial(spool.new_blob, with_checksum=True)
    spooler = InlineImageSpooler(new_blob)
    match media_type(content_type):
        case "multipart/form-data":
            boundary = parse_boundary(content_type)
            body = await decompress_body(PeekableBody(chunks), encoding, max_bytes)
            parts = await parse_multipart(body, boundary, spooler, new_blob=new_blob, max_part=max_image)
            return resolve_spooled(read_form(operation, parts, size_mode), spooler, max_image)
        case "application/json" | "text/json" | "":
            text = await read_json_text(chunks, encoding, max_bytes, spooler)
            read = partial(_read_json, operation, text, parse_charset(content_type), size_mode)
            # A quarter of a million of values take 0.3 s.
            request = read() if len(text) <= _SMALL else await asyncio.to_thread(read)
            return resolve_spooled(request, spooler, max_image)
    raise _unsupported(media_type(content_type))


def _read_json(operation: Operation, text: bytes | bytearray, charset: str, size_mode: SizeMode) -> ImagesRequest:
    return read_json(operation, parse_json(text, charset), size_mode)


async def read_json_text(
    chunks: "LimitedBody", encoding: str, max_bytes: int, spooler: InlineImageSpooler
) -> bytes | bytearray:
    """Return a JSON body in UTF-8 without its large images. Raises as `read_image_request` does."""
    first = await anext(chunks, b"")
    # Most requests come as a whole, with nothing to decompress, to rewrite or to take out.
    is_plain = chunks.has_ended and len(first) <= _SMALL and first.startswith(b"{") and not wide_encoding(first)
    if is_plain and not may_hold_base64(first):
        return first
    body = await decompress_body(PeekableBody(chunks, first), encoding, max_bytes)
    return await collect_json(await rewrite_as_utf8(body), spooler)


def announced_bytes(http: Request, max_bytes: int) -> int:
    """Return the length of the body as the head announces it, 0 if it does not.

    Raises:
        RequestTooLarge: It is more than `max_bytes`.
    """
    announced = http.headers.get("content-length", "")
    # int() refuses numbers of more than 4,300 digits with a ValueError of its own.
    length = int(announced[:19]) if announced.isdecimal() else 0
    if length > max_bytes:
        raise _too_large(max_bytes)
    return length


class LimitedBody:
    """A body as it arrives, in chunks. `has_ended`: its last chunk has come."""

    def __init__(
        self, http: Request, max_bytes: int, timeout: float, count: Callable[[int], None] = lambda _: None
    ) -> None:
        """`count` is called with the bytes of each chunk; what it raises ends the body.

        Raises, while the body is read:
            RequestTooLarge: It has more than `max_bytes`.
            RequestTimeout: Within `timeout` seconds less than `MIN_PROGRESS` bytes have come.
            ClientDisconnect: The client has left before the end.
        """
        self.has_ended = False
        self._receive, self._max_bytes, self._timeout, self._count = http.receive, max_bytes, timeout, count
        self._has_arrived: Callable[[], bool] = http.scope.get("extensions", {}).get(ARRIVED, lambda: False)
        self._loop = asyncio.get_running_loop()
        self._received, self._progress, self._deadline = 0, 0, self._loop.time() + timeout

    def __aiter__(self) -> "LimitedBody":
        return self

    async def __anext__(self) -> bytes:
        if self.has_ended:
            raise StopAsyncIteration
        # What is there already needs no timer.
        message = await (self._receive() if self._has_arrived() else self._wait_for_message())
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self.has_ended = not message.get("more_body", False)
        self._count(len(chunk))
        self._received += len(chunk)
        if self._received > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._progress += len(chunk)
        if self._progress >= MIN_PROGRESS:
            self._progress, self._deadline = 0, self._loop.time() + self._timeout
        return chunk

    async def _wait_for_message(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            pace = f"less than {MIN_PROGRESS} bytes within {self._timeout:g} s"
            headers = {"connection": "close"}
            raise RequestTimeout(f"The body of the request came too slowly: {pace}.", headers=headers) from None


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"Maximum content size limit ({max_bytes}) exceeded.")


def resolve_spooled(request: ImagesRequest, spooler: InlineImageSpooler, max_image: int) -> ImagesRequest:
    """Return the request with its spooled images in place of their placeholders.

    Raises:
        InvalidRequest: An image is cut off, or stands where none belongs.
        RequestTooLarge: An image has more than `max_image` bytes.
    """
    if not spooler.spooled and not spooler.discarded:
        return request
    if spooler.discarded:
        message = "Invalid image file: the base64 of an image in the request is cut off, or no image."
        raise UserError(message, code="invalid_image_file")
    if any(blob.size > max_image for blob in spooler.spooled.values()):
        raise RequestTooLarge(f"One image of the request is larger than the limit of {max_image} bytes.")
    images = tuple(image.resolve_spooled(spooler.spooled) for image in request.images)
    mask = request.mask and request.mask.resolve_spooled(spooler.spooled)
    markup = request.markup and request.markup.resolve_spooled(spooler.spooled)
    resolved = [image.source for image in (*images, mask, markup) if image is not None]
    if any(blob not in resolved for blob in spooler.spooled.values()):
        raise InvalidRequest("The request holds base64 of an image where no image belongs.", code="invalid_value")
    return replace(request, images=images, mask=mask, markup=markup)


async def collect_json(body: AsyncIterator[bytes], spooler: InlineImageSpooler) -> bytearray:
    """Return the JSON without its large images. All of it is held in memory, so it must be small."""
    text = bytearray()

    def take(piece: bytes) -> None:
        text.extend(spooler.feed(piece))
        if len(text) > MAX_TEXT:
            raise RequestTooLarge(f"The JSON of the request, without its images, is larger than {MAX_TEXT} bytes.")

    await parse_paced(body, take)
    return text + spooler.end()


async def parse_paced(
    body: AsyncIterator[bytes], parse: Callable[[bytes], object], is_in_file: Callable[[], bool] = lambda: False
) -> None:
    """Give a body to `parse`, in pieces between which other requests pass where parsing them takes long.

    `is_in_file` says whether the bytes of a file are arriving: they are only written, and are not cut, which copies.
    """
    pace = Pace()
    async for chunk in body:
        if is_in_file():
            parse(chunk)
        else:
            await _parse_in_pieces(chunk, parse, pace)
        # Not held while the next one is waited for: 250 KiB for each upload.
        del chunk


async def _parse_in_pieces(chunk: bytes, parse: Callable[[bytes], object], pace: Pace) -> None:
    start = 0
    while start < len(chunk):
        piece = chunk[start : start + pace.size]
        began_at = time.perf_counter()
        parse(piece)
        seconds = time.perf_counter() - began_at
        pace.note(len(piece), seconds)
        start += len(piece)
        if seconds > _SLOW:
            await asyncio.sleep(0)


def media_type(content_type: str) -> str:
    """Return the type without its parameters. JSON of any dialect is JSON; a header that came twice is a list."""
    kind = content_type.partition(";")[0].partition(",")[0].strip().lower()
    return "application/json" if kind.endswith("+json") else kind


def _unsupported(kind: str) -> InvalidRequest:
    return InvalidRequest(f"Unsupported content type '{quote(kind)}'. Use 'application/json' or 'multipart/form-data'.")


def parse_charset(content_type: str) -> str:
    """Return the charset that a content type declares, or an empty text."""
    if ";" not in content_type:
        return ""
    return parse_options_header(content_type)[1].get(b"charset", b"").decode("latin-1")


def parse_boundary(content_type: str) -> str:
    """Return the boundary of a form. Raises `InvalidRequest` if there is none, or one that RFC 2046 does not allow."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"").decode("latin-1")
    if not re.fullmatch(r"[0-9A-Za-z'()+_,\-./:=? ]{1,70}", boundary):
        raise InvalidRequest(f"{_MALFORMED} Its content type needs a boundary of 1 to 70 characters.")
    return boundary


async def parse_multipart(
    body: AsyncIterator[bytes],
    boundary: str,
    spooler: InlineImageSpooler,
    *,
    new_blob: Callable[[], Blob],
    max_part: int,
) -> list[FormPart]:
    """Return the parts of a form, in order. Large base64 images in text fields go through the `spooler`.

    Raises:
        InvalidRequest: The body is not a form.
        RequestTooLarge: A file has more than `max_part` bytes, or all texts together more than `MAX_TEXT`.
    """
    form = _MultipartHandler(spooler, new_blob, max_part)
    parser = MultipartParser(boundary, form.callbacks)
    start = _FormStart(boundary, parser.write)
    try:
        await parse_paced(body, start.feed, lambda: form.is_in_file)
        parser.finalize()
    except FormParserError:
        raise InvalidRequest(_MALFORMED) from None
    if start.held:
        raise InvalidRequest(_NO_BOUNDARY)
    if not form.ended:
        raise InvalidRequest(f"{_MALFORMED} It ends before its closing boundary.")
    return form.parts


class _FormStart:
    """Gives the parser a form from its first boundary on.

    RFC 2046 allows a text before it, a preamble, which mail libraries write.

    Attributes:
        held: What came while no boundary has.
    """

    def __init__(self, boundary: str, write: Callable[[bytes], object]) -> None:
        self.held = b""
        self._delimiter, self._write, self._has_begun = f"--{boundary}".encode(), write, False

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises `InvalidRequest` if a preamble is too long."""
        if self._has_begun:
            self._write(data)
            return
        self.held += data
        # By the length of the preamble alone, not by how much has come with it: pieces are cut anywhere.
        held = self.held[: _MAX_PREAMBLE + len(self._delimiter)]
        # A boundary begins a line: with a line end in front of all, the first line is one like the others.
        begin = (b"\n" + held).find(b"\n" + self._delimiter)
        if begin >= 0:
            form, self.held, self._has_begun = self.held[begin:], b"", True
            self._write(form)
        elif len(held) < len(self.held):
            raise InvalidRequest(_NO_BOUNDARY)


class _MultipartHandler:
    """Collect parts in the parser's callbacks. A part is a file if it has any file name, or a media type of bytes."""

    def __init__(self, spooler: InlineImageSpooler, new_blob: Callable[[], Blob], max_part: int) -> None:
        self.parts: list[FormPart] = []
        self.ended = False
        self._spooler = spooler
        self._new_blob = new_blob
        self._max_part = max_part
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._type = b""
        self._name = ""
        #: What came of a text and did not go through the spooler yet.
        self._pending = bytearray()
        self._text = bytearray()
        self._text_size = 0
        self._file: Blob | None = None
        self.is_in_file = False
        self.callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._keep_header,
            "on_headers_finished": self._open,
            "on_part_data": self._write,
            "on_part_end": self._close,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise InvalidRequest(f"Too many parts: a form may have at most {MAX_PARTS}.")
        self._disposition = self._type = b""

    def _keep_header(self) -> None:
        match self._header.strip().lower():
            case b"content-disposition":
                self._disposition = bytes(self._value)
            case b"content-type":
                self._type = bytes(self._value).strip().lower()
        self._header.clear()
        self._value.clear()

    def _open(self) -> None:
        kind, options = parse_options_header(self._disposition.decode("latin-1"))
        if kind != b"form-data" or b"name" not in options:
            raise InvalidRequest(f"{_MALFORMED} A part has no name.")
        self._name = options[b"name"].decode("utf-8", "replace")
        # .NET writes filename*= beside filename=, some libraries write it alone.
        named = b"filename" in options or re.search(rb";\s*filename\*=", self._disposition)
        # openai-java and Spring name no file where they were given bytes, a stream or a list.
        is_file = named or self._type.startswith((b"image/", b"application/octet-stream"))
        self._file = self._new_blob() if is_file else None
        self.is_in_file = self._file is not None
        self._text.clear()
        # The spooler reads JSON: quotes tell it where a text begins and ends.
        self._pending[:] = b'"'

    def _write(self, data: bytes, start: int, end: int) -> None:
        # Most pieces of a large file are whole, and are held in memory as they came.
        chunk = data if end - start == len(data) else memoryview(data)[start:end]
        if self._file is None:
            self._pending += chunk
            # A long text at once from then on: how long a piece takes is measured.
            if self._text or len(self._pending) >= _TEXT_PIECE:
                self._spool_text()
            return
        self._file.write(chunk)
        if self._file.size > self._max_part:
            raise RequestTooLarge(f"One part of the form is larger than the limit of {self._max_part} bytes.")

    def _spool_text(self) -> None:
        left = self._spooler.feed(bytes(self._pending))
        self._pending.clear()
        self._text += left
        self._text_size += len(left)
        if self._text_size > MAX_TEXT:
            raise RequestTooLarge(f"The texts of the form, without images, are larger than {MAX_TEXT} bytes.")

    def _close(self) -> None:
        self.is_in_file = False
        self.parts.append(FormPart(self._name, self._file if self._file is not None else self._decode()))

    def _decode(self) -> str:
        self._pending += b'"'
        self._spool_text()
        try:
            return decode_text(self._text[1:-1], parse_charset(self._type.decode("latin-1")))
        except UnicodeDecodeError:
            field = header_safe_name(self._name)
            message = f"The text field '{field}' is not valid UTF-8. A file needs a file name or a Content-Type."
            raise InvalidRequest(message, param=field) from None

    def _finish(self) -> None:
        self.ended = True
