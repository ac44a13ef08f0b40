"""Any pasted bytes are read as some part of a chat reply."""

from dataclasses import dataclass

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.extraction.explain import json_report, parse_pasted, text_report
from app.extraction.forms import MAX_CANDIDATE, explain, find_images
from app.extraction.places import OF_A_LONG_TEXT
from app.protocol.data_url import image_data_url
from app.protocol.inline_images import placeholder_png
from app.protocol.reply_parser import MAX_LEFT
from tests.support.sample_images import noise, saved

A = "https://cdn.example/a.png"
STREAM = f'data: {{"choices":[{{"delta":{{"content":"![a]({A})"}}}}]}}\n\ndata: [DONE]\n\n'


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    pasted: str
    kind: str
    found: tuple[str, ...] = (A,)


CASES = [
    Case("a whole body", f'{{"choices":[{{"message":{{"content":"![a]({A})"}}}}]}}', "a body in JSON"),
    Case("a whole body behind a byte order mark and white space", f'\ufeff \n{{"choices":[{{"message":{{"content":"![a]({A})"}}}}]}}', "a body in JSON"),
    Case("a body of another form", f'{{"data":[{{"url":"{A}"}}]}}', "a body in JSON"),
    Case("JSON documents, one a line", f'{{"choices":[{{"delta":{{"content":"![a]({A}"}}}}]}}\n{{"choices":[{{"delta":{{"content":")"}}}}]}}', "a body in JSON"),
    Case("a stream", STREAM, "a stream of events"),
    Case("a stream after a comment", f": keep-alive\n\n{STREAM}", "a stream of events"),
    Case("one message", f'{{"role":"assistant","content":"![a]({A})"}}', "one message"),
    Case("a message without text that has its image beside", f'{{"role":"assistant","images":[{{"image_url":{{"url":"{A}"}}}}]}}', "one message"),
    Case("a content alone", f'{{"content":"![a]({A})"}}', "one message"),
    Case("one choice", f'{{"index":0,"message":{{"content":"![a]({A})"}}}}', "one choice"),
    Case("one choice of a stream", f'{{"index":0,"delta":{{"content":"![a]({A})"}}}}', "one choice"),
    Case("content parts", f'[{{"type":"image_url","image_url":{{"url":"{A}"}}}}]', "a list of content parts"),
    Case("bodies in a list", f'[{{"choices":[{{"message":{{"content":"![a]({A})"}}}}]}}]', "a body in JSON"),
    Case("a text in JSON", f'"![a]({A})\\n"', "a JSON text"),
    Case("plain words", f"Here it is: ![a]({A})", "plain words"),
    Case("words in brackets", f"[Here it is] ![a]({A})", "plain words"),
    Case("a truncated body", f'{{"choices":[{{"message":{{"content":"![a]({A})', "plain words"),
    Case("an HTML page", f'<html><img src="{A}"></html>', "plain words", ()),
    Case("a list of numbers", "[1]", "plain words", ()),
    Case("an empty list", "[]", "plain words", ()),
    Case("a number", "7", "plain words", ()),
    Case("nothing", "", "plain words", ()),
    Case("words of a safety system", "Your request was flagged by our moderation.", "plain words", ()),
    Case("a message that nests too deeply", f'{{"content":{"[" * 500}"![a]({A})"{"]" * 500}}}', "a body in JSON", ()),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pasted_bytes_are_read_as_what_they_are(case: Case) -> None:
    pasted = parse_pasted(case.pasted.encode())
    assert pasted.kind == case.kind
    assert tuple(image.url for image in find_images(pasted.reply)) == case.found


def test_an_image_is_read_as_one() -> None:
    pasted = parse_pasted(placeholder_png(1))
    assert pasted.kind == "an image"
    assert [image.form for image in find_images(pasted.reply)] == ["content-part"]


def test_an_image_whose_end_is_missing_is_none() -> None:
    pasted = parse_pasted(placeholder_png(1)[:-5])
    assert (pasted.kind, find_images(pasted.reply)) == ("an image", [])


#: Longer in base64 than any reply may be without its images.
LARGE = saved(noise((1100, 1100)), "PNG")
LARGE_URL = image_data_url(LARGE)
LARGE_CASES = [
    Case("a body", f'{{"choices":[{{"message":{{"content":"![a]({LARGE_URL})"}}}}]}}', "a body in JSON"),
    Case("a body that escapes slashes", f'{{"content":null,"image":"{LARGE_URL}"}}'.replace("/", "\\/"), "one message"),
    Case("a stream", f'data: {{"choices":[{{"delta":{{"content":"{LARGE_URL}"}}}}]}}\n\n', "a stream of events"),
    Case("plain words", f"Here it is: ![a]({LARGE_URL})", "plain words"),
]  # fmt: skip


@pytest.mark.parametrize("case", LARGE_CASES, ids=lambda case: case.name)
def test_a_large_image_is_found_and_reported_in_full(case: Case) -> None:
    pasted = parse_pasted(case.pasted.encode())
    report = json_report(pasted, explain(pasted.reply))
    assert len(LARGE_URL) > MAX_LEFT
    assert (report["read_as"], [each["url"] for each in report["found"]]) == (case.kind, [LARGE_URL])


def test_a_large_image_that_is_dropped_is_reported_with_its_start() -> None:
    words = f"Your input image: ![input image]({LARGE_URL}). The result: ![result]({A})"
    pasted = parse_pasted(words.encode())
    report = json_report(pasted, explain(pasted.reply, [LARGE_URL]))
    assert [each["url"] for each in report["found"]] == [A]
    assert [each["candidate"][:-1] for each in report["dropped"]] == [LARGE_URL[: MAX_CANDIDATE - 1]]
    assert f"  - markdown-image: {LARGE_URL[:159]}…" in text_report(pasted, explain(pasted.reply, [LARGE_URL]))


def test_a_large_image_that_is_cut_off_is_dropped_for_that_reason() -> None:
    pasted = parse_pasted(f"![a]({LARGE_URL[: MAX_LEFT // 4]})".encode())
    report = json_report(pasted, explain(pasted.reply))
    assert [each["reason"] for each in report["dropped"]] == ["its bytes are cut off"]


def test_a_large_image_file_is_read_as_one() -> None:
    pasted = parse_pasted(LARGE)
    report = json_report(pasted, explain(pasted.reply))
    assert (report["read_as"], [each["url"] for each in report["found"]]) == ("an image", [LARGE_URL])


@dataclass(frozen=True, slots=True)
class TooLong:
    name: str
    pasted: bytes
    kind: str


TOO_LONG = [
    TooLong("NUL bytes", bytes(MAX_LEFT), "plain words"),
    TooLong("bytes that are not text", b"\xff" * MAX_LEFT, "plain words"),
    TooLong("brackets", b"[" * MAX_LEFT, "plain words"),
    TooLong("line breaks", b"\n" * (MAX_LEFT + 1), "plain words"),
    TooLong("a stream of nothing", b"data:\n" * (MAX_LEFT // 5), "plain words"),
    TooLong("a text in JSON", orjson.dumps("x " * (MAX_LEFT // 2)), "a JSON text"),
    TooLong("a message", orjson.dumps({"content": "x " * (MAX_LEFT // 2)}), "one message"),
]


@pytest.mark.parametrize("case", TOO_LONG, ids=lambda case: case.name)
def test_what_is_too_long_for_a_reply_gets_the_error_of_a_client(case: TooLong) -> None:
    pasted = parse_pasted(case.pasted)
    report = json_report(pasted, explain(pasted.reply))
    assert report == {
        "read_as": case.kind,
        "complete": True,
        "found": [],
        "guessed": [],
        "dropped": [],
        "answer": "500 upstream_broken: The upstream's reply is larger than this server takes.",
        "mend": OF_A_LONG_TEXT,
    }


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_other_encodings_are_read(encoding: str) -> None:
    pasted = parse_pasted(CASES[0].pasted.encode(encoding))
    assert (pasted.kind, [image.url for image in find_images(pasted.reply)]) == (CASES[0].kind, [A])


def test_a_truncated_stream_is_incomplete() -> None:
    assert not parse_pasted(STREAM.partition("\n\n")[0].encode() + b'\n\ndata: {"choi').reply.complete


@settings(max_examples=100)
@given(st.binary() | st.text(alphabet='{}[]":,dat\n 1\\u').map(str.encode))
def test_no_bytes_make_it_fail(pasted: bytes) -> None:
    assert parse_pasted(pasted).kind
