"""What a chat request asks for: the prompt inside its prefix, the size, the pictures, and every refusal."""

from dataclasses import dataclass
from typing import Any

import pytest

from app.demo.chat_request import DemoApiError, decode_data_url, parse_chat_request, parse_size, split_prefix

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def ask(content: object = "a fox", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-image-2-chat", "messages": [{"role": "user", "content": content}]} | more


@dataclass(frozen=True)
class Prefix:
    id: str
    text: str
    size: str | None
    prompt: str


PREFIXES = (
    Prefix("a size before the quoted prompt", "1536x1024 'a fox'", "1536x1024", "a fox"),
    Prefix(
        "auto before the quoted prompt",
        "auto '参考这张图片,生成一张产品海报。'",
        "auto",
        "参考这张图片,生成一张产品海报。",
    ),
    Prefix("no prefix", "a fox", None, "a fox"),
    Prefix("quotes inside the prompt", "1024x1024 'it's 'late''", "1024x1024", "it's 'late'"),
    Prefix("a prefix of the prompt's own", "auto '3840x2160 'a fox''", "auto", "3840x2160 'a fox'"),
    Prefix("line breaks and emoji", "auto 'one\r\ntwo 🦊\n'", "auto", "one\r\ntwo 🦊\n"),
    Prefix("words after the last quote", "1024x1024 'a fox' please", "1024x1024", "a fox"),
    Prefix("the quotes lost in a shell", "3840x2160 a fox", "3840x2160", "a fox"),
    Prefix("auto as a word", "auto parts on a shelf", None, "auto parts on a shelf"),
    Prefix("a quote that is never closed", "auto 'a fox", None, "auto 'a fox"),
    Prefix("full-width digits", "１０２４x1024 'a fox'", None, "１０２４x1024 'a fox'"),
    Prefix("the prefix not at the start", "a fox 1024x1024 'x'", None, "a fox 1024x1024 'x'"),
    Prefix("an empty prompt", "auto ''", "auto", ""),
)


@pytest.mark.parametrize("case", PREFIXES, ids=lambda case: case.id)
def test_prefix(case: Prefix) -> None:
    assert split_prefix(case.text) == (case.size, case.prompt)


@dataclass(frozen=True)
class Size:
    id: str
    body: dict[str, Any]
    size: tuple[int, int]


SIZES = (
    Size("nothing said", ask(), (1024, 1024)),
    Size("by prefix", ask("1536x1024 'x'"), (1536, 1024)),
    Size("by metadata", ask(metadata={"size": "1024x1536"}), (1024, 1536)),
    Size("the prefix wins over metadata", ask("auto 'x'", metadata={"size": "1024x1536"}), (1024, 1024)),
    Size("auto in metadata", ask(metadata={"size": "auto"}), (1024, 1024)),
    Size("metadata null", ask(metadata=None), (1024, 1024)),
    Size("a ratio", ask(image_config={"aspect_ratio": "16:9"}), (1360, 768)),
    Size("a ratio, large", ask(image_config={"aspect_ratio": "16:9", "image_size": "4K"}), (3840, 2160)),
    Size(
        "a wide ratio stays within the longest edge",
        ask(image_config={"aspect_ratio": "21:9", "image_size": "4K"}),
        (3840, 1632),
    ),
    Size("a size among OpenRouter's settings", ask(image_config={"size": "1536x1024"}), (1536, 1024)),
    Size(
        "metadata wins over a ratio",
        ask(metadata={"size": "auto"}, image_config={"aspect_ratio": "16:9"}),
        (1024, 1024),
    ),
    Size("the prefix wins over a ratio", ask("2048x2048 'x'", image_config={"aspect_ratio": "16:9"}), (2048, 2048)),
)


@pytest.mark.parametrize("case", SIZES, ids=lambda case: case.id)
def test_size(case: Size) -> None:
    question = parse_chat_request(case.body)
    assert (question.width, question.height) == case.size


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ("bogus", "Expected WIDTHxHEIGHT, for example '1824x1024'."),
        ("1920x1080", "Width and height must both be divisible by 16."),
        ("1081x1920", "Width and height must both be divisible by 16."),
        ("4096x2048", "The longest edge must be less than or equal to 3840."),
        ("512x512", "Requested resolution is below the current minimum pixel budget."),
        ("3840x2176", "Requested resolution exceeds the current pixel budget."),
        ("2448x800", "The aspect ratio must be between 1:3 and 3:1."),
    ],
)
def test_a_size_beyond_the_limits(size: str, reason: str) -> None:
    with pytest.raises(DemoApiError) as caught:
        parse_chat_request(ask(f"{size} 'x'") if size != "bogus" else ask(metadata={"size": size}))
    error = caught.value.body["error"]
    assert error["message"] == f"Invalid size '{size}'. {reason}"
    assert (error["param"], error["code"]) == ("size", "invalid_value")


