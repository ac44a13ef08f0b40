"""A registry of jobs without a server, and what its jobs bring."""

import asyncio
from typing import Any

from app.errors import ApiError
from app.images.blob import Spool
from app.jobs.job import Job, JobKey
from app.jobs.job_run import JobRun
from app.jobs.pipeline_interface import Emit, GenerationResult
from app.jobs.registry import JobRegistry
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage
from app.protocol.parameters import Operation
from app.protocol.usage import Usage
from tests.support.join_cases import PAID_REPLY

ANSWER = GenerationResult((OutputImage("form", url="https://h/a.png"),), Usage())
REQUEST = ImagesRequest(operation=Operation.GENERATION, prompt="a fox")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Start jobs in a registry, without a server."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        defaults = {"ttl": 600, "key_ttl": 86_400, "max_retained": 100, "max_retained_bytes": 1_000_000}
        self.registry = JobRegistry(**{**defaults, **limits}, now=self.clock)
        self.count = 0

    async def run(
        self,
        key: JobKey,
        fault: ApiError | None = None,
        *,
        size: int = 0,
        is_async: bool = False,
        delivered: bool = False,
        paid: bool = False,
    ) -> Job:
        """Return a job whose run has ended and whose reader has left; `paid`: with a reply."""
        job = self.start(key, fault, size=size, is_async=is_async)
        job.paid_replies += [PAID_REPLY] * paid
        await job.run.wait_done()
        job.delivered = delivered
        job.run.release()
        await asyncio.sleep(0)
        return job

    def start(self, key: JobKey, fault: ApiError | None = None, *, size: int = 0, is_async: bool = False) -> Job:
        async def work(emit: Emit) -> None:
            if fault is not None:
                raise fault
            emit(GenerationResult((OutputImage("form", blob, "https://h/a.png"),), Usage()))

        self.count += 1
        spool = Spool()
        blob = spool.new_blob()
        blob.write(bytes(size))
        job = Job(f"req_{self.count}", key, REQUEST, spool, JobRun(readers=1), is_async=is_async)
        job.run.start(work, on_unread=lambda: self.registry.retain_or_drop(job))
        self.registry.add(job)
        return job
