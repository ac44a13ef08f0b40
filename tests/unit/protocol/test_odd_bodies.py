"""Bodies that are no JSON and no events, or in another encoding: an image alone, plain text, HTML, UTF-16."""

from collections.abc import Callable
from dataclasses import dataclass

import orjson
import pybase64
import pytest

from app.errors import UpstreamInvalidReply
from app.protocol.chat_reply import ChatReply
from app.protocol.inline_images import placeholder_png
from app.protocol.reply_encoding import charset_of, in_utf8
from app.protocol.reply_parser import ReplyParser
from tests.support.memory_sink import MemorySink

PNG = placeholder_png(7)
GIF = pybase64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
BMP = (
    b"BM" + (58).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little") + bytes(40)
)
WHOLE = {"choices": [{"message": {"content": "图 Привет"}}]}
LINK = "https://a.example/x7f"


def parse(body: bytes, size: int, charset: str = "", *, new_sink: Callable[[], MemorySink] | None = None) -> ChatReply:
    """Parse a body in pieces of a size. Where it cannot be read, return what is left as its text."""
    parser = ReplyParser(new_sink, charset=charset)
    for start in range(0, len(body), size):
        parser.feed(body[start : start + size])
    try:
        return parser.reply(ended=True)
    except UpstreamInvalidReply:
        reply = parser.reply()
        assert reply.is_doubtful or not reply.complete
        return reply


SIZES = pytest.mark.parametrize("size", [1, 3, 7, 100_000])


@SIZES
@pytest.mark.parametrize("image", [PNG, GIF], ids=["PNG", "GIF"])
def test_a_body_that_is_an_image_is_the_reply(image: bytes, size: int) -> None:
    reply = parse(image, size)
    media_type = "png" if image is PNG else "gif"
    url = f"data:image/{media_type};base64,{pybase64.b64encode_as_string(image)}"
    assert reply.messages == ({"content": "", "parts": [{"type": "image_url", "image_url": {"url": url}}]},)
    assert (reply.complete, reply.is_doubtful, reply.spooled_images) == (True, False, {})


@SIZES
def test_a_body_that_is_an_image_goes_into_a_sink(size: int) -> None:
    reply = parse(PNG, size, new_sink=MemorySink)
    ((url, sink),) = reply.spooled_images.items()
    assert sink.read_at(0, 10_000) == PNG
    assert reply.messages[0]["parts"][0]["image_url"]["url"] == url


def test_an_image_is_whole_as_soon_as_its_end_has_come() -> None:
    parser = ReplyParser(MemorySink)
    parser.feed(PNG[:-1])
    assert parser.is_in_image
    assert (parser.reply().complete, parser.reply().messages, parser.size) == (False, (), 0)
    parser.feed(PNG[-1:])
    assert parser.reply().complete


def test_an_image_whose_end_is_missing_is_refused() -> None:
    parser = ReplyParser()
    parser.feed(PNG[:-1])
    with pytest.raises(UpstreamInvalidReply, match="could not be read"):
        parser.reply(ended=True)


@dataclass(frozen=True)
class Encoded:
    name: str
    body: bytes
    charset: str = ""
    text: str = "图 Привет"


JSON = orjson.dumps(WHOLE).decode()
EVENTS = f"data: {JSON}\n\ndata: [DONE]\n\n"
ENCODED = [
    Encoded("UTF-16 with a mark", JSON.encode("utf-16")),
    Encoded("UTF-16 in the other order, with a mark", "\ufeff".encode("utf-16-be") + JSON.encode("utf-16-be")),
    Encoded("UTF-16 without a mark", JSON.encode("utf-16-le")),
    Encoded("UTF-32 without a mark", JSON.encode("utf-32-be")),
    Encoded("events in UTF-16 with a mark", EVENTS.encode("utf-16")),
    Encoded("events in UTF-8 with a mark", EVENTS.encode("utf-8-sig")),
    Encoded("JSON in UTF-8 with a mark", JSON.encode("utf-8-sig")),
    Encoded("UTF-16 as it is declared", JSON.encode("utf-16-be"), "utf-16be"),
    Encoded("UTF-16 that is declared but not there", JSON.encode(), "utf-16"),
    Encoded("a charset of another script", JSON.encode("gb18030"), "gb18030"),
    Encoded("a charset that is declared but not there", JSON.encode(), "gbk"),
    Encoded("a charset that nobody knows", JSON.encode(), "klingon"),
    Encoded("a charset that encodes no text", JSON.encode(), "hex"),
    Encoded(
        "a long text in UTF-8 whose charset is not there",
        orjson.dumps({"choices": [{"message": {"content": "é" * 999}}]}).decode().encode(),
        "gbk",
        "é" * 999,
    ),
    Encoded(
        "half a letter at the end of a text in another charset",
        '{"choices":[{"message":{"content":"Grüße"}}]}'.encode("latin-1") + b"\xc3",
        "iso-8859-1",
        "Grüße",
    ),
    Encoded("a text that begins as BMP images do", b"BMW: " + LINK.encode(), text=f"BMW: {LINK}"),
    Encoded("UTF-16 of another script, as it is declared", "图 Привет".encode("utf-16-le"), "utf-16-le"),
]


@SIZES
@pytest.mark.parametrize("case", ENCODED, ids=lambda case: case.name)
def test_a_body_is_read_in_its_encoding(case: Encoded, size: int) -> None:
    assert [message["content"] for message in parse(case.body, size, case.charset).messages] == [case.text]


