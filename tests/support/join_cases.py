"""The rules by which an equal request joins a job: one table, for the registry of a replica and for the job table.

The rules exist twice, in `Job.accepts` with the registry and in job_table.lua. Both are run against these rows.
"""

from dataclasses import dataclass

from app.errors import (
    ApiError,
    ImageUnavailable,
    ModerationBlocked,
    RateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
    UserError,
)
from app.jobs.job import JobKey

ME = JobKey("me", "fox")
KEYED = JobKey("me", "fox", "key-1")
RETRY = JobKey("me", "fox", is_retry=True)


@dataclass(frozen=True, slots=True)
class JoinCase:
    """A job with the key `first`, and a request with the key `then` that comes `later` seconds after its end.

    `delivered`: a client has got the result, or the error.
    """

    name: str
    joins: bool
    first: JobKey = ME
    then: JobKey = ME
    error: ApiError | None = None
    delivered: bool = False
    is_async: bool = False
    later: float = 0


#: The job has ended, and its reader has left.
JOIN_CASES: list[JoinCase] = [
    JoinCase("a result that no client has got", True),
    JoinCase("a result that was delivered", False, delivered=True),
    JoinCase("a result that was delivered, and a client that says it retries", False, delivered=True, then=RETRY),
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
