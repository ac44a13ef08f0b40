"""Requests are read from JSON and from forms, or refused with the official wording; every parameter is needed."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.protocol import request_parser
from app.protocol.image_request import PARAMETERS, PARAMETERS_OF, ImagesRequest, schema
from app.protocol.input_images import InputImage
from app.protocol.parameters import Destination, FormPart, Operation
from app.protocol.request_parser import read_form, read_json
from app.protocol.sizes import Size
from tests.support.memory_sink import MemorySink

GENERATION, EDIT = Operation.GENERATION, Operation.EDIT
LINK = "https://example.com/cat.png"
IRE, IGU = "invalid_request_error", "image_generation_user_error"


ONE, TWO, EMPTY = MemorySink(b"abc"), MemorySink(b"def"), MemorySink()


def parts(*given: tuple[str, Any]) -> list[FormPart]:
    return [FormPart(name, value) for name, value in given]


@dataclass(frozen=True)
class Json:
    name: str
    body: dict[str, Any]
    read: dict[str, Any]
    operation: Operation = GENERATION


JSON = [
    Json("a prompt is enough", {}, {"model": None, "n": 1, "size": None, "quality": None, "stream": False}),
    Json("any model may be named", {"model": "dall-e-3"}, {"model": "dall-e-3"}),
    Json("an empty model is none", {"model": ""}, {"model": None}),
    Json("the longest prompt", {"prompt": "猫" * 32_000}, {"prompt": "猫" * 32_000}),
    Json("a prompt of one visible character", {"prompt": " \n🐈 "}, {"prompt": " \n🐈 "}),
    Json("ten images", {"n": 10}, {"n": 10}),
    Json(
        "a whole number with a point",
        {"n": 2.0, "output_format": "webp", "output_compression": 80.0},
        {"n": 2, "output_compression": 80},
    ),
    Json(
        "a ratio where OpenRouter has it",
        {"image_config": {"aspect_ratio": "16:9"}},
        {"size": Size(2048, 1152), "ignored": ()},
    ),
    Json("auto in capitals", {"size": "AUTO", "aspect_ratio": "Auto"}, {"size": None, "ignored": ()}),
    Json("a size", {"size": "1536x1024"}, {"size": Size(1536, 1024), "size_text": "1536x1024"}),
    Json("auto leaves the choice to the model", {"size": "auto"}, {"size": None, "size_text": "auto", "ignored": ()}),
    Json("an empty size leaves the choice to the model", {"size": ""}, {"size": None, "ignored": ()}),
    Json("SiliconFlow's name for the size", {"image_size": "1024x1536"}, {"size": Size(1024, 1536), "ignored": ()}),
    Json(
        "two names that agree",
        {"image_size": "1024x1024", "size": "1024x1024"},
        {"size": Size(1024, 1024), "ignored": ()},
    ),
    Json("image_size is used if size is null", {"size": None, "image_size": "1024x1024"}, {"size": Size(1024, 1024)}),
    Json("quality", {"quality": "low"}, {"quality": "low"}),
    Json("quality of dall-e-3, plain", {"quality": "standard"}, {"quality": "medium"}),
    Json("quality of dall-e-3, better", {"quality": "hd"}, {"quality": "high"}),
    Json("quality beyond high", {"quality": "xhigh"}, {"quality": "high"}),
    Json("the highest quality", {"quality": "max"}, {"quality": "high"}),
    Json("quality auto leaves the choice to the model", {"quality": "auto"}, {"quality": None, "ignored": ()}),
    Json(
        "a format with compression",
        {"output_format": "webp", "output_compression": 0},
        {"output_format": "webp", "output_compression": 0, "ignored": ()},
    ),
    Json("PNG is not compressed", {"output_compression": 50}, {"ignored": ("output_compression",)}),
    Json(
        "PNG by name is not compressed either",
        {"output_format": "png", "output_compression": 50},
        {"ignored": ("output_compression",)},
    ),
    Json("100 percent is the default", {"output_compression": 100}, {"output_compression": 100, "ignored": ()}),
    Json("a link is requested", {"response_format": "url"}, {"response_format": "url"}),
    Json("base64 is requested", {"response_format": "b64_json"}, {"response_format": "b64_json"}),
    Json("a stream", {"stream": True, "partial_images": 3}, {"stream": True, "partial_images": 3, "ignored": ()}),
    Json("a stream of one", {"stream": True, "n": 1}, {"stream": True, "n": 1}),
    Json("several without a stream", {"stream": False, "n": 2}, {"stream": False, "n": 2}),
    Json("partial images need a stream", {"partial_images": 2}, {"ignored": ("partial_images",)}),
    Json("no partial images", {"partial_images": 0}, {"ignored": ()}),
    Json("a user", {"user": "u"}, {"user": "u"}),
    Json("the safety identifier is the user", {"user": "u", "safety_identifier": "s"}, {"user": "s"}),
    Json("an empty safety identifier is none", {"user": "u", "safety_identifier": ""}, {"user": "u"}),
    Json("metadata", {"metadata": {"a": 1, "b": None}}, {"metadata": {"a": "1"}}),
    Json(
        "size and quality in metadata have no effect",
        {"metadata": {"size": "1x1", "quality": "low", " Size": "2x2", "a": "b"}},
        {"metadata": {"a": "b"}, "ignored": ("metadata.size", "metadata.quality", "metadata._Size")},
    ),
    Json("transparency has no effect at most upstreams", {"background": "transparent"}, {"ignored": ("background",)}),
    Json(
        "transparency and WebP",
        {"background": "transparent", "output_format": "webp"},
        {"background": "transparent", "output_format": "webp"},
    ),
    Json(
        "defaults without effect are not named",
        {"background": "auto", "moderation": "auto"},
        {"background": None, "moderation": None, "ignored": ()},
    ),
    Json(
        "parameters without effect are named",
        {
            "svg": {},
            "moderation": "low",
            "style": "vivid",
            "complexity": "high",
            "frame_count": 9,
            "frame_duration_ms": 200,
        },
        {"ignored": ("moderation", "style", "complexity", "frame_count", "frame_duration_ms", "svg")},
    ),
    Json(
        "unknown parameters are named and have no effect",
        {"messages": [], "tools": [1], "api_base": "http://h", "extra_headers": {}, "seed": 1},
        {"ignored": ("messages", "tools", "api_base", "extra_headers", "seed")},
    ),
    Json("names are made safe for a header", {"a\r\nb: c": 1, "é": 2, "è": 3}, {"ignored": ("a__b__c", "_")}),
    Json(
        "texts of unknown parameters that may have links",
        {"webhook": "https://a.example/x", "extra": {"notes": ["https://b.example", "word", 1]}, "seed": 1},
        {"unread": ("https://a.example/x", "https://b.example")},
    ),
    Json("of many such texts only some", {f"x{i}": "/" * 20_000 for i in range(9)}, {"unread": ("/" * 20_000,) * 3}),
    Json("of very many values only some", {"x": ["/"] * 5_000}, {"unread": ("/",) * 999}),
    Json("at most 32 names", {f"x{i}": 1 for i in range(99)}, {"ignored": tuple(f"x{i}" for i in range(32))}),
    Json(
        "null means the same as absence",
        dict.fromkeys((*(row.name for row in PARAMETERS), "foo", "image")) | {"prompt": "p"},
        {"ignored": ()},
    ),
    Json("an empty list of images", {"images": []}, {"images": (), "ignored": ("images",)}),
    Json("fidelity belongs to edits", {"input_fidelity": "high"}, {"ignored": ("input_fidelity",)}),
    Json("fidelity belongs to edits, right or wrong", {"input_fidelity": 5}, {"ignored": ("input_fidelity",)}),
    Json("an edit", {"images": [{"image_url": LINK}]}, {"images": (InputImage(url=LINK),), "mask": None}, EDIT),
    Json("an edit of a single image", {"image": LINK}, {"images": (InputImage(url=LINK),), "ignored": ()}, EDIT),
    Json(
        "an empty second name of the images",
        {"images": [LINK], "image": []},
        {"images": (InputImage(url=LINK),), "ignored": ("image",)},
        EDIT,
    ),
    Json(
        "a mask",
        {"images": [LINK], "mask": {"image_url": LINK}},
        {"mask": InputImage(url=LINK), "ignored": ()},
        EDIT,
    ),
    Json("markup", {"images": [LINK], "markup": LINK}, {"markup": InputImage(url=LINK), "ignored": ()}, EDIT),
    Json("quality that is lowered, in capitals", {"quality": "XHigh"}, {"quality": "high", "ignored": ("quality",)}),
    Json("the ending of a JPEG", {"output_format": "jpg"}, {"output_format": "jpeg"}),
    Json("quality that is lowered", {"quality": "xhigh"}, {"quality": "high", "ignored": ("quality",)}),
    Json("quality by an old name", {"quality": "hd"}, {"quality": "high", "ignored": ()}),
    Json(
        "high fidelity has no effect",
        {"images": [LINK], "input_fidelity": "high"},
        {"ignored": ("input_fidelity",)},
        EDIT,
    ),
    Json("low fidelity is the default", {"images": [LINK], "input_fidelity": "low"}, {"ignored": ()}, EDIT),
    Json("style belongs to generations", {"images": [LINK], "style": "loud"}, {"ignored": ("style",)}, EDIT),
]


@pytest.mark.parametrize("case", JSON, ids=lambda case: case.name)
def test_json_is_read(case: Json) -> None:
    request = read_json(case.operation, {"prompt": "a cat"} | case.body)
    assert {name: getattr(request, name) for name in case.read} == case.read
    assert request.operation is case.operation


@dataclass(frozen=True)
class Wrong:
    name: str
    body: Any
    message: str
    param: str | None
    code: str
    type: str = IRE
    operation: Operation = GENERATION


TWICE = "Invalid parameter: '{}'. This parameter already has a different value in your parameters."
TO_EDITS = "Unknown parameter: '{}'. To edit images, use /v1/images/edits with '{}'."

WRONG_JSON = [
    Wrong("a list", [], "The body of the request must be a JSON object.", None, "invalid_type"),
    Wrong("null", None, "The body of the request must be a JSON object.", None, "invalid_type"),
    Wrong("nothing", {}, "Missing required parameter: 'prompt'.", "prompt", "missing_required_parameter"),
    Wrong(
        "the prompt is null",
        {"prompt": None},
        "Invalid type for 'prompt': expected a string, but got null instead.",
        "prompt",
        "invalid_type",
    ),
    Wrong(
        "the prompt is white space",
        {"prompt": " \t\u3000\u200b\n"},
        "Invalid 'prompt': a string of white space only. Expected at least one visible character.",
        "prompt",
        "empty_string",
    ),
    Wrong(
        "the prompt is empty",
        {"prompt": ""},
        "Invalid 'prompt': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        "prompt",
        "empty_string",
    ),
    Wrong(
        "the prompt is too long",
        {"prompt": "p" * 32_001},
        "Invalid 'prompt': string too long. "
        "Expected a string with maximum length 32000, but got a string with length 32001 instead.",
        "prompt",
        "string_above_max_length",
    ),
    Wrong(
        "the model comes first",
        {"model": 5, "n": 0},
        "Invalid type for 'model': expected a string, but got an integer instead.",
        "model",
        "invalid_type",
    ),
    Wrong(
        "the model has a line break",
        {"model": "a\nb"},
        "Invalid 'model': control characters are not allowed.",
        "model",
        "invalid_value",
    ),
    Wrong(
        "the prompt comes before n",
        {"n": 0},
        "Missing required parameter: 'prompt'.",
        "prompt",
        "missing_required_parameter",
    ),
    Wrong(
        "the images come before n",
        {"prompt": "p", "n": 0},
        "Missing required parameter: 'images'.",
        "images",
        "missing_required_parameter",
        operation=EDIT,
    ),
    Wrong(
        "n comes before quality",
        {"prompt": "p", "quality": "ultra", "n": 0},
        "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        "n",
        "integer_below_min_value",
    ),
    Wrong(
        "quality comes before compression",
        {"prompt": "p", "size": "bogus", "output_compression": 101, "quality": "ultra"},
        "Invalid value: 'ultra'. Supported values are: 'low', 'medium', 'high', and 'auto'.",
        "quality",
        "invalid_value",
    ),
    Wrong(
        "compression comes before size",
        {"prompt": "p", "size": "bogus", "output_compression": 101},
        "Invalid 'output_compression': integer above maximum value. Expected a value <= 100, but got 101 instead.",
        "output_compression",
        "integer_above_max_value",
    ),
    Wrong(
        "size",
        {"prompt": "p", "size": "bogus", "background": "blue"},
        "Invalid size 'bogus'. Expected WIDTHxHEIGHT, for example '1824x1024'.",
        "size",
        "invalid_value",
        IGU,
    ),
    Wrong(
        "n is too large",
        {"prompt": "p", "n": 11},
        "Invalid 'n': integer above maximum value. Expected a value <= 10, but got 11 instead.",
        "n",
        "integer_above_max_value",
    ),
    Wrong(
        "n is a text",
        {"prompt": "p", "n": "2"},
        "Invalid type for 'n': expected an integer, but got a string instead.",
        "n",
        "invalid_type",
    ),
    Wrong(
        "GIF is not supported",
        {"prompt": "p", "output_format": "gif"},
        "Invalid value: 'gif'. Supported values are: 'png', 'jpeg', and 'webp'.",
        "output_format",
        "invalid_value",
    ),
    Wrong(
        "two choices",
        {"prompt": "p", "moderation": "high"},
        "Invalid value: 'high'. Supported values are: 'auto' and 'low'.",
        "moderation",
        "invalid_value",
    ),
    Wrong(
        "a stream of two",
        {"prompt": "p", "stream": True, "n": 2},
        "Streaming is only supported with n=1.",
        "input",
        "unsupported_parameter",
        IGU,
    ),
    Wrong(
        "a transparent JPEG",
        {"prompt": "p", "background": "transparent", "output_format": "jpeg"},
        "Transparent background is not supported for JPEG output format",
        "background",
        "invalid_value",
        IGU,
    ),
    Wrong(
        "markup beside a mask",
        {"prompt": "p", "images": [LINK], "mask": LINK, "markup": LINK},
        "Invalid parameter: 'markup'. It cannot be used together with 'mask'.",
        "markup",
        "invalid_value",
        IGU,
        EDIT,
    ),
    Wrong(
        "an image to generate from",
        {"prompt": "p", "image": LINK},
        TO_EDITS.format("image", "images"),
        "image",
        "unknown_parameter",
    ),
    Wrong(
        "images to generate from",
        {"prompt": "p", "images": [LINK]},
        TO_EDITS.format("images", "images"),
        "images",
        "unknown_parameter",
    ),
    Wrong(
        "a mask to generate with",
        {"prompt": "p", "mask": LINK},
        TO_EDITS.format("mask", "images"),
        "mask",
        "unknown_parameter",
    ),
    Wrong(
        "images are null",
        {"prompt": "p", "images": None},
        "Invalid type for 'images': expected an array of objects, but got null instead.",
        "images",
        "invalid_type",
        operation=EDIT,
    ),
    Wrong(
        "no images in the list",
        {"prompt": "p", "images": []},
        "Invalid 'images': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        "images",
        "empty_array",
        operation=EDIT,
    ),
    Wrong(
        "two names for the images",
        {"prompt": "p", "images": [LINK], "image": LINK},
        TWICE.format("image"),
        "image",
        "invalid_value",
        operation=EDIT,
    ),
    Wrong(
        "an object in metadata",
        {"prompt": "p", "metadata": {"a": {}}},
        "Invalid type for 'metadata.a': expected a string, but got an object instead.",
        "metadata.a",
        "invalid_type",
    ),
]


def check(caught: InvalidRequest, case: Wrong) -> None:
    assert caught.status == 400
    assert (caught.message, caught.type, caught.param, caught.code) == (case.message, case.type, case.param, case.code)


@pytest.mark.parametrize("case", WRONG_JSON, ids=lambda case: case.name)
def test_wrong_json_is_refused(case: Wrong) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_json(case.operation, case.body)
    check(caught.value, case)


@dataclass(frozen=True)
class Form:
    name: str
    parts: list[FormPart]
    read: dict[str, Any]
    operation: Operation = EDIT


FORM = [
    Form("a prompt and an image", parts(("image", ONE)), {"prompt": "a cat", "images": (InputImage(ONE),)}),
    Form("a list of images", parts(("image[]", ONE), ("image[]", TWO)), {"images": (InputImage(ONE), InputImage(TWO))}),
    Form(
        "numbered images", parts(("image[1]", TWO), ("image[0]", ONE)), {"images": (InputImage(ONE), InputImage(TWO))}
    ),
    Form(
        "a ratio where OpenRouter has it",
        parts(("image", ONE), ("image_config[aspect_ratio]", "16:9")),
        {"size": Size(2048, 1152), "ignored": ()},
    ),
    Form("a whole number with a point", parts(("image", ONE), ("n", "2.0")), {"n": 2}),
    Form("a mask in brackets", parts(("image", ONE), ("mask[]", TWO)), {"mask": InputImage(TWO)}),
    Form("a link in place of a file", parts(("image", LINK)), {"images": (InputImage(url=LINK),)}),
    Form(
        "an empty file is absent",
        parts(("image", ONE), ("mask", EMPTY), ("photo", EMPTY)),
        {"mask": None, "ignored": ()},
    ),
    Form(
        "what go-openai writes for unset fields",
        parts(("image", ONE), ("n", "0"), ("size", ""), ("response_format", ""), ("quality", ""), ("user", "")),
        {"n": 1, "size": None, "response_format": None, "quality": None, "user": None, "ignored": ()},
    ),
    Form(
        "numbers and booleans are text",
        parts(("image", ONE), ("n", "2"), ("stream", "false")),
        {"n": 2, "stream": False},
    ),
    Form("the same value twice", parts(("image", ONE), ("n", "2"), ("n", "2")), {"n": 2}),
    Form("an empty value beside one", parts(("image", ONE), ("n", ""), ("n", "2")), {"n": 2}),
    Form("metadata in brackets", parts(("image", ONE), ("metadata[a]", "1")), {"metadata": {"a": "1"}, "ignored": ()}),
    Form(
        "size in metadata",
        parts(("image", ONE), ("metadata", '{"size": "1x1"}')),
        {"metadata": {}, "ignored": ("metadata.size",)},
    ),
    Form("markup", parts(("image", ONE), ("markup", TWO)), {"markup": InputImage(source=TWO), "ignored": ()}),
    Form(
        "quality that is lowered",
        parts(("image", ONE), ("quality", "max")),
        {"quality": "high", "ignored": ("quality",)},
    ),
    Form(
        "unknown texts are named",
        parts(("image", ONE), ("tags[]", "a"), ("tags[]", "b"), ("style", "loud"), ("[", "x"), ("foo", "")),
        {"ignored": ("tags", "style", "_")},
    ),
    Form("generations take forms too", parts(("size", "1024x1024")), {"size": Size(1024, 1024)}, GENERATION),
    Form("no image was chosen in the browser", parts(("image", EMPTY)), {"images": ()}, GENERATION),
]


@pytest.mark.parametrize("case", FORM, ids=lambda case: case.name)
def test_forms_are_read(case: Form) -> None:
    request = read_form(case.operation, [*case.parts, FormPart("prompt", "a cat")])
    assert {name: getattr(request, name) for name in case.read} == case.read


IMAGES_IN_FORM = "Unknown parameter: '{}'. For multipart/form-data use 'image' or 'image[]'."

WRONG_FORM = [
    Wrong(
        "no prompt",
        parts(("image", ONE)),
        "Missing required parameter: 'prompt'.",
        "prompt",
        "missing_required_parameter",
        operation=EDIT,
    ),
    Wrong(
        "an empty prompt",
        parts(("prompt", ""), ("image", ONE)),
        "Invalid 'prompt': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        "prompt",
        "empty_string",
        operation=EDIT,
    ),
    Wrong(
        "the prompt is a file",
        parts(("prompt", ONE), ("image", ONE)),
        "Invalid type for 'prompt': expected a string, but got a file instead.",
        "prompt",
        "invalid_type",
        operation=EDIT,
    ),
    Wrong(
        "two prompts",
        parts(("prompt", "p"), ("prompt", "q")),
        TWICE.format("prompt"),
        "prompt",
        "invalid_value",
        operation=EDIT,
    ),
    Wrong(
        "no image",
        parts(("prompt", "p")),
        "Missing required parameter: 'image'.",
        "image",
        "missing_required_parameter",
        operation=EDIT,
    ),
    Wrong(
        "an empty image",
        parts(("prompt", "p"), ("image", EMPTY)),
        "Missing required parameter: 'image'. The file under this name is empty.",
        "image",
        "missing_required_parameter",
        operation=EDIT,
    ),
    Wrong(
        "the name that is for JSON, as text in brackets",
        parts(("prompt", "p"), ("image", ONE), ("images[0]", LINK)),
        IMAGES_IN_FORM.format("images"),
        "images",
        "unknown_parameter",
        operation=EDIT,
    ),
    Wrong(
        "a file of an unknown name",
        parts(("prompt", "p"), ("image", ONE), ("my photo", ONE)),
        IMAGES_IN_FORM.format("my_photo"),
        "my_photo",
        "unknown_parameter",
        operation=EDIT,
    ),
    Wrong(
        "a text that is no link",
        parts(("prompt", "p"), ("image", "cat.png")),
        "Invalid type for 'image[0]': expected a file, but got a string instead.",
        "image[0]",
        "invalid_type",
        operation=EDIT,
    ),
    Wrong(
        "two masks",
        parts(("prompt", "p"), ("image", ONE), ("mask", ONE), ("mask[]", TWO)),
        TWICE.format("mask"),
        "mask",
        "invalid_value",
        operation=EDIT,
    ),
    Wrong(
        "a fraction of an image",
        parts(("prompt", "p"), ("image", ONE), ("n", "2.5")),
        "Invalid type for 'n': expected an integer, "
        "but got a string value that could not be converted into an integer.",
        "n",
        "invalid_type",
        operation=EDIT,
    ),
    Wrong(
        "a file to generate from",
        parts(("prompt", "p"), ("photo", ONE)),
        TO_EDITS.format("photo", "image"),
        "photo",
        "unknown_parameter",
    ),
    Wrong(
        "a link to generate from",
        parts(("prompt", "p"), ("image[]", LINK)),
        TO_EDITS.format("image", "image"),
        "image",
        "unknown_parameter",
    ),
]


@pytest.mark.parametrize("case", WRONG_FORM, ids=lambda case: case.name)
def test_wrong_forms_are_refused(case: Wrong) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_form(case.operation, case.body)
    check(caught.value, case)


@dataclass(frozen=True)
class Sample:
    value: Any
    read: Any
    operation: Operation = EDIT
    body: dict[str, Any] = field(default_factory=dict)


SAMPLES = {
    "model": Sample("m", "m"),
    "prompt": Sample("p", "p"),
    "images": Sample([LINK], (InputImage(url=LINK),)),
    "mask": Sample(LINK, InputImage(url=LINK)),
    "n": Sample(2, 2),
    "quality": Sample("hd", "high"),
    "output_compression": Sample(5, 5),
    "size": Sample("1024x1024", Size(1024, 1024)),
    "image_size": Sample("1024x1024", "1024x1024"),
    "aspect_ratio": Sample("16:9", "16:9"),
    "resolution": Sample("2K", "2K"),
    "width": Sample(1024, 1024, body={"height": 1536}),
    "height": Sample(1024, 1024, body={"width": 1536}),
    "background": Sample("opaque", "opaque"),
    "output_format": Sample("webp", "webp"),
    "response_format": Sample("url", "url"),
    "stream": Sample(True, True),
    "partial_images": Sample(1, 1),
    "safety_identifier": Sample("s", "s"),
    "user": Sample("u", "u"),
    "metadata": Sample({"a": "b"}, {"a": "b"}),
    "moderation": Sample("low", "low"),
    "style": Sample("vivid", "vivid", GENERATION),
    "input_fidelity": Sample("high", "high"),
    "complexity": Sample("low", "low"),
    "frame_count": Sample(2, 2),
    "frame_duration_ms": Sample(1, 1),
    "svg": Sample({"model": "m"}, {"model": "m"}),
    "markup": Sample(LINK, InputImage(url=LINK)),
    "as_task": Sample(True, True, body={"async": True}),
    "webhook_url": Sample("https://h/x", "https://h/x"),
}


def body_with(name: str) -> dict[str, Any]:
    sample = SAMPLES[name]
    needed = {"prompt": "p", "images": [LINK]} if sample.operation is EDIT else {"prompt": "p"}
    return needed | sample.body | {name: sample.value}


@pytest.mark.parametrize("name", SAMPLES)
def test_each_parameter_is_read(name: str) -> None:
    assert getattr(read_json(SAMPLES[name].operation, body_with(name)), name) == SAMPLES[name].read


@pytest.mark.parametrize("name", SAMPLES)
def test_each_parameter_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = SAMPLES[name].operation
    rows = tuple(row for row in PARAMETERS_OF[operation] if row.name != name)
    monkeypatch.setitem(request_parser.TABLES, (operation, False), request_parser.parameter_table(rows, form=False))
    with suppress(TypeError, InvalidRequest):  # the prompt has no default, and an image without a place is refused
        request = read_json(operation, body_with(name))
        assert getattr(request, name) != SAMPLES[name].read
        assert name in request.ignored


def test_every_parameter_is_described_once() -> None:
    assert [row.name for row in PARAMETERS] == list(SAMPLES)
    for row in PARAMETERS:
        assert row.description.endswith(".")
        assert row.type.describe()


def test_which_parameters_have_no_effect() -> None:
    without_effect = [row.name for row in PARAMETERS if row.destination is Destination.NONE]
    assert without_effect == [
        "moderation",
        "input_fidelity",
        "complexity",
        "frame_count",
        "frame_duration_ms",
        "svg",
    ]


def test_the_schema_of_a_generation() -> None:
    described = schema(GENERATION, form=False)
    assert described["required"] == ["prompt"]
    assert {"size", "n", "style"} <= described["properties"].keys()
    assert not {"images", "mask", "markup", "input_fidelity"} & described["properties"].keys()


def test_the_schema_of_an_edit() -> None:
    assert schema(EDIT, form=False)["required"] == ["prompt", "images"]
    assert schema(EDIT, form=True)["required"] == ["prompt", "image"]
    assert schema(EDIT, form=True)["properties"]["image"]["items"] == {"type": "string", "format": "binary"}
    assert "style" not in schema(EDIT, form=False)["properties"]


def test_a_schema_is_json() -> None:
    for operation in Operation:
        for form in (False, True):
            assert orjson.loads(orjson.dumps(schema(operation, form=form)))["type"] == "object"


def expect_request_or_refusal(read: Callable[[], ImagesRequest], secret: str) -> None:
    try:
        request = read()
    except InvalidRequest as error:
        # At most 40 characters of a value, or 64 of a name, are quoted.
        message = error.message
    else:
        message = ""
        assert all(len(name) <= 79 and name.isascii() and name.isprintable() for name in request.ignored)
        assert len(request.ignored) <= 32
    assert len(message) < 300
    assert secret not in message


SECRET = "a secret prompt of a client"
NAMES = st.sampled_from([*SAMPLES, "image", "image_size", "foo"]) | st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=99)
    | st.sampled_from(["auto", "high", LINK, "data:,", "1024x1024"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=70), inner, max_size=3),
    max_leaves=6,
)


@given(operation=st.sampled_from(Operation), body=st.dictionaries(NAMES, VALUES, max_size=6) | VALUES)
@settings(max_examples=100)
def test_any_json_is_read_or_refused(operation: Operation, body: Any) -> None:
    expect_request_or_refusal(lambda: read_json(operation, body), SECRET)
    if isinstance(body, dict):
        expect_request_or_refusal(lambda: read_json(operation, {**body, "prompt": SECRET}), SECRET)


BRACKETS = st.sampled_from(["", "", "[]", "[0]", "[7]", "[a]", "[a][b]", "[", "]", "[[]"])
PARTS = st.builds(
    lambda name, brackets, value: FormPart(name + brackets, value),
    NAMES,
    BRACKETS,
    st.sampled_from([ONE, EMPTY, "", "2", "true", "{}", '{"a": []}', LINK, "1024x1024"]) | st.text(max_size=99),
)


@given(operation=st.sampled_from(Operation), given_parts=st.lists(PARTS, max_size=6))
@settings(max_examples=100)
def test_any_form_is_read_or_refused(operation: Operation, given_parts: list[FormPart]) -> None:
    expect_request_or_refusal(lambda: read_form(operation, given_parts), SECRET)
    expect_request_or_refusal(lambda: read_form(operation, [*given_parts, FormPart("prompt", SECRET)]), SECRET)


def test_texts_of_unknown_parts_of_a_form_are_kept_for_their_links() -> None:
    parts = [FormPart("prompt", "a fox"), FormPart("webhook", "https://a.example/x"), FormPart("seed", "1")]
    assert read_form(GENERATION, parts).unread == ("https://a.example/x",)


LINKED = {"image_url": "https://example.com/a.png"}
INLINE = {"image_url": "data:image/png;base64,iVBORw0KGgo="}


@pytest.mark.parametrize(
    ("images", "more", "only_links"),
    [([LINKED, LINKED], {}, True), ([LINKED, INLINE], {}, False), ([LINKED], {"mask": LINKED}, False)],
    ids=["links", "one image is inline", "a mask must be looked at"],
)
def test_whether_all_images_are_links_that_need_no_look(
    images: list[dict[str, str]], more: dict[str, Any], only_links: bool
) -> None:
    request = read_json(Operation.EDIT, {"prompt": "a cat", "images": images, **more})
    assert request.has_only_links is only_links
