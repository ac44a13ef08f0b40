"""Images of every format as Pillow writes them: type, size, alpha and completeness; data URLs in many spellings."""

from dataclasses import dataclass

import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.data_url import decode_base64, decode_data_url, image_data_url
from app.protocol.image_format import ImageInfo, bytes_reader, is_complete, read_info, sniff
from tests.support.image_files import IMAGE_FILES, PNG, ImageFile, picture


@pytest.mark.parametrize("case", IMAGE_FILES, ids=lambda case: case.name)
def test_type_size_and_alpha_are_read_from_the_bytes(case: ImageFile) -> None:
    assert sniff(case.data) == case.info
    assert case.info.size == "21x13"
    assert case.info.extension == case.extension
    assert is_complete(bytes_reader(case.data), len(case.data))


@pytest.mark.parametrize("case", IMAGE_FILES, ids=lambda case: case.name)
def test_a_file_that_is_cut_off_is_recognized_but_not_complete(case: ImageFile) -> None:
    cut = case.data[: len(case.data) * 2 // 3]
    found = sniff(cut)
    assert found is not None
    assert found.media_type == case.info.media_type
    assert not is_complete(bytes_reader(cut), len(cut))


def test_little_is_read_of_a_large_file() -> None:
    data = picture("PNG", size=(900, 900))
    read = []

    def read_at(offset: int, size: int) -> bytes:
        read.append(size)
        return data[offset : offset + size]

    assert read_info(read_at) is not None
    assert sum(read) < 100


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"<html></html>", b"RIFF\0\0\0\0WAVEfmt ", b"BM is a company"])
def test_other_bytes_are_not_an_image(data: bytes) -> None:
    assert sniff(data) is None
    assert not is_complete(bytes_reader(data), len(data))


def test_an_image_of_unknown_size_has_none() -> None:
    assert ImageInfo("image/png", None, None, False).size is None


@given(st.sampled_from(IMAGE_FILES), st.integers(0, 400), st.binary(max_size=40))
def test_damaged_files_raise_nothing(case: ImageFile, at: int, junk: bytes) -> None:
    for data in (case.data[:at], case.data[:16] + junk, case.data[:at] + junk + case.data[at:]):
        sniff(data)
        is_complete(bytes_reader(data), len(data))


BASE64 = pybase64.b64encode_as_string(PNG)


@dataclass(frozen=True)
class Url:
    name: str
    url: str


URLS = [
    Url("plain", f"data:image/png;base64,{BASE64}"),
    Url("upper-case scheme", f"DATA:image/png;BASE64,{BASE64}"),
    Url("parameters", f"data:image/png;charset=utf-8;name=a.png;base64,{BASE64}"),
    Url("no type", f"data:;base64,{BASE64}"),
    Url("line breaks", f"data:image/png;base64,{BASE64[:76]}\r\n{BASE64[76:]}\n"),
    Url("a blank after the comma", f"data:image/png;base64, {BASE64}"),
    Url("zero-width characters", f"data:image/png;base64,\u200b{BASE64}\ufeff"),
    Url("no padding", f"data:image/png;base64,{BASE64.rstrip('=')}"),
    Url("the URL-safe alphabet", f"data:image/png;base64,{BASE64.replace('+', '-').replace('/', '_')}"),
    Url(
        "percent escapes", f"data:image/png;base64,{BASE64.replace('+', '%2B').replace('/', '%2f').replace('=', '%3D')}"
    ),
    Url("no base64 at all", "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG)),
]


@pytest.mark.parametrize("case", URLS, ids=lambda case: case.name)
def test_a_data_url_is_decoded_however_it_is_spelled(case: Url) -> None:
    assert decode_data_url(case.url) == PNG


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "https://a.example/,",
        "data:image/png;base64",
        "data:;base64,a",
        "data:;base64,äöü!",
        "data:;base64,%zz",
    ],
)
def test_other_text_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode_data_url(url)


def test_base64_alone_is_decoded_too() -> None:
    assert decode_base64(BASE64) == PNG


def test_an_image_has_one_spelling_as_a_data_url() -> None:
    assert image_data_url(PNG) == f"data:image/png;base64,{BASE64}"
    with pytest.raises(ValueError, match="not an image"):
        image_data_url(b"text")
