"""Draw a landscape of any size with the prompt written on it. The same prompt always gives the same image."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageFont, ImageOps

#: Fonts with more than Latin characters, best first; the first installed one is used.
FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "DejaVuSans.ttf",
)

#: Longer prompts are cut: more text cannot be read in an image.
MAX_CAPTION_CHARS = 700

#: Where a line may break: before each character of scripts without spaces, before each word of others.
_TOKEN = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]|[^\s\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]+|\s+")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_caption(image: Image.Image, text: str, footer: str) -> None:
    width, height = image.size
    margin = 0.06 * min(width, height)
    caption_height = height * 0.20
    size, lines = _fit(text, width - 2 * margin, caption_height, min(width, height) * 0.07)
    pen = ImageDraw.Draw(image)
    y = height * 0.725 + (caption_height - len(lines) * size * 1.3) / 2
    for line in lines:
        _write(pen, (margin, y), line, size, (255, 255, 255))
        y += size * 1.3
    small = max(11.0, min(width, height) * 0.022)
    _write(pen, (margin, height - margin / 2 - small * 1.2), footer, small, (214, 220, 228))


def find_font(size: float, *, latin: bool) -> Font:
    """Return the font that comes with Pillow for Latin text, and an installed one for other scripts."""
    return ImageFont.load_default(size) if latin else _installed_font(size)


@lru_cache(maxsize=32)
def _installed_font(size: float) -> Font:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC)
        except OSError:  # not installed
            continue
    return ImageFont.load_default(size)


def _write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: float, ink: tuple[int, int, int]
) -> None:
    font = find_font(size, latin=_is_latin(text))
    shade = max(1.0, size / 24)
    pen.text((at[0] + shade, at[1] + shade), text, font=font, fill=(0, 0, 0))
    pen.text(at, text, font=font, fill=ink)


def _is_latin(text: str) -> bool:
    return all(character.isascii() or character in "·…‘’“”" for character in text)


def _fit(text: str, width: float, height: float, size: float) -> tuple[float, list[str]]:
    """Return the largest font size at which the text fits, and its lines. At the smallest size the text is cut."""
    short = text if len(text) <= MAX_CAPTION_CHARS else text[:MAX_CAPTION_CHARS] + " …"
    printable = "".join(character if character.isprintable() or character == "\n" else " " for character in short)
    while True:
        lines = list(_wrap(printable, find_font(size, latin=_is_latin(printable.replace("\n", ""))), width))
        max_lines = max(1, int(height / (size * 1.3)))
        if len(lines) <= max_lines:
            return size, lines
        if size <= 13:
            return size, [*lines[: max_lines - 1], lines[max_lines - 1][:-2] + "…"]
        size = max(13.0, size * 0.86)


def _wrap(text: str, font: Font, width: float) -> Iterator[str]:
    for paragraph in text.split("\n"):
        line = ""
        for token in _TOKEN.findall(paragraph):
            if font.getlength(line + token) > width and line:
                yield line.rstrip()
                line = token.lstrip()
            else:
                line += token
            while font.getlength(line) > width:
                fits = max(1, int(len(line) * width / font.getlength(line)))
                yield line[:fits]
                line = line[fits:]
        yield line


#: Red, green, blue, 0 to 255.
Color = tuple[int, int, int]

#: Images up to this size are drawn twice as large and scaled down, for smooth edges.
SMOOTHED_PIXELS = 2_500_000

#: Heights of the farthest and the nearest ridge as shares of the image, and the number of ridges.
FAR_RIDGE, NEAR_RIDGE, LAYERS = 0.40, 0.72, 6

#: Pillow's options for each format. PNG at level 1 saves a large image in a fraction of a second.
ENCODINGS: dict[str, dict[str, int]] = {
    "PNG": {"compress_level": 1},
    "JPEG": {"quality": 88},
    "WEBP": {"quality": 82, "method": 0},
}


@dataclass(frozen=True, slots=True)
class Palette:
    top: str
    middle: str
    horizon: str
    sun: str
    near: str


#: The prompt selects one. `near` is always dark, because the prompt is written on it in white.
PALETTES = (
    Palette("#1b2a4e", "#6b5b95", "#f7b267", "#fff1c9", "#141a2e"),  # dusk
    Palette("#2a6f97", "#89c2d9", "#fde2c4", "#fffdf3", "#0d2b3a"),  # morning at sea
    Palette("#3c1642", "#b5446e", "#ffb38a", "#ffe8d1", "#220c2b"),  # late evening
    Palette("#0b132b", "#1c4e66", "#6fc2b4", "#f4fbe8", "#07111f"),  # moonlight
    Palette("#5f7c8a", "#a9bcc0", "#f3e9dc", "#ffffff", "#22323a"),  # mist
    Palette("#7f2b1d", "#d9722e", "#fcd581", "#fff6d6", "#2a0f0c"),  # desert
    Palette("#264653", "#2a9d8f", "#e9d8a6", "#fff7e0", "#10252b"),  # lagoon
    Palette("#2b2d5b", "#7d83c4", "#fbc4d4", "#fff0f5", "#191a3a"),  # blossom
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What to draw.

    `input_images` are drawn in the sky: the bytes of an image, or a text in its place. `variant` makes images of the
    same prompt different.
    """

    prompt: str
    width: int
    height: int
    quality: str = "auto"
    input_images: tuple[bytes | str, ...] = ()
    variant: int = 0

    @property
    def footer(self) -> str:
        return f"{self.width}x{self.height}  ·  quality {self.quality}"


