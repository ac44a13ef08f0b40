"""Any wish is covered by a legal size, and any image can be brought to exactly that wish."""

import math
import random
from dataclasses import dataclass

import pytest

from app.errors import UserError
from app.protocol.parameters import FormPart, Operation
from app.protocol.request_parser import read_form, read_json
from app.protocol.size_fit import FitPlan, Pixels, SizeMode, parse_size_header, plan_fit, read_size_mode, upscaling
from app.protocol.sizes import MAX_EDGE, SIZE_MULTIPLE, Size, covering_size, is_legal

COVER, CONTAIN, NATIVE = SizeMode.COVER, SizeMode.CONTAIN, SizeMode.NATIVE
LEGAL = [
    size
    for width in range(SIZE_MULTIPLE, MAX_EDGE + 1, SIZE_MULTIPLE)
    for height in range(SIZE_MULTIPLE, MAX_EDGE + 1, SIZE_MULTIPLE)
    if is_legal(size := Size(width, height))
]


# Words

WORDS: list[tuple[str, SizeMode | None]] = [
    ("native", NATIVE),
    ("exact", COVER),
    (" Exact ", COVER),
    ("exact; fit=cover", COVER),
    ("exact, cover", COVER),
    ("exact;fit=contain", CONTAIN),
    ("exact contain", CONTAIN),
    ("contain", CONTAIN),
    ("fit=contain, exact", CONTAIN),
    ("exact; fit=contain", CONTAIN),
    ("", None),
    ("exactly", None),
    ("exact;", None),
    ("native; contain", None),
    ("exact native", None),
    ("cover contain", None),
    ("exact; fit=fill", None),
]


@pytest.mark.parametrize(("text", "mode"), WORDS)
def test_a_size_mode_is_read(text: str, mode: SizeMode | None) -> None:
    assert read_size_mode(text) is mode


def test_each_size_mode_is_written_as_it_is_read() -> None:
    assert [read_size_mode(mode) for mode in SizeMode] == list(SizeMode)


def test_a_header_that_means_nothing_is_refused() -> None:
    assert parse_size_header("exact") is COVER
    with pytest.raises(UserError, match="Expected 'native', 'exact' or 'exact; fit=contain'") as caught:
        parse_size_header("1024x1024")
    assert (caught.value.param, caught.value.code) == ("x-limner-size", "invalid_value")


# Wishes


@dataclass(frozen=True)
class Wish:
    name: str
    body: dict[str, object]
    size: str
    sent: str


WISHES = [
    Wish("full HD is covered by the next height", {"size": "1920x1080"}, "1920x1080", "1920x1088"),
    Wish("a legal size is sent as it is", {"size": "1536x1024"}, "1536x1024", "1536x1024"),
    Wish("a legacy size is requested as ever", {"size": "512x512"}, "512x512", "1024x1024"),
    Wish("a small one is covered in its ratio", {"size": "400x300"}, "400x300", "944x704"),
    Wish("the smallest", {"size": "16x16"}, "16x16", "816x816"),
    Wish("a banner is covered by the flattest legal size", {"size": "1500x100"}, "1500x100", "1504x512"),
    Wish("more pixels than are legal become the nearest", {"size": "3840x3840"}, "3840x3840", "2880x2880"),
    Wish("width and height", {"width": 1000, "height": 700}, "1000x700", "1008x704"),
    Wish("a width and a ratio", {"width": 1000, "aspect_ratio": "16:9"}, "1000x562", "1088x608"),
    Wish("a height and a ratio", {"height": 1000, "aspect_ratio": "16:9"}, "1778x1000", "1792x1008"),
    Wish("a ratio", {"aspect_ratio": "16:9"}, "2048x1152", "2048x1152"),
    Wish("a size under the name of tiers", {"resolution": "1000x1000"}, "1000x1000", "1008x1008"),
    Wish("another name", {"image_size": "1000x1000"}, "1000x1000", "1008x1008"),
]  # fmt: skip


@pytest.mark.parametrize("case", WISHES, ids=lambda case: case.name)
@pytest.mark.parametrize("is_form", [False, True], ids=["JSON", "form"])
def test_an_exact_size_is_read_and_covered(case: Wish, is_form: bool) -> None:
    body = {"prompt": "a fox", **case.body}
    parts = [FormPart(name, str(value)) for name, value in body.items()]
    request = read_form(Operation.GENERATION, parts, COVER) if is_form else read_json(Operation.GENERATION, body, COVER)
    assert request.size is not None
    assert (request.size_mode, str(request.size), str(request.size.upstream_size)) == (COVER, case.size, case.sent)


