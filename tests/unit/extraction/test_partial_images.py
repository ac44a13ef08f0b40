"""Which images of a growing or broken reply are complete, and which are partial images."""

from dataclasses import dataclass

import orjson
import pytest

from app.extraction.forms import FoundImage, explain
from app.extraction.partial import PartialImageTracker, without_open_end
from app.protocol.reply_parser import ReplyParser, read_reply

URL = "https://cdn.example.com/gen/1"
#: A complete PNG of 8x8 pixels.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAA00lEQVR4nAHIADf/AEQggjz95vHCazD5DsfdAeSIdTSiDwsNBAHDbthLAwjvBtB5+Tsem+qfVMIKS0Ek8bkA/8kR9XzO1Fi7vyzgN1PJvfoP8BadyVdWBHU9VQLJ4j4c2U7Zh2cW2jnAV93iGQu5qgGp6g7McE65KLT2qPjD3YeYgqnfJ1zFpb0E2Wx9IZIZ0AreDh2LyDibBWBJDaZ2ULTBAsi8x07yzOiA1b4FFW/B4OjhG7lKlCVICgCBQgQTb+tXE8FmsTJp3WP8NceX/wimzZAWXGJNO54kSwAAAABJRU5ErkJggg=="


@dataclass(frozen=True)
class Case:
    name: str
    content: object
    found: list[str]


BROKEN_OFF = [
    Case("inside a URL", f"已生成图片:{URL}", []),
    Case("behind the suffix of a URL", f"已生成图片:{URL}.png", [f"{URL}.png"]),
    Case("behind the suffix in capital letters", f"已生成图片:{URL}.PNG", [f"{URL}.PNG"]),
    Case("behind a line break", f"已生成图片:{URL}\n", [URL]),
    Case("behind a Chinese full stop", f"已生成图片:{URL}。", [URL]),
    Case("behind a Markdown image", f"![a]({URL})", [URL]),
    Case("inside a Markdown image", f"![a]({URL}", []),
    Case("inside a second URL", f"![a]({URL}.png) ![b](https://cdn.exa", [f"{URL}.png"]),
    Case("inside base64", f"![a](data:image/png;base64,{PNG[:200]}", []),
    Case("behind base64", f"![a](data:image/png;base64,{PNG})", [f"data:image/png;base64,{PNG}"]),
    Case("inside words", "One moment, I am paint", []),
    Case("no text at all", None, []),
]


@pytest.mark.parametrize("case", BROKEN_OFF, ids=lambda case: case.name)
def test_which_images_of_a_broken_stream_are_complete(case: Case) -> None:
    parser = ReplyParser()
    parser.feed(b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": case.content}}]}) + b"\n\n")
    result = explain(without_open_end(parser.reply()))
    assert [image.url for image in (*result.images, *result.guesses)] == case.found


def test_a_complete_reply_is_not_cut() -> None:
    parser = ReplyParser()
    parser.feed(orjson.dumps({"choices": [{"index": 0, "message": {"content": f"已生成图片:{URL}"}}]}))
    reply = parser.reply(ended=True)
    assert without_open_end(reply) is reply


@dataclass(frozen=True)
class Growth:
    name: str
    snapshots: list[list[str]]
    superseded: list[list[str]]
    count: int = 3


GROWTHS = [
    Growth("a single image may be the final one", [["a"], ["a"]], [[], []]),
    Growth("a second image supersedes the first", [["a"], ["a", "b"], ["a", "b"]], [[], ["a"], []]),
    Growth("two images at once", [["a", "b"], ["a", "b", "c"]], [["a"], ["b"]]),
    Growth("drafts that disappear once the final image is there", [["a"], ["a", "b"], ["c"]], [[], ["a"], ["b"]]),
    Growth("no more than requested", [["a", "b", "c"], ["a", "b", "c", "d"]], [["a"], []], count=1),
    Growth("a URL that continues", [["https://h/1.p"], ["https://h/1.png"], ["https://h/1.png", "b"]], [[], [], ["https://h/1.png"]]),
    Growth("an earlier image that appears again", [["a", "b"], ["b", "a"]], [["a"], []]),
    Growth("no image yet", [[]], [[]]),
]  # fmt: skip


@pytest.mark.parametrize("case", GROWTHS, ids=lambda case: case.name)
def test_partial_images_are_those_that_a_newer_one_supersedes(case: Growth) -> None:
    tracker = PartialImageTracker(case.count)
    seen = [tracker.superseded([FoundImage(url, "form") for url in snapshot]) for snapshot in case.snapshots]
    assert [[image.url for image in images] for images in seen] == case.superseded


@pytest.mark.parametrize("end", ["", 'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'])
@pytest.mark.parametrize("case", BROKEN_OFF, ids=lambda case: case.name)
def test_a_reply_that_ends_in_the_middle_gives_no_half_image(case: Case, end: str) -> None:
    event = b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": case.content}}]}) + b"\n\n"
    result = explain(without_open_end(read_reply(event + end.encode())))
    assert [image.url for image in (*result.images, *result.guesses)] == case.found


@pytest.mark.parametrize("case", BROKEN_OFF, ids=lambda case: case.name)
def test_a_message_at_the_limit_of_tokens_gives_no_half_image(case: Case) -> None:
    choice = {"index": 0, "message": {"content": case.content}, "finish_reason": "length"}
    result = explain(without_open_end(read_reply(orjson.dumps({"choices": [choice]}))))
    assert [image.url for image in (*result.images, *result.guesses)] == case.found
