"""Blobs return the bytes that were written, from memory or from a file, and leave nothing behind."""

import errno
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import SpoolFull
from app.images import blob as blob_module
from app.images.blob import DEFAULT_MEMORY, MAX_IN_MEMORY, Blob, Spool, SpoolMemory
from app.observability.metrics import REGISTRY
from tests.support.blob_files import full_disk, watch_files, write


def spooled() -> float:
    return REGISTRY.get_sample_value("limner_spool_bytes") or 0.0


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    writes: tuple[bytes, ...]
    in_file: bool


CASES = [
    Case("nothing at all stays in memory", (), False),
    Case("an empty write stays in memory", (b"",), False),
    Case("as many bytes as may be held stay in memory", (b"12345678",), False),
    Case("one byte more goes into a file", (b"123456789",), True),
    Case("several writes up to the limit stay in memory", (b"1234", b"5678"), False),
    Case("the write that crosses the limit takes the earlier ones along", (b"1234", b"5678", b"9"), True),
    Case("later writes go into the file too", (b"123456789", b"0", b"a" * 100), True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_small_blobs_are_held_in_memory_and_large_ones_in_a_file(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = watch_files(monkeypatch)
    with write(Blob(tmp_path, in_memory=8), *case.writes) as blob:
        whole = b"".join(case.writes)
        assert opened == [tmp_path] * case.in_file
        assert (blob.size, blob.read_at(0, 1000)) == (len(whole), whole)
        assert b"".join(blob.chunks(3)) == whole


@pytest.mark.parametrize(
    ("size", "files"), [(MAX_IN_MEMORY, 0), (MAX_IN_MEMORY + 1, 1)], ids=["at the limit", "one byte over"]
)
def test_a_quarter_of_a_mebibyte_is_held_in_memory(size: int, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = watch_files(monkeypatch)
    with write(Blob(), bytes(size)):
        assert (MAX_IN_MEMORY, len(opened)) == (256 * 1024, files)


@given(pieces=st.lists(st.binary(max_size=12), max_size=8), step=st.integers(1, 7), at=st.integers(0, 60))
def test_any_bytes_are_read_back_in_chunks_of_any_size(pieces: list[bytes], step: int, at: int) -> None:
    whole = b"".join(pieces)
    with write(Blob(in_memory=10), *pieces) as blob:
        read = list(blob.chunks(step))
        assert b"".join(read) == whole
        assert all(len(piece) == step for piece in read[:-1])
        assert blob.read_at(at, step) == whole[at : at + step]
        assert blob.checksum == zlib.crc32(whole)


@pytest.mark.parametrize("with_checksum", [False, True], ids=["when it is wanted", "while bytes are written"])
@pytest.mark.parametrize("in_memory", [100, 0], ids=["memory", "file"])
def test_the_checksum_covers_all_writes(in_memory: int, with_checksum: bool) -> None:
    with Blob(in_memory=in_memory, with_checksum=with_checksum) as blob:
        assert blob.checksum == 0
        write(blob, b"1234", b"56789")
        # The check value of CRC-32, as published in catalogs of CRC algorithms.
        assert blob.checksum == 0xCBF43926


@pytest.mark.parametrize("in_memory", [100, 0], ids=["memory", "file"])
def test_readers_do_not_disturb_each_other(in_memory: int) -> None:
    with write(Blob(in_memory=in_memory), b"abcdef") as blob:
        first, second = blob.chunks(2), blob.chunks(3)
        assert [next(first), next(second), next(first), next(second), next(first)] == [
            b"ab",
            b"abc",
            b"cd",
            b"def",
            b"ef",
        ]
        assert list(blob.chunks(6)) == [b"abcdef"]


@pytest.mark.parametrize("in_memory", [100, 0], ids=["memory", "file"])
def test_bytes_already_read_do_not_change_when_more_is_written(in_memory: int) -> None:
    with write(Blob(in_memory=in_memory), b"head") as blob:
        head = blob.read_at(0, 4)
        blob.write(b"tail")
        assert (head, blob.read_at(0, 8)) == (b"head", b"headtail")


def test_the_kind_of_an_image_is_known_without_reading_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven looks at the first bytes of each image took seven system calls."""
    reads: list[tuple[int, int]] = []

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        reads.append((offset, size))
        return real_pread(descriptor, size, offset)

    real_pread = os.pread
    monkeypatch.setattr(os, "pread", pread)
    with write(Blob(in_memory=8), bytes(range(60)), bytes(range(60, 200))) as blob:
        assert (blob.read_at(0, 16), blob.read_at(16, 10)) == (bytes(range(16)), bytes(range(16, 26)))
        assert (blob.read_at(33, 8), reads) == (bytes(range(33, 41)), [])
        assert (blob.read_at(56, 8), reads) == (bytes(range(56, 64)), [(56, 8)])


def test_of_a_closed_blob_not_even_the_first_bytes_are_read() -> None:
    blob = write(Blob(in_memory=8), bytes(100))
    blob.close()
    with pytest.raises(ValueError, match="closed"):
        blob.read_at(0, 16)


def test_a_memoryview_is_written_like_bytes() -> None:
    with Blob(in_memory=4) as blob:
        blob.write(memoryview(b"abcdef")[1:3])
        blob.write(memoryview(b"abcdef"))
        assert blob.read_at(0, 10) == b"bcabcdef"


def test_the_file_has_no_name_while_it_is_used(tmp_path: Path) -> None:
    with write(Blob(tmp_path, in_memory=0), b"secret") as blob:
        assert blob.read_at(0, 6) == b"secret"
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_the_with_block_closes_the_file_on_an_error() -> None:
    def fail(blob: Blob) -> None:
        with write(blob, b"abc"):
            raise ZeroDivisionError

    blob = Blob(in_memory=0)
    with pytest.raises(ZeroDivisionError):
        fail(blob)
    with pytest.raises(ValueError, match="closed file"):
        blob.read_at(0, 3)


def test_a_blob_may_be_closed_twice() -> None:
    blob = write(Blob(in_memory=0), b"abc")
    blob.close()
    blob.close()


def test_a_partial_write_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    with write(Blob(in_memory=2), b"ab", b"cdefghij", b"k") as blob:
        assert blob.read_at(0, 100) == b"abcdefghijk"


@dataclass(frozen=True, slots=True)
class DiskError:
    name: str
    number: int
    after: int


BROKEN = [
    DiskError("a disk that fails", errno.EIO, 0),
    DiskError("a file system that became read-only", errno.EROFS, 3),
]

FULL = [
    DiskError("a disk without space", errno.ENOSPC, 0),
    DiskError("a disk that fills up within a write", errno.ENOSPC, 5),
    DiskError("a quota that is used up", errno.EDQUOT, 0),
    DiskError("a process with too many descriptors", errno.EMFILE, 0),
    DiskError("a machine with too many descriptors", errno.ENFILE, 0),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: error.name)
def test_a_full_disk_is_an_error_that_clients_retry(
    error: DiskError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", full_disk(error.number, error.after))
    with Blob(tmp_path, in_memory=2) as blob, pytest.raises(SpoolFull) as caught:
        blob.write(b"0123456789")
    assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "5"})
    assert caught.value.detail is not None
    assert str(tmp_path) not in caught.value.message
    assert caught.value.__cause__ is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("in_memory", [0, 2, 12], ids=["in a file", "in memory, then in a file", "in memory at first"])
@pytest.mark.parametrize("error", [*FULL, *BROKEN], ids=lambda error: error.name)
def test_what_was_paid_for_is_held_in_memory_where_the_disk_has_no_room(
    error: DiskError, in_memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, before = SpoolMemory(16), spooled()
    with Blob(tmp_path, in_memory, memory, is_paid=True) as blob:
        write(blob, b"01")
        monkeypatch.setattr(os, "write", full_disk(error.number, error.after))
        write(blob, b"23456789", b"ab")
        blob.write(memoryview(b"cdefgh" * 9))
        assert (blob.read_at(0, 99), blob.size) == (b"0123456789ab" + b"cdefgh" * 9, 66)
        assert b"".join(blob.chunks(7)) == blob.read_at(0, 99)
        assert (blob.file_descriptor, memory.used, spooled() - before) == (None, 66, 0)
    assert (memory.used, spooled() - before, list(tmp_path.iterdir())) == (0, 0, [])


def test_what_was_paid_for_is_written_to_the_disk_as_long_as_it_has_room(tmp_path: Path) -> None:
    memory = SpoolMemory(4)
    with write(Blob(tmp_path, memory=memory, is_paid=True), b"0123", b"4567") as blob:
        assert (blob.file_descriptor is not None, memory.used) == (True, 0)


def test_no_more_is_held_than_there_is_memory_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, before = SpoolMemory(4), spooled()
    monkeypatch.setattr(blob_module, "RESCUE_MEMORY", 8)
    paid, other = Blob(tmp_path, 2, memory, is_paid=True), Blob(tmp_path, 2, memory)
    with paid, other:
        with monkeypatch.context() as full:
            full.setattr(os, "write", full_disk(errno.ENOSPC, 0))
            write(paid, b"0123456789ab")
            for blob in (paid, other):
                with pytest.raises(SpoolFull):
                    blob.write(b"c")
            assert (paid.read_at(0, 99), memory.used) == (b"0123456789ab", 12)
        # The disk has room again, so the bytes go there, and other images get the memory.
        paid = write(Blob(tmp_path, 2, memory, is_paid=True), b"de", b"f")
        assert (paid.read_at(0, 99), paid.file_descriptor is not None) == (b"def", True)
        paid.close()
    assert (memory.used, spooled() - before) == (0, 0)


def test_what_is_held_in_memory_moves_to_the_disk_once_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SpoolMemory(0)
    with Blob(tmp_path, memory=memory, is_paid=True) as blob:
        with monkeypatch.context() as full:
            full.setattr(os, "write", full_disk(errno.ENOSPC, 3))
            write(blob, b"a paid ", b"image")
        assert os.pread(blob.lend_file(), 99, 0) == b"a paid image"
        assert (blob.read_at(2, 4), memory.used) == (b"paid", 0)
        write(blob, b"!")
        assert (blob.read_at(0, 99), memory.used) == (b"a paid image!", 0)


def test_a_folder_without_room_for_another_file_is_a_full_disk_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with Blob(in_memory=0) as blob, pytest.raises(SpoolFull):
        blob.write(b"1")


def test_another_disk_error_is_not_reported_as_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", full_disk(errno.EIO, 0))
    with Blob(in_memory=0) as blob, pytest.raises(OSError, match=os.strerror(errno.EIO)):
        blob.write(b"1")


def test_a_spool_closes_its_blobs_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = watch_files(monkeypatch)
    spool = Spool(tmp_path)
    own, added = write(spool.new_blob(), bytes(MAX_IN_MEMORY + 1)), write(spool.add(Blob(in_memory=0)), b"abc")
    assert opened == [tmp_path, None]
    spool.close()
    for blob in (own, added):
        with pytest.raises(ValueError, match="closed file"):
            blob.read_at(0, 1)
    spool.close()


def test_a_spool_absorbs_the_blobs_of_another() -> None:
    spool, other = Spool(), Spool()
    blob = write(other.new_blob(), b"abc")
    spool.absorb(other)
    assert (spool.size, other.size) == (3, 0)
    other.close()
    assert blob.read_at(0, 3) == b"abc"


def test_a_spool_keeps_only_the_blobs_that_are_needed() -> None:
    memory = SpoolMemory()
    spool = Spool(memory=memory)
    result, _ = write(spool.new_blob(), b"result"), write(spool.new_blob(), b"the input image")
    spool.close_all_but([result, None])
    assert (spool.size, result.read_at(0, 10), memory.used) == (6, b"result", 6)
    spool.close()
    assert (spool.size, memory.used) == (0, 0)


# The memory that all blobs share


def test_a_blob_for_which_no_memory_is_left_goes_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, memory = watch_files(monkeypatch), SpoolMemory(limit=10)
    first, second = Blob(tmp_path, memory=memory), Blob(tmp_path, memory=memory)
    write(first, b"123456")
    write(second, b"ab", b"cd")
    assert (memory.used, opened) == (10, [])
    write(second, b"ef")
    assert (memory.used, opened, second.read_at(0, 9)) == (6, [tmp_path], b"abcdef")
    write(first, b"7890")
    assert (memory.used, first.file_descriptor, first.read_at(0, 99)) == (10, None, b"1234567890")
    for blob in (first, second, first):
        blob.close()
    assert memory.used == 0


def test_without_memory_each_blob_is_a_file() -> None:
    with write(Blob(memory=SpoolMemory(0)), b"", b"a") as blob:
        assert blob.file_descriptor is not None


def test_memory_is_given_back_by_a_blob_that_is_lent_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SpoolMemory()
    with write(Blob(memory=memory), b"image") as blob:
        assert memory.used == 5
        assert os.pread(blob.lend_file(), 9, 0) == b"image"
        assert (memory.used, blob.read_at(1, 3)) == (0, b"mag")


def test_bytes_for_which_a_full_disk_has_no_room_are_still_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SpoolMemory()
    with write(Blob(memory=memory), b"a paid image") as blob:
        monkeypatch.setattr(os, "write", full_disk(errno.ENOSPC, 3))
        with pytest.raises(SpoolFull):
            blob.lend_file()
        assert (blob.read_at(0, 99), blob.file_descriptor, memory.used) == (b"a paid image", None, 12)


@pytest.mark.parametrize("limit", [4, 5, DEFAULT_MEMORY])
def test_few_bytes_of_another_process_move_into_memory_if_there_is_room(limit: int) -> None:
    memory = SpoolMemory(limit)
    with Blob(memory=memory) as blob:
        os.write(blob.lend_file(), b"image")
        blob.take_back(5)
        assert (blob.file_descriptor is None, memory.used) == ((True, 5) if limit > 4 else (False, 0))
        assert (blob.read_at(0, 9), blob.checksum) == (b"image", zlib.crc32(b"image"))
    assert memory.used == 0


def test_many_bytes_of_another_process_stay_in_its_file() -> None:
    with Blob() as blob:
        os.write(blob.lend_file(), bytes(300 * 1024))
        blob.take_back(300 * 1024)
        assert blob.file_descriptor is not None


def test_bytes_in_memory_are_counted_until_the_blob_is_closed() -> None:
    def held() -> float:
        return REGISTRY.get_sample_value("limner_spool_memory_bytes") or 0.0

    before = held()
    with write(Blob(in_memory=8), b"12345678"), write(Blob(in_memory=8), b"123456789"):
        assert held() - before == 8
    assert held() == before


def test_bytes_in_files_are_counted_until_the_blob_is_closed() -> None:
    before = spooled()
    small, large = write(Blob(in_memory=8), b"12345678"), write(Blob(in_memory=8), b"1234", b"56789", b"abc")
    assert spooled() - before == 12
    large.close()
    large.close()
    small.close()
    assert spooled() == before
