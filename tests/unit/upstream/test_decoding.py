"""Compressed replies: whole, cut anywhere, damaged, and bombs."""

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
PACKED = {"gzip": GZIP, "x-gzip": GZIP, " GZIP ": GZIP, "deflate": zlib.compress(TEXT)}
PLAIN = {"": TEXT, "identity": TEXT}


def unpack(encoding: str, *chunks: bytes) -> bytes:
    unpacker = ContentDecoder(encoding)
    unpacked = b"".join(piece for chunk in chunks for piece in unpacker.feed(chunk))
    unpacker.finish()
    return unpacked


@pytest.mark.parametrize("encoding", [*PACKED, *PLAIN])
def test_encodings(encoding: str) -> None:
    data = (PACKED | PLAIN)[encoding]
    assert unpack(encoding, data) == TEXT
    assert unpack(encoding, *(data[i : i + 1] for i in range(len(data)))) == TEXT


@given(st.lists(st.integers(0, len(PACKED["gzip"])), max_size=5).map(sorted))
def test_any_cut(cuts: list[int]) -> None:
    data = PACKED["gzip"]
    edges = [0, *cuts, len(data)]
    assert unpack("gzip", *(data[a:b] for a, b in pairwise(edges))) == TEXT


def test_a_bomb_comes_in_small_pieces() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    sizes = [len(piece) for piece in ContentDecoder("gzip").feed(bomb)]
    assert max(sizes) <= MAX_CHUNK
    assert sum(sizes) == 10_000_000


def test_what_follows_the_end_is_not_read() -> None:
    assert unpack("gzip", PACKED["gzip"] + b"junk", b"more") == TEXT


def test_nothing_at_all_is_no_gzip() -> None:
    with pytest.raises(UpstreamInvalidReply, match="cut off"):
        unpack("gzip")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_cut_body_is_broken(encoding: str) -> None:
    with pytest.raises(UpstreamInvalidReply, match="cut off"):
        unpack(encoding, PACKED[encoding][:-3])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_damaged_body_is_broken(encoding: str) -> None:
    with pytest.raises(UpstreamInvalidReply, match="damaged"):
        unpack(encoding, b"<html>")


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_other_encodings_were_not_asked_for(encoding: str) -> None:
    with pytest.raises(UpstreamInvalidReply, match="nobody asked"):
        ContentDecoder(encoding)
