"""Which images are whole in a reply that may end in the middle of a word."""

from collections.abc import Callable
from dataclasses import dataclass

import orjson
import pytest

from app.extraction.forms import explain, find_images
from app.protocol.chat_reply import ChatReply
from app.protocol.reply_parser import ReplyParser, read_reply
from app.protocol.text_end import TextEnd

URL = "https://cdn.example.com/gen/1"
#: A complete PNG of 8x8 pixels.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAA00lEQVR4nAHIADf/AEQggjz95vHCazD5DsfdAeSIdTSiDwsNBAHDbthLAwjvBtB5+Tsem+qfVMIKS0Ek8bkA/8kR9XzO1Fi7vyzgN1PJvfoP8BadyVdWBHU9VQLJ4j4c2U7Zh2cW2jnAV93iGQu5qgGp6g7McE65KLT2qPjD3YeYgqnfJ1zFpb0E2Wx9IZIZ0AreDh2LyDibBWBJDaZ2ULTBAsi8x07yzOiA1b4FFW/B4OjhG7lKlCVICgCBQgQTb+tXE8FmsTJp3WP8NceX/wimzZAWXGJNO54kSwAAAABJRU5ErkJggg=="


#: What leads to the image only as a whole.
SIGNED = f"{URL}.png?sig=0123456789"
DATA_URL = f"data:image/png;base64,{PNG}"


@dataclass(frozen=True)
class Case:
    """`whole`: what is an image or a guess as it is; `open`: what is one only if its bytes say so."""

    name: str
    content: object
    whole: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


CUT = [
    Case("inside a URL", f"已生成图片:{URL}"),
    Case("inside a host", "Here: https://cdn.exa"),
    Case("inside a scheme", "Here: https:/"),
    Case("inside an ending", f"{URL}.pn"),
    Case("behind the suffix of a URL", f"已生成图片:{URL}.png", open=(f"{URL}.png",)),
    Case("behind the suffix in capital letters", f"已生成图片:{URL}.PNG", open=(f"{URL}.PNG",)),
    Case("inside a signature", f"Here: {SIGNED}", open=(SIGNED,)),
    Case("behind a question mark", f"{URL}.png?", open=(f"{URL}.png",)),
    Case("behind a full stop that may be a part of the URL", f"Here: {SIGNED}.", open=(SIGNED,)),
    Case("behind a line break", f"已生成图片:{URL}\n", (URL,)),
    Case("behind a blank", f"Here: {SIGNED} ", (SIGNED,)),
    Case("behind a Chinese full stop", f"已生成图片:{URL}。", (URL,)),
    Case("behind emphasis", f"**{URL}**", (URL,)),
    Case("inside emphasis", f"**{URL}"),
    Case("behind a Markdown image", f"![a]({URL})", (URL,)),
    Case("inside a Markdown image", f"![a]({URL}"),
    Case("inside the signature of a Markdown image", f"![a]({SIGNED}", open=(SIGNED,)),
    Case("inside the title of a Markdown image", f'![a]({URL}.png "a fo', (f"{URL}.png",)),
    Case("behind a line break in a Markdown image", f"![a]({URL}\n"),
    Case("behind parentheses within a URL", f"{URL}_(2)_lar"),
    Case("behind a comma within a URL", "https://cdn.example.com/fox.png/w_400,h_4"),
    Case("within the size that a URL asks for", f"{URL}.png?p=image/resize,w_1", open=(f"{URL}.png?p=image/resize,w_1",)),
    Case("inside a file name with blanks", f"![a]({URL}/red f"),
    Case("inside a file name with blanks in an HTML image", f'<img src="{URL}/red f'),
    Case("inside a URL over two lines", f"![a]({URL}.\npn"),
    Case("inside a URL over two lines in angle brackets", f"<{URL}.\r\np"),
    Case("behind an open quote and words", f'He wrote "{URL} and', (URL,)),
    Case("inside an HTML image", f'<img src="{URL}'),
    Case("inside the signature of an HTML image", f'<img src="{SIGNED}', open=(SIGNED,)),
    Case("behind the URL of an HTML image", f'<img src="{URL}.png"', (f"{URL}.png",)),
    Case("inside another attribute", f'<img src="{URL}.png" alt="a fo', (f"{URL}.png",)),
    Case("inside a BBCode image", f"[img]{URL}"),
    Case("inside JSON", f'{{"url": "{SIGNED}', open=(SIGNED,)),
    Case("inside JSON with escapes", f'{{"url": "{SIGNED}\\u00', open=(SIGNED,)),
    Case("behind a backslash", f'{{"url": "{URL.replace("/", chr(92) + "/")}\\'),
    Case("behind the URL in JSON", f'{{"url": "{SIGNED}"', (SIGNED,)),
    Case("inside an escaped letter", f"{URL}/%E4%B"),
    Case("behind a letter of another script", "https://cdn.example.com/狐"),
    Case("inside a second URL", f"![a]({URL}.png) ![b](https://cdn.exa", (f"{URL}.png",)),
    Case("inside a second address", f"{URL}.png\n{URL}", (f"{URL}.png",)),
    Case("inside the signature of a second URL", f"![a]({URL}.png) ![b]({SIGNED}", (f"{URL}.png",), (SIGNED,)),
    Case("inside the link around an image", f"[![a]({URL}.png)]({SIGNED}", (f"{URL}.png",)),
    Case("inside the link to the original", f"![a]({URL}_512.png) [4096x4096]({SIGNED}", (f"{URL}_512.png",)),
    Case("inside a definition", f"![a][1]\n\n[1]: {URL}"),
    Case("inside base64", f"![a](data:image/png;base64,{PNG[:200]}"),
    Case("behind base64", f"![a]({DATA_URL})", (DATA_URL,)),
    Case("at the end of base64", f"![a]({DATA_URL}", (DATA_URL,)),
    Case("at the end of a data URL", DATA_URL, (DATA_URL,)),
    Case("at the end of bare base64", PNG, (DATA_URL,)),
    Case("inside an address behind base64", f"![a]({DATA_URL}) {SIGNED}", (DATA_URL,)),
    Case("inside a part of the content", [{"type": "text", "text": f"Here: {SIGNED}", "cache_control": {}}], open=(SIGNED,)),
    Case("inside words", "One moment, I am paint"),
    Case("no text at all", None),
]  # fmt: skip


