"""Parsing chat requests: the prompt and its prefix, the size, the images, and every error."""

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
    Prefix("a prompt that begins like a prefix", "auto '3840x2160 'a fox''", "auto", "3840x2160 'a fox'"),
    Prefix("line breaks and emoji", "auto 'one\r\ntwo 🦊\n'", "auto", "one\r\ntwo 🦊\n"),
    Prefix("words after the last quote", "1024x1024 'a fox' please", "1024x1024", "a fox"),
    Prefix("quotes lost in a shell", "3840x2160 a fox", "3840x2160", "a fox"),
    Prefix("auto as a word", "auto parts on a shelf", None, "auto parts on a shelf"),
    Prefix("an unclosed quote", "auto 'a fox", None, "auto 'a fox"),
    Prefix("full-width digits", "１０２４x1024 'a fox'", None, "１０２４x1024 'a fox'"),
    Prefix("the prefix not at the start", "a fox 1024x1024 'x'", None, "a fox 1024x1024 'x'"),
    Prefix("an empty prompt", "auto ''", "auto", ""),
)


@pytest.mark.parametrize("case", PREFIXES, ids=lambda case: case.id)
def test_the_size_in_front_is_split_from_the_prompt(case: Prefix) -> None:
    assert split_prefix(case.text) == (case.size, case.prompt)


@dataclass(frozen=True)
class Size:
    id: str
    body: dict[str, Any]
    size: tuple[int, int]


SIZES = (
    Size("no size", ask(), (1024, 1024)),
    Size("in the prefix", ask("1536x1024 'x'"), (1536, 1024)),
    Size("in metadata", ask(metadata={"size": "1024x1536"}), (1024, 1536)),
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
def test_the_size_is_read_where_the_family_reads_it(case: Size) -> None:
    request = parse_chat_request(case.body)
    assert (request.width, request.height) == case.size


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
def test_a_size_outside_the_limits(size: str, reason: str) -> None:
    with pytest.raises(DemoApiError) as caught:
        parse_chat_request(ask(f"{size} 'x'") if size != "bogus" else ask(metadata={"size": size}))
    error = caught.value.body["error"]
    assert error["message"] == f"Invalid size '{size}'. {reason}"
    assert (error["param"], error["code"]) == ("size", "invalid_value")


@pytest.mark.parametrize("size", ["3840x2160", "2160x3840", "1024x640", "2400x800", "800x2400"])
def test_a_size_at_the_limits(size: str) -> None:
    assert "{}x{}".format(*parse_size(size)) == size


def test_the_images_of_the_whole_conversation_and_the_text_of_its_end() -> None:
    def image(url: object) -> dict[str, Any]:
        return {"type": "image_url", "image_url": url}

    messages = [
        {"role": "system", "content": "Draw."},
        {"role": "user", "content": [{"type": "text", "text": "first"}, image({"url": PIXEL})]},
        {"role": "assistant", "content": "done"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, image("https://e.x/a.png")],
        },
    ]
    request = parse_chat_request(ask(messages=messages, stream=True, modalities=["image", "text"]))
    assert request.prompt == "a\nb"
    assert request.image_urls == (PIXEL, "https://e.x/a.png")
    assert request.stream
    assert request.has_image_modality


def test_quality_stream_and_modalities_are_read() -> None:
    request = parse_chat_request(ask(stream=None, modalities=None, metadata={"quality": "high", "note": "x"}))
    assert (request.quality, request.stream, request.has_image_modality) == ("high", False, False)
    assert parse_chat_request(ask(image_config={"quality": "low"})).quality == "low"


@dataclass(frozen=True)
class Invalid:
    id: str
    body: object
    param: str | None
    code: str | None


INVALID = (
    Invalid("not an object", [1], None, None),
    Invalid("no model", {"messages": []}, "model", "missing_required_parameter"),
    Invalid("a model that is not a string", ask(model=1), "model", "invalid_type"),
    Invalid("no messages", {"model": "m"}, "messages", "missing_required_parameter"),
    Invalid("messages that are not a list", ask(messages="x"), "messages", "invalid_type"),
    Invalid("no user message", ask(messages=[{"role": "system", "content": "x"}, 5]), "messages", "invalid_value"),
    Invalid("no text", ask([{"type": "image_url", "image_url": {"url": PIXEL}}]), "messages", "invalid_value"),
    Invalid("content that is not a list", ask(5), "content", "invalid_type"),
    Invalid("a part that is not an object", ask(["x"]), "messages", "invalid_value"),
    Invalid("a part of another type", ask([{"type": "file", "file": {}}]), "messages", "invalid_value"),
    Invalid("an image without a URL", ask([{"type": "image_url", "image_url": {}}]), "messages", "invalid_value"),
    Invalid("a text that is not a string", ask([{"type": "text", "text": 5}]), "messages", "invalid_value"),
    Invalid("a stream that is not a boolean", ask(stream="true"), "stream", "invalid_type"),
    Invalid("metadata that is not an object", ask(metadata="high"), "metadata", "invalid_type"),
    Invalid("metadata that is not a string", ask(metadata={"n": 2}), "n", "invalid_type"),
    Invalid("a metadata key that is too long", ask(metadata={"k" * 65: "v"}), "metadata", "string_above_max_length"),
    Invalid("a metadata value that is too long", ask(metadata={"k": "v" * 513}), "metadata", "string_above_max_length"),
    Invalid(
        "too much metadata", ask(metadata={str(n): "v" for n in range(17)}), "metadata", "object_above_max_properties"
    ),
    Invalid("an unknown quality", ask(metadata={"quality": "ultra"}), "quality", "invalid_value"),
    Invalid("an invalid ratio", ask(image_config={"aspect_ratio": "0:9"}), "image_config", "invalid_value"),
    Invalid(
        "an unknown size",
        ask(image_config={"aspect_ratio": "1:1", "image_size": "8K"}),
        "image_config",
        "invalid_value",
    ),
    Invalid("a ratio outside the limits", ask(image_config={"aspect_ratio": "4:1"}), "size", "invalid_value"),
    Invalid("modalities that are not a list", ask(modalities=1), "modalities", "invalid_type"),
)


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.id)
def test_an_invalid_request_is_refused(case: Invalid) -> None:
    with pytest.raises(DemoApiError) as caught:
        parse_chat_request(case.body)
    assert caught.value.status == 400
    error = caught.value.body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["param"], error["code"]) == (case.param, case.code)


def test_data_urls_are_decoded() -> None:
    assert decode_data_url(PIXEL) == b"\x89PNG\r\n\x1a\n"
    assert decode_data_url("https://example.com/a.png") is None
    for damaged in ("data:image/png;base64,@@", "data:image/png;base64,é"):
        with pytest.raises(DemoApiError, match="unsupported image"):
            decode_data_url(damaged)
