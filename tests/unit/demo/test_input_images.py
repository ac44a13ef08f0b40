"""Input images: any format is drawn, damaged ones are rejected, a mask becomes an outline."""

import io
import zlib

import pytest
from PIL import Image, ImageChops

from app.demo import drawing
from app.demo.drawing import InvalidImage, check_image, draw_input_images


def encode(image: Image.Image, encoding: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, encoding)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


RED = encode(Image.new("RGB", (64, 64), (255, 0, 0)))


def draw_inputs(*images: bytes | str) -> Image.Image:
    image = Image.new("RGB", (800, 600), (40, 80, 120))
    draw_input_images(image, images)
    return image


def count(image: Image.Image, color: tuple[int, int, int]) -> int:
    with Image.new("RGB", image.size, color) as plain, ImageChops.difference(image, plain).convert("L") as distance:
        return distance.histogram()[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_an_image_of_any_mode_is_accepted(mode: str) -> None:
    encoding = {"CMYK": "JPEG", "F": "TIFF"}.get(mode, "PNG")
    check_image(encode(Image.new(mode, (40, 30)), encoding))


@pytest.mark.parametrize("encoding", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_an_image_in_any_encoding_is_accepted(encoding: str) -> None:
    check_image(encode(Image.new("RGB", (40, 30), (9, 99, 200)), encoding))


def test_images_of_one_pixel_in_height_or_width() -> None:
    check_image(encode(Image.new("RGB", (3000, 1))))
    check_image(encode(Image.new("RGB", (1, 3000))))


DAMAGED = {
    "not an image": b"<html>",
    "no bytes": b"",
    "cut in the middle": encode(Image.effect_noise((64, 64), 50).convert("RGB"))[:2000],
    "a broken chunk": RED[:45] + bytes(60),
    "a text chunk that unpacks to 80 MiB": RED[:33]
    + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))
    + RED[33:],
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        check_image(data)


def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(InvalidImage, match="too many pixels"):
        check_image(RED)


def test_without_input_images_nothing_is_drawn() -> None:
    with draw_inputs() as image:
        assert count(image, (40, 80, 120)) == 800 * 600


def test_each_image_is_drawn_in_its_frame() -> None:
    blue = encode(Image.new("RGB", (64, 32), (0, 0, 255)))
    with draw_inputs(RED, blue, "https://example.com/" + "a" * 300) as image:
        assert count(image, (255, 0, 0)) == 2 * count(image, (0, 0, 255)) > 5000
        assert count(image, (226, 229, 234)) > 5000


def test_many_images_are_drawn() -> None:
    with draw_inputs(*[RED] * 300) as image:
        assert count(image, (255, 0, 0)) > 100


def test_the_mask_is_outlined_in_the_first_image() -> None:
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (16, 16, 48, 48))
    with (
        draw_inputs(RED, encode(mask)) as image,
        draw_inputs(RED, encode(Image.new("RGBA", (64, 64)).convert("RGB"))) as without,
    ):
        assert count(image, drawing._OUTLINE) > 300
        assert count(without, drawing._OUTLINE) == 0


def test_a_single_transparent_image_is_not_a_mask() -> None:
    with draw_inputs(encode(Image.new("RGBA", (64, 64)))) as image:
        assert count(image, drawing._OUTLINE) == 0
