"""Compressed replies: complete, in any chunks, damaged, and decompression bombs."""

import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UpstreamInvalidReply
from app.upstream.decoding import MAX_CHUNK, ContentDecoder

TEXT = b'{"choices":[]}' * 9000
GZIP = gzip.compress(TEXT)
COMPRESSED = {"gzip": GZIP, "x-gzip": GZIP, " GZIP ": GZIP, "deflate": zlib.compress(TEXT)}
PLAIN = {"": TEXT, "identity": TEXT}


def decode(encoding: str, *chunks: bytes) -> bytes:
    decoder = ContentDecoder(encoding)
    decoded = b"".join(part for chunk in chunks for part in decoder.feed(chunk))
    decoder.finish()
    return decoded


@pytest.mark.parametrize("encoding", [*COMPRESSED, *PLAIN])
def test_known_encodings_are_decoded(encoding: str) -> None:
    data = (COMPRESSED | PLAIN)[encoding]
    assert decode(encoding, data) == TEXT
    assert decode(encoding, *(data[i : i + 1] for i in range(len(data)))) == TEXT


@given(st.lists(st.integers(0, len(COMPRESSED["gzip"])), max_size=5).map(sorted))
def test_a_body_is_decoded_in_any_chunks(cuts: list[int]) -> None:
    data = COMPRESSED["gzip"]
    edges = [0, *cuts, len(data)]
    assert decode("gzip", *(data[a:b] for a, b in pairwise(edges))) == TEXT


def test_a_decompression_bomb_comes_in_bounded_chunks() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    sizes = [len(chunk) for chunk in ContentDecoder("gzip").feed(bomb)]
    assert max(sizes) <= MAX_CHUNK
    assert sum(sizes) == 10_000_000


def test_bytes_behind_the_end_are_ignored() -> None:
    assert decode("gzip", COMPRESSED["gzip"] + b"junk", b"more") == TEXT


def test_an_empty_body_is_not_gzip() -> None:
    with pytest.raises(UpstreamInvalidReply, match="cut off"):
        decode("gzip")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_truncated_body_is_refused(encoding: str) -> None:
    with pytest.raises(UpstreamInvalidReply, match="cut off"):
        decode(encoding, COMPRESSED[encoding][:-3])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_damaged_body_is_refused(encoding: str) -> None:
    with pytest.raises(UpstreamInvalidReply, match="damaged"):
        decode(encoding, b"<html>")


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UpstreamInvalidReply, match="nobody asked"):
        ContentDecoder(encoding)
