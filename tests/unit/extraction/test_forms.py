"""Every reply form of the corpus, every row of FORMS, rejections and their reasons, hostile texts and garbage."""

import time
from dataclasses import dataclass, replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamInvalidReply
from app.extraction import forms
from app.extraction.candidates import ExtractionResult
from app.extraction.forms import FORMS, explain, find_images
from app.extraction.text import visible_text
from app.protocol.chat_reply import ChatReply
from app.protocol.reply_parser import ReplyParser, read_reply
from tests.support.reply_corpus import CorpusReply, read_corpus

CORPUS = read_corpus("replies.jsonl") + read_corpus("more_replies.jsonl")
PNG = next(reply for reply in CORPUS if reply.id == "b64-scheme").expected[0]
LINK = "https://cdn.example.com/gen/2026/a1b2c3.png"


def result_of(reply: CorpusReply) -> ExtractionResult:
    try:
        return explain(read_reply(reply.body), reply.sent)
    except UpstreamInvalidReply:
        return ExtractionResult((), ())


def urls_of(reply: CorpusReply) -> tuple[str, ...]:
    """Return what a client would get if exactly the expected addresses led to images."""
    result = result_of(reply)
    images = tuple(image.url for image in result.images)
    return images or tuple(guess.url for guess in result.guesses if guess.url in reply.expected)


def forms_of(reply: CorpusReply) -> set[str]:
    result = result_of(reply)
    return {image.form for image in (*result.images, *result.guesses)}


def reply_with(content: object) -> ChatReply:
    return read_reply(orjson.dumps({"choices": [{"index": 0, "message": {"content": content}}]}))


def urls_in(content: object) -> list[str]:
    return [image.url for image in find_images(reply_with(content))]


@pytest.mark.parametrize("reply", CORPUS, ids=lambda reply: reply.id)
def test_every_reply_of_the_corpus_gives_exactly_its_images(reply: CorpusReply) -> None:
    assert urls_of(reply) == reply.expected


def test_the_replies_have_different_ids() -> None:
    assert len({reply.id for reply in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_is_needed_by_some_reply(form: forms.ReplyForm, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = [reply for reply in CORPUS if form.name in forms_of(reply)]
    others = [other for other in FORMS if other is not form]
    monkeypatch.setattr(forms, "FORMS", others)
    monkeypatch.setattr(forms, "RANKS", forms.ranks_of(others))
    assert any(urls_of(reply) != reply.expected for reply in replies)


STREAMS = [reply for reply in CORPUS if reply.id.startswith(("stream-", "raw-"))]


@pytest.mark.parametrize("reply", STREAMS, ids=lambda reply: reply.id)
def test_a_stream_gives_the_same_images_byte_by_byte(reply: CorpusReply) -> None:
    parser = ReplyParser()
    for position in range(len(reply.body)):
        parser.feed(reply.body[position : position + 1])
    assert tuple(image.url for image in find_images(parser.reply(ended=True), reply.sent)) == reply.expected


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 2000), max_size=5))
def test_a_stream_gives_the_same_images_in_any_cut(reply: CorpusReply, cuts: list[int]) -> None:
    parser = ReplyParser()
    edges = [0, *sorted(cuts), len(reply.body)]
    for start, end in zip(edges, edges[1:], strict=False):
        parser.feed(reply.body[start:end])
    assert parser.reply(ended=True) == read_reply(reply.body)


@dataclass(frozen=True)
class Explained:
    name: str
    content: object
    form: str
    reason: str


EXPLAINED = [
    Explained("a URL of another scheme", "![x](ftp://a.example/x.png)", "markdown-image", "no http"),
    Explained("a placeholder", "![x](https://via.placeholder.com/9.png)", "markdown-image", "stands where a picture"),
    Explained("a video", "![x](https://a.example/x.mp4)", "markdown-image", "leads to a video"),
    Explained("a document", "![x](https://a.example/x.pdf)", "markdown-image", "a file that is not an image"),
    Explained("bytes of an HTML page", "data:image/png;base64,PGh0bWw+dXBzdHJlYW0g", "data-url", "no image"),
    Explained("truncated bytes", f"{PNG[:200]}", "data-url", "cut off"),
    Explained("a preview", f"![preview](https://a.example/x.png) ![x]({LINK})", "markdown-image", "preview"),
    Explained("a source", "Source: https://a.example/x.png", "address", "not the result"),
    Explained(
        "a thumbnail that leads to a page",
        "[![thumb](https://a.example/x.png)](https://a.example/p)",
        "markdown-image",
        "page",
    ),
    Explained("half a URL", "![x](https://a.example/gen", "markdown-image", "cut off"),
]


@pytest.mark.parametrize("case", EXPLAINED, ids=lambda case: case.name)
def test_a_rejected_candidate_has_a_reason_in_plain_words(case: Explained) -> None:
    (rejected,) = explain(reply_with(case.content)).rejected
    assert rejected.form == case.form
    assert case.reason in rejected.reason
    assert len(rejected.candidate) <= 200


def test_a_long_candidate_is_truncated() -> None:
    (rejected,) = explain(reply_with(f"![x](https://a.example/{'x' * 300}.pdf)")).rejected
    assert rejected.candidate.endswith("…")


def test_an_image_that_the_client_sent_is_rejected_with_a_reason() -> None:
    (rejected,) = explain(reply_with(f"![x]({LINK})"), [LINK]).rejected
    assert "sent it" in rejected.reason