def test_a_whole_text_becomes_utf_8() -> None:
    assert in_utf8("图".encode("utf-16")) == "\ufeff图".encode()
    assert in_utf8(b"a") == b"a"


def test_a_whole_body_in_utf_16_keeps_its_images() -> None:
    parser = ReplyParser(MemorySink)
    url = f"data:image/png;base64,{pybase64.b64encode_as_string(PNG)}"
    parser.feed_all(orjson.dumps({"choices": [{"message": {"content": f"![x]({url})"}}]}).decode().encode("utf-16-le"))
    assert url in parser.reply(ended=True).messages[0]["content"]


CHARSETS = [
    ("application/json", ""),
    ("application/json; charset=utf-8", ""),
    ("text/event-stream; charset=UTF8; boundary=x", ""),
    ('text/plain; charset="GBK"; x=y', "gbk"),
]


@pytest.mark.parametrize(("content_type", "charset"), CHARSETS, ids=repr)
def test_the_charset_of_a_content_type_is_read(content_type: str, charset: str) -> None:
    assert charset_of(content_type) == charset


@dataclass(frozen=True)
class Text:
    name: str
    body: str
    text: str | None = None
    is_doubtful: bool = True


TEXTS = [
    Text("a sentence with a link", f"Your image is ready: {LINK}"),
    Text("Markdown", f"![x]({LINK})"),
    Text("Markdown that begins like a list", f"[![x]({LINK})]({LINK})"),
    Text(
        "a data URL, which begins as events do", "data:image/png;base64,iVBO\nRw0KGgo", "image/png;base64,iVBO\nRw0KGgo"
    ),
    Text("a sentence in HTML", f'<p>Ready: <a href="{LINK}">image</a></p>'),
    Text("a sentence in a document of HTML", f"<!DOCTYPE html><html><body>{LINK}</body></html>", LINK),
    Text("a JSON string", f'"![x]({LINK})"', f"![x]({LINK})"),
    Text("a text in quotes", f'"Ready": {LINK}'),
    Text("JSON that is cut off", '{"choices":[{"message":{"content":"![x](' + LINK + ") and"),
    Text("a list of links", f'["{LINK}"]'),
    Text("events with lines of text", f"data: Ready:\n\ndata: {LINK}\n\n", f"Ready:\n{LINK}"),
    Text("events with words of a text", "data: Rea\n\ndata: dy:\n\ndata:  https://a\n\n", "Ready: https://a"),
    Text("events with words, and the last mark", f"data: {LINK}\n\ndata: [DONE]\n\n", LINK, is_doubtful=False),
]


@SIZES
@pytest.mark.parametrize("case", TEXTS, ids=lambda case: case.name)
def test_a_text_is_kept_as_the_text_of_a_reply(case: Text, size: int) -> None:
    reply = parse(case.body.encode(), size)
    assert [message["content"] for message in reply.messages] == [case.body if case.text is None else case.text]
    assert (reply.is_doubtful, reply.complete) == (case.is_doubtful, True)


PAGES = [
    "<html><head><title>502 Bad Gateway</title></head><body><center><h1>502</h1></center><img src=x></body></html>",
    f'<!doctype html><html><link rel="icon" href="{LINK}"><body><script src="{LINK}"></script></body></html>',
    f'<html><body><h1>Sign in</h1><form action="{LINK}"><input name=user></form></body></html>',
]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_for_people_is_no_reply(page: str) -> None:
    parser = ReplyParser()
    parser.feed(page.encode())
    with pytest.raises(UpstreamInvalidReply, match="answered with a web page"):
        parser.reply(ended=True)
    assert (parser.reply().messages, parser.reply().is_doubtful) == ((), True)


def test_a_page_with_a_large_image_in_it_is_a_reply() -> None:
    noise = bytes(range(256)) * 400
    image = PNG[:-12] + len(noise).to_bytes(4, "big") + b"tEXt" + noise + bytes(4) + PNG[-12:]
    body = f'<html><title>x</title><img src="data:image/png;base64,{pybase64.b64encode_as_string(image)}"></html>'
    reply = parse(body.encode(), 100_000, new_sink=MemorySink)
    ((url, sink),) = reply.spooled_images.items()
    assert sink.size == len(image)
    assert url in reply.messages[0]["content"]


def test_words_of_events_before_a_chat_are_no_text_of_it() -> None:
    body = b"data: ping\n\n" + b"data: " + orjson.dumps(WHOLE) + b"\n\ndata: pong\n\ndata: [DONE]\n\n"
    assert [message["content"] for message in parse(body, 9).messages] == ["图 Привет"]


STRINGS = [
    ("strings of JSON", b'data: "a\\n"\n\ndata: "b"\n\ndata: "c"\n\n', "a\nbc"),
    ("words with blanks", b"data: a \n\ndata: b\n\n", "a b"),
    ("lines", b'data: "a"\n\ndata: b\n\n', '"a"\nb'),
]


@pytest.mark.parametrize(("name", "body", "text"), STRINGS, ids=[case[0] for case in STRINGS])
def test_events_without_objects_are_pieces_of_one_text(name: str, body: bytes, text: str) -> None:
    assert [message["content"] for message in parse(body + b"data: [DONE]\n\n", 5).messages] == [text]
