"""Images of any prompt and size; the same prompt gives the same image."""

import io

import pytest
from PIL import Image

from app.demo.drawing import ENCODINGS, PALETTES, Scene, draw

PROMPTS = {
    "empty": "",
    "quotes": "it's \"late\", 'they' said",
    "line breaks": "one\r\ntwo\n\n\nthree",
    "Chinese": "参考这张图片,生成一张产品海报。保留主体风格,背景换成明亮的摄影棚。",
    "emoji": "🦊👨‍👩‍👧‍👦🏳️‍🌈",
    "right to left": "שלום עולם مرحبا",
    "control characters": "a\x00b\x1b[31m\u202e\ufeff\U000e0001",
    "one long word": "x" * 32000,
    "many words": "word " * 6400,
    "many lines": "\n" * 3000,
}


def open_image(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_any_prompt_can_be_drawn(prompt: str) -> None:
    with open_image(draw(Scene(prompt, 1024, 640))) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (1024, 640), "RGB")


@pytest.mark.parametrize("size", [(3840, 2160), (2400, 800), (800, 2400), (256, 160), (64, 32)])
def test_an_image_of_any_size_is_drawn(size: tuple[int, int]) -> None:
    with open_image(draw(Scene("a fox", *size))) as image:
        assert image.size == size


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_image_is_drawn_in_any_encoding(encoding: str) -> None:
    with open_image(draw(Scene("a fox", 1024, 640), encoding)) as image:
        assert image.format == encoding


def test_the_same_scene_gives_the_same_image() -> None:
    fox = Scene("a fox", 320, 208)
    assert draw(fox) == draw(Scene("a fox", 320, 208))
    others = [Scene("a fix", 320, 208), Scene("a fox", 320, 208, variant=1), Scene("a fox", 320, 208, "high")]
    assert len({draw(scene) for scene in [fox, *others]}) == 4


def test_every_palette_is_used() -> None:
    corners = set()
    for number in range(60):
        with open_image(draw(Scene(str(number), 64, 48))) as image:
            corners.add(image.getpixel((0, image.height - 1)))
    assert len(corners) == len(PALETTES)


def test_an_input_image_is_drawn() -> None:
    red = io.BytesIO()
    Image.new("RGB", (64, 64), (255, 0, 0)).save(red, "PNG")
    with open_image(draw(Scene("a fox", 1024, 640, input_images=(red.getvalue(),)))) as image:
        assert image.getpixel((100, 100)) == (255, 0, 0)