def draw(scene: Scene, encoding: str = "PNG") -> bytes:
    """Return an image file of this encoding (a key of ENCODINGS).

    Takes up to a second of CPU time, so do not call it on an event loop. Results without input images are cached: they
    are small and often repeated.

    Raises:
        InvalidImage: An input image cannot be read.
    """
    return _draw(scene, encoding) if scene.input_images else _draw_cached(scene, encoding)


def _draw(scene: Scene, encoding: str) -> bytes:
    factor = 2 if scene.width * scene.height <= SMOOTHED_PIXELS else 1
    numbers = _random_numbers(f"{scene.variant} {scene.prompt}")
    with _draw_landscape(scene.width * factor, scene.height * factor, numbers) as drawn, drawn.reduce(factor) as image:
        draw_input_images(image, scene.input_images)
        write_caption(image, scene.prompt, scene.footer)
        file = io.BytesIO()
        image.save(file, encoding, **ENCODINGS[encoding])
        return file.getvalue()


_draw_cached = lru_cache(maxsize=32)(_draw)


def _random_numbers(seed: str) -> Iterator[float]:
    """Yield 256 numbers from 0 to 1 that depend only on the seed."""
    return (byte / 255 for byte in shake_256(seed.encode()).digest(256))


def _draw_landscape(width: int, height: int, numbers: Iterator[float]) -> Image.Image:
    palette = PALETTES[min(int(next(numbers) * len(PALETTES)), len(PALETTES) - 1)]
    top, middle, horizon, sun, near = (
        _rgb(color) for color in (palette.top, palette.middle, palette.horizon, palette.sun, palette.near)
    )
    image = _gradient(width, height, (top, middle, horizon, horizon))
    _draw_stars(image, top, numbers)
    _draw_sun(image, sun, numbers)
    for layer in range(LAYERS):
        depth = layer / (LAYERS - 1)
        crest = _blend(horizon, near, 0.16 + 0.84 * depth**1.2)
        foot = _blend(crest, horizon, 0.45 * (1 - depth))
        _draw_hills(image, depth, (crest, foot), numbers)
    return image


def _draw_stars(image: Image.Image, sky: Color, numbers: Iterator[float]) -> None:
    """Draw stars, if the sky is dark."""
    if sum(sky) > 150:
        return
    pen = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, size = next(numbers) * image.width, next(numbers) * 0.3 * image.height, next(numbers)
        radius = (0.4 + size) * min(image.size) / 900
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_blend(sky, (255, 255, 255), 0.3 + size / 2))


