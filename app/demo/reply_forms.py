"""The forms in which a chat reply hands over its pictures: each turns painted pictures into the deltas of a message."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pybase64

#: A part of the assistant's message, as a stream brings it. All of them, merged, are the message of a plain reply.
Delta = dict[str, Any]

POLICY_URL = "https://openai.com/policies/usage-policies"


@dataclass(frozen=True, slots=True)
class DemoImage:
    """`draft`: a better one follows."""

    url: str
    data: bytes
    media_type: str
    is_draft: bool = False

    @property
    def base64(self) -> str:
        return pybase64.b64encode(self.data).decode()

    @property
    def data_url(self) -> str:
        return f"data:{self.media_type};base64,{self.base64}"


@dataclass(frozen=True, slots=True)
class Reply:
    deltas: Sequence[Delta]
    finish_reason: str = "stop"

    @property
    def has_text_content(self) -> bool:
        """False where its content is a list of parts: lines of progress cannot stand before it."""
        return all(isinstance(delta.get("content", ""), str) for delta in self.deltas)


#: What is told about the pictures painted, with the pictures that the client had sent.
ReplyBuilder = Callable[[Sequence[DemoImage], Sequence[str]], Reply]


def merge(deltas: Iterable[Delta]) -> Delta:
    """Texts are joined, and lists."""
    message: Delta = {"role": "assistant", "content": None}
    for delta in deltas:
        for key, value in delta.items():
            before = message.get(key)
            message[key] = value if before is None else before + value
    return message


def documented(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    """The sentence of the documentation, a line for each picture."""
    return _lines(f"{'预览图' if picture.is_draft else '已生成图片'}:{picture.url}" for picture in pictures)


def markdown(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    return _lines(f"![{'preview' if picture.is_draft else 'image'}]({picture.url})" for picture in pictures)


def data_url(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    return _lines(f"![{'preview' if picture.is_draft else 'image'}]({picture.data_url})" for picture in pictures)


def html(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    return _lines(f'<p>done</p><img src="{picture.url}" alt="image">' for picture in pictures)


def b64_json(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    return _lines(picture.base64 for picture in pictures)


def json_text(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    text = orjson.dumps({"created": 1741570283, "data": [{"url": picture.url} for picture in pictures]})
    return Reply([{"content": text.decode()}])


def content_parts(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    text = {"type": "text", "text": "Here is your picture."}
    parts = [{"type": "image_url", "image_url": {"url": picture.data_url}} for picture in pictures]
    return Reply([{"content": [text]}, *({"content": [part]} for part in parts)])


def images_field(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    """As OpenRouter does: the text beside, the pictures in a field of their own."""
    images = [
        {"type": "image_url", "index": index, "image_url": {"url": picture.data_url}}
        for index, picture in enumerate(pictures)
    ]
    return Reply([{"content": "Here is your picture."}, *({"images": [image]} for image in images)])


def thinks(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    drafts = [{"reasoning_content": f"A first try: {picture.url}\n"} for picture in pictures if picture.is_draft]
    finals = documented([picture for picture in pictures if not picture.is_draft], sent)
    return Reply([*drafts, *finals.deltas])


def refuses(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    return Reply([{"content": f"I can't generate that image. It violates our usage policies: {POLICY_URL}."}])


def filtered(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    return Reply([], "content_filter")


def text_only(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    return Reply([{"content": "What a lovely idea! Which colours would you like?"}])


def echoes_input(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    links = "\n".join(f"![your picture]({url})" for url in sent)
    return Reply([{"content": f"I see what you sent. What shall I change?\n{links}"}])


def says_nothing(pictures: Sequence[DemoImage], sent: Sequence[str]) -> Reply:
    return Reply([{"content": ""}])


def _lines(lines: Iterable[str]) -> Reply:
    """Each line a delta; no line break after the last, as in the documentation's example."""
    return Reply([{"content": "\n" * bool(index) + line} for index, line in enumerate(lines)])
