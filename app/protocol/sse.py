"""Read and write server-sent events as in the WHATWG's HTML standard, section 9.2."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.protocol.json_stream import StreamingJson


@dataclass(frozen=True, slots=True)
class Event:
    """One event that was read. `name` is the field `event`, as in the standard `message` if it is missing."""

    data: str
    name: str = "message"


class Decoder:
    """Parser of an event stream that arrives in chunks, cut anywhere, even within a character.

    Its work is linear in the bytes it is fed: an unfinished line is kept as a list of chunks until its end arrives.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[str] = []
        self._name = ""
        self._is_first = True
        self._after_cr = False

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
        for line in lines:
            self._line.append(line)
            yield from self._read_line(self._decode_line())
        if rest:
            self._line.append(rest)

    def _decode_line(self) -> str:
        line = b"".join(self._line)
        self._line.clear()
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        return line.decode("utf-8", "replace")

    def _read_line(self, line: str) -> Iterator[Event]:
        field, _, value = line.partition(":")
        if not line:
            yield from self._dispatch()
        elif field == "data":
            self._data.append(value.removeprefix(" "))
        elif field == "event":
            self._name = value.removeprefix(" ")

    def _dispatch(self) -> Iterator[Event]:
        if self._data:
            yield Event("\n".join(self._data), self._name or "message")
        self._data.clear()
        self._name = ""


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
