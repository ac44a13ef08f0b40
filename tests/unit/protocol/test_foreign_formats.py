import pytest

from app.protocol.foreign_formats import foreign_format

HEADS = {
    b"\0\0\0\x18ftypheic\0\0\0\0": "HEIC, the format of iPhones",
    b"\0\0\0\x18ftypmif1\0\0\0\0": "HEIC, the format of iPhones",
    b"\0\0\0\x18ftypmp42": "a video",
    b"\x1a\x45\xdf\xa3webm": "a video",
    b"\xff\x0a\x00": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"%PDF-1.7": "a PDF",
    b"8BPS\0\1": "a file of Photoshop",
    b"\0\0\1\0\1\0": "an icon",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b\x08": "compressed by gzip",
    b"iVBORw0KGgoAAAANSUhEUg": "base64, which belongs into a text field",
    b"\n/9j/4AAQSkZJRg": "base64, which belongs into a text field",
    b"data:image/png;base64,iVBO": "base64, which belongs into a text field",
    b"version https://git-lfs.github.com/spec/v1": "the pointer of a file that Git LFS has not fetched",
    b"<svg xmlns": "SVG",
    b'<?xml version="1.0"?>\n<!-- a -->\n<!DOCTYPE svg PUBLIC "x">\n<svg>': "SVG",
    b"<!doctype html>": "a web page",
    b' {"error": 1}': "JSON",
    b"\x89PNG\r\n\x1a\n": None,
    b"\xff\xd8\xff\xe0": None,
    b"RIFF\0\0\0\0WEBP": None,
    b"\0\0\0\x18ftypavif": None,
    b"": None,
}


@pytest.mark.parametrize("head", HEADS)
def test_a_file_is_named_by_its_first_bytes(head: bytes) -> None:
    assert foreign_format(head) == HEADS[head]