def delta(content: object, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
    return b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"


def broken_off(content: object) -> ChatReply:
    parser = ReplyParser()
    parser.feed(delta(content))
    return parser.reply()


#: Ways in which a reply ends that may have been cut anywhere.
ENDS: dict[str, Callable[[object], ChatReply]] = {
    "a stream that breaks off": broken_off,
    "a stream without a last mark": lambda content: read_reply(delta(content)),
    "a stream at the limit of tokens": lambda content: read_reply(delta(content) + delta("", "length") + b"data: [DONE]\n\n"),
    "a message at the limit of tokens": lambda content: read_reply(
        orjson.dumps({"choices": [{"message": {"content": content}, "finish_reason": "length"}]})
    ),
}  # fmt: skip


def found(reply: ChatReply) -> tuple[list[str], list[str]]:
    """Return what is whole, guesses included, and what may be cut."""
    result = explain(reply)
    whole = [image.url for image in find_images(reply, takes_open=lambda _: False)]
    return (
        [*whole, *(guess.url for guess in result.guesses if guess.url not in whole)],
        [image.url for image in result.images if image.is_open],
    )


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("case", CUT, ids=lambda case: case.name)
def test_a_reply_that_ends_in_the_middle_gives_no_half_image(case: Case, end: str) -> None:
    assert found(ENDS[end](case.content)) == ([*case.whole], [*case.open])


@pytest.mark.parametrize(
    "content", [f"已生成图片:{SIGNED}", f"![a]({SIGNED})", f"<{SIGNED}>", f"Here: {SIGNED}.", SIGNED]
)
def test_a_whole_reply_has_no_open_end(content: str) -> None:
    assert found(read_reply(delta(content, "stop"))) == ([SIGNED], [])


@pytest.mark.parametrize(
    "content", [f"![a]({SIGNED}", f'<img src="{SIGNED}', f"[img]{SIGNED}", f'{{"url": "{SIGNED}', f"<{SIGNED}"]
)
def test_markup_that_is_not_closed_was_cut_whatever_the_upstream_says(content: str) -> None:
    assert found(read_reply(delta(content, "stop"))) == ([], [SIGNED])


@pytest.mark.parametrize("reason", ["gone fishing", None])
@pytest.mark.parametrize(("content", "open_link"), [(SIGNED, [SIGNED]), (URL, [])])
def test_for_an_unknown_reason_nothing_is_left_out(content: str, open_link: list[str], reason: str | None) -> None:
    """A guess is judged by its bytes in any case."""
    reply = read_reply(delta(content, reason) + b"data: [DONE]\n\n")
    assert reply.ends == (TextEnd.UNKNOWN,)
    assert found(reply)[1] == open_link
    assert [guess.url for guess in explain(reply).guesses] == ([] if open_link else [URL])


@pytest.mark.parametrize(
    ("content", "guesses"),
    [
        ("![a](/files/fo", []),
        ("![a](/files/fox.png", ["https://up.example/files/fox.png"]),
        ("![a](/files/fo)", ["https://up.example/files/fo"]),
        ("![a](/files/fox) ![b](/files/own", ["https://up.example/files/fox"]),
    ],
)
def test_half_a_path_without_a_host_is_no_guess(content: str, guesses: list[str]) -> None:
    parser = ReplyParser(upstream_origin="https://up.example")
    parser.feed(delta(content, "length"))
    assert [guess.url for guess in explain(parser.reply(ended=True)).guesses] == guesses
