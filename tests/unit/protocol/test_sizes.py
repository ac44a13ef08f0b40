"""Which sizes are allowed, what is requested upstream, and why the others are refused."""

import math
import re
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import UserError
from app.protocol import sizes
from app.protocol.sizes import LEGACY_SIZES, Size, is_legal, nearest_sizes, parse_size


@dataclass(frozen=True)
class Allowed:
    name: str
    text: str
    size: str | None
    upstream_size: str | None


ALLOWED = [
    Allowed("auto leaves the choice to the model", "auto", None, None),
    Allowed("auto in capitals", "AUTO", None, None),
    Allowed("an empty text leaves the choice too", "", None, None),
    Allowed("the square", "1024x1024", "1024x1024", "1024x1024"),
    Allowed("landscape", "1536x1024", "1536x1024", "1536x1024"),
    Allowed("dall-e-3's landscape keeps to the rules", "1792x1024", "1792x1024", "1792x1024"),
    Allowed("dall-e-3's portrait keeps to the rules", "1024x1792", "1024x1792", "1024x1792"),
    Allowed("1088 is the multiple of 16 next to full HD", "1920x1088", "1920x1088", "1920x1088"),
    Allowed("4K is the longest edge and the most pixels at once", "3840x2160", "3840x2160", "3840x2160"),
    Allowed("4K upright", "2160x3840", "2160x3840", "2160x3840"),
    Allowed("a square of the most pixels", "2880x2880", "2880x2880", "2880x2880"),
    Allowed("a square with just enough pixels", "816x816", "816x816", "816x816"),
    Allowed("exactly the fewest pixels", "1024x640", "1024x640", "1024x640"),
    Allowed("exactly three to one", "3072x1024", "3072x1024", "3072x1024"),
    Allowed("exactly one to three", "1024x3072", "1024x3072", "1024x3072"),
    Allowed("a capital X", "1024X1024", "1024x1024", "1024x1024"),
    Allowed("a times sign", "1536×1024", "1536x1024", "1536x1024"),
    Allowed("an asterisk, as DashScope has it", "1024*1536", "1024x1536", "1024x1536"),
    Allowed("spaces and a unit", "1024 x 1536 px", "1024x1536", "1024x1536"),
    Allowed("dall-e-2's small square is generated larger", "256x256", "256x256", "1024x1024"),
    Allowed("Open WebUI's default is generated larger", "512x512", "512x512", "1024x1024"),
]


@pytest.mark.parametrize("case", ALLOWED, ids=lambda case: case.name)
def test_an_allowed_size_is_read_and_has_a_size_upstream(case: Allowed) -> None:
    size = parse_size(case.text)
    assert (size and str(size)) == case.size
    assert (size and str(size.upstream_size)) == case.upstream_size


@pytest.mark.parametrize("size", LEGACY_SIZES, ids=str)
def test_each_legacy_size_is_needed(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sizes.LEGACY_SIZES, size)
    with pytest.raises(UserError):
        parse_size(str(size))


@dataclass(frozen=True)
class Refused:
    name: str
    text: str
    message: str


FORM = "Expected WIDTHxHEIGHT, for example '1824x1024'."
GRID = "Width and height must both be divisible by 16."
EDGE = "The longest edge must be less than or equal to 3840."
RATIO = "The ratio of the longer to the shorter edge must not exceed 3:1."
MOST = "Requested resolution is above the current maximum pixel budget."
LEAST = "Requested resolution is below the current minimum pixel budget."

