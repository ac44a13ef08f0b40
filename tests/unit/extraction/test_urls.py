"""URLs: where they end, how they are normalized, what they look like."""

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
)

URL = "https://a.example/x.png"


@dataclass(frozen=True)
class Bare:
    name: str
    text: str
    url: str


BARE = [
    Bare("a blank", f"{URL} x", URL),
    Bare("a full stop", f"{URL}.", URL),
    Bare("a Chinese full stop", f"{URL}。x", URL),
    Bare("a parenthesis that was opened before", f"{URL}) x", URL),
    Bare("parentheses of its own", "https://a.example/x_(1).png)", "https://a.example/x_(1).png"),
    Bare("more parentheses than are counted", "https://a.example/" + "()" * 40, "https://a.example/" + "()" * 32 + "("),
    Bare("words of another script", f"{URL}点击下载", URL),
    Bare("a name in another script", "https://a.example/图/猫.png点击", "https://a.example/图/猫.png"),
    Bare("a query behind such a name", "https://a.example/猫.png?x=1点", "https://a.example/猫.png?x=1"),
    Bare("words behind a query", f"{URL}?x=1点击下载", f"{URL}?x=1"),
    Bare("words that are no file name", "https://a.example/x点击下载", "https://a.example/x"),
    Bare("another URL", f"{URL}{URL}", URL),
    Bare("another URL as a parameter", f"https://a.example/?u={URL}", f"https://a.example/?u={URL}"),
    Bare("the next entry of a list", f"{URL},name=x", URL),
    Bare("words of another script that are no image", "https://a.example/x图x.pdf", "https://a.example/x"),
    Bare("a comma of its own", "https://a.example/w_1,h_1/x.png", "https://a.example/w_1,h_1/x.png"),
    Bare("a zero-width mark", f"{URL}\u200bx", URL),
    Bare("an IPv6 address as host", "http://[2001:db8::7]/x.png x", "http://[2001:db8::7]/x.png"),
    Bare("longer than any URL", "https://a.example/" + "x" * 9000 + " x", ""),
    Bare("nothing behind the scheme", "https://", ""),
]


@pytest.mark.parametrize("case", BARE, ids=lambda case: case.name)
def test_a_bare_url_ends_before(case: Bare) -> None:
    assert read_bare_url(case.text, 0, in_emphasis=False)[0] == case.url


def test_an_underscore_belongs_to_emphasis_if_one_stands_in_front() -> None:
    assert read_bare_url("https://a.example/x_", 0, in_emphasis=True)[0] == "https://a.example/x"
    assert read_bare_url("https://a.example/x_", 0, in_emphasis=False)[0] == "https://a.example/x_"


@dataclass(frozen=True)
class Delimited:
    name: str
    text: str
    closing: str
    url: str


DELIMITED = [
    Delimited("a parenthesis", f"{URL}) x", ")", URL),
    Delimited("a title", f'{URL} "x") x', ")", URL),
    Delimited("a size", f"{URL} =9x9) x", ")", URL),
    Delimited("a name with a blank", "https://a.example/x y.png) x", ")", "https://a.example/x y.png"),
    Delimited("words behind a blank", f"{URL} click) x", ")", URL),
    Delimited("no parenthesis at all", f"{URL}。x", ")", URL),
    Delimited("another URL before the parenthesis", f"{URL} https://a.example/y.png)", ")", URL),
    Delimited("a quote", f'{URL}" x', '"', URL),
    Delimited("a quote behind a name with a blank", 'https://a.example/x y.png" x', '"', "https://a.example/x y.png"),
    Delimited(
        "a single quote behind a name with a blank", "https://a.example/x y.png' x", "'", "https://a.example/x y.png"
    ),
    Delimited("a quote behind words", f'{URL} is here" x', '"', URL),
    Delimited("an angle bracket", f"{URL}> x", ">", URL),
    Delimited("a name behind a URL", f"{URL}|x>", ">", URL),
    Delimited("nothing", "", ")", ""),
    Delimited("longer than any URL", "https://a.example/" + "x" * 9000, '"', ""),
    Delimited("a run of base64 that was cut out", "\ue0007\ue000) x", ")", "\ue0007\ue000"),
    Delimited("half a mark", "\ue0007 x", ")", ""),
]


@pytest.mark.parametrize("case", DELIMITED, ids=lambda case: case.name)
def test_a_delimited_url_ends_before(case: Delimited) -> None:
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
def test_a_url_is_normalized_as_a_browser_would_request_it(url: str, normal: str | None) -> None:
    assert normalize_url(url) == normal


@pytest.mark.parametrize(
    ("url", "kind"),
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
def test_a_url_is_classified_by_its_looks(url: str, kind: UrlKind) -> None:
    assert classify_url(url) is kind


@pytest.mark.parametrize(
    ("url", "placeholder"),
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
def test_placeholders_are_recognized(url: str, placeholder: bool) -> None:
    assert is_placeholder(url) is placeholder


def test_the_file_name_is_the_end_of_the_path() -> None:
    assert file_name("https://a.example/b/x.png?y=/z.png#w") == "x.png"
