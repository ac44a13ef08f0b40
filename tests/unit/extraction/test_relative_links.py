"""Images that are named by a path alone, which is one at the upstream's own origin."""

from dataclasses import dataclass

import orjson
import pytest

from app.extraction.forms import find_guesses, find_images
from app.protocol.reply_parser import ReplyParser

ORIGIN = "http://upstream.example:8080"
URL = "https://cdn.example.com/gen/a1.png"


@dataclass(frozen=True)
class Case:
    """`message`: the content of a message, or the whole message; `paths`: what is found of it, at the origin."""

    name: str
    message: object
    paths: list[str]


CASES = [
    Case("in Markdown, as Dify writes it", "![x](/files/tools/5f.png?nonce=2&sign=3)", ["/files/tools/5f.png?nonce=2&sign=3"]),
    Case("in Markdown, with angle brackets and a title", '![x](</gradio/file=a.webp> "x")', ["/gradio/file=a.webp"]),
    Case("in HTML", "<img alt='x' src='/view?filename=a.png'>", ["/view?filename=a.png"]),
    Case("in HTML without quotes", "<img src=/o/x7>", ["/o/x7"]),
    Case("in JSON in the text", '{"image": "/o/x7"}', ["/o/x7"]),
    Case("under a key for images", {"images": ["/o/x7"], "content": "done"}, ["/o/x7"]),
    Case("under a key for links, beside a type", {"files": [{"type": "image", "url": "/o/x7.png"}]}, ["/o/x7.png"]),
    Case("a link", "[Terms](/terms) <a href='/login'>Log in</a>", []),
    Case("a path in words", "It is stored at /files/a.png, see /help.", []),
    Case("a path under another key", {"path": "/o/x7.png", "content": "done"}, []),
    Case("words under a key for images", {"image": "/imagine a fox", "content": "done"}, []),
    Case("another host", "![x](//cdn.example.com/x7)", []),
]  # fmt: skip


def read(message: object, origin: str = ORIGIN) -> ReplyParser:
    parser = ReplyParser(upstream_origin=origin)
    whole = message if isinstance(message, dict) else {"content": message}
    parser.feed(orjson.dumps({"choices": [{"message": whole}]}))
    return parser


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_path_is_a_guess_at_the_origin_of_the_upstream(case: Case) -> None:
    reply = read(case.message).reply(ended=True)
    guesses = [guess.url for guess in find_guesses(reply)]
    assert [url for url in guesses if url.startswith(ORIGIN)] == [ORIGIN + path for path in case.paths]
    assert not any(image.url.startswith(ORIGIN) for image in find_images(reply))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_path_is_nothing_where_the_upstream_is_unknown(case: Case) -> None:
    guesses = find_guesses(read(case.message, "").reply(ended=True))
    assert all("://" in guess.url for guess in guesses)
