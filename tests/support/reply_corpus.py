"""The rows of replies.jsonl and more_replies.jsonl as bodies that an upstream would send."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class CorpusReply:
    id: str
    body: bytes
    expected: tuple[str, ...]
    sent: tuple[str, ...]


def read_corpus(name: str) -> list[CorpusReply]:
    return [
        _row(orjson.loads(line))
        for line in (Path(__file__).parents[1] / "data" / name).read_bytes().splitlines()
        if line
    ]


def _row(row: dict[str, Any]) -> CorpusReply:
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
