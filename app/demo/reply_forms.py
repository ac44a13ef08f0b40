"""The forms in which chat replies carry images: each function turns drawn images into the deltas of a message."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pybase64

#: A part of the assistant's message, as in a stream. Merged, all of them are the message of a plain reply.
Delta = dict[str, Any]

POLICY_URL = "https://policies.invalid/usage"


@dataclass(frozen=True, slots=True)
class DemoImage:
    """A drawn image and its URL. A better one follows a draft."""

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
    """A reply of the chat API or, with `document`, the whole body instead of one, to which only usage is added."""

    deltas: Sequence[Delta]
    finish_reason: str = "stop"
    document: dict[str, Any] | None = None

    @property
    def has_text_content(self) -> bool:
        """Whether the content is text, so that progress lines can precede it; otherwise it is a list of parts."""
        return all(isinstance(delta.get("content", ""), str) for delta in self.deltas)


#: Builds the reply from the drawn images and the URLs of the input images.
ReplyBuilder = Callable[[Sequence[DemoImage], Sequence[str]], Reply]


def merge(deltas: Iterable[Delta]) -> Delta:
    """Merge deltas into a message: texts and lists are concatenated."""
    message: Delta = {"role": "assistant", "content": None}
    for delta in deltas:
        for key, value in delta.items():
            before = message.get(key)
            message[key] = value if before is None else before + value
    return message


def documented(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    """Use the sentence of the documentation, one line per image."""
    return _lines(f"{'预览图' if image.is_draft else '已生成图片'}:{image.url}" for image in images)


def markdown(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    return _lines(f"![{'preview' if image.is_draft else 'image'}]({image.url})" for image in images)


def data_url(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    return _lines(f"![{'preview' if image.is_draft else 'image'}]({image.data_url})" for image in images)


def html(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    return _lines(f'<p>done</p><img src="{image.url}" alt="image">' for image in images)


def b64_json(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    return _lines(image.base64 for image in images)


def json_text(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    text = orjson.dumps({"created": 1741570283, "data": [{"url": image.url} for image in images]})
    return Reply([{"content": text.decode()}])


def images_body(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    """Answer with a body of the Images API."""
    return Reply([], document={"created": 1741570283, "data": [{"url": image.url} for image in images]})


def bare_links(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    return _lines(image.url for image in images)


def content_parts(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    text = {"type": "text", "text": "Here is your picture."}
    parts = [{"type": "image_url", "image_url": {"url": image.data_url}} for image in images]
    return Reply([{"content": [text]}, *({"content": [part]} for part in parts)])


def images_field(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    """Put the text into `content` and the images into a field of their own, as OpenRouter does."""
    parts = [
        {"type": "image_url", "index": index, "image_url": {"url": image.data_url}}
        for index, image in enumerate(images)
    ]
    return Reply([{"content": "Here is your picture."}, *({"images": [part]} for part in parts)])


def thinks(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    drafts = [{"reasoning_content": f"A first try: {image.url}\n"} for image in images if image.is_draft]
    finals = documented([image for image in images if not image.is_draft], input_urls)
    return Reply([*drafts, *finals.deltas])


def refuses(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    return Reply([{"content": f"I can't generate that image. It violates our usage policies: {POLICY_URL}."}])


def filtered(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    return Reply([], "content_filter")


def text_only(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    return Reply([{"content": "What a lovely idea! Which colors would you like?"}])


def echoes_input(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    links = "\n".join(f"![your picture]({url})" for url in input_urls)
    return Reply([{"content": f"I see what you sent. What shall I change?\n{links}"}])


def says_nothing(images: Sequence[DemoImage], input_urls: Sequence[str]) -> Reply:
    return Reply([{"content": ""}])


def _lines(lines: Iterable[str]) -> Reply:
    """Make each line a delta, without a line break after the last one, as in the documentation's example."""
    return Reply([{"content": "\n" * bool(index) + line} for index, line in enumerate(lines)])
