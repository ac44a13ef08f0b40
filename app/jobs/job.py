"""A job: the deduplicated unit of work behind one or more equal requests, and which of these may join it."""

import asyncio
import math
from dataclasses import dataclass, field
from enum import StrEnum

from app.errors import ApiError, ImageUnavailable, ModerationBlocked, NoImageInReply, UpstreamError
from app.images.blob import Spool
from app.jobs.job_run import JobRun, StopReason
from app.jobs.pipeline_interface import PartialImage
from app.protocol.chat_reply import ChatReply
from app.protocol.image_request import ImagesRequest
from app.protocol.values import value_class

#: Errors that a reply itself has caused: a further look at it would end in the same way.
_REPLY_AT_FAULT = (ModerationBlocked, NoImageInReply, UpstreamError)


@value_class
class JobKey:
    """Identify a job: two requests with equal keys are the same job.

    Attributes:
        caller: The id of the caller.
        fingerprint: Digest of all fields and of the checksums of all input images.
        key: The client's idempotency key, if it sent one.
        is_retry: The client says that it is repeating a request. Not a part of the identity.
        counts_attempts: The client says with each request whether it is repeating one. Not a part of the identity.
        is_task: The result is kept for as long as one under an idempotency key. Not a part of the identity.
        group: Where the registry and the job table look, often for each request: under the idempotency key, or else
            under the fingerprint.
    """

    caller: str
    fingerprint: str
    key: str | None = None
    is_retry: bool = False
    counts_attempts: bool = False
    is_task: bool = False
    group: tuple[str, str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        name = f"what {self.fingerprint}" if self.key is None else f"key {self.key}"
        self.group = self.caller, name  # type: ignore[misc]  # nobody has the key yet

    @property
    def is_kept_long(self) -> bool:
        """Whether the result is kept for as long as idempotency keys are."""
        return self.is_task or self.key is not None


class Joining(StrEnum):
    """Which equal requests may join a job."""

    ANYONE = "the next one: no client waits for what the job brings"
    RETRIES = "one that says it is a retry: the client that seems to wait may be gone"
    RETRIES_LAST = "one that says it is a retry, if it fits nothing else: a client has got everything, it seems"
    NOBODY = "none"


@dataclass(slots=True, eq=False)
class Job:
    """One deduplicated unit of work: its request, its present run, and what redelivery needs.

    Attributes:
        run: The present run. Readers of an earlier one keep theirs.
        spool: Owns the blobs of input and output images; closed when the job is dropped from the registry.
        is_async: The client that started the job does not wait, it comes back for the result with the job's id.
        has_receipt: A client that does not wait has joined, and comes back for the result, too.
        reader_id: Identifies this replica's readers in the job table.
        is_remote: Another replica runs this job; this one only waits for its outcome.
        paid_replies: Upstream replies that were received, in order of arrival. A further run uses these first.
        paid_failures: Errors of chat requests that may have been paid for and brought no reply. A further run, which
            is for the paid replies, does not send these requests again.
        delivered: The whole result was sent to a client that was still connected.
        expires_at: When the registry drops the job, by its own clock; infinite while it is needed.
        stored_names: Names in the image store, by the index of the image, of images that were stored for a task.
        is_only_here: What was paid for could not be shared, so only this replica can deliver it.
        publish_lock: Serializes updates of this job in the job table.
    """

    id: str
    key: JobKey
    request: ImagesRequest
    spool: Spool
    run: JobRun = field(default_factory=JobRun)
    is_async: bool = False
    has_receipt: bool = False
    reader_id: str = ""
    is_remote: bool = False
    paid_replies: list[ChatReply] = field(default_factory=list)
    paid_failures: list[ApiError] = field(default_factory=list)
    delivered: bool = False
    expires_at: float = math.inf
    stored_names: dict[int, str] = field(default_factory=dict)
    is_only_here: bool = False
    publish_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    # Who reads it.

    @property
    def readers(self) -> int:
        """Readers of the present run in this process."""
        return self.run.readers

    @property
    def has_ended_unread(self) -> bool:
        """Whether the run has ended and has no readers left in this process.

        Then the job is handed over to other replicas, retained or dropped.
        """
        return self.run.is_done and not self.run.readers

    # What it has brought, and at what cost.

    @property
    def has_failed(self) -> bool:
        """Whether the run has ended with an error."""
        return self.run.error is not None

    @property
    def was_submitted(self) -> bool:
        """Whether anything was sent to an upstream, in this run or an earlier one, at a cost or not.

        Decides whether other replicas may take the job over should this one die.
        """
        return self.run.was_submitted or bool(self.paid_replies)

    @property
    def may_have_cost(self) -> bool:
        """Whether an upstream may have been paid, by this run, an earlier one, or that of another replica.

        Decides whether the run may be canceled, and whether its failure has to be remembered.
        """
        error = self.run.error
        return self.run.may_have_cost or bool(self.paid_replies) or (error is not None and error.may_have_cost)

    # Whether it is run again.

    @property
    def needs_redelivery(self) -> bool:
        """Whether the upstream was paid and only the delivery failed, however.

        Decides whether the paid replies and the images are kept for a further run, which costs nothing.
        """
        error = self.run.error
        if error is None or self.is_remote or not self.run.is_done:
            return False
        if isinstance(error, ImageUnavailable):
            return True
        is_answered = bool(self.paid_replies) and not isinstance(error, _REPLY_AT_FAULT)
        return is_answered and not any(each is self.run.cause for each in self.run.chat_errors)

    @property
    def restarts_on_join(self) -> bool:
        """Whether a request that joins starts a further run here: for redelivery, or since the run was called off."""
        return self.needs_redelivery or (self.run.stop_reason is StopReason.CALLED_OFF and not self.is_remote)

    @property
    def can_retry_free(self) -> bool:
        """Whether a replica that waits for the outcome may run the job again, since that costs nothing more.

        Also where `restarts_on_join` is false: the failure may be one of this replica alone, as a full disk before
        anything was sent. But a run that was sent, failed and cost nothing is not run again, or each replica that waits
        for it would send the request once more; nor is one that its client has canceled.
        """
        has_cost_nothing = not self.was_submitted or self.run.stop_reason is StopReason.CALLED_OFF
        is_open = self.has_failed and self.run.stop_reason is not StopReason.CANCELED
        return self.needs_redelivery or (is_open and has_cost_nothing)

    @property
    def has_ended_following(self) -> bool:
        """Whether this replica was to wait for another one, and waits no more: nobody may join here any more."""
        return self.run.stop_reason is not None and self.is_remote

    # Who comes back for it, and who may join.

    @property
    def is_awaited_later(self) -> bool:
        """Whether a client that does not wait comes back for the result: the first one, or one that joined."""
        return self.is_async or self.has_receipt

    @property
    def should_retain(self) -> bool:
        """Whether a client may come back for the job after its run has ended.

        A failure is only remembered under an idempotency key, and only if it may have cost something.
        """
        if not self.has_failed or self.is_awaited_later or self.needs_redelivery:
            return True
        return self.key.key is not None and self.may_have_cost

    @property
    def is_only_for_retries(self) -> bool:
        """Whether a client has got everything, and only a request that says it is a retry may come back for the job.

        Decides that it is retained for a minute only, and that its outcome stays at this replica.
        """
        if not self.delivered or self.has_failed:
            return False
        return not self.is_awaited_later and self.key.key is None

    @property
    def joining(self) -> Joining:
        """Which equal requests may join.

        With an idempotency key each one may; without one the next request may where the job's client has left, and
        otherwise only one that says it is a retry. Whether a job of another replica has clients is known there.
        """
        if self.has_failed or self.run.stop_reason is not None:
            if self.restarts_on_join:
                return Joining.ANYONE
            if self.has_ended_following or (self.run.is_done and not self.should_retain):
                return Joining.NOBODY
        if self.key.key is not None:
            return Joining.ANYONE
        if self.is_async:
            return Joining.NOBODY
        if self.delivered:
            return Joining.RETRIES_LAST
        is_read_elsewhere = self.is_remote and not self.run.is_done
        return Joining.RETRIES if self.run.readers or is_read_elsewhere else Joining.ANYONE

    # What it holds.

    @property
    def held_bytes(self) -> int:
        """Bytes of images, in memory or in files, and of the paid replies."""
        return self.spool.size + sum([reply.size for reply in self.paid_replies])

    def drop_unneeded(self) -> None:
        """Drop the input images and the text of the replies of a run that has ended: only redelivery needs them."""
        if self.run.is_done and not self.needs_redelivery:
            self.paid_replies[:] = [reply.without_text() for reply in self.paid_replies]
            drafts = [item.image for item in self.run.items if isinstance(item, PartialImage)]
            result = self.run.result
            images = [*drafts, *(() if result is None else result.images)]
            self.spool.close_all_but([image.delivered_source for image in images])

    def restart(self, request: ImagesRequest, spool: Spool, run: JobRun) -> None:
        """Prepare a further run. The job takes over the blobs of the request that needs it."""
        self.spool.absorb(spool)
        on_change, self.run.on_change = self.run.on_change, lambda: None
        self.request, self.run, self.run.on_change = request, run, on_change
        self.delivered, self.is_only_here, self.expires_at = False, False, math.inf
        self.stored_names = {}
        on_change()


def summarize_request(request: ImagesRequest) -> dict[str, object]:
    """Return what logs and operators may know of a request: nothing that it says or shows."""
    return {
        "operation": str(request.operation),
        "n": request.n,
        "size": request.size_text,
        "quality": request.quality,
        "stream": request.stream,
    }
