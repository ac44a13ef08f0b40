"""Compressed replies: complete, in any chunks, damaged, and decompression bombs."""

import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UpstreamInvalidReply
from app.upstream.decoding import MAX_CHUNK, ContentDecoder, is_plain

TEXT = b'{"choices":[]}' * 9000
GZIP = gzip.compress(TEXT)
RAW = zlib.compressobj(wbits=-15)
RAW_DEFLATE = RAW.compress(TEXT) + RAW.flush()
COMPRESSED = {
    "gzip": GZIP,
    "x-gzip": GZIP,
    " GZIP ": GZIP,
    "deflate": zlib.compress(TEXT),
    "Deflate": RAW_DEFLATE,
    "gzip, gzip": gzip.compress(GZIP),
    "deflate, gzip": gzip.compress(zlib.compress(TEXT)),
    "identity, gzip": GZIP,
    "none": GZIP,
    "br": GZIP,
    "GZIP, identity": GZIP,
    "gzip,": gzip.compress(TEXT[:500]) + gzip.compress(TEXT[500:]),
}
#: Labels that relays write although the body is not compressed.
PLAIN = dict.fromkeys(
    ("", "identity", "utf-8", "none", "gzip", "deflate", "br", "zstd", "aws-chunked", "nonsense"), TEXT
)


def decode(encoding: str, *chunks: bytes) -> bytes:
    decoder = ContentDecoder(encoding)
    return b"".join(part for chunk in chunks for part in decoder.feed(chunk)) + b"".join(decoder.finish())


@pytest.mark.parametrize(
    ("encoding", "data"),
    [*COMPRESSED.items(), *PLAIN.items()],
    ids=[*map("compressed, labelled {!r}".format, COMPRESSED), *map("plain, labelled {!r}".format, PLAIN)],
)
def test_a_body_is_decoded_by_its_bytes(encoding: str, data: bytes) -> None:
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


@pytest.mark.parametrize("start", [b"\x1f", b"\x1f\x8c"])
def test_bytes_behind_the_end_are_no_further_part(start: bytes) -> None:
    assert decode("gzip", GZIP + start, b"more") == TEXT
    assert decode("gzip", GZIP + start) == TEXT


def test_a_further_part_may_be_cut_anywhere() -> None:
    assert decode("gzip", GZIP + GZIP[:1], GZIP[1:]) == TEXT + TEXT


@pytest.mark.parametrize("encoding", ["", "gzip", "br", "deflate"])
def test_an_empty_body_is_empty(encoding: str) -> None:
    assert decode(encoding) == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_truncated_body_is_refused(encoding: str) -> None:
    for length in (20, len(COMPRESSED[encoding]) - 3):
        with pytest.raises(UpstreamInvalidReply, match="cut off"):
            decode(encoding, COMPRESSED[encoding][:length])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "data", [b"\0\1\2\3" * 9, b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\xff" * 9], ids=["noise", "a bad block"]
)
def test_a_damaged_body_is_refused(encoding: str, data: bytes) -> None:
    with pytest.raises(UpstreamInvalidReply, match="damaged"):
        decode(encoding, data)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "nonsense"])
def test_other_compressions_are_refused(encoding: str) -> None:
    with pytest.raises(UpstreamInvalidReply, match=f"with '{encoding}', which this server neither asked for nor reads"):
        decode(encoding, b"\x28\xb5\x2f\xfd\x24\x00" + bytes(20))


def test_a_compression_whose_name_is_none_is_refused_without_it() -> None:
    with pytest.raises(UpstreamInvalidReply, match="in an unknown way"):
        decode("<script>", bytes(20))


@pytest.mark.parametrize("data", [b"\xa1\x38\x8f\xe2" * 8, b"[\xff]" * 9], ids=["no UTF-8", "brackets"])
def test_a_compression_without_control_characters_is_refused(data: bytes) -> None:
    with pytest.raises(UpstreamInvalidReply, match="'br'"):
        decode("br", data)


def test_a_text_whose_label_is_wrong_is_read() -> None:
    text = ("图" * 9).encode()
    assert decode("br", text) == text


@pytest.mark.parametrize("encoding", ["gzip", "br", "binary"])
def test_an_image_whose_label_is_wrong_is_read(encoding: str) -> None:
    image = b"\x89PNG\r\n\x1a\n" + bytes(30)
    assert decode(encoding, image) == image
    assert is_plain(image, encoding)


def test_layers_have_a_limit() -> None:
    data = TEXT
    for _ in range(5):
        data = gzip.compress(data)
    assert decode("gzip", data).startswith(b"\x1f\x8b")


@pytest.mark.parametrize("encoding", [*COMPRESSED, *PLAIN])
def test_whether_a_whole_body_is_compressed(encoding: str) -> None:
    assert is_plain(TEXT, encoding)
    assert not is_plain(COMPRESSED.get(encoding, GZIP), encoding)


def parts_of(data: bytes, size: int) -> bytes:
    """Compress each `size` bytes as a part of their own."""
    return b"".join(gzip.compress(data[at : at + size]) for at in range(0, len(data), size))


SYNC = zlib.compressobj(wbits=31)
#: The start of a body, and then blocks without bytes.
EMPTY_BLOCKS = SYNC.compress(TEXT) + SYNC.flush(zlib.Z_SYNC_FLUSH) + b"\0\0\0\xff\xff" * 300_000
EMPTY_PARTS = gzip.compress(b"") * 5_000
BARREN = {
    "empty parts": EMPTY_PARTS,
    "empty parts behind a body": GZIP + EMPTY_PARTS,
    "parts with a single byte": parts_of(bytes(6_000), 1),
    "empty blocks behind a body": EMPTY_BLOCKS,
    "a name without an end": b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * 2**21,
    "empty parts, compressed again": gzip.compress(EMPTY_PARTS),
    "empty parts, compressed twice": gzip.compress(gzip.compress(EMPTY_PARTS * 100)),
}


@pytest.mark.parametrize("data", BARREN.values(), ids=BARREN)
def test_compressed_data_that_brings_nothing_is_given_up(data: bytes) -> None:
    with pytest.raises(UpstreamInvalidReply, match="has no end"):
        decode("gzip", *(data[at : at + 50_000] for at in range(0, len(data), 50_000)))


def test_what_came_before_that_is_kept() -> None:
    decoded: list[bytes] = []
    with pytest.raises(UpstreamInvalidReply):
        decoded.extend(ContentDecoder("gzip").feed(GZIP + EMPTY_PARTS))
    assert b"".join(decoded) == TEXT


@pytest.mark.parametrize("size", [20, 100, 30_000])
def test_each_event_may_be_a_part_of_its_own(size: int) -> None:
    text = TEXT + TEXT
    assert decode("gzip", parts_of(text, size)) == text
