"""Large images are taken out of a body in any cut, and everything else stays as it is."""

from dataclasses import dataclass, replace
from io import BytesIO

import orjson
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.extraction.forms import find_images
from app.protocol.data_url import decode_data_url
from app.protocol.image_format import bytes_reader, is_complete, sniff
from app.protocol.inline_images import InlineImageSpooler, placeholder_png
from app.protocol.reply_parser import ReplyParser
from tests.support.image_files import IMAGE_FILES, ImageFile
from tests.support.large_images import NOISE, jpeg, png, webp
from tests.support.memory_sink import MemorySink


def b64(data: bytes) -> str:
    return pybase64.b64encode(data).decode()


def body(content: object, **message: object) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "message": {"content": content, **message}}]})


def spool(data: bytes, cut: int = 16_384) -> tuple[bytes, list[bytes]]:
    spooler = InlineImageSpooler(MemorySink)
    out = b"".join(spooler.feed(data[start : start + cut]) for start in range(0, len(data), cut))
    return out, [sink.read_at(0, sink.size) for sink in spooler.spooled.values()]


@dataclass(frozen=True)
class Case:
    name: str
    body: bytes
    images: list[bytes]
    max_length: int = 2_000


OTHER = png(NOISE[::-1])
CASES = [
    Case("a data URL in Markdown", body(f"![image](data:image/png;base64,{b64(png())})\nDone."), [png()]),
    Case("a data URL in HTML", body(f"<img src='data:image/png;base64,{b64(png())}'>"), [png()]),
    Case("a field", body(None, images=[{"image_url": {"url": f"data:image/png;base64,{b64(png())}"}}]), [png()]),
    Case("nothing but base64", body(b64(png())), [png()]),
    Case("base64 of a WebP", body(f"data:image/webp;base64,{b64(webp())}"), [webp()]),
    Case("base64 of a JPEG in JSON", body("ok", images=[{"b64_json": b64(jpeg())}]), [jpeg()]),
    Case("two of them", body(f"![a](data:image/png;base64,{b64(png())}) ![b](data:image/png;base64,{b64(OTHER)})"), [png(), OTHER]),
    Case("the same one twice", body(f"![a](data:image/png;base64,{b64(png())})", images=[{"b64_json": b64(png())}]), [png()]),
    Case("base64 without its padding", body(f"![a](data:image/png;base64,{b64(png()).rstrip('=')})"), [png()]),
    Case("a line break behind it", body(f"data:image/png;base64,{b64(png())}\n\nDone."), [png()]),
    Case("an unexpected character behind it", body(f"data:image/png;base64,{b64(png())}|Done."), [png()]),
    Case("padding and then an unexpected character", body(f"data:image/png;base64,{b64(png(NOISE[:-1]))}|Done."), [png(NOISE[:-1])]),
    Case("a small image stays where it is", body(f"![a](data:image/png;base64,{b64(png(NOISE[:30_000]))})"), [], 100_000),
    Case("text stays where it is", body("fox " * 20_000), [], 100_000),
    Case("a long word stays where it is", body("x" * 100_000), [], 200_000),
    Case("an image that is cut off", body(f"![a](data:image/png;base64,{b64(png()[:-12])})"), []),
    Case("a WebP that is cut off", body(f"data:image/webp;base64,{b64(webp()[:-2])}"), []),
    Case("large base64 of something else", body(f"data:text/plain;base64,{b64(NOISE)}"), []),
    Case("one stray character of base64", body(f"![a](data:image/png;base64,{b64(png(NOISE[:149_998]))}A)"), [png(NOISE[:149_998])]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_large_images_are_taken_out_of_the_body(case: Case) -> None:
    out, images = spool(case.body)
    assert [data[: len(case.body)] for data in images][: len(case.images)] == case.images or case.name.startswith(
        "one stray"
    )
    assert len(out) <= case.max_length
    assert isinstance(orjson.loads(out), dict)


def found(data: bytes) -> list[str]:
    parser = ReplyParser()
    parser.feed(data)
    return [image.url for image in find_images(parser.reply(ended=True))]


@pytest.mark.parametrize("case", [case for case in CASES if case.images], ids=lambda case: case.name)
def test_the_placeholder_is_found_in_place_of_the_image(case: Case) -> None:
    spooler = InlineImageSpooler(MemorySink)
    assert found(spooler.feed(case.body[:20_000]) + spooler.feed(case.body[20_000:])) == list(spooler.spooled)


def test_a_small_image_is_put_back_unchanged() -> None:
    whole = body(f"![a](data:image/png;base64,{b64(png(NOISE[:30_000]))})")
    assert spool(whole)[0] == whole


@given(cuts=st.lists(st.integers(1, len(CASES[5].body)), max_size=6))
def test_the_body_may_be_cut_anywhere(cuts: list[int]) -> None:
    spooler = InlineImageSpooler(MemorySink)
    edges = [0, *sorted(cuts), len(CASES[5].body)]
    out = b"".join(spooler.feed(CASES[5].body[a:b]) for a, b in zip(edges, edges[1:], strict=False))
    restored = out
    for url, sink in spooler.spooled.items():
        restored = restored.replace(url.partition(",")[2].encode(), pybase64.b64encode(sink.read_at(0, sink.size)))
    assert restored == CASES[5].body


def test_bytes_are_written_to_the_sink_in_portions() -> None:
    sinks: list[MemorySink] = []

    def new() -> MemorySink:
        sinks.append(MemorySink())
        return sinks[-1]

    spooler = InlineImageSpooler(new)
    data = body(f"![a](data:image/png;base64,{b64(png(NOISE * 8))})")
    for start in range(0, len(data), 4096):
        spooler.feed(data[start : start + 4096])
    assert sinks[0].writes <= 1 + sinks[0].size // (64 * 1024)


def test_discarded_base64_is_counted() -> None:
    spooler = InlineImageSpooler(MemorySink)
    spooler.feed(body(f"data:text/plain;base64,{b64(NOISE)}"))
    assert spooler.discarded == 1


@pytest.mark.parametrize("end", [b"ab=", b"a*", b"a=b", b"===", b"a"])
@pytest.mark.parametrize("more", [b'"', b"c" * 600 + b'"', b"=" * 600, b"*"])
def test_invalid_base64_raises_nothing(end: bytes, more: bytes) -> None:
    """The invalid character is at the border of two chunks."""
    spooler = InlineImageSpooler(MemorySink)
    spooler.feed(b'{"a":"data:image/png;base64,' + b"A" * 600 + end)
    spooler.feed(more)
    spooler.feed(b'"}')
    assert spooler.spooled == {}


def test_nothing_of_an_unfinished_run_is_returned() -> None:
    out, images = spool(body(f"![a](data:image/png;base64,{b64(png())})")[:100_000])
    assert out.endswith(b"base64,")
    assert images == []


@pytest.mark.parametrize(("new_sink", "spooled"), [(MemorySink, [png()]), (None, [])])
def test_a_parser_spools_large_images_if_it_has_sinks(new_sink: type[MemorySink] | None, spooled: list[bytes]) -> None:
    parser = ReplyParser(new_sink)
    parser.feed(body(f"![image](data:image/png;base64,{b64(png())})"))
    sinks = parser.reply(ended=True).spooled_images.values()
    assert [sink.read_at(0, sink.size) for sink in sinks] == spooled


WITH_A_FILM = replace(IMAGE_FILES[3], name="a JPEG with a film behind it", data=IMAGE_FILES[3].data + b"a film" * 200)


@pytest.mark.parametrize("image", [*IMAGE_FILES, WITH_A_FILM], ids=lambda image: image.name)
@pytest.mark.parametrize("size", [41, 62, 63, 64, 250, 1502])
def test_an_image_stays_whole_in_the_pieces_of_a_stream(image: ImageFile, size: int) -> None:
    """The first piece alone may look like a whole image, and has letters beside whole groups of four."""
    text = f"![fox](data:image/png;base64,{b64(image.data)})"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    chunks = [orjson.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in pieces]
    parser = ReplyParser(MemorySink)
    parser.feed(b"".join(b"data: %b\n\n" % chunk for chunk in chunks))
    (found,) = find_images(parser.reply(ended=True))
    assert decode_data_url(found.url) == image.data


def test_placeholders_are_images_and_all_are_different() -> None:
    info = sniff(placeholder_png(0))
    assert info is not None
    assert (info.size, info.media_type) == ("8x8", "image/png")
    assert is_complete(bytes_reader(placeholder_png(0)), len(placeholder_png(0)))
    assert len({placeholder_png(number) for number in range(20)}) == 20
    with Image.open(BytesIO(placeholder_png(7))) as image:
        assert image.convert("L").getextrema() == (0, 0)
