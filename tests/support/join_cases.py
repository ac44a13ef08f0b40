"""The rules by which an equal request joins a job: one table, for the registry of a replica and for the job table.

The rules exist twice, in `Job.joining` with the registry and in job_table.lua. Both are run against these rows.
"""

from dataclasses import dataclass

from app.errors import (
    ApiError,
    ImageUnavailable,
    ModerationBlocked,
    NoImageInReply,
    RateLimited,
    RetrySafety,
    SpoolFull,
    Unauthorized,
    UpstreamError,
    UpstreamInvalidReply,
    UpstreamTimeout,
    UpstreamUnreachable,
    UserError,
)
from app.jobs.job import JobKey
from app.protocol.chat_reply import ChatReply
from app.protocol.reply_parser import read_reply

#: A reply that was paid for.
PAID_REPLY: ChatReply = read_reply(b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}')

ME = JobKey("me", "fox")
KEYED = JobKey("me", "fox", "key-1")
#: Of a client that counts its attempts.
COUNTED = JobKey("me", "fox", counts_attempts=True)
RETRY = JobKey("me", "fox", is_retry=True, counts_attempts=True)


@dataclass(frozen=True, slots=True)
class JoinCase:
    """A job with the key `first`, and a request with the key `then` that comes `later` seconds after its end.

    `delivered`: a client has got the result, or the error. `paid`: a reply has come.
    """

    name: str
    joins: bool
    first: JobKey = ME
    then: JobKey = ME
    error: ApiError | None = None
    delivered: bool = False
    is_async: bool = False
    paid: bool = False
    later: float = 0


def failed(retry_safety: RetrySafety, error: ApiError | None = None) -> ApiError:
    """Return an error of an upstream with what is known of its cost."""
    error = UpstreamError("It failed.") if error is None else error
    error.retry_safety = retry_safety
    return error


#: The job has ended, and its reader has left.
JOIN_CASES: list[JoinCase] = [
    JoinCase("a result that no client has got", True),
    JoinCase("a result that was delivered", False, delivered=True),
    JoinCase("a result that was delivered, it seems, and a client that says it retries", True, delivered=True, then=RETRY),
    JoinCase("nearly a minute after the delivery", True, delivered=True, then=RETRY, later=59),
    JoinCase("a minute after the delivery", False, delivered=True, then=RETRY, later=60),
    JoinCase("a failure that cost nothing, and a client that says it retries", False, error=UpstreamUnreachable(), then=RETRY),
    JoinCase("a refusal that was delivered, and a client that says it retries", False, error=ModerationBlocked("no"), delivered=True, then=RETRY),
    JoinCase("an image for which there was no room on the disk", True, error=SpoolFull("full"), paid=True, delivered=True),
    JoinCase("an image that could not be converted", True, error=UserError("not an image"), paid=True, delivered=True),
    JoinCase("an image for which there was no descriptor: a failure that no class describes", True, error=ApiError(), paid=True, delivered=True),
    JoinCase("the same, under a key", True, KEYED, KEYED, error=ApiError(), paid=True, delivered=True),
    JoinCase("a reply that names no image", False, error=NoImageInReply("no"), paid=True, delivered=True),
    JoinCase("another request", False, then=JobKey("me", "cat")),
    JoinCase("another caller", False, then=JobKey("you", "fox")),
    JoinCase("ten minutes later", False, later=600),
    JoinCase("nearly ten minutes later", True, later=599),
    JoinCase("a failure that cost nothing", False, error=UpstreamUnreachable()),
    JoinCase("a refusal: the request is sent again", False, error=ModerationBlocked("no")),
    JoinCase("an image that could not be downloaded", True, error=ImageUnavailable("404"), delivered=True),
    JoinCase("a result to come back for belongs to its own client", False, is_async=True),
    JoinCase("a result to come back for whose image could not be downloaded", True, is_async=True, error=ImageUnavailable("404")),
    JoinCase("the same key after delivery", True, KEYED, KEYED, delivered=True),
    JoinCase("the same key within its day", True, KEYED, KEYED, delivered=True, later=86_399),
    JoinCase("the same key after its day", False, KEYED, KEYED, delivered=True, later=86_400),
    JoinCase("the same key after a refusal, which may have been paid for", True, KEYED, KEYED, error=ModerationBlocked("no"), delivered=True),
    JoinCase("the same key after a timeout, which may have been paid for", True, KEYED, KEYED, error=UpstreamTimeout("late"), delivered=True),
    JoinCase("the same key after a failure that may have cost something", True, KEYED, KEYED, error=failed(RetrySafety.AMBIGUOUS), delivered=True),
    JoinCase("the same key after a failure that has probably cost something", True, KEYED, KEYED, error=failed(RetrySafety.UNSAFE), delivered=True),
    JoinCase("the same key after a rate limit that came when a reply had begun", True, KEYED, KEYED, error=failed(RetrySafety.UNSAFE, RateLimited("wait")), delivered=True),
    JoinCase("the same key after a redirect, which surely cost nothing", False, KEYED, KEYED, error=failed(RetrySafety.OTHER_UPSTREAM, UpstreamInvalidReply("moved")), delivered=True),
    JoinCase("the same key after a refusal of the caller's own key", False, KEYED, KEYED, error=failed(RetrySafety.FUTILE, Unauthorized("no")), delivered=True),
    JoinCase("the same key after bad input", False, KEYED, KEYED, error=UserError("size"), delivered=True),
    JoinCase("the same key after an overload", False, KEYED, KEYED, error=RateLimited("wait"), delivered=True),
    JoinCase("the same key of another caller", False, KEYED, JobKey("you", "fox", "key-1")),
    JoinCase("a key does not join what had none", False, ME, KEYED),
    JoinCase("what has no key does not join what has one", False, KEYED, ME),
]  # fmt: skip

