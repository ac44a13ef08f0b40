"""Sizes in every spelling become one legal size, and contradictions are refused."""

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidRequest, UserError
from app.protocol.parameters import FormPart, Operation
from app.protocol.request_parser import read_form, read_json
from app.protocol.size_wishes import RatioParam, SizeParam, TierParam, parse_ratio, size_for
from app.protocol.sizes import LEGACY_SIZES, is_legal
from app.protocol.tiers import RESOLUTIONS

GENERATION, EDIT = Operation


@dataclass(frozen=True)
class Case:
    name: str
    body: dict[str, Any]
    size: str
    asked: str
    operation: Operation = GENERATION


CASES = [
    Case("nothing", {}, "auto", "auto"),
    Case("auto in every field", {"size": "auto", "aspect_ratio": "auto", "image_size": ""}, "auto", "auto"),
    Case("OpenAI's spelling", {"size": "1536x1024"}, "1536x1024", "1536x1024"),
    Case("a capital X", {"size": "1536X1024"}, "1536x1024", "1536x1024"),
    Case("a times sign", {"size": "1536×1024"}, "1536x1024", "1536x1024"),
    Case("an asterisk", {"size": "1536*1024"}, "1536x1024", "1536x1024"),
    Case("width and height", {"width": 1536, "height": 1024}, "1536x1024", "1536x1024"),
    Case("an object, as fal has it", {"image_size": {"width": 1536, "height": 1024}}, "1536x1024", "1536x1024"),
    Case("a ratio alone", {"aspect_ratio": "16:9"}, "2048x1152", "16:9"),
    Case("a ratio as the size", {"size": "16:9"}, "2048x1152", "16:9"),
    Case("a ratio in camel case", {"aspectRatio": "2:3"}, "1024x1536", "2:3"),
    Case("a ratio with an x", {"aspect_ratio": "16x9"}, "2048x1152", "16:9"),
    Case("a ratio of fractions", {"aspect_ratio": "1.91:1"}, "1952x1024", "1.91:1"),
    Case("a ratio as a number", {"aspect_ratio": 1.5}, "1536x1024", "1.5:1"),
    Case("a ratio as a number in a text", {"aspect_ratio": "0.5"}, "1024x2048", "0.5:1"),
    Case("a ratio as a size", {"aspect_ratio": "1920x1080"}, "2048x1152", "1920:1080"),
    Case("a shape, as fal has it", {"image_size": "landscape_16_9"}, "2048x1152", "16:9"),
    Case("a shape in a word", {"size": "portrait"}, "1024x1536", "2:3"),
    Case("a full-width colon", {"size": "16：9"}, "2048x1152", "16:9"),
    Case("a ratio and a tier", {"aspect_ratio": "16:9", "resolution": "2K"}, "2048x1152", "16:9,2K"),
    Case("a ratio and a tier as image_size", {"aspect_ratio": "9:16", "image_size": "4K"}, "2160x3840", "9:16,4K"),
    Case("a ratio and a tier as size", {"aspect_ratio": "4:3", "size": "1k"}, "1152x864", "4:3,1K"),
    Case("the smallest tier", {"aspect_ratio": "1:1", "resolution": "512"}, "512x512", "1:1,512"),
    Case("the smallest tier as a number", {"aspect_ratio": "16:9", "resolution": 512}, "1088x608", "16:9,512"),
    Case("the smallest tier in thousands", {"aspect_ratio": "3:2", "image_size": "0.5K"}, "1008x672", "3:2,512"),
    Case("a tier alone is square", {"size": "2K"}, "2048x2048", "2K"),
    Case("a tier alone leaves an edit its ratio", {"images": ["https://h/a.png"], "size": "2K"}, "auto", "2K", EDIT),
    Case("a size under the name of tiers", {"resolution": "1024x1536"}, "1024x1536", "1024x1536"),
    Case("a size and its ratio", {"size": "1824x1024", "aspect_ratio": "16:9"}, "1824x1024", "1824x1024"),
    Case("a size and its tier", {"size": "1536x1024", "resolution": "1K"}, "1536x1024", "1536x1024"),
    Case("4K and its size", {"size": "3840x2160", "resolution": "4K"}, "3840x2160", "3840x2160"),
    Case("auto and a ratio", {"size": "auto", "aspect_ratio": "3:2"}, "1536x1024", "3:2"),
    Case("a width and a ratio", {"width": 1536, "aspect_ratio": "3:2"}, "1536x1024", "1536x1024"),
    Case("a height and a ratio", {"height": 1024, "aspect_ratio": "2:1"}, "2048x1024", "2048x1024"),
    Case("two names that agree", {"size": "1024x1024", "width": 1024, "height": 1024}, "1024x1024", "1024x1024"),
    Case("a legacy size", {"width": 512, "height": 512}, "512x512", "512x512"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_json_is_read(case: Case) -> None:
    request = read_json(case.operation, {"prompt": "p", **case.body})
    assert (request.size_text, request.asked_size, request.ignored) == (case.size, case.asked, ())


FLAT = [case for case in CASES if all(isinstance(value, str | int | float) for value in case.body.values())]


@pytest.mark.parametrize("case", FLAT, ids=lambda case: case.name)
@pytest.mark.parametrize("operation", Operation)
def test_forms_are_read_alike(case: Case, operation: Operation) -> None:
    image = {"image": "https://h/a.png"} if operation is EDIT else {}
    parts = [FormPart(name, str(value)) for name, value in {"prompt": "p", **case.body, **image}.items()]
    request = read_form(operation, parts)
    expected = "auto" if operation is EDIT and case.asked == "2K" else case.size
    assert (request.size_text, request.asked_size) == (expected, case.asked)


@dataclass(frozen=True)
class Refused:
    name: str
    body: dict[str, Any]
    message: str
    param: str


CONTRADICTION = "'{}' and '{}' contradict each other. Send only one of them."

REFUSED = [
    Refused("two sizes", {"size": "1024x1024", "image_size": "1024x1536"}, CONTRADICTION.format("size", "image_size"), "image_size"),
    Refused("a size and other edges", {"size": "1024x1024", "width": 1024, "height": 1536}, CONTRADICTION.format("size", "width"), "width"),
    Refused("a size of another ratio", {"size": "1536x1024", "aspect_ratio": "16:9"}, CONTRADICTION.format("size", "aspect_ratio"), "aspect_ratio"),
    Refused("a size of another tier", {"size": "1024x1024", "resolution": "4K"}, CONTRADICTION.format("size", "resolution"), "resolution"),
    Refused("two ratios", {"size": "1:1", "aspect_ratio": "16:9"}, CONTRADICTION.format("size", "aspect_ratio"), "aspect_ratio"),
    Refused("two tiers", {"image_size": "1K", "resolution": "2K"}, CONTRADICTION.format("image_size", "resolution"), "resolution"),
    Refused("a width alone", {"width": 1024}, "Missing required parameter: 'height'.", "height"),
    Refused("a height alone", {"height": 1024}, "Missing required parameter: 'width'.", "width"),
    Refused("an illegal size", {"size": "1920x1080"}, "Invalid size '1920x1080'. Width and height must both be divisible by 16. The nearest legal sizes are 1920x1088 and 1920x1072.", "size"),
    Refused("illegal edges", {"width": 1920, "height": 1080}, "Invalid size '1920x1080'. Width and height must both be divisible by 16. The nearest legal sizes are 1920x1088 and 1920x1072.", "width"),
    Refused("no size", {"size": "bogus"}, "Invalid size 'bogus'. Expected WIDTHxHEIGHT, for example '1824x1024'.", "size"),
    Refused("an unknown tier", {"resolution": "8K"}, "Invalid size '8K'. Expected WIDTHxHEIGHT, for example '1824x1024'.", "resolution"),
    Refused("too wide", {"aspect_ratio": "4:1"}, "Invalid aspect_ratio '4:1'. The ratio must lie between 1:3 and 3:1.", "aspect_ratio"),
    Refused("too high", {"aspect_ratio": 0.2}, "Invalid aspect_ratio '0.2:1'. The ratio must lie between 1:3 and 3:1.", "aspect_ratio"),
    Refused("nothing wide", {"aspect_ratio": "0:9"}, "Invalid aspect_ratio '0:9'. The ratio must lie between 1:3 and 3:1.", "aspect_ratio"),
    Refused("nothing high", {"size": "9:0"}, "Invalid size '9:0'. The ratio must lie between 1:3 and 3:1.", "size"),
    Refused("no ratio", {"aspect_ratio": "wide"}, "Invalid aspect_ratio 'wide'. Expected WIDTH:HEIGHT, for example '16:9'.", "aspect_ratio"),
    Refused("a ratio of another type", {"aspect_ratio": [16, 9]}, "Invalid type for 'aspect_ratio': expected a string, but got an array instead.", "aspect_ratio"),
    Refused("a true ratio", {"aspect_ratio": True}, "Invalid type for 'aspect_ratio': expected a string, but got a boolean instead.", "aspect_ratio"),
    Refused("a size of another type", {"size": 1024}, "Invalid type for 'size': expected a string, but got an integer instead.", "size"),
    Refused("an object with more than edges", {"size": {"width": 1024, "height": 1024, "depth": 3}}, "Invalid type for 'size': expected a string, but got an object instead.", "size"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_wrong_size_is_refused(case: Refused) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_json(GENERATION, {"prompt": "p", **case.body})
    assert (caught.value.message, caught.value.param) == (case.message, case.param)


TABLE = {
    "1:1": "1024x1024 512x512 1024x1024 2048x2048 2880x2880",
    "3:2": "1536x1024 1008x672 1248x832 2064x1376 3504x2336",
    "16:9": "2048x1152 1088x608 1280x720 2048x1152 3840x2160",
    "9:16": "1152x2048 608x1088 720x1280 1152x2048 2160x3840",
    "21:9": "2464x1056 1264x544 1568x672 2016x864 3808x1632",
    "3:1": "3072x1024 1440x480 1776x592 2064x688 3840x1280",
}


@pytest.mark.parametrize("ratio", TABLE)
def test_the_sizes_of_usual_ratios(ratio: str) -> None:
    parsed = parse_ratio(ratio, "size")
    assert parsed is not None
    assert " ".join(str(size_for(parsed.quotient, tier)) for tier in (None, *RESOLUTIONS)) == TABLE[ratio]


@given(st.floats(math.log(1 / 3) + 1e-6, math.log(3) - 1e-6), st.sampled_from([None, *RESOLUTIONS]))
@settings(max_examples=200)
def test_any_ratio_becomes_a_legal_size_of_about_its_shape(logarithm: float, tier: str | None) -> None:
    size = size_for(math.exp(logarithm), tier)
    assert is_legal(size) or size in LEGACY_SIZES
    assert abs(math.log(size.width / size.height) - logarithm) < 0.012


@given(st.floats(math.log(1 / 3) + 1e-6, math.log(3) - 1e-6))
@settings(max_examples=100)
def test_a_higher_tier_never_has_fewer_pixels(logarithm: float) -> None:
    pixels = [size.width * size.height for size in (size_for(math.exp(logarithm), tier) for tier in RESOLUTIONS)]
    assert pixels == sorted(pixels)


@pytest.mark.parametrize("kind", [SizeParam(), RatioParam(), TierParam()])
def test_types_describe_themselves(kind: SizeParam | RatioParam | TierParam) -> None:
    assert kind.describe()
    assert kind.schema(form=False)["type"] == "string"


@given(st.text(max_size=20) | st.from_regex(r"[0-9]{1,6}[:x][0-9]{1,6}", fullmatch=True))
@settings(max_examples=200)
def test_any_text_is_read_or_refused(text: str) -> None:
    for name in ("size", "aspect_ratio", "resolution", "image_size"):
        with suppress(UserError):
            request = read_json(GENERATION, {"prompt": "p", name: text})
            assert request.size is None or is_legal(request.size) or request.size in LEGACY_SIZES
            assert request.asked_size.isascii()
