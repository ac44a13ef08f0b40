"""Writes a prompt into the lower part of a picture, wrapped and as large as it fits."""

import re
from collections.abc import Iterator
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

#: Files that show more than Latin letters, best first; the first that is installed is taken.
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

#: Letters of a prompt that are written; nobody reads more in a picture.
LETTERS = 700

#: What may start a new line: each character of the scripts without spaces, each word of the others.
_TOKEN = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]|[^\s\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]+|\s+")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_caption(image: Image.Image, text: str, footer: str) -> None:
    width, height = image.size
    margin = 0.06 * min(width, height)
    room = height * 0.20
    size, lines = _fit(text, width - 2 * margin, room, min(width, height) * 0.07)
    pen = ImageDraw.Draw(image)
    y = height * 0.725 + (room - len(lines) * size * 1.3) / 2
    for line in lines:
        _write(pen, (margin, y), line, size, (255, 255, 255))
        y += size * 1.3
    small = max(11.0, min(width, height) * 0.022)
    _write(pen, (margin, height - margin / 2 - small * 1.2), footer, small, (214, 220, 228))


def find_font(size: float, *, latin: bool) -> Font:
    """The font that comes with Pillow knows plain Latin letters only; another is looked up for other scripts."""
    return ImageFont.load_default(size) if latin else _installed_font(size)


@lru_cache(maxsize=32)
def _installed_font(size: float) -> Font:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC)
        except OSError:  # not on this machine
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
    return all(letter.isascii() or letter in "·…‘’“”" for letter in text)


def _fit(text: str, width: float, height: float, size: float) -> tuple[float, list[str]]:
    """The largest letters with which all of the text has room; at the smallest, as much of it as has."""
    short = text if len(text) <= LETTERS else text[:LETTERS] + " …"
    printable = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in short)
    while True:
        lines = list(_wrap(printable, find_font(size, latin=_is_latin(printable.replace("\n", ""))), width))
        rows = max(1, int(height / (size * 1.3)))
        if len(lines) <= rows:
            return size, lines
        if size <= 13:
            return size, [*lines[: rows - 1], lines[rows - 1][:-2] + "…"]
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
