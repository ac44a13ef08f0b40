"""Hand jobs to decoder processes within a budget of memory, and explain what went wrong."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from app.errors import ApiError, ImageUnavailable, ServiceUnavailable, SpoolFull, UserError
from app.images.blob import Blob
from app.images.decoder_pool import DecoderExceeded, DecoderPool, DecoderUnavailable
from app.images.memory_budget import MemoryBudget
from app.observability.logging import log

#: The errors that decoders send.
_ERRORS: dict[str, type[ApiError]] = {error.__name__: error for error in (UserError, ImageUnavailable, SpoolFull)}


@dataclass(frozen=True, slots=True)
class DecoderJob:
    """Something for a decoder.

    Attributes:
        caller: Who waits for it.
        is_paid: Whether it concerns a result, which was paid for.
        too_complex: The error if it exceeds its limits.
    """

    operation: str
    options: Any
    inputs: Sequence[Blob]
    caller: str
    is_paid: bool
    too_complex: ApiError


class DecoderJobs:
    """Do jobs in the processes of a pool. Those that wait for one remain blobs."""

    def __init__(self, pool: DecoderPool, budget: MemoryBudget, new_blob: Callable[[], Blob], max_pixels: int) -> None:
        self._pool = pool
        self._budget = budget
        self._new_blob = new_blob
        self._max_pixels = max_pixels

    async def run(self, job: DecoderJob) -> tuple[dict[str, Any], Blob | None]:
        """Do the job. Returns the reply, and what has been written if there is something."""
        output = self._new_blob()
        with ExitStack() as unused:
            unused.callback(output.close)
            reply = await self._run_within_budget(job, output)
            if "error" in reply:
                raise _ERRORS[reply["error"]](**reply["fields"])
            if reply["written"] is None:
                return reply, None
            output.take_back(reply["written"])
            unused.pop_all()
            return reply, output

    async def _run_within_budget(self, job: DecoderJob, output: Blob) -> dict[str, Any]:
        memory = self._budget.share
        while True:
            message = {
                "operation": job.operation,
                "options": job.options,
                "max_pixels": self._max_pixels,
                "granted": memory,
            }
            async with self._budget.hold(job.caller, memory, paid=job.is_paid):
                try:
                    reply = await self._pool.run(message, job.inputs, output)
                except DecoderExceeded as exceeded:
                    raise _explained(job.too_complex, str(exceeded)) from None
                except DecoderUnavailable as unavailable:
                    log.error("decoder_start_failed", error=str(unavailable))
                    raise _unavailable(job) from None
            if "too_complex" in reply:
                raise _explained(job.too_complex, reply["too_complex"])
            if "needs" not in reply:
                return reply
            memory = reply["needs"]
            if memory > self._budget.limit(paid=job.is_paid):
                raise _explained(job.too_complex, f"{memory} bytes are more than LIMNER_IMAGE_MEMORY permits")


def _explained(error: ApiError, detail: str) -> ApiError:
    error.detail = detail
    return error


def _unavailable(job: DecoderJob) -> ApiError:
    message = "The server cannot start a process that decodes images. Please try again later."
    if job.is_paid:
        return ImageUnavailable(message, code="image_unreadable")
    return ServiceUnavailable(message, headers={"retry-after": "5"})
