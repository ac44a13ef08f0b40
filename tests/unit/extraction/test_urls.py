"""Addresses: where they end, how they are spelled, what they look like."""

from dataclasses import dataclass

import pytest

from app.extraction.urls import (
    UrlKind,
    classify_url,
    file_name,
    is_placeholder,
    normalize_url,
    read_bare_url,
    read_delimited_url,
    url_fingerprint,
)

URL = "https://a.example/x.png"


@dataclass(frozen=True)
class Cut:
    name: str
    text: str
    url: str


PLAIN = [
    Cut("a blank", f"{URL} x", URL),
    Cut("a full stop", f"{URL}.", URL),
    Cut("a Chinese full stop", f"{URL}。x", URL),
    Cut("a bracket that was opened before", f"{URL}) x", URL),
    Cut("brackets of its own", "https://a.example/x_(1).png)", "https://a.example/x_(1).png"),
    Cut("more brackets than anybody writes", "https://a.example/" + "()" * 40, "https://a.example/" + "()" * 32 + "("),
    Cut("words of another script", f"{URL}点击下载", URL),
    Cut("a name in another script", "https://a.example/图/猫.png点击", "https://a.example/图/猫.png"),
    Cut("a query behind such a name", "https://a.example/猫.png?x=1点", "https://a.example/猫.png?x=1"),
    Cut("words behind a query", f"{URL}?x=1点击下载", f"{URL}?x=1"),
    Cut("words that are no name", "https://a.example/x点击下载", "https://a.example/x"),
    Cut("another address", f"{URL}{URL}", URL),
    Cut("another address as a parameter", f"https://a.example/?u={URL}", f"https://a.example/?u={URL}"),
    Cut("the next entry of a list", f"{URL},name=x", URL),
    Cut("words of another script that are no image", "https://a.example/x图x.pdf", "https://a.example/x"),
    Cut("a comma of its own", "https://a.example/w_1,h_1/x.png", "https://a.example/w_1,h_1/x.png"),
    Cut("a zero-width mark", f"{URL}\u200bx", URL),
    Cut("an address of numbers", "http://[2001:db8::7]/x.png x", "http://[2001:db8::7]/x.png"),
    Cut("no end in sight", "https://a.example/" + "x" * 9000 + " x", ""),
    Cut("nothing behind the scheme", "https://", ""),
]


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_an_address_in_plain_text_ends_before(case: Cut) -> None:
    assert read_bare_url(case.text, 0, in_emphasis=False)[0] == case.url


def test_a_line_below_belongs_to_emphasis_where_one_stands_in_front() -> None:
    assert read_bare_url("https://a.example/x_", 0, in_emphasis=True)[0] == "https://a.example/x"
    assert read_bare_url("https://a.example/x_", 0, in_emphasis=False)[0] == "https://a.example/x_"


@dataclass(frozen=True)
class Delimited:
    name: str
    text: str
    closing: str
    url: str


DELIMITED = [
    Delimited("a bracket", f"{URL}) x", ")", URL),
    Delimited("a title", f'{URL} "x") x', ")", URL),
    Delimited("a size", f"{URL} =9x9) x", ")", URL),
    Delimited("a name with a blank", "https://a.example/x y.png) x", ")", "https://a.example/x y.png"),
    Delimited("words behind a blank", f"{URL} click) x", ")", URL),
    Delimited("no bracket at all", f"{URL}。x", ")", URL),
    Delimited("another address before the bracket", f"{URL} https://a.example/y.png)", ")", URL),
    Delimited("a quote", f'{URL}" x', '"', URL),
    Delimited("a quote behind a name with a blank", 'https://a.example/x y.png" x', '"', "https://a.example/x y.png"),
    Delimited("a quote behind words", f'{URL} is here" x', '"', URL),
    Delimited("an angle", f"{URL}> x", ">", URL),
    Delimited("a name behind an address", f"{URL}|x>", ">", URL),
    Delimited("nothing", "", ")", ""),
    Delimited("no end in sight", "https://a.example/" + "x" * 9000, '"', ""),
    Delimited("a picture that was cut out", "\ue0007\ue000) x", ")", "\ue0007\ue000"),
    Delimited("half a mark", "\ue0007 x", ")", ""),
]


