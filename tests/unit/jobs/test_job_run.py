import asyncio
from collections.abc import AsyncGenerator

from app.errors import ApiError, NotFound, ServiceUnavailable
from app.jobs.job import Job


class Bench:
    """Items on demand, and whether the job has been cleaned up."""

    def __init__(self) -> None:
        self.orders: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.closed = 0
        self.generator_closed = False

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            while (order := await self.orders.get()) is not None:
                if isinstance(order, Exception):
                    raise order
                yield order
        finally:
            self.generator_closed = True

    def close(self) -> None:
        self.closed += 1

    def start(self) -> Job[int]:
        return Job(self.items(), self.close)


def test_items_are_read_as_they_come_and_the_end_is_told() -> None:
    async def play() -> None:
        bench = Bench()
        job = bench.start()
        waiting = asyncio.create_task(job.more(0))
        await asyncio.sleep(0)
        bench.orders.put_nowait(7)
        assert await waiting
        bench.orders.put_nowait(None)
        assert await job.end()
        assert (job.items, job.fault, await job.more(1)) == ([7], None, False)
        assert bench.closed == 0
        job.leave()
        assert bench.closed == 1

    asyncio.run(play())


def test_work_goes_on_when_its_reader_has_left_and_is_cleaned_up_at_its_end() -> None:
    async def play() -> None:
        bench = Bench()
        job = bench.start()
        job.leave()
        bench.orders.put_nowait(7)
        bench.orders.put_nowait(None)
        await job.end()
        await asyncio.sleep(0)
        assert (job.items, bench.closed, bench.generator_closed) == ([7], 1, True)

    asyncio.run(play())


def test_each_reader_reads_from_the_first_item() -> None:
    async def play() -> None:
        bench = Bench()
        job = bench.start()
        job.readers += 1
        readers = [asyncio.create_task(job.more(0)) for _ in range(2)]
        await asyncio.sleep(0)
        bench.orders.put_nowait(7)
        bench.orders.put_nowait(None)
        assert await asyncio.gather(*readers) == [True, True]
        await job.end()
        job.leave()
        assert bench.closed == 0
        job.leave()
        assert bench.closed == 1

    asyncio.run(play())


def test_who_follows_the_work_closely_is_called_when_it_is_stirred() -> None:
    async def play() -> None:
        bench = Bench()
        job = bench.start()
        close, distant = (asyncio.create_task(job.more(0, stirs)) for stirs in (0, None))
        await asyncio.sleep(0)
        job.stir()
        assert await close
        assert await job.more(0, 0)
        assert not distant.done()
        bench.orders.put_nowait(7)
        assert await distant
        bench.orders.put_nowait(None)
        await job.end()
        assert not await job.more(1, 0)
        job.leave()

    asyncio.run(play())


def test_work_without_a_reader_settles_when_it_ends() -> None:
    async def play() -> None:
        bench = Bench()
        job = Job(bench.items(), bench.close, readers=0)
        bench.orders.put_nowait(None)
        await job.end()
        await asyncio.sleep(0)
        assert bench.closed == 1

    asyncio.run(play())


def test_who_hears_of_the_end_and_leaves_at_once_settles_it_once() -> None:
    async def play() -> None:
        bench = Bench()
        job = bench.start()
        bench.orders.put_nowait(7)
        bench.orders.put_nowait(None)
        await job.end()
        job.leave()
        for _ in range(3):
            await asyncio.sleep(0)
        assert bench.closed == 1

    asyncio.run(play())


def test_an_error_ends_it_without_its_frames() -> None:
    async def play() -> None:
        bench = Bench()
        job = bench.start()
        bench.orders.put_nowait(NotFound("no"))
        assert await job.more(0) is False
        assert isinstance(job.fault, NotFound)
        assert job.fault.__traceback__ is None

    asyncio.run(play())


def test_a_bug_becomes_a_500_for_its_reader() -> None:
    async def play() -> None:
        bench = Bench()
        job = bench.start()
        bench.orders.put_nowait(KeyError("secret"))
        await job.end()
        assert type(job.fault) is ApiError
        assert "secret" not in str(job.fault.body)

    asyncio.run(play())


def test_cancelled_work_says_that_the_server_is_stopping() -> None:
    async def play() -> None:
        bench = Bench()
        job = bench.start()
        await asyncio.sleep(0)
        job.task.cancel()
        await job.end()
        assert isinstance(job.fault, ServiceUnavailable)
        assert bench.generator_closed

    asyncio.run(play())
