"""Decoders wait for jobs, are replaced when they end, and end with the server."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from app.images import decoder_pool
from app.images.blob import Blob, SpoolMemory
from app.images.decoder_pool import DecoderExceeded, DecoderPool, DecoderUnavailable
from app.images.spare_files import SpareFiles
from tests.support.decoders import decoders_of, is_alive, template_of, until
from tests.support.sample_images import as_blob, gradient, saved

T = TypeVar("T")
ROOT = Path(__file__).parents[3]
PNG = saved(gradient(), "PNG")
JOB = {
    "operation": "convert",
    "options": ("jpeg", None, None, "native", False),
    "max_pixels": 1 << 20,
    "granted": 1 << 28,
}

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(2)
    yield pool
    pool.close()


async def convert(pool: DecoderPool, data: bytes = PNG) -> dict[str, Any]:
    with as_blob(data) as blob, Blob() as output:
        return await pool.run(JOB, [blob], output)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def job_of_stopped(pool: DecoderPool, decoders: set[int]) -> asyncio.Task[dict[str, Any]]:
    """Stop the decoders, and return a conversion that one of them has been given."""
    for pid in decoders:
        os.kill(pid, signal.SIGSTOP)
    job = asyncio.create_task(convert(pool))
    await asyncio.sleep(0)
    return job


async def started(pool: DecoderPool) -> tuple[int, set[int]]:
    """Start the pool, and return the process ids of the template and the decoders."""
    pool.start()
    template = template_of(pool)
    await convert(pool)
    await until(lambda: len(decoders_of(template)) == 2)
    return template, decoders_of(template)


def test_the_same_decoder_does_one_job_after_the_other(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        for _ in range(5):
            assert (await convert(pool))["written"]
        assert decoders_of(template) == decoders

    run(scenario())


def test_a_job_waits_for_a_decoder_that_has_just_been_started(pool: DecoderPool) -> None:
    assert run(convert(pool))["written"]


def test_files_that_a_decoder_has_closed_are_used_again(pool: DecoderPool) -> None:
    """Not those of a job that was given up: its decoder may still write."""
    memory = SpoolMemory(0, spare_files=SpareFiles(2**20))

    async def scenario(*, given_up: bool) -> int:
        _, decoders = await started(pool)
        blob, output = Blob(memory=memory), Blob(memory=memory)
        blob.write(PNG)
        for pid in decoders if given_up else ():
            os.kill(pid, signal.SIGSTOP)
        job = asyncio.create_task(pool.run(JOB, [blob], output))
        await asyncio.sleep(0)
        if given_up:
            job.cancel()
        await asyncio.wait([job])
        for pid in decoders if given_up else ():
            # One that is stopped would outlive the tests.
            os.kill(pid, signal.SIGKILL)
        blob.close()
        output.close()
        kept = 0
        while (spare := memory.spare_files.take()) is not None:
            os.close(spare.descriptor)
            kept += 1
        return kept

    assert run(scenario(given_up=False)) == 2
    assert run(scenario(given_up=True)) == 0


def test_starting_twice_starts_no_more(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        pool.start()
        await convert(pool)
        assert (template_of(pool), decoders_of(template)) == (template, decoders)

    run(scenario())


def test_processes_have_no_descriptor_and_no_variable_of_the_server(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMNER_UPSTREAM_API_KEY", "sk-secret")
    readable, writable = os.pipe()
    os.set_inheritable(writable, True)

    async def scenario() -> None:
        template, decoders = await started(pool)
        for pid in (template, *decoders):
            # For a moment, a template has the socket of a new decoder too, and a decoder that of its template.
            await until(lambda pid=pid: len(_descriptors(pid)) == 4)  # type: ignore[misc]
            targets = sorted(_descriptors(pid))
            assert targets[:3] == ["/dev/null"] * 3
            assert [target.partition(":")[0] for target in targets[3:]] == ["socket"]
            assert b"LIMNER" not in _environment(pid)

    try:
        run(scenario())
    finally:
        os.close(readable)
        os.close(writable)


def test_decoders_need_little_memory_while_they_wait(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        private = [_private_memory(pid) for pid in (template, *decoders)]
        assert sum(private) < 40 * 2**20

    run(scenario())


def _descriptors(pid: int) -> list[str]:
    return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def _private_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


# Replacement


def test_a_decoder_that_ended_while_it_waited_is_replaced(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        for pid in decoders:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not decoders & decoders_of(template))
        assert (await convert(pool))["written"]

    run(scenario())


def test_a_template_that_ended_is_replaced(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        for pid in (template, *decoders):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not any(map(is_alive, (template, *decoders))))
        assert (await convert(pool))["written"]
        assert template_of(pool) != template

    run(scenario())


def test_a_template_that_ends_before_it_has_forked_is_replaced(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(decoder_pool, "_BOOTSTRAP", "")
            pool.start()
        template = template_of(pool)
        await until(lambda: not is_alive(template))
        assert (await convert(pool))["written"]

    run(scenario())


def test_a_job_whose_decoder_is_killed_has_exceeded_its_limits(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        job = await job_of_stopped(pool, decoders)
        for pid in decoders:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DecoderExceeded, match="the process has ended"):
            await job
        assert (await convert(pool))["written"]
        # The template has to notice that the killed ones have ended.
        await until(lambda: not decoders & decoders_of(template))

    run(scenario())


def test_a_job_that_fails_in_an_unknown_way_has_exceeded_its_limits(pool: DecoderPool) -> None:
    async def scenario() -> None:
        with Blob() as output:
            job = {"operation": "paint", "options": None, "max_pixels": 1, "granted": 1}
            with pytest.raises(DecoderExceeded, match="KeyError: 'paint'"):
                await pool.run(job, [], output)

    run(scenario())


def test_a_job_without_a_reply_is_given_up(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        _, decoders = await started(pool)
        for pid in decoders:
            os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(pool, "_max_seconds", 0.0)
        with pytest.raises(DecoderExceeded, match="no reply within"):
            await convert(pool)
        for pid in decoders:
            os.kill(pid, signal.SIGKILL)

    run(scenario())


def test_a_decoder_that_does_not_start_is_given_up(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "_MAX_START_SECONDS", 0.0)
    with pytest.raises(DecoderUnavailable):
        run(convert(pool))


def test_it_is_an_error_if_no_process_can_be_started(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "_BOOTSTRAP", "raise SystemExit(1)")
    with pytest.raises(DecoderUnavailable):
        run(convert(pool))


@pytest.mark.parametrize("failing", ["socket.socketpair", "subprocess.Popen"])
def test_a_machine_without_room_for_a_process_delays_no_start(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(failing, fail)
            pool.start()
            with pytest.raises(DecoderUnavailable, match="Too many open files"):
                await convert(pool)
        assert (await convert(pool))["written"]

    run(scenario())


def test_a_decoder_is_replaced_after_a_file_that_cannot_be_read(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        assert "error" in await convert(pool, PNG[:60])
        await until(lambda: len(decoders_of(template) & decoders) == 1 and len(decoders_of(template)) == 2)

    run(scenario())


def test_a_decoder_is_replaced_after_many_jobs(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "_MAX_JOBS", 2)

    async def scenario() -> None:
        template, decoders = await started(pool)
        await convert(pool)
        await until(lambda: len(decoders_of(template) & decoders) == 1 and len(decoders_of(template)) == 2)

    run(scenario())


# The end


def test_a_job_that_is_cancelled_ends_its_decoder(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        job = await job_of_stopped(pool, decoders)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        for pid in decoders:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: len(decoders_of(template) & decoders) == 1 and len(decoders_of(template)) == 2)

    run(scenario())


def test_waiting_for_a_decoder_can_be_cancelled(pool: DecoderPool) -> None:
    async def scenario() -> None:
        pool.start()
        job = asyncio.create_task(convert(pool))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job

    run(scenario())


def test_closing_ends_all_processes(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        pool.close()
        pool.close()
        await until(lambda: not any(map(is_alive, (template, *decoders))))

    run(scenario())


def test_a_pool_that_was_closed_keeps_no_decoder_warm(pool: DecoderPool) -> None:
    async def scenario() -> None:
        template, decoders = await started(pool)
        job = await job_of_stopped(pool, decoders)
        pool.close()
        for pid in decoders:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DecoderExceeded):
            await job
        await until(lambda: not any(map(is_alive, (template, *decoders))))

    run(scenario())


def test_the_processes_end_with_a_server_that_is_killed() -> None:
    code = """
import signal
from app.images.decoder_pool import DecoderPool
pool = DecoderPool(2)
pool.start()
print(pool._template._process.pid, flush=True)
signal.pause()
"""
    environment = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        template = int(server.stdout.readline())

        async def scenario() -> None:
            await until(lambda: len(decoders_of(template)) == 2)
            decoders = decoders_of(template)
            server.kill()
            await until(lambda: not any(map(is_alive, (template, *decoders))))

        run(scenario())
