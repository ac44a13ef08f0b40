"""Chat requests as tests expect them."""

from typing import Any

from app.protocol.chat_request import ChatRequest
from app.protocol.dialects import Dialect

LINK = "https://example.com/source-image.png"


def messages(text: str, *urls: str) -> list[dict[str, Any]]:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *images]}]


def sent(chat: ChatRequest, dialect: Dialect, model: str = "m", *, other_modalities: bool = False) -> bytes:
    body = chat.body(dialect, model, other_modalities=other_modalities)
    data = b"".join(body.chunks())
    assert len(data) == body.length
    return data
