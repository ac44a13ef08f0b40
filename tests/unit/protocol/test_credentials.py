"""A signed manifest is found in every format, wherever it stands, and nothing else is taken for one."""

from dataclasses import dataclass

import pytest
from PIL import Image, TiffImagePlugin

from app.protocol.credentials import _MAX_STEPS, has_credentials
from app.protocol.image_format import bytes_reader
from tests.support.sample_images import chunk, exif, gradient, saved
from tests.support.signed_images import MANIFEST, signed

PLAIN = {name: saved(gradient(), name) for name in ("PNG", "JPEG", "WEBP", "GIF", "AVIF")}
PNG, JPEG, WEBP = PLAIN["PNG"], PLAIN["JPEG"], PLAIN["WEBP"]


def tiff(order: str, tag: int) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"MM" if order == ">" else b"II")
    directory.tagtype[tag] = 7
    directory[tag] = MANIFEST
    return saved(gradient(), "TIFF", tiffinfo=directory)


#: The entries of a TIFF in the other order, with nothing but their tags.
BIG_ENDIAN = b"MM\0*\0\0\0\x08\0\2" + b"\x01\x00" + bytes(10) + b"\xcd\x41" + bytes(10)
XT = b"\xff\xeb\x00\x12JP\0\1\0\0\0\1\0\0\0\x08LUTS"
LONG_BOX = PLAIN["AVIF"][:32] + b"\0\0\0\1free" + (24).to_bytes(8, "big") + bytes(8) + PLAIN["AVIF"][32:]


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    expected: bool


CASES = [
    *(Case(f"{name} without a manifest", data, False) for name, data in PLAIN.items()),
    *(Case(f"{name} with a manifest", signed(data), True) for name, data in PLAIN.items()),
    Case("PNG with its manifest at the end", PNG[:-12] + chunk(b"caBX", MANIFEST) + PNG[-12:], True),
    Case("PNG with something after its end", PNG + chunk(b"caBX", MANIFEST), False),
    Case("PNG that is cut off", signed(PNG)[:30], False),
    Case("PNG with more chunks than are read", PNG[:33] + chunk(b"teXt", b"") * _MAX_STEPS + chunk(b"caBX", b""), False),
    Case("JPEG with metadata before its manifest", signed(saved(gradient(), "JPEG", exif=exif(1))), True),
    Case("JPEG with bytes that fill up", JPEG[:2] + b"\xff" + signed(JPEG)[2:], True),
    Case("JPEG with boxes of JPEG XT", JPEG[:2] + XT + JPEG[2:], False),
    Case("JPEG that is cut off", signed(JPEG)[:3], False),
    Case("JPEG with nothing but filling", b"\xff\xd8" + b"\xff" * 40_000, False),
    Case("JPEG with bytes that are no marker", JPEG[:2] + b"ab" + JPEG[2:], False),
    Case("JPEG with a manifest behind its pixels", JPEG + signed(JPEG)[2:], False),
    Case("WebP that is animated", signed(saved(gradient(), "WEBP", save_all=True, append_images=[Image.new("RGB", (24, 16))])), True),
    Case("WebP with a chunk of odd length", WEBP + b"XMP \1\0\0\0a\0" + b"C2PA\1\0\0\0a\0", True),
    Case("WebP with more chunks than are read", WEBP + b"abcd\0\0\0\0" * _MAX_STEPS + b"C2PA\0\0\0\0", False),
    Case("AVIF with a long box", LONG_BOX, False),
    Case("AVIF with a long box before its manifest", signed(LONG_BOX), True),
    Case("AVIF with more boxes than are read", PLAIN["AVIF"] + b"\0\0\0\x08free" * _MAX_STEPS, False),
    Case("TIFF with a manifest", tiff("<", 0xCD41), True),
    Case("TIFF with another tag", tiff("<", 0xCD42), False),
    Case("TIFF in the other order", BIG_ENDIAN, True),
    Case("BMP has no place for one", saved(gradient(), "BMP"), False),
    Case("no image", b"C2PA caBX jumb", False),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_manifest_is_found(case: Case) -> None:
    assert has_credentials(bytes_reader(case.data)) is case.expected
