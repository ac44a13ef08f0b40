"""An image inside a link: which of the two addresses is the result."""

from dataclasses import dataclass

import orjson
import pytest

from app.extraction.forms import explain
from app.protocol.reply_parser import read_reply

IMAGE = "https://cdn.example.com/gen/a1.png"
LARGE = "https://cdn.example.com/gen/b2.png"
PAGE = "https://site.example.com/view/5"
BYTES = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADElEQVR42mNgGB4AAADIAAGmKwz4AAAAAElFTkSuQmCC"
)


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    found: str
    rejected: str = ""


def around(link: str, image: str) -> dict[str, str]:
    """Return the ways to write an image inside a link."""
    return {
        "Markdown": f"[![fox]({image})]({link})",
        "Markdown with a title": f'[![fox]({image} "a fox")]({link} "open")',
        "Markdown with attributes": f"[![fox]({image}){{width=300}}]({link})",
        "Markdown with angle brackets": f"[![fox](<{image}>)](<{link}>)",
        "HTML": f'<a href="{link}" target="_blank"><img width="256" src="{image}" alt="fox"/></a>',
        "HTML without quotes": f"<a href={link}><img src={image}></a>",
        "BBCode": f"[url={link}][img]{image}[/img][/url]",
        "BBCode with a size and quotes": f'[URL="{link}"][IMG=256x64]{image}[/IMG][/URL]',
        "HTML in Markdown": f'[<img src="{image}" width="256">]({link})',
        "BBCode in Markdown": f"[[img]{image}[/img]]({link})",
        "Markdown in HTML": f'<a href="{link}">![fox]({image})</a>',
        "HTML in BBCode": f'[url={link}]<img src="{image}">[/url]',
    }


PICTURE = f'<picture><source srcset="{PAGE}/512"><img src="{IMAGE}"></picture>'
CASES = [
    Case("a <picture> in a link", f'<a href="{LARGE}">{PICTURE}</a>', LARGE, IMAGE),
    Case("a <picture> behind a link", f'<a href="{LARGE}">x</a>{PICTURE}', IMAGE),
    *(Case(f"a link to an image: {name}", text, LARGE, IMAGE) for name, text in around(LARGE, IMAGE).items()),
    *(Case(f"a link to a page: {name}", text, IMAGE) for name, text in around(PAGE, IMAGE).items()),
    Case("a link that is known to be smaller", f"[![x]({IMAGE})](https://cdn.example.com/gen/a1_small.png)", IMAGE),
    Case("a link for saving the image", f"[![x]({IMAGE})](https://cdn.example.com/download/a1.png)", IMAGE),
    Case(
        "the same address without an ending, in a larger size",
        "[url=https://cdn.example.com/f7/1024?s=1][img]https://cdn.example.com/f7/256?s=1[/img][/url]",
        "https://cdn.example.com/f7/1024?s=1",
        "https://cdn.example.com/f7/256?s=1",
    ),
    Case(
        "the same address without an ending, in a smaller size",
        "[![x](https://cdn.example.com/f7/1024)](https://cdn.example.com/f7/256)",
        "https://cdn.example.com/f7/1024",
    ),
    Case("the link of the words in front", f'<a href="{LARGE}">words</a> <img src="{IMAGE}">', IMAGE),
    Case("the link of the words in front, in BBCode", f"[url={LARGE}]words[/url] [img]{IMAGE}[/img]", IMAGE),
    Case("an address in front", f"{LARGE} [img]{IMAGE}[/img]", IMAGE),
    Case("bytes that link to an image", f"[![x]({BYTES})]({LARGE})", BYTES),
    Case("the input, which links to itself", f"Your reference: [![x]({LARGE})]({LARGE}?f=1)\n\n![x]({IMAGE})", IMAGE),
    Case("a sample, which links to an image", f"Source: [![x]({PAGE}/s.png)]({LARGE})\n\n![x]({IMAGE})", IMAGE),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_larger_of_an_image_and_its_link_is_the_result(case: Case) -> None:
    result = explain(read_reply(orjson.dumps({"choices": [{"message": {"content": case.text}}]})))
    assert [image.url for image in result.images] == [case.found]
    assert not case.rejected or case.rejected in [each.candidate for each in result.rejected]
