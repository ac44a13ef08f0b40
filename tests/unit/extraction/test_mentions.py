"""URLs in texts, with the markup and the words around them."""

from dataclasses import dataclass

import pytest

from app.extraction.base64_runs import MARK
from app.extraction.mentions import MarkupKind, find_mentions

URL = "https://a.example/x.png"
OTHER = "https://a.example/y.png"


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    found: list[tuple[MarkupKind, str]]


MARKDOWN, HTML, BBCODE, LINK, PLAIN = MarkupKind
CASES = [
    Case("in prose", f"x {URL} y", [(PLAIN, URL)]),
    Case("words directly in front", f"图{URL} image{URL}", [(PLAIN, URL), (PLAIN, URL)]),
    Case("another scheme", "sandbox://x ftp://a.example/x", [(PLAIN, "sandbox://x"), (PLAIN, "ftp://a.example/x")]),
    Case("a blob URL of a browser", f"![x](blob:{URL})", []),
    Case("no scheme", "://x", []),
    Case("in quotes", f'"{URL}" <{URL}>', [(PLAIN, URL), (PLAIN, URL)]),
    Case("in emphasis", f"_{URL}_", [(PLAIN, URL)]),
    Case("a Markdown image", f"![x]({URL})", [(MARKDOWN, URL)]),
    Case("a Markdown link", f"[x]({URL})", [(LINK, URL)]),
    Case("an image in a link", f"[![x]({URL})]({OTHER})", [(MARKDOWN, URL), (LINK, OTHER)]),
    Case("a URL as its own label", f"![{URL}]({URL})", [(MARKDOWN, URL)]),
    Case("brackets in the label", f"![a [b] c]({URL})", [(MARKDOWN, URL)]),
    Case("more brackets than are counted", f"{'[' * 3}{']' * 99}]({URL})", [(LINK, URL)]),
    Case("no bracket in front", f"]({URL})", [(LINK, URL)]),
    Case("a reference", f"![x][1]\n\n[1]: {URL}", [(MARKDOWN, URL)]),
    Case("a reference without a definition", f"![x][2]\n\n[1]: {URL}", [(PLAIN, URL)]),
    Case("an HTML image", f'<img src="{URL}">', [(HTML, URL)]),
    Case("an HTML image without a scheme", '<img src="//a.example/x.png">', [(HTML, "//a.example/x.png")]),
    Case("an HTML link", f"<a href={URL}>x</a>", [(LINK, URL)]),
    Case("an HTML image in a link", f'<a href="{OTHER}"><img src="{URL}"></a>', [(LINK, OTHER), (HTML, URL)]),
    Case("an image that loads lazily", f'<img src="{OTHER}" data-src="{URL}">', [(HTML, URL)]),
    Case(
        "an image that loads lazily, attributes in reverse order",
        f'<img data-src="{URL}" src="{OTHER}">',
        [(HTML, URL)],
    ),
    Case("the sources of a <picture>", f'<source srcset="{OTHER}"><img src="{URL}">', [(LINK, OTHER), (HTML, URL)]),
    Case("copies in two sizes", f'<img src="{URL}" srcset="{OTHER} 400w, {OTHER}2 800w">', [(HTML, f"{OTHER}2")]),
    Case("a copy for dense screens", f"<img srcset='{OTHER} 1.5x' src='{URL}'>", [(HTML, OTHER)]),
    Case("a copy of the same density", f'<img src="{URL}" srcset="{OTHER} 1x">', [(HTML, URL), (LINK, OTHER)]),
    Case("copies of a whole file", f'<img src="{URL}" srcset="{URL}?w=9 9w, {URL}?w=99 99w">', [(HTML, URL)]),
    Case("copies of a whole file, in front of it", f'<img srcset="{URL}?w=9 9w" src="{URL}">', [(HTML, URL)]),
    Case("copies that are loaded lazily", f'<img src="{URL}" data-srcset="{OTHER} 9w">', [(HTML, OTHER)]),
    Case("a list of copies that is cut off", f'<img srcset="{OTHER} 40', [(LINK, OTHER)]),
    Case(
        "more copies than are read",
        f'<img srcset="{f"{OTHER} 8w, " * 31}{URL} 9w, {OTHER} 10w">',
        [(HTML, URL), (PLAIN, OTHER)],
    ),
    Case(
        "copies in several sizes and formats",
        f'<picture><source srcset="{OTHER}1 400w,\n {OTHER}2 800w"><img src="{URL}"></picture> <img src="{URL}">',
        [(HTML, f"{OTHER}2"), (HTML, URL)],
    ),
    Case("a URL in color", f"\x1b[32m{URL}\x1b[0m <{URL}\x1b[0m>", [(PLAIN, URL), (PLAIN, URL)]),
    Case("another attribute", f"<svg xmlns='{URL}'>", []),
    Case("an equals sign without a tag", f'x="{URL}"', [(PLAIN, URL)]),
    Case("a tag without a name", f'< ="{URL}"', [(PLAIN, URL)]),
    Case("an equals sign behind a tag", f'<b>x="{URL}"', [(PLAIN, URL)]),
    Case("BBCode", f"[img]{URL}[/img][img={OTHER}]", [(BBCODE, URL), (BBCODE, OTHER)]),
    Case("a run of base64 that was cut out", f"![x]({MARK}0{MARK})", [(MARKDOWN, f"{MARK}0{MARK}")]),
    Case("a mark alone", f"{MARK} {MARK}", []),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_urls_are_found_with_their_markup(case: Case) -> None:
    assert [(mention.kind, mention.url) for mention in find_mentions(case.text)] == case.found


def test_the_words_in_front_and_the_label_are_kept() -> None:
    first, second, third = find_mentions(f"Before: {OTHER}\nHere:\n\n![a fox]({URL}) <img alt='b' src={URL}>")
    assert (first.before, first.label) == ("Before: ", "")
    assert (second.before, second.label) == ("Here:", "a fox")
    assert third.label == "b"
    (only,) = find_mentions(f"Draft <img src={URL}>")
    assert only.before == "Draft "


def test_an_image_knows_its_enclosing_link() -> None:
    in_markdown, _ = find_mentions(f"[![x]({URL})]({OTHER})")
    _, in_html = find_mentions(f'<a href="{OTHER}"><img src="{URL}"></a>')
    _, beside = find_mentions(f'<a href="{OTHER}">x</a><img src="{URL}">')
    assert [mention.enclosing_link and mention.enclosing_link.url for mention in (in_markdown, in_html, beside)] == [
        OTHER,
        OTHER,
        None,
    ]


def test_a_url_knows_its_key_and_whether_it_is_truncated() -> None:
    (quoted,) = find_mentions(f"{{'thumbnail': '{URL}'}}")
    (truncated,) = find_mentions(f"![x]({URL}")
    assert (quoted.key, quoted.is_truncated, truncated.is_truncated) == ("thumbnail", False, True)


def test_urls_beyond_a_limit_are_not_read() -> None:
    assert len(find_mentions(f"{URL} " * 1000)) == 250
