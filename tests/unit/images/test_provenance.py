"""A converted image says that a model made it where its signed manifest was lost, and only there."""

from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image, PngImagePlugin

from app.images.blob import Blob
from app.images.codec import JPEG_MAX_METADATA
from app.images.conversions import ResultOptions, apply_mask, convert
from app.images.decode_cost import DecodeLimits
from app.images.provenance import GENERATED, with_source_type
from tests.support.sample_images import as_blob, as_image, gradient, saved
from tests.support.signed_images import signed

LIMITS = DecodeLimits(1 << 16)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
ATTRIBUTE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
URL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
OTHER = with_source_type(b"", "digitalArt")
TITLE = OTHER.replace(b"Iptc4xmpExt:DigitalSourceType=", b"Iptc4xmpExt:Title=")


def source_types(data: Blob) -> list[str]:
    """Return the digital source types that the XMP of a file names, parsed as XML."""
    xmp = as_image(data).info.get("xmp") or b""
    text = xmp.encode() if isinstance(xmp, str) else xmp
    if not text:
        return []
    root = ElementTree.fromstring(text)
    return [node.attrib[ATTRIBUTE] for node in root.iter() if ATTRIBUTE in node.attrib]


def converted(data: bytes, **options: Any) -> Blob:
    made = convert(as_blob(data), ResultOptions(**options), LIMITS, Blob)
    assert made is not None
    return made


@pytest.mark.parametrize("target", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("source", FORMATS)
def test_a_converted_image_is_marked_if_it_was_signed(source: str, target: str) -> None:
    data = saved(gradient(), source)
    options = {"image_format": target, "size": (12, 12)}
    assert source_types(converted(signed(data), **options)) == [URL]
    assert source_types(converted(data, **options)) == []


def png_with_xmp(xmp: bytes) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    text.add_text("Software", "easel")
    return saved(gradient(), "PNG", pnginfo=text)


@dataclass(frozen=True)
class Packet:
    name: str
    data: bytes
    types: list[str]
    contains: bytes = b""
    options: dict[str, Any] = field(default_factory=dict)


PACKETS = [
    Packet("XMP is kept", saved(gradient(), "JPEG", xmp=TITLE), [URL], b"Iptc4xmpExt:Title"),
    Packet("XMP of a PNG is kept", png_with_xmp(TITLE), [URL], b"Iptc4xmpExt:Title", {"image_format": "png"}),
    Packet("XMP of a PNG in a JPEG", png_with_xmp(TITLE), [URL], b"Iptc4xmpExt:Title"),
    Packet("a source type that is there stays", saved(gradient(), "WEBP", xmp=OTHER), [URL.replace("trainedAlgorithmicMedia", "digitalArt")]),
    Packet("XMP that cannot be read is replaced", saved(gradient(), "WEBP", xmp=b"<x>"), [URL]),
    Packet("XMP that is too long for a JPEG is replaced", saved(gradient(), "WEBP", xmp=TITLE.replace(b"digitalArt", b"a" * 66_000)), [URL]),
]  # fmt: skip


@pytest.mark.parametrize("case", PACKETS, ids=lambda case: case.name)
def test_other_metadata_stays(case: Packet) -> None:
    made = converted(signed(case.data), **{"image_format": "jpeg", "size": (12, 12), **case.options})
    assert source_types(made) == case.types
    assert case.contains in made.read_at(0, made.size)


def test_text_of_a_png_stays_beside_the_mark() -> None:
    made = as_image(converted(signed(png_with_xmp(TITLE)), size=(12, 12)))
    assert made.info["Software"] == "easel"


def test_a_packet_never_outgrows_a_jpeg() -> None:
    assert len(with_source_type(b"", GENERATED)) < JPEG_MAX_METADATA["xmp"]


@pytest.mark.parametrize("is_signed", [False, True])
def test_a_masked_image_is_partly_generated(is_signed: bool) -> None:
    data = saved(gradient(), "PNG")
    mask = saved(Image.new("RGBA", (24, 16), (0, 0, 0, 255)), "PNG")
    result = as_blob(signed(data) if is_signed else data)
    made = apply_mask(result, as_blob(data), as_blob(mask), LIMITS, Blob)
    composite = URL.replace("trained", "compositeWithTrained")
    assert source_types(made) == ([composite] if is_signed else [])