#: The job is in flight, and its client is still connected.
JOIN_CASES_IN_FLIGHT: list[JoinCase] = [
    JoinCase("a client that is still connected", False),
    JoinCase("a client that is still connected, and another that says it retries", True, then=RETRY),
    JoinCase("the same key", True, KEYED, KEYED),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class TwinCase:
    """Several equal jobs in flight, or delivered, by name; and which of them equal requests join, one after the other.

    Attributes:
        jobs: The state of each job: "read" and "unread" are in flight, with and without a reader; "delivered" and
            "undelivered" have ended, "failed" has ended with an error that cost nothing. All clients count their
            attempts.
        requests: True for a request that says it is a retry.
        joined: The number of the job that each request joins, from 0; None starts a new job.
    """

    name: str
    jobs: tuple[str, ...]
    requests: tuple[bool, ...]
    joined: tuple[int | None, ...]


TWIN_CASES: list[TwinCase] = [
    TwinCase("of three, one was cut", ("read", "unread", "read"), (False,), (1,)),
    TwinCase("of three, one was cut and is repeated by a client that says so", ("read", "unread", "read"), (True,), (1,)),
    TwinCase("two were cut: each repeat gets its own", ("unread", "read", "unread"), (False, True, False), (0, 2, None)),
    TwinCase("a result that no client has got comes before jobs with readers", ("read", "delivered", "undelivered"), (True,), (2,)),
    TwinCase("retries join different jobs with readers", ("read", "read"), (True, True), (0, 1)),
    TwinCase("a delivered result comes last", ("delivered", "read"), (True, True), (1, 1)),
    TwinCase("retries get different delivered results", ("delivered", "delivered"), (True, True, False), (0, 1, None)),
    TwinCase("a second client joins no job that has a reader", ("read", "read"), (False,), (None,)),
    TwinCase("of three, one has failed: its retry joins neither of the others", ("read", "read", "failed"), (True,), (None,)),
    TwinCase("nor a result that another client has got", ("delivered", "failed"), (True,), (None,)),
    TwinCase("of three, one has failed and one was cut: a retry joins that one", ("read", "unread", "failed"), (True,), (1,)),
    TwinCase("a result that no client has got is for all, whatever has failed", ("undelivered", "failed"), (True,), (0,)),
]  # fmt: skip
