"""An image forgets where it was taken; its pixels and everything else stay as they are."""

import io
import random
import zlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from app.images.location import edited, location_edits, without_location
from tests.support.sample_images import chunk

GPS = 0x8825
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description exif:GPSLatitude="47,22.1N" dc:title="Lake" '
    b"exif:GPSLongitude='8,32.5E'><exif:GPSAltitude>400/1</exif:GPSAltitude><exif:GPSMapDatum/><dc:creator>Ann"
    b"</dc:creator></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def exif() -> bytes:
    made = Image.Exif()
    made[0x010F] = "Camera of some maker"
    made[GPS] = {1: "N", 2: (47.0, 22.0, 6.5), 3: "E", 4: (8.0, 32.0, 30.0), 29: "2026:11:01"}
    made[0x0132] = "2026:11:01 12:00:00"
    made[0x8769] = {0x9003: "2026:11:01 12:00:00"}
    return made.tobytes()


EXIF = exif()


def picture() -> Image.Image:
    return Image.frombytes("RGB", (64, 48), random.Random(1).randbytes(64 * 48 * 3))


def saved(image_format: str, **more: object) -> bytes:
    file = io.BytesIO()
    picture().save(file, image_format, **more)
    return file.getvalue()


def cleaned(data: bytes) -> bytes:
    read_at = lambda offset, size: data[offset : offset + size]  # noqa: E731
    return b"".join(edited(read_at, len(data), location_edits(read_at)))


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    data: bytes


CASES = [
    Case("JPEG", saved("JPEG", exif=EXIF)),
    Case("JPEG with XMP", saved("JPEG", exif=EXIF, xmp=XMP)),
    Case("PNG", saved("PNG", exif=EXIF)),
    Case("WebP", saved("WEBP", exif=EXIF, lossless=True)),
    Case("WebP with XMP", saved("WEBP", exif=EXIF, xmp=XMP, lossless=True)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_place_is_gone_and_all_else_stays(case: Case) -> None:
    clean = cleaned(case.data)
    before, after = Image.open(io.BytesIO(case.data)), Image.open(io.BytesIO(clean))
    assert before.getexif().get_ifd(GPS)
    assert GPS not in after.getexif()
    assert after.getexif()[0x010F] == "Camera of some maker"
    assert after.getexif()[0x0132] == "2026:11:01 12:00:00"
    assert after.getexif().get_ifd(0x8769)[0x9003] == "2026:11:01 12:00:00"
    assert after.tobytes() == before.tobytes()
    assert len(clean) == len(case.data)
    assert b"GPS" not in clean
    assert b"47,22" not in clean
    if b"xmpmeta" in case.data:
        assert b'dc:title="Lake"' in clean
        assert b"<dc:creator>Ann</dc:creator>" in clean
    assert cleaned(clean) == clean


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_an_image_without_a_place_needs_no_edit(image_format: str) -> None:
    data = saved(image_format)
    assert location_edits(lambda offset, size: data[offset : offset + size]) == []


def png_with(name: bytes, data: bytes) -> bytes:
    plain = saved("PNG")
    return plain[:33] + chunk(name, data) + plain[33:]


HEX = b"\nexif\n %d\n" % len(EXIF) + b"\n".join(EXIF.hex().encode()[at : at + 72] for at in range(0, 2 * len(EXIF), 72))

PNGS = {
    "XMP": png_with(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "compressed XMP": png_with(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    "EXIF as ImageMagick writes it": png_with(b"tEXt", b"Raw profile type exif\0" + HEX),
    "compressed EXIF as ImageMagick writes it": png_with(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HEX)),
    "EXIF that cannot be decompressed": png_with(b"zTXt", b"Raw profile type exif\0\0" + b"abc"),
    "XMP that is cut off": png_with(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)[:-6]),
}  # fmt: skip


@pytest.mark.parametrize("name", PNGS)
def test_text_of_a_png_loses_the_place(name: str) -> None:
    clean = cleaned(PNGS[name])
    image = Image.open(io.BytesIO(clean))
    assert image.tobytes() == picture().tobytes()
    assert isinstance(image, PngImagePlugin.PngImageFile)
    assert "GPS" not in str(image.text)
    assert GPS not in image.getexif()
    assert clean != PNGS[name]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param(b"tEXt", b"Comment\0at the lake", id="a comment"),
        pytest.param(b"zTXt", b"Comment\0\0" + zlib.compress(b"at the lake"), id="a compressed comment"),
        pytest.param(
            b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"at the lake"), id="a compressed comment in Unicode"
        ),
        pytest.param(b"tEXt", b"Raw profile type iptc\0\niptc\n 2\nabcd", id="a profile of another kind"),
        pytest.param(b"tEXt", b"Raw profile type iptc\0\niptc\n 2\nno digits", id="a profile that is damaged"),
    ],
)
def test_other_text_of_a_png_stays(name: bytes, data: bytes) -> None:
    assert cleaned(png_with(name, data)) == png_with(name, data)