@pytest.mark.parametrize("case", DELIMITED, ids=lambda case: case.name)
def test_an_address_in_marks_ends_before(case: Delimited) -> None:
    url, end = read_delimited_url(case.text, 0, case.closing)
    assert url == case.url
    assert end <= len(case.text)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        (URL, URL),
        ("HTTPS://A.Example/X.PNG", "https://a.example/X.PNG"),
        ("//a.example/x.png", URL),
        (" https://a.example/x y.png ", "https://a.example/x%20y.png"),
        ("https://a.example/?x=1&amp;y=2&copy=3", "https://a.example/?x=1&y=2&copy=3"),
        ("https://a.example/?x=1&#38;y=2", "https://a.example/?x=1&y=2"),
        ("http://u:p@a.example:8080?x", "http://u:p@a.example:8080?x"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("https://a.example/图.png", "https://a.example/图.png"),
        ("ftp://a.example/x.png", None),
        ("https://", None),
        ("https:///x.png", None),
        ("https://a.example:port/x", None),
        ("/x.png", None),
        ("x", None),
        ("https://a.example/" + "x" * 9000, None),
        ("https://a.exa\x00mple/x.png", None),
        ("https://a.example/\r\nx: y", None),
        ("https://a.example/x.png\x9b2J", None),
    ],
)
def test_an_address_is_spelled_as_a_browser_asks_for_it(url: str, normal: str | None) -> None:
    assert normalize_url(url) == normal


@pytest.mark.parametrize(
    ("url", "look"),
    [
        (URL, UrlKind.IMAGE),
        ("https://a.example/X.JPEG?x=1#y", UrlKind.IMAGE),
        ("https://a.example/x.png!w800", UrlKind.IMAGE),
        ("https://a.example/x.jpeg~tplv-1.image", UrlKind.IMAGE),
        ("https://a.example/view?filename=x.png&type=output", UrlKind.IMAGE),
        ("https://a.example/x?format=webp", UrlKind.IMAGE),
        ("https://a.example/x?rsct=image%2Fpng&type=image/png", UrlKind.IMAGE),
        ("https://a.example/x?x-oss-process=image/resize", UrlKind.IMAGE),
        ("https://a.example/x?imageMogr2/thumbnail", UrlKind.IMAGE),
        ("https://a.example/x?w=9&h=9", UrlKind.IMAGE),
        ("https://a.example/x?w=9", UrlKind.UNKNOWN),
        ("https://a.example/x.mp4?x=1", UrlKind.VIDEO),
        ("https://a.example/x.pdf", UrlKind.OTHER_FILE),
        ("https://a.example/x.svg", UrlKind.OTHER_FILE),
        ("https://a.example/docs/x", UrlKind.PAGE),
        ("https://docs.a.example/x", UrlKind.PAGE),
        ("https://a.example", UrlKind.PAGE),
        ("https://a.example/", UrlKind.PAGE),
        ("https://a.example/?id=1", UrlKind.UNKNOWN),
        ("https://a.example/v1/files/1/content", UrlKind.UNKNOWN),
    ],
)
def test_an_address_looks_like(url: str, look: UrlKind) -> None:
    assert classify_url(url) is look


@pytest.mark.parametrize(
    ("url", "stand_in"),
    [
        (URL, False),
        ("https://via.placeholder.com/9", True),
        ("https://img.shields.io/badge/x", True),
        ("https://a.example/path/to/image.png", True),
        ("https://your-domain.com/x.png", True),
        ("https://a.example/{image_id}.png", True),
        ("https://a.example/%7Bid%7D.png", True),
        ("https://a.example/loading.gif", True),
        ("https://a.example/loading-dock.png", False),
        ("https://a.example/xxx/1.png", True),
    ],
)
def test_stand_ins_are_known(url: str, stand_in: bool) -> None:
    assert is_placeholder(url) is stand_in


@pytest.mark.parametrize(
    "url", ["https://A.example/x%20y.png", "https://a.example/x y.png#z", "https://a.example/x y.png."]
)
def test_addresses_that_ask_for_the_same_have_one_fingerprint(url: str) -> None:
    assert url_fingerprint(url) == url_fingerprint("https://a.example/x%20y.png")


def test_the_file_name_is_the_end_of_the_path() -> None:
    assert file_name("https://a.example/b/x.png?y=/z.png#w") == "x.png"