REFUSED = [
    Refused("a word", "bogus", f"Invalid size 'bogus'. {FORM}"),
    Refused("a space in front", " 1024x1024", f"Invalid size ' 1024x1024'. {FORM}"),
    Refused("a line break behind", "1024x1024\n", f"Invalid size '1024x1024\n'. {FORM}"),
    Refused("full-width digits", "１０２４x１０２４", f"Invalid size '１０２４x１０２４'. {FORM}"),
    Refused("exponents", "1e3x1e3", f"Invalid size '1e3x1e3'. {FORM}"),
    Refused("nothing", "0x0", f"Invalid size '0x0'. {FORM}"),
    Refused("a leading zero", "01024x1024", f"Invalid size '01024x1024'. {FORM}"),
    Refused("negative", "-1024x1024", f"Invalid size '-1024x1024'. {FORM}"),
    Refused("a tier", "2K", f"Invalid size '2K'. {FORM}"),
    Refused("one side only", "1024x", f"Invalid size '1024x'. {FORM}"),
    Refused("three sides", "1024x1024x1024", f"Invalid size '1024x1024x1024'. {FORM}"),
    Refused("ten digits", "1000000000x1024", f"Invalid size '1000000000x1024'. {FORM}"),
    Refused(
        "thirty digits, quoted in part", "9" * 30 + "x" + "9" * 30, f"Invalid size '{'9' * 30}x{'9' * 9}…'. {FORM}"
    ),
    Refused("nine digits are still a size", "160000000x1024", f"Invalid size '160000000x1024'. {EDGE}"),
    Refused("height off the grid", "1792x936", f"Invalid size '1792x936'. {GRID}"),
    Refused("width off the grid", "1000x1024", f"Invalid size '1000x1024'. {GRID}"),
    Refused("full HD is off the grid", "1920x1080", f"Invalid size '1920x1080'. {GRID}"),
    Refused("the grid comes before the edge", "4097x4096", f"Invalid size '4097x4096'. {GRID}"),
    Refused("too long an edge", "4096x4096", f"Invalid size '4096x4096'. {EDGE}"),
    Refused("one step too long", "3856x2160", f"Invalid size '3856x2160'. {EDGE}"),
    Refused("one step too wide", "3088x1024", f"Invalid size '3088x1024'. {RATIO}"),
    Refused("one step too tall", "1024x3088", f"Invalid size '1024x3088'. {RATIO}"),
    Refused("too many pixels", "3840x3840", f"Invalid size '3840x3840'. {MOST}"),
    Refused("one step too many pixels", "3840x2176", f"Invalid size '3840x2176'. {MOST}"),
    Refused("too few pixels", "640x640", f"Invalid size '640x640'. {LEAST}"),
    Refused("one step too few pixels", "1008x640", f"Invalid size '1008x640'. {LEAST}"),
    Refused("a small size that is no legacy size", "128x128", f"Invalid size '128x128'. {LEAST}"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_size_that_breaks_a_rule_is_refused(case: Refused) -> None:
    with pytest.raises(UserError) as caught:
        parse_size(case.text)
    error = caught.value
    assert error.message.partition(" The nearest legal sizes are ")[0] == case.message
    assert ("nearest" in error.message) == (FORM not in error.message)
    assert (error.type, error.param, error.code) == ("image_generation_user_error", "size", "invalid_value")


NEAREST = {
    "1920x1080": ["1920x1088", "1920x1072"],
    "1000x1024": ["1008x1024", "992x1024"],
    "4096x4096": ["2880x2880", "2864x2880"],
    "640x640": ["816x816", "832x816"],
    "3088x1024": ["3072x1024", "3056x1024"],
    "8000x4000": ["3840x1920", "3824x1920"],
    "1x1": ["816x816", "832x816"],
    "1x999999999": ["1280x3840", "1296x3840"],
}


@pytest.mark.parametrize("text", NEAREST)
def test_the_nearest_legal_sizes_are_named(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_size(text)
    assert caught.value.message.endswith(f"The nearest legal sizes are {' and '.join(NEAREST[text])}.")


@given(st.integers(1, 20_000), st.integers(1, 20_000))
@example(73, 164)
@settings(max_examples=100)
def test_the_nearest_sizes_are_legal_and_near(width: int, height: int) -> None:
    """Two steps of 16 pixels are 0.06 of the shortest edge that is legal, 528."""
    first, second = nearest_sizes(Size(width, height))
    assert first != second
    assert is_legal(first)
    assert is_legal(second)
    ratio = min(max(width / height, 1 / 3), 3)
    for each in (first, second):
        assert abs(math.log(each.width / each.height / ratio)) < 0.06
    if is_legal(Size(width // 16 * 16, height // 16 * 16)):
        assert abs(first.width - width) <= 16
        assert abs(first.height - height) <= 16


@given(st.text(max_size=60) | st.from_regex(r"[0-9]{1,12}x[0-9]{1,12}", fullmatch=True))
@settings(max_examples=100)
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UserError):
        size = parse_size(text)
        assert size is None or str(size) == re.sub("[ px]*$", "", re.sub(" ?[xX×✕*] ?", "x", text))
