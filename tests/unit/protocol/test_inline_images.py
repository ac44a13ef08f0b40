from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import orjson
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.extraction.forms import find_images
from app.protocol.chat_reply import ReplyParser
from app.protocol.image_format import bytes_reader, is_complete, sniff
from app.protocol.inline_images import InlineImageSpooler, placeholder_png

NOISE = Random(7).randbytes(150_000)


class Memory:
    def __init__(self) -> None:
        self.data = b""
        self.writes = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data
        self.writes += 1

    def read_at(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def chunks(self, size: int) -> Iterator[bytes]:
        for offset in range(0, len(self.data), size):
            yield self.data[offset : offset + size]


def png(noise: bytes = NOISE) -> bytes:
    small = placeholder_png(99)
    return small[:-12] + len(noise).to_bytes(4, "big") + b"tEXt" + noise + b"\0\0\0\0" + small[-12:]


def jpeg() -> bytes:
    return b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0" + NOISE + b"\xff\xd9"


def b64(data: bytes) -> str:
    return pybase64.b64encode(data).decode()


def body(content: object, **message: object) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "message": {"content": content, **message}}]})


def lift(data: bytes, cut: int = 16_384) -> tuple[bytes, list[bytes]]:
    lifter = InlineImageSpooler(Memory)
    out = b"".join(lifter.feed(data[start : start + cut]) for start in range(0, len(data), cut))
    return out, [sink.read_at(0, sink.size) for sink in lifter.spooled.values()]


@dataclass(frozen=True)
class Case:
    name: str
    body: bytes
    lifted: list[bytes]
    most: int = 2_000


OTHER = png(NOISE[::-1])
CASES = [
    Case("a data URL in Markdown", body(f"![image](data:image/png;base64,{b64(png())})\nDone."), [png()]),
    Case("a data URL in HTML", body(f"<img src='data:image/png;base64,{b64(png())}'>"), [png()]),
    Case("a field", body(None, images=[{"image_url": {"url": f"data:image/png;base64,{b64(png())}"}}]), [png()]),
    Case("nothing but base64", body(b64(png())), [png()]),
    Case("base64 of a JPEG in JSON", body("ok", images=[{"b64_json": b64(jpeg())}]), [jpeg()]),
    Case("two of them", body(f"![a](data:image/png;base64,{b64(png())}) ![b](data:image/png;base64,{b64(OTHER)})"), [png(), OTHER]),
    Case("the same one twice", body(f"![a](data:image/png;base64,{b64(png())})", images=[{"b64_json": b64(png())}]), [png()]),
    Case("base64 without its padding", body(f"![a](data:image/png;base64,{b64(png()).rstrip('=')})"), [png()]),
    Case("a line break behind it", body(f"data:image/png;base64,{b64(png())}\n\nDone."), [png()]),
    Case("a character nobody expects behind it", body(f"data:image/png;base64,{b64(png())}|Done."), [png()]),
    Case("padding and then a character nobody expects", body(f"data:image/png;base64,{b64(png(NOISE[:-1]))}|Done."), [png(NOISE[:-1])]),
    Case("a small picture stays where it is", body(f"![a](data:image/png;base64,{b64(png(NOISE[:30_000]))})"), [], 100_000),
    Case("words stay where they are", body("fox " * 20_000), [], 100_000),
    Case("a long word stays where it is", body("x" * 100_000), [], 200_000),
    Case("a picture without an end", body(f"![a](data:image/png;base64,{b64(png()[:-12])})"), []),
    Case("large base64 of something else", body(f"data:text/plain;base64,{b64(NOISE)}"), []),
    Case("one stray character of base64", body(f"![a](data:image/png;base64,{b64(png(NOISE[:149_998]))}A)"), [png(NOISE[:149_998])]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_large_pictures_are_lifted_out(case: Case) -> None:
    out, lifted = lift(case.body)
    assert [data[: len(case.body)] for data in lifted][: len(case.lifted)] == case.lifted or case.name.startswith(
        "one stray"
    )
    assert len(out) <= case.most
    assert isinstance(orjson.loads(out), dict)


def found(data: bytes) -> list[str]:
    reader = ReplyParser()
    reader.feed(data)
    return [image.url for image in find_images(reader.reply(ended=True))]


@pytest.mark.parametrize("case", [case for case in CASES if case.lifted], ids=lambda case: case.name)
def test_the_stand_in_is_found_where_the_picture_stood(case: Case) -> None:
    lifter = InlineImageSpooler(Memory)
    assert found(lifter.feed(case.body[:20_000]) + lifter.feed(case.body[20_000:])) == list(lifter.spooled)


def test_what_is_put_back_is_what_was_there() -> None:
    whole = body(f"![a](data:image/png;base64,{b64(png(NOISE[:30_000]))})")
    assert lift(whole)[0] == whole


@given(cuts=st.lists(st.integers(1, len(CASES[5].body)), max_size=6))
def test_any_cut(cuts: list[int]) -> None:
    lifter = InlineImageSpooler(Memory)
    places = [0, *sorted(cuts), len(CASES[5].body)]
    out = b"".join(lifter.feed(CASES[5].body[a:b]) for a, b in zip(places, places[1:], strict=False))
    restored = out
    for url, sink in lifter.spooled.items():
        restored = restored.replace(url.partition(",")[2].encode(), pybase64.b64encode(sink.read_at(0, sink.size)))
    assert restored == CASES[5].body


def test_bytes_go_into_the_sink_in_portions() -> None:
    sinks: list[Memory] = []

    def new() -> Memory:
        sinks.append(Memory())
        return sinks[-1]

    lifter = InlineImageSpooler(new)
    data = body(f"![a](data:image/png;base64,{b64(png(NOISE * 8))})")
    for start in range(0, len(data), 4096):
        lifter.feed(data[start : start + 4096])
    assert sinks[0].writes < 10


def test_what_is_dropped_is_counted() -> None:
    lifter = InlineImageSpooler(Memory)
    lifter.feed(body(f"data:text/plain;base64,{b64(NOISE)}"))
    assert lifter.discarded == 1


@pytest.mark.parametrize("end", [b"ab=", b"a*", b"a=b", b"===", b"a"])
@pytest.mark.parametrize("more", [b'"', b"c" * 600 + b'"', b"=" * 600, b"*"])
def test_base64_that_turns_out_to_be_none_is_no_fault(end: bytes, more: bytes) -> None:
    """Wrong where one piece of the body ends and the next begins."""
    lifter = InlineImageSpooler(Memory)
    lifter.feed(b'{"a":"data:image/png;base64,' + b"A" * 600 + end)
    lifter.feed(more)
    lifter.feed(b'"}')
    assert lifter.spooled == {}


def test_of_a_run_that_never_ends_nothing_comes_out() -> None:
    out, lifted = lift(body(f"![a](data:image/png;base64,{b64(png())})")[:100_000])
    assert out.endswith(b"base64,")
    assert lifted == []


def test_stand_ins_are_pictures_and_no_two_are_the_same() -> None:
    info = sniff(placeholder_png(0))
    assert info is not None
    assert (info.size, info.media_type) == ("8x8", "image/png")
    assert is_complete(bytes_reader(placeholder_png(0)), len(placeholder_png(0)))
    assert len({placeholder_png(number) for number in range(20)}) == 20
