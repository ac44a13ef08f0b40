"""Name files that clients send as images and that cannot be read, by their first bytes."""

import re

#: Bytes that decide.
HEAD = 256

_ANY = re.DOTALL | re.IGNORECASE

#: What a file is, in words that follow "is", by a pattern of its first bytes. The first match counts.
_FORMATS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), "HEIC, the format of iPhones"),
    (re.compile(rb".{4}ftyp(?!avi[fs])", re.DOTALL), "a video"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "a video"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), "JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"%PDF-"), "a PDF"),
    (re.compile(rb"8BPS"), "a file of Photoshop"),
    (re.compile(rb"\0\0[\x01\x02]\0"), "an icon"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "compressed by gzip"),
    (re.compile(rb"\s*(?:data:image/|iVBORw0KGgo|/9j/|UklGR|R0lGOD)"), "base64, which belongs into a text field"),
    (re.compile(rb"version https://git-lfs"), "the pointer of a file that Git LFS has not fetched"),
    (
        re.compile(
            rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg[^>]*>\s*)?<svg", re.DOTALL | re.IGNORECASE
        ),
        "SVG",
    ),
    (re.compile(rb"\s*<(?:!DOCTYPE html|html|head)", re.IGNORECASE), "a web page"),
    (re.compile(rb"\s*[{\[]"), "JSON"),
)


def foreign_format(head: bytes) -> str | None:
    """Return what a file is instead of an image that can be read, None where its first bytes do not tell."""
    return next((name for pattern, name in _FORMATS if pattern.match(head)), None)