def test_all_images_of_a_phone_lose_the_place() -> None:
    first, second = (saved("JPEG", exif=EXIF, comment=text) for text in ("one", "two"))
    second = second[:2] + second[20:]  # Without JFIF, as phones write it.
    multi_picture = first[:2] + b"\xff\xe2\x00\x0aMPF\0abcd" + first[2:] + bytes(300_000) + second
    clean = cleaned(multi_picture)
    assert len(clean) == len(multi_picture)
    assert clean.count(b"Camera of some maker") == 2
    assert b"2026:11:01\0" not in clean
    assert Image.open(io.BytesIO(clean[-len(second) :])).tobytes() == Image.open(io.BytesIO(second)).tobytes()
    alone = first + second
    assert cleaned(alone)[len(first) :] == second


MOTION = b'<x:xmpmeta xmlns:Camera="c"><rdf:Description Camera:MotionPhoto="1"/></x:xmpmeta>'
FILM = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\xa9xyz\0\x12\x15\xc7+47.3685+008.5417/" + bytes(300_000)


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(0, id="directly behind it"),
        pytest.param(1, id="behind one stray byte"),
        pytest.param(256 * 1024 - 700, id="across the end of a window that is searched"),
        pytest.param(600_000, id="far behind it"),
    ],
)
def test_a_film_behind_a_photo_is_dropped(length: int) -> None:
    photo = saved("JPEG", exif=EXIF, xmp=MOTION) + bytes(length)
    clean = cleaned(photo + FILM)
    assert len(clean) == len(photo)
    assert clean == cleaned(photo)


def test_a_film_behind_several_images_is_dropped() -> None:
    first, second = saved("JPEG", exif=EXIF, xmp=MOTION), saved("JPEG", exif=EXIF)
    second = second[:2] + second[20:]  # Without JFIF, as phones write it.
    photo = first[:2] + b"\xff\xe2\x00\x0aMPF\0abcd" + first[2:] + second
    assert cleaned(photo + FILM + second) == cleaned(photo)


@pytest.mark.parametrize(
    "data",
    [
        saved("JPEG", xmp=MOTION),
        saved("JPEG", xmp=MOTION) + b"\0\0\0\x18ftypheic" + bytes(99),
        saved("JPEG") + FILM,
    ],
    ids=["no film", "another image", "no word of a film"],
)
def test_what_is_behind_a_photo_stays_where_it_is_no_film(data: bytes) -> None:
    assert cleaned(data) == data


def test_a_place_in_big_endian_exif_and_behind_other_entries() -> None:
    entries = [(0x010F, 2, 4, b"abc\0"), (GPS, 4, 1, (100).to_bytes(4, "big")), (0x9999, 3, 1, b"\0\1\0\0")]
    tiff = b"MM\0*\0\0\0\x08" + len(entries).to_bytes(2, "big")
    for tag, kind, count, value in entries:
        tiff += tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + count.to_bytes(4, "big") + value
    tiff = (tiff + bytes(4)).ljust(100, b"\0")
    tiff += b"\0\1" + b"\0\2\0\5\0\0\0\3\0\0\0\x76" + bytes(4) + b"PLACE" * 5
    clean = without_location(b"Exif\0\0" + tiff)
    assert b"PLACEPLACE" not in clean[:130]
    assert clean[14:16] == b"\0\2"
    assert clean[28:30] == b"\x99\x99"


ENDLESS = {
    "a JPEG of many comments": b"\xff\xd8" + b"\xff\xfe\x00\x02" * 1100,
    "a PNG of many chunks": b"\x89PNG\r\n\x1a\n" + chunk(b"nuLl", b"") * 1100,
    "a WebP of many chunks": b"RIFF\0\0\0\0WEBP" + b"nuLl\0\0\0\0" * 1100,
    "EXIF whose directory follows itself": saved("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0" + bytes(20)),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_the_search_ends(name: str) -> None:
    assert cleaned(ENDLESS[name]) == ENDLESS[name]


def test_fill_bytes_between_segments_are_skipped() -> None:
    filled = CASES[0].data[:2] + b"\xff\xff" + CASES[0].data[2:]
    assert b"Camera" in cleaned(filled) != filled


def test_a_preview_within_the_metadata_is_part_of_it() -> None:
    preview = b"\xff\xd8\xff\xe1\x00\x04ab"
    second = b"\xff\xd8\xff\xe1" + (2 + len(EXIF) + len(preview)).to_bytes(2, "big") + EXIF + preview
    first = saved("JPEG", exif=EXIF)
    clean = cleaned(first[:2] + b"\xff\xe2\x00\x06MPF\0" + first[2:] + second)
    assert clean.endswith(preview)
    assert clean.count(b"Camera of some maker") == 2


@given(data=st.binary(max_size=400), start=st.sampled_from([b"Exif\0\0II*\0", b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0", b"<x a:GPSx='"]))  # fmt: skip
def test_damaged_metadata_keeps_its_length(data: bytes, start: bytes) -> None:
    assert len(without_location(start + data)) == len(start + data)


@given(data=st.binary(max_size=300), cut=st.integers(0, 3000), which=st.sampled_from(CASES))
def test_damaged_files_are_copied(data: bytes, cut: int, which: Case) -> None:
    damaged = which.data[:cut] + data + which.data[cut + len(data) :]
    assert len(cleaned(damaged)) <= len(damaged) + 4
    cleaned(which.data[:cut])
