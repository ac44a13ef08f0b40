"""The chat body to the byte, and the images in it."""

from typing import Any

import orjson
import pytest

from app.protocol.chat_request import ChatRequest, StreamMode, client_fields, ignored_at, to_image_url, wants_stream
from app.protocol.dialects import DIALECTS, Dialect
from app.protocol.image_request import ImagesRequest
from app.protocol.json_stream import Base64String
from app.protocol.parameters import Operation
from app.protocol.request_parser import read_json
from app.protocol.sizes import Size
from tests.support.chat_messages import LINK, messages, sent
from tests.support.memory_sink import MemorySink


def test_the_documented_example_to_the_byte() -> None:
    prompt = "参考这张图片,生成一张产品海报。保留主体风格,背景换成明亮的摄影棚。"
    request = ImagesRequest(operation=Operation.EDIT, prompt=prompt, size=Size(3840, 2160))
    chat = ChatRequest(request, (LINK,))
    assert sent(chat, DIALECTS["gpt-image-2-chat"], "gpt-image-2-chat").decode() == (
        '{"model":"gpt-image-2-chat","messages":[{"role":"user","content":['
        f'{{"type":"text","text":"3840x2160 \'{prompt}\'"}},'
        f'{{"type":"image_url","image_url":{{"url":"{LINK}"}}}}]}}],"stream":false}}'
    )


def test_images_may_be_base64_strings() -> None:
    request = ImagesRequest(operation=Operation.EDIT, prompt="a cat")
    image = Base64String(MemorySink(b"abc"), "data:image/png;base64,")
    body = orjson.loads(sent(ChatRequest(request, (image,), stream=True), DIALECTS["metadata"]))
    assert body["messages"] == messages("a cat", "data:image/png;base64,YWJj")


def test_a_body_is_built_once_for_each_dialect_and_model() -> None:
    chat = ChatRequest(ImagesRequest(operation=Operation.GENERATION, prompt="a cat"))
    body = chat.body(DIALECTS["metadata"], "m")
    assert chat.body(DIALECTS["metadata"], "m") is body
    assert chat.body(DIALECTS["openrouter"], "m") is not body
    assert chat.body(DIALECTS["metadata"], "other") is not body
    assert [orjson.loads(sent(chat, DIALECTS["metadata"], model))["model"] for model in ("m", "other")] == [
        "m",
        "other",
    ]


def test_questions_are_compared_without_their_bodies() -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a cat")
    chat = ChatRequest(request)
    chat.body(DIALECTS["metadata"], "m")
    assert chat == ChatRequest(request)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "image/png"),
        (b"\xff\xd8\xff\xe0" + bytes(30), "image/jpeg"),
        (b"?", "application/octet-stream"),
    ],
)
def test_bytes_become_data_urls_with_the_type_that_they_have(data: bytes, media_type: str) -> None:
    source = MemorySink(data)
    assert to_image_url(source) == Base64String(source, f"data:{media_type};base64,")


def test_links_are_not_changed() -> None:
    assert to_image_url("https://h/a.png") == "https://h/a.png"


WISHES = {"prompt": "a cat", "size": "1536x1024", "quality": "high", "style": "vivid", "metadata": {"a": "b"}}

IGNORED: list[tuple[str, Dialect, dict[str, Any], tuple[str, ...]]] = [
    ("a style has no place", DIALECTS["gpt-image-2-chat"], WISHES, ("style",)),
    ("a style has a place", DIALECTS["top-level"], WISHES, ("metadata",)),
    ("a background has no place", DIALECTS["openrouter"], {"prompt": "a", "background": "opaque"}, ("background",)),
    ("a background has a place", DIALECTS["top-level"], {"prompt": "a", "background": "transparent"}, ()),
    ("only words are read", DIALECTS["words"], {**WISHES, "user": "u"}, ("metadata", "user")),
    ("nothing is read", Dialect(send=()), {**WISHES, "user": "u"}, ("size", "quality", "style", "metadata", "user")),
    ("the user has another name", Dialect(send=()), {"prompt": "a cat", "safety_identifier": "u"}, ("safety_identifier",)),
    ("a size is the suffix of a model", Dialect(model_suffixes={"4K": "-4k"}), {"prompt": "a", "size": "4K"}, ()),
    ("nothing was asked for", Dialect(send=()), {"prompt": "a cat", "size": "auto", "quality": "auto"}, ()),
    ("what the request itself ignores comes last", Dialect(), {**WISHES, "seed": 1}, ("size", "quality", "style", "seed")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dialect", "parameters", "names"), IGNORED, ids=[row[0] for row in IGNORED])
def test_a_dialect_ignores_what_it_has_no_place_for(
    name: str, dialect: Dialect, parameters: dict[str, Any], names: tuple[str, ...]
) -> None:
    assert ignored_at(read_json(Operation.GENERATION, parameters), dialect) == names


OWN: list[tuple[str, str, dict[str, Any], set[str]]] = [
    ("a size as the client wrote it", "top-level", {"size": "1536x1024"}, {"size"}),
    ("a size in place of a legacy size", "top-level", {"size": "512x512"}, {"size"}),
    ("the nearest of a list", "buckets", {"size": "1536x1024"}, set()),
    ("a ratio that was computed", "google", {"size": "1536x1024"}, set()),
    ("a ratio as the client wrote it", "openrouter", {"aspect_ratio": "3:2"}, {"image_config.aspect_ratio"}),
    ("a ratio in a tier", "openrouter", {"aspect_ratio": "3:2", "resolution": "2K"}, {"image_config.aspect_ratio", "image_config.image_size"}),
    ("a size in the prompt is in no field", "gpt-image-2-chat", {"size": "1536x1024"}, set()),
    ("nothing but auto", "metadata", {}, set()),
    ("quality, style and user", "top-level", {"quality": "high", "style": "vivid", "user": "u"}, {"quality", "style", "user"}),
    ("a background", "top-level", {"background": "opaque"}, {"background"}),
    ("the client's own metadata", "metadata", {"metadata": {"a": "b"}, "quality": "low"}, {"metadata", "metadata.quality"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dialect", "parameters", "paths"), OWN, ids=[row[0] for row in OWN])
def test_paths_with_the_clients_own_words(name: str, dialect: str, parameters: dict[str, Any], paths: set[str]) -> None:
    request = read_json(Operation.GENERATION, {"prompt": "a cat", **parameters})
    assert client_fields(request, DIALECTS[dialect]) == paths


def test_a_size_of_the_keys_policy_is_not_the_clients() -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a cat", size=Size(1024, 1024))
    assert client_fields(request, DIALECTS["top-level"]) == set()


def test_the_bytes_of_images_are_counted_before_they_become_base64() -> None:
    request = ImagesRequest(operation=Operation.EDIT, prompt="a cat")
    images = (Base64String(MemorySink(b"abc"), "data:image/png;base64,"), "https://example.com/a.png")
    assert ChatRequest(request, images).images_bytes == 3


@pytest.mark.parametrize(("mode", "asked", "streams"), [("auto", True, True), ("auto", False, False), ("always", False, True), ("never", True, False)])  # fmt: skip
def test_whether_a_stream_is_requested(mode: StreamMode, asked: bool, streams: bool) -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a cat", stream=asked)
    assert wants_stream(mode, request) is streams
    assert ChatRequest(request, stream=not streams).streams(mode) is streams
