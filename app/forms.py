"""Multipart forms as they arrive: text parts as text, file parts straight into blobs."""

import re
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import InvalidRequest, TooLarge
from app.images.blob import Blob
from app.protocol.image_request import FormPart

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: 16 pictures, a mask, and several times the parameters of the contract.
MAX_PARTS = 256

_MALFORMED = "We could not parse the multipart body of your request."


def boundary_of(content_type: str) -> str:
    """Raises InvalidRequest where the form names no boundary, or one that RFC 2046 does not allow."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"").decode("latin-1")
    if not re.fullmatch(r"[0-9A-Za-z'()+_,\-./:=? ]{1,70}", boundary):
        raise InvalidRequest(f"{_MALFORMED} Its content type needs a boundary of 1 to 70 characters.")
    return boundary


async def read_parts(
    body: AsyncIterator[bytes], boundary: str, *, new_blob: Callable[[], Blob], max_part: int
) -> list[FormPart]:
    """The parts in order. Raises InvalidRequest for what is no form, TooLarge for a part over `max_part` bytes."""
    form = _Form(new_blob, max_part)
    parser = MultipartParser(boundary, form.callbacks)
    try:
        async for piece in body:
            parser.write(piece)
        parser.finalize()
    except FormParserError:
        raise InvalidRequest(_MALFORMED) from None
    if not form.ended:
        raise InvalidRequest(f"{_MALFORMED} It ends before its closing boundary.")
    return form.parts


class _Form:
    """What the parser calls back into. A part is a file if it has any kind of file name, or a type of bytes."""

    def __init__(self, new_blob: Callable[[], Blob], max_part: int) -> None:
        self.parts: list[FormPart] = []
        self.ended = False
        self._new_blob = new_blob
        self._max_part = max_part
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._type = b""
        self._name = ""
        self._text = bytearray()
        self._text_size = 0
        self._file: Blob | None = None
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
        self._text.clear()

    def _write(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]
        if self._file is None:
            # Text is held in memory, so all of it together has the limit of one part.
            self._text_size += len(piece)
            self._text.extend(piece)
        else:
            self._file.write(piece)
        if max(self._text_size, self._file.size if self._file is not None else 0) > self._max_part:
            raise TooLarge(f"One part of the form is larger than the limit of {self._max_part} bytes.")

    def _close(self) -> None:
        self.parts.append(FormPart(self._name, self._file if self._file is not None else self._decode()))

    def _decode(self) -> str:
        try:
            return self._text.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest("A text field of the form is not valid UTF-8.") from None

    def _finish(self) -> None:
        self.ended = True
