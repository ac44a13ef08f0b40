import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.body import MAX_PARTS, MAX_TEXT, parse_boundary, parse_multipart
from app.errors import InvalidRequest, RequestTooLarge
from app.images.blob import Blob
from app.protocol.inline_images import InlineImageSpooler
from app.protocol.parameters import FormPart

BOUNDARY = "limner-0123"

Read = tuple[str, str | bytes]


def part(disposition: str, value: bytes = b"x", more: str = "") -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n{more}\r\n".encode() + value + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def read(body: bytes, cuts: tuple[int, ...] = (), boundary: str = BOUNDARY, max_part: int = 1000) -> list[Read]:
    places = [0, *sorted(cuts), len(body)]
    pieces = [body[start:end] for start, end in zip(places, places[1:], strict=False)]

    async def arrive() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    with ExitStack() as blobs:
        new_blob = lambda: blobs.enter_context(Blob(in_memory=4))  # noqa: E731
        parts = asyncio.run(
            parse_multipart(arrive(), boundary, InlineImageSpooler(new_blob), new_blob=new_blob, max_part=max_part)
        )
        return [(part.name, value_of(part)) for part in parts]


def value_of(part: FormPart) -> str | bytes:
    return part.value if isinstance(part.value, str) else b"".join(part.value.chunks(3))


@dataclass(frozen=True)
class Case:
    name: str
    body: bytes
    parts: list[Read] = field(default_factory=list)
    refused: str = ""


