"""The written document equals the given one, and its length is known beforehand."""

import base64
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.json_stream import CHUNK, Base64String, StreamingJson, base64_chunks


@dataclass(frozen=True, slots=True)
class Bytes:
    """A byte source in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def chunks(self, size: int) -> Iterator[bytes]:
        yield from (self.data[at : at + size] for at in range(0, self.size, size))


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True, slots=True)
class Case:
    what: str
    document: Any
    written: bytes


PICTURE = Base64String(Bytes(b"\x89PNG"))
CASES = [
    Case("a document without Base64String is plain JSON", {"n": 1, "a": [None, True]}, b'{"n":1,"a":[null,true]}'),
    Case("a Base64String becomes base64", {"b64_json": PICTURE}, b'{"b64_json":"iVBORw=="}'),
    Case(
        "the prefix stands before the base64",
        [Base64String(Bytes(b"abc"), "data:image/png;base64,")],
        b'["data:image/png;base64,YWJj"]',
    ),
    Case("a document may be a single Base64String", PICTURE, b'"iVBORw=="'),
    Case("an empty image is an empty string", [Base64String(Bytes(b""))], b'[""]'),
    Case(
        "several of them are written in order",
        [Base64String(Bytes(b"a")), Base64String(Bytes(b"b"))],
        b'["YQ==","Yg=="]',
    ),
    Case("the same one can be written twice", [PICTURE, PICTURE], b'["iVBORw==","iVBORw=="]'),
    Case("text that looks like base64 stays text", {"a": "iVBORw==", "b": PICTURE}, b'{"a":"iVBORw==","b":"iVBORw=="}'),
    Case("a prompt in another script is written as it is", ["猫 \U0001f431", PICTURE], '["猫 🐱","iVBORw=="]'.encode()),
    Case("a prompt with quotes is escaped", ['"\n', PICTURE], b'["\\"\\n","iVBORw=="]'),
    Case(
        "the character with the number of the mark is not taken for it",
        ["\xff\x00", PICTURE],
        '["ÿ\\u0000","iVBORw=="]'.encode(),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_document_is_written_with_the_length_that_was_announced(case: Case) -> None:
    stream = StreamingJson(case.document)
    assert b"".join(stream.chunks()) == case.written
    assert stream.length == len(case.written)


strings = st.builds(
    Base64String,
    st.binary(max_size=40).map(Bytes),
    st.sampled_from(["", "data:image/png;base64,", "data:image/webp;base64,"]),
)
texts = st.text(st.characters(exclude_categories=["Cs"]))
documents = st.recursive(
    strings | texts | st.none() | st.booleans() | st.integers(-(2**53), 2**53),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=12,
)


def replaced(document: Any) -> Any:
    """Return the document with each `Base64String` replaced by a plain string."""
    if isinstance(document, Base64String):
        assert isinstance(document.source, Bytes)
        return document.prefix + encode(document.source.data)
    if isinstance(document, dict):
        return {key: replaced(value) for key, value in document.items()}
    return [replaced(value) for value in document] if isinstance(document, list) else document


@given(documents)
def test_any_document_reads_back_as_if_it_had_been_written_at_once(document: Any) -> None:
    stream = StreamingJson(document)
    written = b"".join(stream.chunks())
    assert len(written) == stream.length
    assert written == orjson.dumps(replaced(document))


@given(documents)
def test_a_document_can_be_written_again_while_it_is_being_written(document: Any) -> None:
    """A retry sends the same bytes, and so do two requests at the same time."""
    stream = StreamingJson(document)
    first, second = stream.chunks(), stream.chunks()
    once = [next(first), *second, *first]
    assert b"".join(once[1 : 1 + len(once) // 2]) == b"".join([once[0], *once[1 + len(once) // 2 :]])


@given(st.text())
def test_no_prompt_can_imitate_the_mark(prompt: str) -> None:
    try:
        stream = StreamingJson({"prompt": prompt, "image": PICTURE})
    except TypeError:
        assert any("\ud800" <= character <= "\udfff" for character in prompt)
    else:
        assert orjson.loads(b"".join(stream.chunks())) == {"prompt": prompt, "image": "iVBORw=="}


@given(st.binary(max_size=200), st.integers(0, 3))
def test_chunks_of_base64_have_no_padding_between_them(data: bytes, chunks: int) -> None:
    data = bytes(chunks * CHUNK) + data
    encoded = list(base64_chunks(Bytes(data)))
    assert b"".join(encoded) == base64.b64encode(data)
    assert max(map(len, encoded), default=0) <= CHUNK // 3 * 4


@pytest.mark.parametrize("value", [Bytes(b""), object(), {1, 2}], ids=["dataclass", "object", "set"])
def test_other_types_are_refused_and_named(value: object) -> None:
    with pytest.raises(TypeError) as caught:
        StreamingJson({"a": value})
    assert str(caught.value.__cause__) == f"{type(value).__name__} is not JSON"


@pytest.mark.parametrize("size", range(8))
def test_the_length_of_the_base64_is_known_beforehand(size: int) -> None:
    string = Base64String(Bytes(bytes(size)), "data:,")
    assert string.length == len("data:,") + len(encode(bytes(size)))


def test_a_document_holds_no_more_memory_than_it_is_long() -> None:
    document = {"messages": [{"role": "user", "content": "a fox"}]}
    tracemalloc.start()
    kept = [StreamingJson(document) for _ in range(100)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(kept) < 1024
