"""The document is what was meant, and exactly as long as was said."""

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
    """A source in memory."""

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
    Case("a document without a hole is plain JSON", {"n": 1, "a": [None, True]}, b'{"n":1,"a":[null,true]}'),
    Case("a hole becomes a string of base64", {"b64_json": PICTURE}, b'{"b64_json":"iVBORw=="}'),
    Case(
        "the prefix stands before the base64",
        [Base64String(Bytes(b"abc"), "data:image/png;base64,")],
        b'["data:image/png;base64,YWJj"]',
    ),
    Case("a document may be nothing but a hole", PICTURE, b'"iVBORw=="'),
    Case("an empty picture is an empty string", [Base64String(Bytes(b""))], b'[""]'),
    Case(
        "holes next to each other are filled in order",
        [Base64String(Bytes(b"a")), Base64String(Bytes(b"b"))],
        b'["YQ==","Yg=="]',
    ),
    Case("the same hole can be filled twice", [PICTURE, PICTURE], b'["iVBORw==","iVBORw=="]'),
    Case("text that looks like base64 stays text", {"a": "iVBORw==", "b": PICTURE}, b'{"a":"iVBORw==","b":"iVBORw=="}'),
    Case("a prompt in another script is written as it is", ["猫 \U0001f431", PICTURE], '["猫 🐱","iVBORw=="]'.encode()),
    Case("a prompt with quotes is escaped", ['"\n', PICTURE], b'["\\"\\n","iVBORw=="]'),
    Case("the character of the mark's number is no mark", ["\xff\x00", PICTURE], '["ÿ\\u0000","iVBORw=="]'.encode()),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_what_is_written(case: Case) -> None:
    holey = StreamingJson(case.document)
    assert b"".join(holey.chunks()) == case.written
    assert holey.length == len(case.written)


holes = st.builds(
    Base64String,
    st.binary(max_size=40).map(Bytes),
    st.sampled_from(["", "data:image/png;base64,", "data:image/webp;base64,"]),
)
texts = st.text(st.characters(exclude_categories=["Cs"]))
documents = st.recursive(
    holes | texts | st.none() | st.booleans() | st.integers(-(2**53), 2**53),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=12,
)


def filled(document: Any) -> Any:
    """The document with each hole replaced by the string that belongs there."""
    if isinstance(document, Base64String):
        assert isinstance(document.source, Bytes)
        return document.prefix + encode(document.source.data)
    if isinstance(document, dict):
        return {key: filled(value) for key, value in document.items()}
    return [filled(value) for value in document] if isinstance(document, list) else document


@given(documents)
def test_any_document_reads_back_as_if_it_had_been_written_at_once(document: Any) -> None:
    holey = StreamingJson(document)
    written = b"".join(holey.chunks())
    assert len(written) == holey.length
    assert written == orjson.dumps(filled(document))


@given(documents)
def test_a_document_can_be_written_again_while_it_is_being_written(document: Any) -> None:
    """A question that is asked again sends the same bytes, and so does one that is asked twice at once."""
    holey = StreamingJson(document)
    first, second = holey.chunks(), holey.chunks()
    once = [next(first), *second, *first]
    assert b"".join(once[1 : 1 + len(once) // 2]) == b"".join([once[0], *once[1 + len(once) // 2 :]])


@given(st.text())
def test_no_prompt_imitates_a_mark(prompt: str) -> None:
    try:
        holey = StreamingJson({"prompt": prompt, "image": PICTURE})
    except TypeError:
        assert any("\ud800" <= character <= "\udfff" for character in prompt)
    else:
        assert orjson.loads(b"".join(holey.chunks())) == {"prompt": prompt, "image": "iVBORw=="}


@given(st.binary(max_size=200), st.integers(0, 3))
def test_pieces_of_base64_join_without_padding_between_them(data: bytes, chunks: int) -> None:
    data = bytes(chunks * CHUNK) + data
    pieces = list(base64_chunks(Bytes(data)))
    assert b"".join(pieces) == base64.b64encode(data)
    assert max(map(len, pieces), default=0) <= CHUNK // 3 * 4


@pytest.mark.parametrize("stranger", [Bytes(b""), object(), {1, 2}], ids=["dataclass", "object", "set"])
def test_what_is_not_json_is_refused_by_its_name(stranger: object) -> None:
    with pytest.raises(TypeError) as caught:
        StreamingJson({"a": stranger})
    assert str(caught.value.__cause__) == f"{type(stranger).__name__} is not JSON"


@pytest.mark.parametrize("size", range(8))
def test_the_length_of_a_hole_is_known_without_reading_it(size: int) -> None:
    hole = Base64String(Bytes(bytes(size)), "data:,")
    assert hole.length == len("data:,") + len(encode(bytes(size)))


def test_a_document_holds_no_more_memory_than_it_is_long() -> None:
    document = {"messages": [{"role": "user", "content": "a fox"}]}
    tracemalloc.start()
    kept = [StreamingJson(document) for _ in range(100)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(kept) < 1024