CASES = [
    Case("a text and a file", part('form-data; name="prompt"', "猫".encode()) + part('form-data; name="image"; filename="a.png"', b"\x89PNG\r\n\x00") + END, [("prompt", "猫"), ("image", b"\x89PNG\r\n\x00")]),
    Case("a file before the texts", part('form-data; name="image[]"; filename="a"') + part('form-data; name="n"', b"2") + END, [("image[]", b"x"), ("n", "2")]),
    Case("names without quotes and a second, encoded file name, as .NET writes them", part("form-data; name=image; filename=a.png; filename*=utf-8''a.png") + END, [("image", b"x")]),
    Case("only the encoded file name", part("form-data; name=image; filename*=utf-8''%E7%8C%AB.png") + END, [("image", b"x")]),
    Case("a raw UTF-8 file name", part('form-data; name="image"; filename="猫.png"') + END, [("image", b"x")]),
    Case("a file name with a path, quotes and a semicolon", part('form-data; name="image"; filename="C:\\\\a\\"b;c.png"') + END, [("image", b"x")]),
    Case("a text part with a content type, as Java writes them", part('form-data; name="n"', b"2", "Content-Type: text/plain; charset=UTF-8\r\n") + END, [("n", "2")]),
    Case("an empty content type, as Ruby writes it", part('form-data; name="image[0]"; filename="a"', b"x", "Content-Type: \r\n") + END, [("image[0]", b"x")]),
    Case("a picture without a file name, as openai-java writes bytes, streams and lists", part('form-data; name="image[]"', b"\x89PNG\r\n\x00", "Content-Type: application/octet-stream\r\n") + part('form-data; name="image[]"', b"\xff\xd8", "Content-Type: IMAGE/JPEG\r\n") + END, [("image[]", b"\x89PNG\r\n\x00"), ("image[]", b"\xff\xd8")]),
    Case("a content type counts for its own part only", part('form-data; name="image"', b"\xff", "Content-Type: image/png\r\n") + part('form-data; name="n"', b"2") + END, [("image", b"\xff"), ("n", "2")]),
    Case("JSON in a part without a file name stays a text", part('form-data; name="metadata"', b"{}", "Content-Type: application/json\r\n") + END, [("metadata", "{}")]),
    Case("a text in the charset that its part names", part('form-data; name="prompt"', "é".encode("latin-1"), "Content-Type: text/plain; charset=iso-8859-1\r\n") + END, [("prompt", "é")]),
    Case("a text with quotes of its own", part('form-data; name="prompt"', b'"a \\" b"') + END, [("prompt", '"a \\" b"')]),
    Case("header names in other letters", part('form-data; name="n"', b"2").replace(b"Content-D", b"CONTENT-d") + END, [("n", "2")]),
    Case("an empty file and an empty text", part('form-data; name="image"; filename=""', b"") + part('form-data; name="n"', b"") + END, [("image", b""), ("n", "")]),
    Case("something behind the end is not looked at", part('form-data; name="n"', b"2") + END + b"epilogue", [("n", "2")]),
    Case("a preamble, as mail libraries write one", b"This is a multi-part message in MIME format.\r\n" + part('form-data; name="n"', b"2") + END, [("n", "2")]),
    Case("a preamble with dashes, in lines of its own", b"--\n--limn\r\n\r\n" + part('form-data; name="n"', b"2") + END, [("n", "2")]),
    Case("empty lines before the form", b"\r\n\r\n" + part('form-data; name="n"', b"2") + END, [("n", "2")]),
    Case("a boundary within a line is none", b"x" + part('form-data; name="n"', b"2"), refused="does not begin with the boundary"),
    Case("the longest preamble", b"x" * 4094 + b"\r\n" + part('form-data; name="n"', b"2") + END, [("n", "2")]),
    Case("a preamble that is too long by a byte", b"x" * 4095 + b"\r\n" + part('form-data; name="n"', b"2") + END, refused="does not begin with the boundary"),
    Case("a preamble without an end", b"x" * 5000, refused="does not begin with the boundary"),
    Case("no part at all", END),
    Case("a part without a name", part("form-data") + END, refused="A part has no name."),
    Case("a part that is no form data", part('attachment; name="n"') + END, refused="A part has no name."),
    Case("a part without a disposition", f"--{BOUNDARY}\r\nX-A: b\r\n\r\nx\r\n".encode() + END, refused="A part has no name."),
    Case("a text that is not UTF-8", part('form-data; name="prompt"', b"\xff") + END, refused="not valid UTF-8"),
    Case("a body that ends inside a part", part('form-data; name="n"', b"2"), refused="ends before its closing boundary"),
    Case("an empty body", b"", refused="ends before its closing boundary"),
    Case("another boundary", END.replace(b"limner", b"xxxxxx"), refused="does not begin with the boundary"),
    Case("JSON", b'{"prompt": "x"}', refused="does not begin with the boundary"),
    Case("a header without end", f"--{BOUNDARY}\r\n{'x' * 100_000}".encode(), refused="could not parse the multipart body"),
    Case("a hundred headers", part('form-data; name="n"', b"2", "X-A: b\r\n" * 100) + END, refused="could not parse the multipart body"),
    Case("more parts than anybody needs", part('form-data; name="n"') * (MAX_PARTS + 1) + END, refused="Too many parts"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("cut", ["whole", "byte by byte"])
def test_a_form_is_read_or_refused(case: Case, cut: str) -> None:
    cuts = tuple(range(len(case.body))) if cut == "byte by byte" else ()
    if not case.refused:
        assert read(case.body, cuts) == case.parts
        return
    with pytest.raises(InvalidRequest, match=case.refused) as caught:
        read(case.body, cuts)
    assert caught.value.status == 400


WHOLE = CASES[0]


@given(cuts=st.lists(st.integers(0, len(WHOLE.body)), max_size=8))
def test_a_form_in_any_cut(cuts: list[int]) -> None:
    assert read(WHOLE.body, tuple(cuts)) == WHOLE.parts


@given(body=st.binary(max_size=300), framed=st.booleans())
def test_garbage_is_refused_and_nothing_else_happens(body: bytes, framed: bool) -> None:
    with suppress(InvalidRequest):
        read(f"--{BOUNDARY}\r\n".encode() + body + b"\r\n" + END if framed else body)


def test_a_file_over_the_limit() -> None:
    disposition = 'form-data; name="image"; filename="a"'
    with pytest.raises(RequestTooLarge, match="limit of 9 bytes"):
        read(part(disposition, b"0123456789") + END, max_part=9)
    assert read(part(disposition, b"012345678") + END, max_part=9)


def test_all_texts_together_have_one_limit() -> None:
    form = [part(f'form-data; name="{name}"', b"0" * (MAX_TEXT // 2 - 2)) for name in "ab"]
    assert [name for name, _ in read(b"".join(form) + END)] == ["a", "b"]
    with pytest.raises(RequestTooLarge, match=f"larger than {MAX_TEXT} bytes"):
        read(b"".join(form) + part('form-data; name="c"', b"0") + END)


BOUNDARIES = {
    "multipart/form-data; boundary=abc": "abc",
    'multipart/form-data; boundary="a b:c"': "a b:c",
    "Multipart/Form-Data; charset=utf-8; BOUNDARY=----LangChain4j": "----LangChain4j",
}


@pytest.mark.parametrize("content_type", BOUNDARIES)
def test_the_boundary_is_read_from_the_content_type(content_type: str) -> None:
    assert parse_boundary(content_type) == BOUNDARIES[content_type]


@pytest.mark.parametrize(
    "boundary", ["", "; boundary=", "; boundary=\u00e9", "; boundary=" + "a" * 71, "; boundary=a;b"]
)
def test_boundaries_that_are_none(boundary: str) -> None:
    if boundary == "; boundary=a;b":
        assert parse_boundary(f"multipart/form-data{boundary}") == "a"
        return
    with pytest.raises(InvalidRequest, match="needs a boundary"):
        parse_boundary(f"multipart/form-data{boundary}")


def test_a_long_text_is_spooled_as_it_comes() -> None:
    """Otherwise one piece would take no time, and the next one the time of several."""
    fed: list[int] = []

    class Spooler(InlineImageSpooler):
        def feed(self, data: bytes) -> bytes:
            fed.append(len(data))
            return super().feed(data)

    async def arrive() -> AsyncIterator[bytes]:
        whole = part('form-data; name="prompt"', b"0" * 8_000) + END
        yield whole[:5_000]
        for start in range(5_000, 7_000, 500):
            yield whole[start : start + 500]
        yield whole[7_000:]

    asyncio.run(parse_multipart(arrive(), BOUNDARY, Spooler(Blob), new_blob=Blob, max_part=1))
    assert len(fed) == 7
    assert max(fed[1:]) < 1_200


def test_the_bytes_of_a_file_are_written_as_they_come() -> None:
    written: list[int] = []

    class Watched(Blob):
        def write(self, data: bytes | memoryview) -> None:
            written.append(len(data))
            super().write(data)

    async def arrive() -> AsyncIterator[bytes]:
        yield part('form-data; name="image"; filename="a"', b"0" * 100)[:-2]
        yield b"1" * 500_000
        yield b"\r\n" + part('form-data; name="prompt"', b"2" * 100_000) + END

    with ExitStack() as blobs:
        new_blob = lambda: blobs.enter_context(Watched())  # noqa: E731
        spooler = InlineImageSpooler(new_blob)
        parts = asyncio.run(parse_multipart(arrive(), BOUNDARY, spooler, new_blob=new_blob, max_part=10**6))
    assert [part.name for part in parts] == ["image", "prompt"]
    assert max(written) == 500_000
