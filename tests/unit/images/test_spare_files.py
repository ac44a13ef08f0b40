"""A blob overwrites the file of an earlier one, and nobody ever reads the bytes of another blob."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import SpoolFull
from app.images.blob import Blob, SpoolMemory
from app.images.spare_files import MAX_SPARE_FILES, SpareFiles
from app.observability.metrics import REGISTRY
from tests.support.blob_files import full_disk, watch_files, write


@pytest.fixture
def memory() -> Iterator[SpoolMemory]:
    memory = SpoolMemory(0, spare_files=SpareFiles(100))
    yield memory
    memory.spare_files.close()


def spooled() -> float:
    return REGISTRY.get_sample_value("limner_spool_bytes") or 0.0


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    before: bytes
    writes: tuple[bytes, ...]


CASES = [
    Case("as many bytes as before", b"secret", (b"images",)),
    Case("fewer bytes", b"a secret", (b"im", b"age")),
    Case("more bytes, in several writes", b"secret", (b"a lar", b"ger", b" image")),
    Case("no bytes", b"secret", (b"",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_that_is_used_again_has_only_the_new_bytes(
    case: Case, memory: SpoolMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = watch_files(monkeypatch)
    write(Blob(memory=memory), case.before).close()
    with write(Blob(memory=memory), *case.writes) as blob:
        whole = b"".join(case.writes)
        assert (len(opened), blob.read_at(0, 99), blob.read_at(len(whole), 99)) == (1, whole, b"")


def test_a_file_that_is_used_again_is_as_large_as_its_blob_for_other_processes(memory: SpoolMemory) -> None:
    write(Blob(memory=memory), b"a long secret").close()
    with write(Blob(memory=memory), b"image") as blob:
        assert os.fstat(blob.lend_file()).st_size == 5


@given(
    pieces=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["write", "read", "close"]), st.integers(0, 40))),
)
def test_three_blobs_that_share_their_files_never_see_bytes_of_each_other(
    pieces: list[tuple[int, str, int]],
) -> None:
    memory = SpoolMemory(0, spare_files=SpareFiles(100))
    blobs, wholes, count = [Blob(memory=memory) for _ in range(3)], [b"", b"", b""], 0
    for number, action, size in pieces:
        match action:
            case "write":
                count += 1
                blobs[number].write(bytes([count % 256]) * size)
                wholes[number] += bytes([count % 256]) * size
            case "read":
                assert blobs[number].read_at(0, 10_000) == wholes[number]
            case "close":
                blobs[number].close()
                blobs[number], wholes[number] = Blob(memory=memory), b""
    assert [blob.read_at(0, 10_000) for blob in blobs] == wholes
    for blob in blobs:
        blob.close()
    memory.spare_files.close()


def test_a_closed_blob_does_not_read_the_file_that_another_one_has(memory: SpoolMemory) -> None:
    first = write(Blob(memory=memory), b"first")
    chunks = first.chunks(2)
    next(chunks)
    first.close()
    with write(Blob(memory=memory), b"secret"):
        with pytest.raises(ValueError, match="closed file"):
            next(chunks)
        with pytest.raises(ValueError, match="closed file"):
            first.write(b"x")
        first.close()


@pytest.mark.parametrize(
    ("loans", "ended", "used_again"),
    [(1, 0, False), (1, 1, True), (2, 1, False), (2, 2, True)],
    ids=["by one", "by none any more", "by one of two", "by none of two any more"],
)
def test_a_file_that_another_process_may_still_use_is_not_used_again(
    loans: int, ended: int, used_again: bool, memory: SpoolMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = watch_files(monkeypatch)
    with write(Blob(memory=memory), b"image") as blob:
        for _ in range(loans):
            blob.lend_file()
        for _ in range(ended):
            blob.end_loan()
    with write(Blob(memory=memory), b"another"):
        assert len(opened) == (1 if used_again else 2)


def test_an_empty_file_is_lent_for_bytes_that_another_process_may_write(
    memory: SpoolMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = watch_files(monkeypatch)
    write(Blob(memory=memory), b"a large image").close()
    for files in (2, 2, 2):
        with Blob(memory=memory) as output:
            output.lend_file()
            output.end_loan()
        assert len(opened) == files
    with write(Blob(memory=memory), b"image"), write(Blob(memory=memory), b"another"):
        assert len(opened) == 2


def test_only_so_many_bytes_and_files_are_kept(memory: SpoolMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = watch_files(monkeypatch)

    def files_opened(number: int, size: int) -> int:
        """Return how many files are created for so many blobs at the same time, of which all are closed at the end."""
        before = len(opened)
        blobs = [write(Blob(memory=memory), bytes(size)) for _ in range(number)]
        for blob in blobs:
            blob.close()
        return len(opened) - before

    assert files_opened(3, 40) == 3
    assert files_opened(3, 40) == 1
    memory.spare_files.close()
    assert files_opened(MAX_SPARE_FILES + 2, 1) == MAX_SPARE_FILES + 2
    assert files_opened(MAX_SPARE_FILES + 2, 1) == 2


def test_spare_files_are_counted_until_they_are_given_up(memory: SpoolMemory) -> None:
    before = spooled()
    with write(Blob(memory=memory), b"a large image"):
        assert spooled() - before == 13
    assert spooled() - before == 13
    with write(Blob(memory=memory), b"image"):
        assert spooled() - before == 5
    memory.spare_files.close()
    assert spooled() == before


def test_a_full_disk_takes_bytes_in_the_room_of_the_spare_files(
    memory: SpoolMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write(Blob(memory=memory), b"a secret"), write(Blob(memory=memory), b"another secret")
    second.close()
    first.close()
    real = os.write

    def write_if_none_is_spare(descriptor: int, data: bytes) -> int:
        if memory.spare_files.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write_if_none_is_spare)
    with write(Blob(memory=memory), b"image") as blob:
        assert blob.read_at(0, 99) == b"image"
        assert not memory.spare_files.close()


def test_of_a_disk_that_is_full_without_spare_files_no_earlier_bytes_are_read(
    memory: SpoolMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = spooled()
    write(Blob(memory=memory), b"a secret").close()
    monkeypatch.setattr(os, "write", full_disk(errno.ENOSPC, 3))
    with Blob(memory=memory) as blob:
        with pytest.raises(SpoolFull):
            blob.write(b"image")
        assert blob.read_at(0, 99) == b"ima"
        assert spooled() - before == 5
    memory.spare_files.close()
    assert spooled() == before


def test_without_a_descriptor_for_it_a_file_is_not_kept(memory: SpoolMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = watch_files(monkeypatch)

    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", refuse)
    for _ in range(2):
        write(Blob(memory=memory), b"image").close()
    assert len(opened) == 2