@pytest.mark.parametrize("size", ["3840x2160", "2160x3840", "1024x640", "2400x800", "800x2400"])
def test_a_size_at_the_limits(size: str) -> None:
    assert "{}x{}".format(*parse_size(size)) == size


def test_pictures_of_the_whole_conversation_and_the_text_of_its_end() -> None:
    def image(url: object) -> dict[str, Any]:
        return {"type": "image_url", "image_url": url}

    messages = [
        {"role": "system", "content": "Paint."},
        {"role": "user", "content": [{"type": "text", "text": "first"}, image({"url": PIXEL})]},
        {"role": "assistant", "content": "done"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, image("https://e.x/a.png")],
        },
    ]
    question = parse_chat_request(ask(messages=messages, stream=True, modalities=["image", "text"]))
    assert question.prompt == "a\nb"
    assert question.image_urls == (PIXEL, "https://e.x/a.png")
    assert question.stream
    assert question.has_image_modality


def test_plain_questions() -> None:
    question = parse_chat_request(ask(stream=None, modalities=None, metadata={"quality": "high", "note": "x"}))
    assert (question.quality, question.stream, question.has_image_modality) == ("high", False, False)
    assert parse_chat_request(ask(image_config={"quality": "low"})).quality == "low"


@dataclass(frozen=True)
class Bad:
    id: str
    body: object
    param: str | None
    code: str | None


BAD = (
    Bad("no object", [1], None, None),
    Bad("no model", {"messages": []}, "model", "missing_required_parameter"),
    Bad("a model that is no text", ask(model=1), "model", "invalid_type"),
    Bad("no messages", {"model": "m"}, "messages", "missing_required_parameter"),
    Bad("messages that are no list", ask(messages="x"), "messages", "invalid_type"),
    Bad("no user message", ask(messages=[{"role": "system", "content": "x"}, 5]), "messages", "invalid_value"),
    Bad("no text", ask([{"type": "image_url", "image_url": {"url": PIXEL}}]), "messages", "invalid_value"),
    Bad("content that is no list", ask(5), "content", "invalid_type"),
    Bad("a part that is no object", ask(["x"]), "messages", "invalid_value"),
    Bad("a part of another type", ask([{"type": "file", "file": {}}]), "messages", "invalid_value"),
    Bad("a picture without a link", ask([{"type": "image_url", "image_url": {}}]), "messages", "invalid_value"),
    Bad("a text that is no text", ask([{"type": "text", "text": 5}]), "messages", "invalid_value"),
    Bad("a stream that is no boolean", ask(stream="true"), "stream", "invalid_type"),
    Bad("metadata that is no object", ask(metadata="high"), "metadata", "invalid_type"),
    Bad("metadata that is no text", ask(metadata={"n": 2}), "n", "invalid_type"),
    Bad("a long key of metadata", ask(metadata={"k" * 65: "v"}), "metadata", "string_above_max_length"),
    Bad("a long value of metadata", ask(metadata={"k": "v" * 513}), "metadata", "string_above_max_length"),
    Bad("many metadata", ask(metadata={str(n): "v" for n in range(17)}), "metadata", "object_above_max_properties"),
    Bad("a quality nobody knows", ask(metadata={"quality": "ultra"}), "quality", "invalid_value"),
    Bad("a ratio that is none", ask(image_config={"aspect_ratio": "0:9"}), "image_config", "invalid_value"),
    Bad(
        "a size nobody knows",
        ask(image_config={"aspect_ratio": "1:1", "image_size": "8K"}),
        "image_config",
        "invalid_value",
    ),
    Bad("a ratio beyond the limits", ask(image_config={"aspect_ratio": "4:1"}), "size", "invalid_value"),
    Bad("modalities that are no list", ask(modalities=1), "modalities", "invalid_type"),
)


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_refusals(case: Bad) -> None:
    with pytest.raises(DemoApiError) as caught:
        parse_chat_request(case.body)
    assert caught.value.status == 400
    error = caught.value.body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["param"], error["code"]) == (case.param, case.code)


def test_data_urls() -> None:
    assert decode_data_url(PIXEL) == b"\x89PNG\r\n\x1a\n"
    assert decode_data_url("https://example.com/a.png") is None
    for damaged in ("data:image/png;base64,@@", "data:image/png;base64,é"):
        with pytest.raises(DemoApiError, match="unsupported image"):
            decode_data_url(damaged)
