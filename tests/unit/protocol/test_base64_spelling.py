"""Images in base64 of any spelling are taken out of a body in any cut, byte for byte."""

import re
import sys
from random import Random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.extraction.forms import find_images
from app.protocol import base64_starts
from app.protocol.base64_spelling import standard
from app.protocol.base64_starts import _PIECE_START, find_piece, find_start, may_have_start
from app.protocol.image_format import ends_like_image
from app.protocol.inline_images import InlineImageSpooler
from app.protocol.reply_parser import ReplyParser
from tests.support.base64_spellings import SPELLINGS, Spelling, base64_of, each_spelling, wrapped
from tests.support.large_images import jpeg, png, webp
from tests.support.memory_sink import MemorySink

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

LARGE = png(Random(3).randbytes(66_000))
SMALL = png(Random(4).randbytes(700))


def test_a_piece_is_not_searched_for_behind_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be searched for to the end of the data, and once more for each of many starts."""
    piece = b'"' + b"QUJDREVG" * 200
    tried: list[int] = []

    class Pattern:
        def match(self, data: bytes, position: int) -> re.Match[bytes] | None:
            tried.append(position)
            return _PIECE_START.match(data, position)

    monkeypatch.setattr(base64_starts, "_PIECE_START", Pattern())
    text = b'"a" ' * 300
    data = text + piece + text + piece
    assert find_piece(data, 0, len(text)) == -1
    assert max(tried) < len(text)
    assert find_piece(data, 0, len(data)) == len(text) + 1
    assert find_piece(data, len(text) + 5, len(data)) == len(data) - len(piece) + 1


@pytest.mark.parametrize("escape", ["\\u00%02x", "\\\\u00%02X", "%%%02X", "%%%02x"])
def test_escapes_are_decoded_without_a_call_for_each(escape: str) -> None:
    """A reply of 27 MB in such escapes kept other requests waiting for half a second."""
    spelled = "".join(escape % ord(each) for each in ALPHABET * 10).encode()
    calls: list[str] = []
    sys.setprofile(lambda _, event, __: calls.append(event))
    try:
        plain = standard(spelled)
    finally:
        sys.setprofile(None)
    assert plain == ALPHABET.encode() * 10
    assert len(calls) < 50


def body(spelled: str, mark: str = "data:image/png;base64,") -> bytes:
    return f'{{"a":"![x]({mark}{spelled}) and more","b":[1]}}'.encode()


def spool(data: bytes, *edges: int) -> tuple[bytes, list[bytes]]:
    spooler = InlineImageSpooler(MemorySink)
    edges = (0, *sorted(edges), len(data))
    out = b"".join(spooler.feed(data[a:b]) for a, b in zip(edges, edges[1:], strict=False)) + spooler.end()
    return out, [sink.read_at(0, sink.size) for sink in spooler.spooled.values()]


@each_spelling
@pytest.mark.parametrize("size", [90_000, 90_001, 90_002])
def test_a_large_image_is_spooled(spelling: Spelling, size: int) -> None:
    image = png(Random(size).randbytes(size))
    out, images = spool(body(spelling.spell(base64_of(image))))
    assert images == [image]
    assert len(out) < 400
    assert isinstance(orjson.loads(out), dict)


@each_spelling
def test_a_small_image_stays_in_plain_base64(spelling: Spelling) -> None:
    out, images = spool(body(spelling.spell(base64_of(SMALL))))
    assert images == []
    assert base64_of(SMALL).rstrip("=").encode() in out
    assert isinstance(orjson.loads(out), dict)


@each_spelling
@pytest.mark.parametrize("image", [SMALL, LARGE], ids=["small", "large"])
def test_an_image_is_the_same_byte_by_byte(spelling: Spelling, image: bytes) -> None:
    data = body(spelling.spell(base64_of(image)))
    assert spool(data, *range(1, len(data))) == spool(data)


@settings(max_examples=150)
@given(st.sampled_from(SPELLINGS), st.sampled_from([SMALL, LARGE]), st.data())
def test_an_image_is_the_same_in_any_cut(spelling: Spelling, image: bytes, random: st.DataObject) -> None:
    data = body(spelling.spell(base64_of(image)))
    edges = random.draw(st.lists(st.integers(0, len(data)), max_size=8))
    assert spool(data, *edges) == spool(data)


@settings(max_examples=100)
@given(st.integers(20, 200), st.sampled_from(["\n", "\\n", "\r\n", "\\r\\n", " "]), st.integers(0, 2), st.booleans())
def test_lines_of_any_width_are_joined(width: int, line_break: str, more: int, padded: bool) -> None:
    image = png(Random(width).randbytes(70_000 + more))
    text = base64_of(image) if padded else base64_of(image).rstrip("=")
    assert spool(body(wrapped(text, width, line_break)))[1] == [image]


@pytest.mark.parametrize("image", [png(Random(1).randbytes(3_000)), jpeg(), webp()], ids=["PNG", "JPEG", "WebP"])
@pytest.mark.parametrize("behind", ["\\nDone", " Done", "\\n\\nHere it is", "\\r\\nfour", "\\nas you asked"])
def test_words_behind_an_image_are_no_part_of_it(image: bytes, behind: str) -> None:
    for filler in range(3):
        padded = png(Random(1).randbytes(90_000 + filler)) if image.startswith(b"\x89") else image
        spelled = base64_of(padded).rstrip("=")
        out, images = spool(f'{{"a":"data:image/png;base64,{spelled}{behind}"}}'.encode())
        assert images == [padded]
        assert orjson.loads(out)["a"].endswith(orjson.loads(f'"{behind}"'))


@pytest.mark.parametrize("between", ["\\n", " ", "\\n\\n", ", ", "\\r\\n"])
def test_two_images_one_behind_the_other_are_two(between: str) -> None:
    one, two = png(Random(1).randbytes(90_000)), png(Random(2).randbytes(90_001))
    spelled = f"{base64_of(one).rstrip('=')}{between}{base64_of(two)}"
    assert spool(f'{{"a":"{spelled}"}}'.encode())[1] == [one, two]


STAYS = [
    "words after base64, as one says: iVBORw0KGgo",
    "base64," * 50,
    "base64,abc some words that are no image, and more words",
    "/9j/ /9j/ \\/9j\\/ UklGR R0lGOD",
    "AAAA" * 2_000,
    "base64,\\n\\n\\n",
    "base64,= =",
    "base64,A" + " " * 40 + "B",
    "base64," + "ab-_" * 20_000 + "\\u0022",
    "base64%2Cabc%2",
    "http://h/x?y=base64%2C" + "a" * 300,
    "\\u003cbase64,abcd\\u003e",
    "b ba bas base base6 base64 iVBOR",
    "word /9j/%%%%%%%%%%%% and %0a/9j/&&&&&&&&&&&& too",
]


@pytest.mark.parametrize("text", STAYS, ids=lambda text: text[:30])
def test_what_is_no_image_stays_as_it_is(text: str) -> None:
    data = f'{{"a":"{text}"}}'.encode()
    assert spool(data) == (data, [])
    assert spool(data, *range(1, len(data))) == (data, [])


def test_a_part_of_an_image_is_put_back_if_there_is_room() -> None:
    part = base64_of(png(Random(3).randbytes(100_000)))[:100_001]
    for max_put_back, out in ((2**20, f'"base64,{part}"'), (0, '"base64,"')):
        spooler = InlineImageSpooler(MemorySink, max_put_back=max_put_back)
        assert spooler.feed(f'"base64,{part}"'.encode()) == out.encode()
        assert spooler.discarded == (max_put_back == 0)


def test_an_image_whose_spelling_is_long_stays_if_it_is_small() -> None:
    image = png(Random(5).randbytes(30_000))
    spelled = "".join(f"\\u00{ord(character):02x}" for character in base64_of(image))
    assert spool(body(spelled)) == (body(base64_of(image)), [])


@pytest.mark.parametrize("image", [png(Random(1).randbytes(90_000)), jpeg()], ids=["PNG", "JPEG"])
def test_an_image_behind_many_words_is_found(image: bytes) -> None:
    for words in ("base64 ", "word /9j/ ", " x=/9j/abc", "\\u000aiVBOR"):
        for count in (800, 1_170, 5_000):
            out, images = spool(f'{{"a":"{words * count} {base64_of(image)}"}}'.encode())
            assert images == [image]
            assert len(out) < len(words) * count + 400


def test_a_spooler_knows_whether_it_is_in_an_image() -> None:
    spooler = InlineImageSpooler(MemorySink)
    states = []
    for part in (b"words bas", b"e64,", base64_of(SMALL)[:99].encode(), base64_of(SMALL)[99:].encode(), b'"'):
        spooler.feed(part)
        states.append(spooler.is_in_image)
    assert states == [False, True, True, True, False]


@given(
    st.lists(
        st.sampled_from(
            ["base64,", "BASE64%2C", "base64://", "iVBORw0KGgo", "AAAAIGZ0eXB", "/9j/", "\\/9j\\/", "x", '"', "A" * 12]
        ),
        max_size=6,
    )
)
def test_a_text_without_the_letters_of_a_start_has_none(pieces: list[str]) -> None:
    text = "".join(pieces).encode()
    assert may_have_start(text) or find_start(text, 0) < 0
    assert not may_have_start(b"a fox, no picture")


def test_what_is_held_back_comes_at_the_end() -> None:
    spooler = InlineImageSpooler(MemorySink)
    assert spooler.feed(b"words bas") == b"words "
    assert spooler.end() == b"bas"
    assert spooler.feed(f"base64,{base64_of(LARGE)}".encode()) == b"base64,"
    assert spooler.end().startswith(b"iVBOR")
    assert len(spooler.spooled) == 1


@each_spelling
def test_base64_becomes_standard(spelling: Spelling) -> None:
    spelled = spelling.spell(base64_of(SMALL)).encode()
    assert standard(spelled).rstrip(b"=") == base64_of(SMALL).rstrip("=").encode()


@pytest.mark.parametrize("cut", [0, 3, 16, 17, 40_000])
def test_a_spelled_image_in_a_reply_is_found(cut: int) -> None:
    for spelling in SPELLINGS:
        data = f'{{"choices":[{{"message":{{"content":"![x](data:image/png;base64,{spelling.spell(base64_of(LARGE))})"}}}}]}}'
        parser = ReplyParser(MemorySink)
        parser.feed(data[:cut].encode())
        parser.feed(data[cut:].encode())
        reply = parser.reply(ended=True)
        assert [reply.spooled_images[image.url].read_at(0, 10**6) for image in find_images(reply)] == [LARGE]


ENDS = [
    (png(b"x"), True),
    (png(b"x") + b"more", False),
    (jpeg(), True),
    (jpeg()[:-1], False),
    (webp(), True),
    (webp() + b"12", False),
    (b"GIF89a" + bytes(20) + b"\0;", True),
    (b"\0\0\0 ftypavif" + bytes(20), False),
    (b"no image at all, but words", False),
]


@pytest.mark.parametrize(("data", "ends"), ENDS)
def test_the_end_of_an_image_is_recognized(data: bytes, ends: bool) -> None:
    assert ends_like_image(data[:16], data[-16:], len(data)) is ends


def test_a_line_within_an_image_may_begin_like_another_image() -> None:
    noise = bytearray(Random(7).randbytes(90_000))
    image = png(bytes(noise))
    start = image.index(noise)
    for line in (40, 900):  # Lines of 76 letters have 57 bytes.
        noise[57 * line - start : 57 * line - start + 3] = b"\xff\xd8\xff"
    image = png(bytes(noise))
    spelled = wrapped(base64_of(image), 76, "\\n")
    assert spelled.count("\\n/9j/") == 2
    assert spool(body(spelled))[1] == [image]
