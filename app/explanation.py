"""`limner explain`: which pictures are found in a chat reply, in which form, and why the rest was dropped."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from app.protocol.data_url import decode_data_url
from app.protocol.image_format import sniff
from app.pure.pasted import Pasted, read_pasted
from app.pure.refusals import why_no_image
from app.pure.replies import Findings
from app.pure.replies import explain as search

#: Of an address or a text on one line of a terminal.
_SHOWN = 160


def explain(file: str, *, sent: Sequence[str] = (), as_json: bool = False) -> int:
    """The exit code: 0 a picture was found, 1 none, 2 no such file. `-` is the standard input."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        print(f"limner explain: {file}: {error.strerror}", file=sys.stderr)
        return 2
    pasted = read_pasted(data)
    findings = search(pasted.reply, sent)
    if as_json:
        print(orjson.dumps(document(pasted, findings), option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(lines(pasted, findings)))
    return 0 if findings.found else 1


def lines(pasted: Pasted, findings: Findings) -> Iterator[str]:
    whole = "" if pasted.reply.complete else ", which broke off"
    yield f"read as  {pasted.kind}{whole}"
    yield f"found    {len(findings.found)}"
    for number, image in enumerate(findings.found, 1):
        yield f"  {number}. {image.form}: {described(image.url)}"
        if image.is_lesser:
            yield "     a preview or the like, taken because there is nothing better"
    yield f"dropped  {len(findings.dropped)}"
    for dropped in findings.dropped:
        yield f"  - {dropped.form}: {shown(dropped.candidate)}"
        yield f"    {dropped.reason}"
    if not findings.found:
        yield f"answer   {shown(outcome(pasted), 400)}"


def document(pasted: Pasted, findings: Findings) -> dict[str, Any]:
    """For programs: addresses in full."""
    found = [{"form": image.form, "url": image.url, "is_lesser": image.is_lesser} for image in findings.found]
    dropped = [{"form": each.form, "candidate": each.candidate, "reason": each.reason} for each in findings.dropped]
    answer = None if findings.found else outcome(pasted)
    whole = pasted.reply.complete
    return {"read_as": pasted.kind, "complete": whole, "found": found, "dropped": dropped, "answer": answer}


def outcome(pasted: Pasted) -> str:
    """What a client is told where there is no picture."""
    if pasted.reply.error is not None:
        return f"the upstream's own error: {orjson.dumps(pasted.reply.error).decode()}"
    error = why_no_image(pasted.reply)
    return f"{error.status} {error.code}: {error.message}"


def described(url: str) -> str:
    if not url.startswith("data:"):
        return shown(url)
    data = decode_data_url(url)
    info = sniff(data)
    kind = f"{info.size} {info.format}" if info else "not an image"
    return f"data URL, {kind}, {len(data):,} bytes"


def shown(text: str, most: int = _SHOWN) -> str:
    """Without what a reply could tell the terminal to do."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[: most + 1])
    return clean if len(text) <= most else f"{clean[: most - 1]}…"
