"""Asynchronous tasks: the state of a job as the document that its client polls, with links to the images."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from app.access.auth import Caller
from app.errors import ApiError, ImageUnavailable
from app.images.blob import Spool
from app.images.store import ImageStore
from app.jobs.job import Job
from app.jobs.outcome import measured_blob
from app.jobs.service import ImageService, JobReader
from app.observability.logging import log
from app.protocol.image_response import OutputImage, images_json
from app.protocol.image_task import completed_task, failed_task, job_id_of, processing_task


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as its client sees it. `reader` has to be closed once the document was sent; None while it is running."""

    document: dict[str, Any]
    reader: JobReader | None = None


@dataclass(frozen=True, slots=True)
class ImageTasks:
    """Tell the states of tasks. `now` returns seconds since 1970."""

    service: ImageService
    store: ImageStore
    new_spool: Callable[[], Spool]
    now: Callable[[], float] = time.time

    def expires_at(self, seconds_left: float) -> int:
        """Return the last whole second at which a task is certainly known."""
        return int(self.now() + seconds_left)

    async def view(self, task_id: str, caller: Caller, server_url: str) -> TaskView:
        """Return the state of a task. `server_url` is how the reader of the document reaches this server.

        Raises:
            NotFound: There is no such task of that caller, or its time is over.
            ServiceUnavailable: Redis does not answer.
        """
        job_id = job_id_of(task_id)
        reader, seconds_left = await self.service.view(job_id, caller, self.new_spool())
        expires_at = self.expires_at(seconds_left)
        if reader is None:
            return TaskView(processing_task(job_id, expires_at))
        result = reader.run.result
        if result is None:
            return TaskView(_failed(reader, expires_at), reader)
        links = [await self._link(reader.job, index, image, server_url) for index, image in enumerate(result.images)]
        body = images_json(reader.job.request, result.images, result.usage, result.created, server_url)
        return TaskView(completed_task(job_id, body, links, expires_at), reader)

    async def has_ended(self, job_id: str, caller: Caller) -> bool:
        """Return whether the task of a job has ended. Raises as `view` does."""
        return await self.service.has_ended(job_id, caller)

    async def view_for_webhook(self, job_id: str, caller: Caller, server_url: str) -> dict[str, Any] | None:
        """Return a task that has ended, with links in place of all bytes. None while it runs.

        Raises:
            NotFound, ServiceUnavailable: As for `view`.
            ImageUnavailable: An image cannot be stored at present, or is not there any more.
        """
        reader, seconds_left = await self.service.view(job_id, caller, self.new_spool())
        if reader is None:
            return None
        try:
            result, expires_at = reader.run.result, self.expires_at(seconds_left)
            if result is None:
                return _failed(reader, expires_at)
            links = [
                await self._required_link(reader.job, index, image, server_url)
                for index, image in enumerate(result.images)
            ]
            images = [replace(image, source=None, url=link) for image, link in zip(result.images, links, strict=True)]
            body = images_json(reader.job.request, images, result.usage, result.created, server_url)
            return completed_task(job_id, body, links, expires_at)
        finally:
            reader.close(delivered=False)

    async def _required_link(self, job: Job, index: int, image: OutputImage, server_url: str) -> str:
        link = await self._link(job, index, image, server_url)
        if link is None:
            raise ImageUnavailable
        return link

    async def cancel(self, task_id: str, caller: Caller) -> None:
        """Cancel a task, see `ImageService.cancel`."""
        await self.service.cancel(job_id_of(task_id), caller)

    async def _link(self, job: Job, index: int, image: OutputImage, server_url: str) -> str | None:
        """Return a link to an image; one that the client wants as bytes is stored for it. None where this fails."""
        if isinstance(image.url, str):
            return str(image.as_item(server_url)["url"])
        blob, info = measured_blob(image)
        try:
            if index not in job.stored_names:
                job.stored_names[index] = image.stored or await self.store.put(blob, info)
            name = job.stored_names[index]
            return await self.store.url_for(name) or f"{server_url}/kept/{name}"
        except ApiError as error:
            log.warning("task_link_failed", job=job.id, error=error.detail or error.message)
            return None


def _failed(reader: JobReader, expires_at: int) -> dict[str, Any]:
    error = reader.run.error or ApiError()
    return failed_task(reader.job.id, error.status, error.body["error"], expires_at)