@pytest.mark.parametrize("size", ["15x16", "16x3841", "9999x9999"])
def test_a_size_beyond_the_limits_is_refused(size: str) -> None:
    with pytest.raises(UserError) as caught:
        read_json(Operation.GENERATION, {"prompt": "a fox", "size": size}, COVER)
    rule = "Width and height of an exact size must both be between 16 and 3840."
    assert (caught.value.message, caught.value.param) == (f"Invalid size '{size}'. {rule}", "size")


def test_without_a_size_nothing_is_fitted() -> None:
    assert read_json(Operation.GENERATION, {"prompt": "a fox"}, COVER).size_mode is NATIVE


def excess(size: Size, wish: Size) -> tuple[float, int]:
    return max(size.width / wish.width, size.height / wish.height), size.width * size.height


def test_the_nearest_covering_size_is_sent() -> None:
    random_sizes = random.Random(17)
    for _ in range(40):
        wish = random_wish(random_sizes)
        covering = [size for size in LEGAL if size.width >= wish.width and size.height >= wish.height]
        if covering:
            assert excess(covering_size(wish), wish) == min(excess(size, wish) for size in covering)
        else:
            assert is_legal(covering_size(wish))


# Geometry


def random_wish(numbers: random.Random) -> Size:
    """Return a size with edges from 16 to 3840, small ones as often as large ones."""
    return Size(*(round(math.exp(numbers.uniform(math.log(16), math.log(MAX_EDGE)))) for _ in range(2)))


def random_answer(numbers: random.Random, wish: Size, sent: Size) -> Pixels:
    """Return what an upstream answers: what was sent, about that, twice as much, or anything."""
    return numbers.choice(
        [
            (sent.width, sent.height),
            (sent.height, sent.width),
            (sent.width + numbers.randint(-15, 15), sent.height + numbers.randint(-15, 15)),
            (2 * sent.width, 2 * sent.height),
            (wish.width, wish.height),
            (numbers.randint(1, 9000), numbers.randint(1, 9000)),
        ]
    )


def check_cover(plan: FitPlan, got: Pixels, wish: Pixels) -> None:
    left, top, right, bottom = plan.box
    kept = right - left, bottom - top
    assert plan.scaled == wish
    assert plan.offset == (0, 0)
    assert 0 <= left < right <= got[0]
    assert 0 <= top < bottom <= got[1]
    # Cut off in one direction only, evenly, and no more than the ratio needs.
    assert kept[0] == got[0] or kept[1] == got[1]
    assert math.isclose(kept[0] * wish[1], kept[1] * wish[0], rel_tol=1e-9)
    assert abs(left - (got[0] - right)) <= 1
    assert abs(top - (got[1] - bottom)) <= 1
    assert math.isclose(plan.scale, wish[0] / kept[0], rel_tol=1e-9)
    if plan.scale == 1:
        assert all(edge == int(edge) for edge in plan.box)


def check_contain(plan: FitPlan, got: Pixels, wish: Pixels) -> None:
    left, top, right, bottom = plan.box
    assert (left + top, right, bottom) == (0, *got)
    assert any(scaled == edge for scaled, edge in zip(plan.scaled, wish, strict=True))
    for axis in (0, 1):
        assert 1 <= plan.scaled[axis] <= wish[axis]
        assert plan.scaled[axis] == 1 or abs(plan.scaled[axis] - got[axis] * plan.scale) <= 0.5 + 1e-6
        assert 0 <= wish[axis] - plan.scaled[axis] - 2 * plan.offset[axis] <= 1


def test_ten_thousand_wishes_are_fitted_without_distortion() -> None:
    numbers = random.Random(20_000)
    for _ in range(10_000):
        wish = random_wish(numbers)
        sent, pixels = wish.upstream_size, (wish.width, wish.height)
        got = random_answer(numbers, wish, sent)
        assert is_legal(sent)
        plan = plan_fit(got, pixels, COVER)
        check_cover(plan, got, pixels)
        check_contain(plan_fit(got, pixels, CONTAIN), got, pixels)
        # An image as large as it was requested is enlarged only if no legal size is large enough.
        covers = sent.width >= wish.width and sent.height >= wish.height
        assert covers == (upscaling((sent.width, sent.height), wish, COVER) == 1)
        if got == pixels:
            assert plan == FitPlan((0, 0, got[0], got[1]), pixels, (0, 0), 1.0)


def test_an_odd_difference_moves_no_pixel() -> None:
    assert plan_fit((1920, 1087), (1920, 1080), COVER).box == (0, 3, 1920, 1083)
