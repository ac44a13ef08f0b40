"""Report which images a pasted reply contains, and why everything else was rejected.

Used by `limner explain` and `POST /v1/explain`. A reply may be pasted as a whole body, as a stream, as one message of
either, or as the model's words alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from app.errors import UpstreamInvalidReply
from app.extraction.candidates import ExtractionResult
from app.extraction.forms import MAX_CANDIDATE
from app.extraction.places import OF_A_GUESS, OF_A_LONG_TEXT, OF_NOTHING, place_of_form, place_of_reason
from app.extraction.refusal import is_refusal, no_image_error
from app.protocol.chat_reply import ChatReply
from app.protocol.data_url import decode_data_url, image_data_url
from app.protocol.image_format import sniff
from app.protocol.reply_encoding import in_utf8, is_image
from app.protocol.reply_parser import read_reply
from app.protocol.validation_errors import truncate

#: Characters of a URL or a text on one line of a terminal.
_MAX_SHOWN = 160
#: Characters of a client's error on one line.
_MAX_ERROR = 400


@dataclass(frozen=True, slots=True)
class PastedReply:
    """A reply, or a part of one.

    Attributes:
        kind: What the pasted bytes were read as. The page translates these words (`app/web/explainer.js`).
        reply: Empty if it is too long.
        too_long: What a client gets for a reply that is longer, without its images, than any may be.
    """

    kind: str
    reply: ChatReply
    too_long: UpstreamInvalidReply | None = None

    def in_full(self, url: str) -> str:
        """Return a URL of the reply, with the bytes of a large image in place of its placeholder."""
        image = self.reply.spooled_images.get(url)
        return url if image is None else image_data_url(image.read_at(0, image.size))


class _HeldImage:
    """The bytes of a large image. They are in memory, as what was pasted is."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def size(self) -> int:
        return len(self._data)

    def write(self, data: bytes) -> None:
        self._data += data

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self._data[offset : offset + size])

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield all bytes in chunks of `size`."""
        for offset in range(0, self.size, size):
            yield self.read_at(offset, size)


def parse_pasted(pasted: bytes) -> PastedReply:
    """Read pasted bytes as the most specific part of a chat reply that they can be. Never fails.

    Bytes that are not part of a reply are taken for the text of a message. As while a request is served, everything
    but images has a limit.
    """
    if is_image(pasted):
        return _parse_image(pasted)
    # Shells of Windows write UTF-16 into files.
    pasted = in_utf8(pasted).removeprefix(b"\xef\xbb\xbf")
    try:
        value = orjson.loads(pasted)
    except orjson.JSONDecodeError:
        return _parse_body(pasted)
    kind, choice = _as_choice(value)
    if choice is None:
        return _parse_body(pasted)
    try:
        return _in_body(kind, choice)
    except orjson.JSONEncodeError:
        # orjson reads deeper nesting than it writes.
        return _parse_body(pasted)


def _as_choice(value: object) -> tuple[str, dict[str, Any] | None]:
    """Turn a part of a reply into a choice; `None` for a whole body, and for JSON that is no part of a chat reply."""
    if isinstance(value, str):
        return "a JSON text", {"message": {"content": value}}
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        return "a list of content parts", {"message": {"content": value}}
    if isinstance(value, dict) and "choices" not in value:
        if "message" in value or "delta" in value:
            return "one choice", value
        if "content" in value or "role" in value:
            return "one message", {"message": value}
    return "", None


def _parse_body(pasted: bytes) -> PastedReply:
    try:
        reply = read_reply(pasted, _HeldImage)
    except UpstreamInvalidReply:
        return _in_body("plain words", {"message": {"content": pasted.decode("utf-8", "replace")}})
    return PastedReply("a body in JSON" if pasted.lstrip()[:1] in b"{[" else "a stream of events", reply)


def _parse_image(pasted: bytes) -> PastedReply:
    try:
        return PastedReply("an image", read_reply(pasted, _HeldImage))
    except UpstreamInvalidReply:
        return _in_body("an image", {"message": {"content": ""}})


def _in_body(kind: str, choice: dict[str, Any]) -> PastedReply:
    body = orjson.dumps({"choices": [choice]})
    try:
        return PastedReply(kind, read_reply(body, _HeldImage))
    except UpstreamInvalidReply as error:
        return PastedReply(kind, ChatReply(), too_long=error)


def text_report(pasted: PastedReply, result: ExtractionResult) -> Iterator[str]:
    """Yield the lines of the report for people. They contain no control characters."""
    suffix = "" if pasted.reply.complete else ", which broke off"
    yield f"read as  {pasted.kind}{suffix}"
    yield f"found    {len(result.images)}"
    for number, image in enumerate(result.images, 1):
        yield f"  {number}. {image.form}: {describe_url(pasted.in_full(image.url))}"
        if image.is_secondary:
            yield "     a preview or the like, taken because there is nothing better"
        yield f"     if it is wrong: {place_of_form(image.form)}"
    if result.guesses and not result.images:
        yield f"guessed  {len(result.guesses)}, not downloaded here: for a request, the bytes behind them decide"
        for guess in result.guesses:
            yield f"  - {guess.form}: {printable(guess.url)}"
        yield f"    to mend: {OF_A_GUESS}"
    yield f"dropped  {len(result.rejected)}"
    for rejected in result.rejected:
        yield f"  - {rejected.form}: {printable(pasted.in_full(rejected.candidate))}"
        yield f"    {rejected.reason}"
        yield f"    to mend: {place_of_reason(rejected.reason)}"
    if not result.images:
        condition = "if none is an image: " if result.guesses else ""
        yield f"answer   {condition}{printable(client_error(pasted), _MAX_ERROR)}"


def json_report(pasted: PastedReply, result: ExtractionResult) -> dict[str, Any]:
    """Return the report for programs, with URLs in full.

    `guessed`: addresses that may lead to anything, likeliest first. They are downloaded only while a request is served.
    `mend`: where to mend what was read wrong.
    """
    return {
        "read_as": pasted.kind,
        "complete": pasted.reply.complete,
        "found": [
            {
                "form": each.form,
                "url": pasted.in_full(each.url),
                "is_lesser": each.is_secondary,
                "mend": place_of_form(each.form),
            }
            for each in result.images
        ],
        "guessed": [{"form": each.form, "url": each.url, "mend": OF_A_GUESS} for each in result.guesses],
        "dropped": [
            {
                "form": each.form,
                "candidate": truncate(pasted.in_full(each.candidate), MAX_CANDIDATE),
                "reason": each.reason,
                "mend": place_of_reason(each.reason),
            }
            for each in result.rejected
        ],
        "answer": None if result.images else client_error(pasted),
        "mend": place_of_nothing(pasted, result),
    }


def place_of_nothing(pasted: PastedReply, result: ExtractionResult) -> str | None:
    """Return where to look if no image was found; None if one was, or if the reply says why there is none."""
    if pasted.too_long is not None:
        return OF_A_LONG_TEXT
    says_why = bool(result.images) or pasted.reply.error is not None or is_refusal(pasted.reply)
    return None if says_why else OF_NOTHING


def client_error(pasted: PastedReply) -> str:
    """Return the error that a client would receive for a reply without an image."""
    if pasted.reply.error is not None:
        return f"the upstream's own error: {orjson.dumps(pasted.reply.error).decode()}"
    error = pasted.too_long or no_image_error(pasted.reply)
    return f"{error.status} {error.code}: {error.message}"


def describe_url(url: str) -> str:
    """Return the URL, or what a data URL contains."""
    if not url.startswith("data:"):
        return printable(url)
    data = decode_data_url(url)
    info = sniff(data)
    kind = f"{info.size} {info.format}" if info else "not an image"
    return f"data URL, {kind}, {len(data):,} bytes"


def printable(text: str, max_length: int = _MAX_SHOWN) -> str:
    """Truncate the text and replace control characters, with which a reply could steer the terminal."""
    start = text[: max_length + 1]
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in start)
    return clean if len(text) <= max_length else f"{clean[: max_length - 1]}…"