def _draw_sun(image: Image.Image, color: Color, numbers: Iterator[float]) -> None:
    short = min(image.size)
    x, y = (0.55 + 0.33 * next(numbers)) * image.width, (0.2 + 0.14 * next(numbers)) * image.height
    with (
        Image.radial_gradient("L") as rings,
        rings.point([170 * max(0, 128 - r) ** 2 // 128**2 for r in range(256)]) as soft,
    ):
        glow = int(short * 1.1)
        with soft.resize((glow, glow), Image.Resampling.BICUBIC) as mask:
            image.paste(color, (int(x - glow / 2), int(y - glow / 2)), mask)
    radius = short * (0.055 + 0.03 * next(numbers))
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def _draw_hills(image: Image.Image, depth: float, colors: tuple[Color, Color], numbers: Iterator[float]) -> None:
    width, height = image.size
    ridge = list(_ridge(width, height, depth, numbers))
    top = max(0, int(min(y for _, y in ridge)))
    with Image.new("L", (width, height - top)) as mask, _gradient(width, height - top, colors) as color:
        shape = [(x, y - top) for x, y in ridge]
        ImageDraw.Draw(mask).polygon([*shape, (width, height), (0, height)], fill=255)
        image.paste(color, (0, top), mask)


def _ridge(width: int, height: int, depth: float, numbers: Iterator[float]) -> Iterator[tuple[float, float]]:
    """Yield the points of a ridge: peaks (folded sine waves) in the distance, rolling hills (plain ones) nearby."""
    waves = [(count, next(numbers), 0.55**power) for power, count in enumerate((1.3, 2.9, 6.1, 13.7, 29.0))]
    base = height * (FAR_RIDGE + (NEAR_RIDGE - FAR_RIDGE) * depth)
    swing = min(width, height) * (0.20 - 0.13 * depth)
    for step in range(241):
        across = step / 240 * max(1.0, width / height)
        peaks = sum((0.5 - abs(math.sin(math.pi * (across * n + p)))) * share for n, p, share in waves)
        rolls = sum(math.sin(2 * math.pi * (across * n / 2 + p)) * share * 0.5 for n, p, share in waves[:3])
        yield step / 240 * width, base - swing * (peaks * (1 - depth) + rolls * depth)


def _gradient(width: int, height: int, colors: tuple[Color, ...]) -> Image.Image:
    """Draw a vertical gradient through all colors at equal distances."""
    steps = len(colors) - 1
    with Image.new("RGB", (1, height)) as column:
        for y in range(height):
            position = y / height * steps
            start = int(position)
            column.putpixel((0, y), _blend(colors[start], colors[start + 1], position - start))
        return column.resize((width, height), Image.Resampling.NEAREST)


def _blend(one: Color, other: Color, share: float) -> Color:
    """Mix two colors; `share` 0 is the first one, 1 the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _rgb(name: str) -> Color:
    red, green, blue, *_ = ImageColor.getrgb(name)
    return red, green, blue


#: Larger input images are rejected, because decoding them would need too much memory for a demo.
MAX_PIXELS = 64_000_000

_PAPER = (250, 248, 243)
_OUTLINE = (235, 64, 82)


class InvalidImage(ValueError):
    """Bytes that cannot be decoded, or more pixels than MAX_PIXELS."""


def check_image(data: bytes) -> None:
    """Decode an image completely, because a truncated file is noticed only then.

    Raises:
        InvalidImage: The image cannot be read.
    """
    _open(data, (64, 64)).close()


def draw_input_images(image: Image.Image, input_images: Sequence[bytes | str]) -> None:
    """Draw the input images side by side. A last one with transparent parts is the mask of the first one."""
    if not input_images:
        return
    edge = max(4, int(min(image.height * 0.34, image.width * 0.34, image.width * 0.77 / len(input_images))))
    gap = max(2, edge // 10)
    left, top = int(min(image.size) * 0.06), int(min(image.size) * 0.06)
    thumbnails = [_thumbnail(source, edge) for source in input_images]
    if len(thumbnails) > 1 and _has_holes(thumbnails[-1]):
        _outline_holes(thumbnails[0], thumbnails[-1])
    for thumbnail in thumbnails:
        with thumbnail:
            _draw_framed(image, thumbnail, (left, top))
            left += thumbnail.width + gap


def _thumbnail(source: bytes | str, edge: int) -> Image.Image:
    if isinstance(source, bytes):
        return _open(source, (edge, edge))
    card = Image.new("RGBA", (edge, edge), (226, 229, 234, 255))
    pen = ImageDraw.Draw(card)
    size = max(9.0, edge / 14)
    text = "\n".join(source[start : start + 22] for start in range(0, min(len(source), 132), 22))
    pen.multiline_text((edge * 0.08, edge * 0.1), text, fill=(70, 76, 86), font=find_font(size, latin=True))
    return card


def _open(data: bytes, box: tuple[int, int]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidImage("too many pixels")
            image.draft("RGB", box)
            upright = ImageOps.exif_transpose(image)
            with upright, upright.convert("RGBA") as pixels:
                scale = min(box[0] / pixels.width, box[1] / pixels.height)
                size = max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))
                return pixels.resize(size, Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImage(str(error)) from None


def _has_holes(image: Image.Image) -> bool:
    with image.getchannel("A") as alpha:
        low, _ = alpha.getextrema()
        return isinstance(low, int | float) and low < 128


def _outline_holes(image: Image.Image, mask: Image.Image) -> None:
    """Outline the transparent parts of the mask, which are the area to change."""
    with (
        mask.getchannel("A") as alpha,
        alpha.resize(image.size) as fitted,
        fitted.point([255] * 128 + [0] * 128) as holes,
        holes.filter(ImageFilter.MaxFilter(7)) as grown,
        ImageChops.subtract(grown, holes) as outline,
    ):
        image.paste(_OUTLINE, (0, 0), outline)


def _draw_framed(image: Image.Image, thumbnail: Image.Image, at: tuple[int, int]) -> None:
    border = max(3, min(image.size) // 110)
    left, top = at
    right, bottom = left + thumbnail.width, top + thumbnail.height
    pen = ImageDraw.Draw(image, "RGBA")
    frame = (left - border, top - border, right + border, bottom + border)
    pen.rectangle(tuple(edge + border // 2 + 1 for edge in frame), fill=(0, 0, 0, 70))
    pen.rectangle(frame, fill=_PAPER)
    image.paste(thumbnail, at, thumbnail)
