"""The chat body to the byte, and the images in it."""

from collections.abc import Iterator

import orjson
import pytest

from app.protocol.chat_request import ChatQuestion, to_image_url
from app.protocol.dialects import DIALECTS
from app.protocol.image_request import ImagesRequest, Operation
from app.protocol.json_stream import Base64String
from app.protocol.sizes import Size
from tests.unit.protocol.test_dialects import LINK, messages, sent


def test_the_documented_example_to_the_byte() -> None:
    prompt = "参考这张图片,生成一张产品海报。保留主体风格,背景换成明亮的摄影棚。"
    request = ImagesRequest(operation=Operation.EDIT, prompt=prompt, size=Size(3840, 2160))
    question = ChatQuestion(request, (LINK,))
    assert sent(question, DIALECTS["gpt-image-2-chat"], "gpt-image-2-chat").decode() == (
        '{"model":"gpt-image-2-chat","messages":[{"role":"user","content":['
        f'{{"type":"text","text":"3840x2160 \'{prompt}\'"}},'
        f'{{"type":"image_url","image_url":{{"url":"{LINK}"}}}}]}}],"stream":false}}'
    )


def test_images_may_be_base64_strings() -> None:
    request = ImagesRequest(operation=Operation.EDIT, prompt="a cat")
    image = Base64String(Bytes(b"abc"), "data:image/png;base64,")
    body = orjson.loads(sent(ChatQuestion(request, (image,), stream=True), DIALECTS["metadata"]))
    assert body["messages"] == messages("a cat", "data:image/png;base64,YWJj")


def test_a_body_is_built_once_for_each_dialect_and_model() -> None:
    question = ChatQuestion(ImagesRequest(operation=Operation.GENERATION, prompt="a cat"))
    body = question.body(DIALECTS["metadata"], "m")
    assert question.body(DIALECTS["metadata"], "m") is body
    assert question.body(DIALECTS["openrouter"], "m") is not body
    assert question.body(DIALECTS["metadata"], "other") is not body
    assert [orjson.loads(sent(question, DIALECTS["metadata"], model))["model"] for model in ("m", "other")] == [
        "m",
        "other",
    ]


def test_questions_are_compared_without_their_bodies() -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a cat")
    question = ChatQuestion(request)
    question.body(DIALECTS["metadata"], "m")
    assert question == ChatQuestion(request)


class Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def write(self, data: bytes) -> None: ...

    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def chunks(self, size: int) -> Iterator[bytes]:
        yield self._data


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "image/png"),
        (b"\xff\xd8\xff\xe0" + bytes(30), "image/jpeg"),
        (b"?", "application/octet-stream"),
    ],
)
def test_bytes_become_data_urls_with_the_type_that_they_have(data: bytes, media_type: str) -> None:
    source = Bytes(data)
    assert to_image_url(source) == Base64String(source, f"data:{media_type};base64,")


def test_links_are_not_changed() -> None:
    assert to_image_url("https://h/a.png") == "https://h/a.png"
