"""What a person pastes of a chat as a ChatReply: a body, a stream, one message of it, or the words alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from app.errors import UpstreamInvalidReply
from app.extraction.forms import ExtractionResult
from app.extraction.refusal import no_image_error
from app.protocol.chat_reply import ChatReply, read_reply
from app.protocol.data_url import decode_data_url
from app.protocol.image_format import sniff


@dataclass(frozen=True, slots=True)
class PastedReply:
    """`kind`: as what it was read, in plain words."""

    kind: str
    reply: ChatReply


def parse_pasted(pasted: bytes) -> PastedReply:
    """Never fails: what is nothing else is what a model said."""
    pasted = pasted.removeprefix(b"\xef\xbb\xbf")
    try:
        value = orjson.loads(pasted)
    except orjson.JSONDecodeError:
        return _read_unparsed(pasted)
    kind, choice = _as_choice(value)
    if choice is None:
        return _read_unparsed(pasted)
    try:
        return _in_body(kind, choice)
    except orjson.JSONEncodeError:
        # More can be read than be written: it nests too deeply.
        return _read_unparsed(pasted)


def _as_choice(value: object) -> tuple[str, dict[str, Any] | None]:
    """None for what is a whole body, or nothing of a chat."""
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


def _read_unparsed(pasted: bytes) -> PastedReply:
    try:
        reply = read_reply(pasted)
    except UpstreamInvalidReply:
        return _in_body("plain words", {"message": {"content": pasted.decode("utf-8", "replace")}})
    return PastedReply("a body in JSON" if pasted.lstrip()[:1] in b"{[" else "a stream of events", reply)


def _in_body(kind: str, choice: dict[str, Any]) -> PastedReply:
    return PastedReply(kind, read_reply(orjson.dumps({"choices": [choice]})))


#: Of an address or a text on one line of a terminal.
_SHOWN = 160


def text_report(pasted: PastedReply, findings: ExtractionResult) -> Iterator[str]:
    whole = "" if pasted.reply.complete else ", which broke off"
    yield f"read as  {pasted.kind}{whole}"
    yield f"found    {len(findings.images)}"
    for number, image in enumerate(findings.images, 1):
        yield f"  {number}. {image.form}: {describe_url(image.url)}"
        if image.is_secondary:
            yield "     a preview or the like, taken because there is nothing better"
    yield f"dropped  {len(findings.rejected)}"
    for dropped in findings.rejected:
        yield f"  - {dropped.form}: {printable(dropped.candidate)}"
        yield f"    {dropped.reason}"
    if not findings.images:
        yield f"answer   {printable(client_error(pasted), 400)}"


def json_report(pasted: PastedReply, findings: ExtractionResult) -> dict[str, Any]:
    """For programs: addresses in full."""
    found = [{"form": image.form, "url": image.url, "is_lesser": image.is_secondary} for image in findings.images]
    dropped = [{"form": each.form, "candidate": each.candidate, "reason": each.reason} for each in findings.rejected]
    answer = None if findings.images else client_error(pasted)
    whole = pasted.reply.complete
    return {"read_as": pasted.kind, "complete": whole, "found": found, "dropped": dropped, "answer": answer}


def client_error(pasted: PastedReply) -> str:
    """What a client is told where there is no picture."""
    if pasted.reply.error is not None:
        return f"the upstream's own error: {orjson.dumps(pasted.reply.error).decode()}"
    error = no_image_error(pasted.reply)
    return f"{error.status} {error.code}: {error.message}"


def describe_url(url: str) -> str:
    if not url.startswith("data:"):
        return printable(url)
    data = decode_data_url(url)
    info = sniff(data)
    kind = f"{info.size} {info.format}" if info else "not an image"
    return f"data URL, {kind}, {len(data):,} bytes"


def printable(text: str, max_length: int = _SHOWN) -> str:
    """Without what a reply could tell the terminal to do."""
    clean = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[: max_length + 1]
    )
    return clean if len(text) <= max_length else f"{clean[: max_length - 1]}…"
