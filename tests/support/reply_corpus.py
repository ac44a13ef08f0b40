"""Read the corpus of chat replies, `tests/data/*replies.jsonl`, as the bodies that an upstream would send.

The format is described in `tests/data/replies.md`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True, slots=True)
class CorpusReply:
    """One reply of the corpus.

    Attributes:
        expected: URLs of the images in the reply, in order.
        sent: URLs that the client had sent with its request.
    """

    id: str
    body: bytes
    expected: tuple[str, ...]
    sent: tuple[str, ...]


def read_corpus(name: str) -> list[CorpusReply]:
    """Return the replies of the file `name`."""
    return [_parse(orjson.loads(line)) for line in (DATA / name).read_bytes().splitlines() if line]


def _parse(row: dict[str, Any]) -> CorpusReply:
    return CorpusReply(row["id"], _body(row["reply"]), tuple(row["expected"]), tuple(row.get("request_images", ())))


def _body(reply: Any) -> bytes:
    match reply:
        case {"_raw": str(raw)}:
            return raw.encode()
        case {"_body": body}:
            return orjson.dumps(body)
        case {"_stream": chunks}:
            return b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks)
        case dict():
            return _completion({"role": "assistant", **reply})
        case _:
            return _completion({"role": "assistant", "content": reply})


def _completion(message: dict[str, Any]) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps({"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice]})
