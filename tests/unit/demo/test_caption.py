"""Captions fit into the image, with an installed font."""

from collections.abc import Iterator

import pytest
from PIL import Image, ImageChops, ImageFont

from app.demo import drawing
from app.demo.drawing import find_font, write_caption


@pytest.fixture(autouse=True)
def _forget_fonts() -> Iterator[None]:
    drawing._installed_font.cache_clear()
    yield
    drawing._installed_font.cache_clear()


def caption_box(text: str, size: tuple[int, int] = (400, 300)) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the caption, without the footer."""
    with Image.new("RGB", size, (90, 90, 90)) as plain, plain.copy() as image:
        write_caption(image, text, "")
        box = ImageChops.difference(image, plain).getbbox()
        assert box is not None
        return box


@pytest.mark.parametrize(
    "text", ["fox", "a fox and a hen " * 5, "x" * 900, "狐" * 60, "word " * 500], ids=lambda text: text[:9]
)
def test_the_text_stays_in_the_lower_part(text: str) -> None:
    left, top, right, bottom = caption_box(text)
    assert left >= 0.05 * 300
    assert right <= 0.96 * 400
    assert top >= 0.7 * 300
    assert bottom <= 0.95 * 300


def test_a_short_text_is_larger_than_a_long_one() -> None:
    _, top, _, bottom = caption_box("x")
    with Image.new("RGB", (400, 300)) as image:
        assert bottom - top > find_font(13, latin=True).getbbox("x")[3] - find_font(13, latin=True).getbbox("x")[1]
        write_caption(image, "", "footer")
        assert image.getbbox()


def test_a_font_for_other_scripts_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    installed = ImageFont.load_default(20)

    def load(name: str, size: float, **_: object) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        tried.append(name)
        if name != drawing.FONTS[2]:
            raise OSError("not installed")
        return installed

    monkeypatch.setattr(ImageFont, "truetype", load)
    find_font(20, latin=False)
    find_font(20, latin=False)
    assert tried == list(drawing.FONTS[:3])


def test_no_font_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "FONTS", ("no-such-font.ttf",))
    find_font(20, latin=False)
    caption_box("狐狸")
