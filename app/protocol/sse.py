"""Read and write server-sent events as in the WHATWG's HTML standard, section 9.2."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.protocol.json_stream import StreamingJson

#: The empty one begins a comment.
_OTHER_FIELDS = {"", "id", "retry"}
#: How the lines of Vercel's older data stream begin, which are not events: `0:"text"`, `d:{"finishReason": "stop"}`.
_DATA_STREAM = re.compile("[0-9a-k]")
#: The data of the event with which chat APIs end a stream, and its line, whose last quote may still be on its way.
LAST_MARK = "[DONE]"
_LAST_LINE = re.compile(rb'data:[ \t]*"?\[DONE\]"?[ \t]*', re.IGNORECASE)
_MAX_LAST_LINE = 24


@dataclass(frozen=True, slots=True)
class Event:
    """One event that was read.

    Attributes:
        name: The field `event`, as in the standard `message` if it is missing.
        loose_data: The data with lines of no field in between, if there were any. The standard ignores these lines,
            but they may be the rest of a text whose line breaks an upstream forgot to escape. Behind a blank line of
            such a text they are alone, and `data` is empty.
    """

    data: str
    name: str = "message"
    loose_data: str = ""


class Decoder:
    """Parser of an event stream that arrives in chunks, cut anywhere, even within a character.

    Its work is linear in the bytes it is fed: an unfinished line is kept as a list of chunks until its end arrives.
    The last mark of a chat is an event as soon as it is there: some upstreams send no line break behind it, or no blank
    line, and leave the connection open.

    Attributes:
        size: Bytes of everything that was read but is no data of a finished event: comments, empty lines, other fields,
            and the unfinished event.
    """

    def __init__(self, *, keeps_loose_lines: bool = False) -> None:
        """`keeps_loose_lines`: lines of no field without any data are an event, too."""
        self.size = 0
        self._keeps_loose_lines = keeps_loose_lines
        self._line: list[bytes] = []
        self._line_size = 0
        self._data: list[str] = []
        self._loose: list[str] = []
        self._data_size = 0
        self._name = ""
        self._is_first = True
        self._after_cr = False

    @property
    def pending(self) -> int:
        """Bytes of the event that has begun."""
        return self._data_size + self._line_size

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes."""
        return list(self._read(data))

    def end(self) -> list[Event]:
        """Return the event at the end of the stream that lacks its blank line, if any.

        A browser drops such an event, but here it was paid for even if the upstream forgot the line.
        """
        return list(self._read(b"\n\n"))

    def _read(self, data: bytes) -> Iterator[Event]:
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        self.size += len(data)
        for line in lines:
            self._line.append(line)
            size, self._line_size = self._line_size + len(line) + 1, 0
            yield from self._read_line(self._decode_line(), size)
        if rest:
            self._line.append(rest)
            self._line_size += len(rest)
            if self._line_size <= _MAX_LAST_LINE and _LAST_LINE.fullmatch(b"".join(self._line)):
                size, self._line_size = self._line_size, 0
                yield from self._read_line(self._decode_line(), size)

    def _decode_line(self) -> str:
        line = b"".join(self._line)
        self._line.clear()
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        return line.decode("utf-8", "replace")

    def _read_line(self, line: str, size: int) -> Iterator[Event]:
        field, _, value = line.partition(":")
        if not line:
            yield from self._dispatch(size)
        elif size <= _MAX_LAST_LINE and _LAST_LINE.fullmatch(line.encode()):
            yield from self._end_with_mark(size)
        elif field == "data":
            if self._loose and not self._data:
                yield self._take(0)
            self._data.append(value.removeprefix(" "))
            self._loose.append(self._data[-1])
            self._data_size += size
        elif field == "event":
            self._name = value.removeprefix(" ")
        elif _DATA_STREAM.fullmatch(field) and value[:1] in {'"', "[", "{"} and not self._data:
            self.size -= size
            yield Event(f'{{"type": "data-stream-{field}", "value": {value}}}')
        elif field not in _OTHER_FIELDS and (self._data or self._keeps_loose_lines):
            self._loose.append(line)
            self._data_size += size

    def _end_with_mark(self, size: int) -> Iterator[Event]:
        if self._loose:
            yield self._take(0)
        self.size -= size
        yield Event(LAST_MARK)

    def _dispatch(self, size: int) -> Iterator[Event]:
        if self._loose:
            yield self._take(size)
        self._name = ""

    def _take(self, size: int) -> Event:
        """Return the event so far; its end has `size` bytes."""
        data, loose = "\n".join(self._data), "\n".join(self._loose)
        self.size -= self._data_size + size
        self._data_size = 0
        self._data.clear()
        self._loose.clear()
        return Event(data, self._name or "message", loose if loose != data else "")


class StreamingEvent:
    """One event with a JSON document as its data, encoded while it is being sent.

    The document may hold `Base64String`s. `length` is the size of the encoded event in bytes.
    """

    def __init__(self, name: str, document: Mapping[str, Any]) -> None:
        self._head = f"event: {name}\ndata: ".encode("ascii")
        self._document = StreamingJson(document)
        self.length = len(self._head) + self._document.length + 2

    def chunks(self) -> Iterator[bytes]:
        yield self._head
        yield from self._document.chunks()
        yield b"\n\n"


def comment(text: str = "keep-alive") -> bytes:
    """Return a comment line, which clients ignore, to keep a silent stream open. `text` must be one line."""
    return b": %b\n\n" % text.encode()