def test_guesses_are_few_and_none_is_an_image_that_the_client_sent_or_a_home_page() -> None:
    links = " ".join(f"https://e.example/x{number}" for number in range(9))
    guesses = explain(reply_with(f"{links} https://home.example/"), ["https://e.example/x0"]).guesses
    assert [guess.url for guess in guesses] == [f"https://e.example/x{number}" for number in range(1, 5)]
    assert explain(reply_with('{"portal": "https://home.example/"}')).guesses == ()


def test_an_image_names_the_form_in_which_it_was_found() -> None:
    (image,) = find_images(reply_with(f"![x]({LINK})"))
    assert image.form == "markdown-image"


def test_an_incomplete_reply_is_searched_too() -> None:
    assert find_images(replace(reply_with(f"![x]({LINK})"), complete=False))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=30) | st.just(LINK),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "content",
                    "images",
                    "type",
                    "text",
                    "url",
                    "image_url",
                    "role",
                    "b64_json",
                    "message",
                    "delta",
                    "choices",
                    "status",
                    "data",
                    "error",
                    "code",
                    "usage",
                    "index",
                    "finish_reason",
                    "thought",
                    "mime_type",
                    "refusal",
                    "response",
                    "item",
                    "candidates",
                    "x",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["choices", "data", "output", "message", "error", "type", "usage"]), JUNK))
def test_no_body_makes_the_search_fail(body: dict[str, object]) -> None:
    assert isinstance(find_images(read_reply(orjson.dumps(body))), list)


@settings(max_examples=150, deadline=None)
@given(JUNK)
def test_no_message_makes_the_search_fail(message: object) -> None:
    body = {"choices": [{"message": message}, {"delta": message}]}
    reply = read_reply(orjson.dumps(body))
    assert isinstance(explain(reply, [LINK, PNG]), ExtractionResult)
    assert isinstance(visible_text(reply), str)


MARKS = [
    "![",
    "](",
    "[",
    "(",
    ")",
    "<img src=",
    '"',
    "'",
    "<",
    ">",
    "data:image/png;base64,",
    "https://",
    "//",
    LINK,
    PNG,
    "\\",
    "```",
    "```json\n",
    "<think>",
    "</think>",
    "<!--",
    "-->",
    "{",
    "}",
    '"url":',
    ",",
    " ",
    "\n",
    "[img]",
    "\ue000",
    "0",
    "图片",
    "=",
    "://",
    "&amp;",
    "/9j/",
    "<details>",
    "[a]: ",
    "![a]",
    "base64://",
    "\x00",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(MARKS), max_size=30).map("".join))
def test_no_text_makes_the_search_fail(text: str) -> None:
    assert all(url.startswith(("http://", "https://", "data:image/")) for url in urls_in(text))


HOSTILE = [
    "![",
    "[",
    "](",
    "![](",
    "<img ",
    "<img src=",
    "data:",
    "data:image/png;base64,",
    "https://",
    "https:// ",
    "https://a.b ",
    f"![]({LINK})",
    '{"',
    "[",
    '"',
    "\\",
    "```",
    "```json\n",
    "<think>",
    "<think></think>",
    "</think>",
    "<!--",
    "<details>",
    "/9j/ ",
    "/9j/" + "A" * 60 + " ",
    "iVBORw0KGgo ",
    "A",
    "\n",
    "://",
    "(//a",
    "![a]",
    "&amp;",
    "https://a.b/(",
    "https://a.b/图",
    '{"url":"https://a.b"},',
    "\ue000",
    "data:image/png;base64," + "A" * 20 + "\n",
]


def seconds_for(content: str) -> float:
    """Measure processor time, so that other work on the machine does not count."""
    reply = reply_with(content)
    spans = []
    for _ in range(3):
        start = time.process_time()
        find_images(reply)
        spans.append(time.process_time() - start)
    return min(spans)


@pytest.mark.parametrize("unit", HOSTILE, ids=repr)
def test_the_time_for_hostile_text_grows_linearly(unit: str) -> None:
    """Quadratic work takes four times as long for twice the text, in every measurement. Times below 5 ms are noise."""
    text = unit * (200_000 // len(unit))
    assert any(seconds_for(text * 2) < 3.2 * max(seconds_for(text), 0.005) for _ in range(5))


# `</think>` is left out: text in front of it is reasoning.
@pytest.mark.parametrize("unit", [unit for unit in HOSTILE if unit != "</think>"], ids=repr)
def test_the_image_in_front_of_hostile_text_is_found(unit: str) -> None:
    assert LINK in urls_in(f"![x]({LINK})\n\n" + unit * (20_000 // len(unit)))


def test_values_beyond_a_limit_are_not_searched() -> None:
    many = [f"https://a.example/{number}.png" for number in range(5000)]
    assert 0 < len(urls_in([{"type": "image_url", "image_url": many}])) <= 500
    assert 0 < len(urls_in("\n".join(many))) <= 500
    assert 0 < len(urls_in([{"x": {"text": url}} for url in many])) <= 500


def test_texts_beyond_a_limit_are_not_searched() -> None:
    spoken = [{"text": f"{LINK} {LINK}", "also": 1}] * 400
    message = {"content": ["words", *spoken], "extra": spoken}
    reply = read_reply(orjson.dumps({"choices": [{"message": message}] * 3}))
    assert [image.url for image in find_images(reply)] == [LINK]
