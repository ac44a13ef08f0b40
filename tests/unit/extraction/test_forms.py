"""Every reply form of the two tables, every row of FORMS, hostile texts, garbage, and what is said about it all."""

import time
from dataclasses import dataclass, replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamInvalidReply
from app.extraction import forms as replies
from app.extraction.forms import FORMS, ExtractionResult, explain, find_images
from app.extraction.text import visible_text
from app.protocol.chat_reply import ChatReply, ReplyParser, read_reply
from tests.support.reply_corpus import CorpusReply, read_corpus

ROWS = read_corpus("replies.jsonl") + read_corpus("more_replies.jsonl")
PNG = next(row for row in ROWS if row.id == "b64-scheme").expected[0]
LINK = "https://cdn.example.com/gen/2026/a1b2c3.png"


def findings_of(row: CorpusReply) -> ExtractionResult:
    try:
        return explain(read_reply(row.body), row.sent)
    except UpstreamInvalidReply:
        return ExtractionResult((), ())


def urls_of(row: CorpusReply) -> tuple[str, ...]:
    return tuple(image.url for image in findings_of(row).images)


def reply_with(content: object) -> ChatReply:
    return read_reply(orjson.dumps({"choices": [{"index": 0, "message": {"content": content}}]}))


def urls_in(content: object) -> list[str]:
    return [image.url for image in find_images(reply_with(content))]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_known_reply_form_gives_exactly_its_images(row: CorpusReply) -> None:
    assert urls_of(row) == row.expected


def test_the_rows_have_different_names() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_is_needed_by_some_row(form: replies.ReplyForm, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in ROWS if any(image.form == form.name for image in findings_of(row).images)]
    monkeypatch.setattr(replies, "FORMS", tuple(other for other in FORMS if other is not form))
    assert any(urls_of(row) != row.expected for row in rows)


STREAMS = [row for row in ROWS if row.id.startswith(("stream-", "raw-"))]


@pytest.mark.parametrize("row", STREAMS, ids=lambda row: row.id)
def test_a_stream_gives_the_same_images_byte_by_byte(row: CorpusReply) -> None:
    reader = ReplyParser()
    for at in range(len(row.body)):
        reader.feed(row.body[at : at + 1])
    assert tuple(image.url for image in find_images(reader.reply(ended=True), row.sent)) == row.expected


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 2000), max_size=5))
def test_a_stream_gives_the_same_images_in_any_cut(row: CorpusReply, cuts: list[int]) -> None:
    reader = ReplyParser()
    edges = [0, *sorted(cuts), len(row.body)]
    for start, end in zip(edges, edges[1:], strict=False):
        reader.feed(row.body[start:end])
    assert reader.reply(ended=True) == read_reply(row.body)


@dataclass(frozen=True)
class Explained:
    name: str
    content: object
    form: str
    reason: str


EXPLAINED = [
    Explained("an address of another scheme", "![x](ftp://a.example/x.png)", "markdown-image", "no http"),
    Explained("a placeholder", "![x](https://via.placeholder.com/9.png)", "markdown-image", "stands where a picture"),
    Explained("a video", "![x](https://a.example/x.mp4)", "markdown-image", "its poster"),
    Explained("a document", "![x](https://a.example/x.pdf)", "markdown-image", "a file that is not an image"),
    Explained("bytes of a page", "data:image/png;base64,PGh0bWw+dXBzdHJlYW0g", "data-url", "no image"),
    Explained("cut-off bytes", f"{PNG[:200]}", "data-url", "cut off"),
    Explained("a preview", f"![preview](https://a.example/x.png) ![x]({LINK})", "markdown-image", "preview"),
    Explained("a source", "Source: https://a.example/x.png", "address", "not the result"),
    Explained(
        "a small copy of a page", "[![thumb](https://a.example/x.png)](https://a.example/p)", "markdown-image", "page"
    ),
    Explained("half an address", "![x](https://a.example/gen", "markdown-image", "cut off"),
]


@pytest.mark.parametrize("case", EXPLAINED, ids=lambda case: case.name)
def test_what_is_dropped_has_a_reason_in_plain_words(case: Explained) -> None:
    (dropped,) = explain(reply_with(case.content)).rejected
    assert dropped.form == case.form
    assert case.reason in dropped.reason
    assert len(dropped.candidate) <= 200


def test_a_long_candidate_is_shortened() -> None:
    (dropped,) = explain(reply_with(f"![x](https://a.example/{'x' * 300}.pdf)")).rejected
    assert dropped.candidate.endswith("…")


def test_what_the_client_sent_is_dropped_with_a_reason() -> None:
    (dropped,) = explain(reply_with(f"![x]({LINK})"), [LINK]).rejected
    assert "sent it" in dropped.reason


def test_an_image_says_in_which_form_it_was_found() -> None:
    (image,) = find_images(reply_with(f"![x]({LINK})"))
    assert image.form == "markdown-image"


def test_a_reply_that_was_cut_in_snapshots_is_searched_too() -> None:
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
    """Of the processor, so that other work on the machine does not count."""
    reply = reply_with(content)
    spans = []
    for _ in range(3):
        start = time.process_time()
        find_images(reply)
        spans.append(time.process_time() - start)
    return min(spans)


@pytest.mark.parametrize("unit", HOSTILE, ids=repr)
def test_twice_the_hostile_text_takes_no_more_than_some_twice_the_time(unit: str) -> None:
    """Quadratic work takes four times as long, each time it is measured; under 5 ms the clock tells nothing."""
    text = unit * (200_000 // len(unit))
    assert any(seconds_for(text * 2) < 3.2 * max(seconds_for(text), 0.005) for _ in range(5))


#: What stands in front of this mark is reasoning.
@pytest.mark.parametrize("unit", [unit for unit in HOSTILE if unit != "</think>"], ids=repr)
def test_the_image_in_front_of_hostile_text_is_found(unit: str) -> None:
    assert LINK in urls_in(f"![x]({LINK})\n\n" + unit * (20_000 // len(unit)))


def test_hostile_values_are_searched_up_to_a_bound() -> None:
    many = [f"https://a.example/{number}.png" for number in range(5000)]
    assert 0 < len(urls_in([{"type": "image_url", "image_url": many}])) <= 500
    assert 0 < len(urls_in("\n".join(many))) <= 500
    assert 0 < len(urls_in([{"x": {"text": url}} for url in many])) <= 500


def test_texts_without_number_are_searched_up_to_a_bound() -> None:
    spoken = [{"text": f"{LINK} {LINK}", "also": 1}] * 400
    message = {"content": ["words", *spoken], "extra": spoken}
    reply = read_reply(orjson.dumps({"choices": [{"message": message}] * 3}))
    assert [image.url for image in find_images(reply)] == [LINK]
