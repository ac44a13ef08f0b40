"""Define every error that a client can see, with its HTTP status, OpenAI error body and headers.

    ApiError                          500  server_error
    ├── InvalidRequest                400  invalid_request_error
    │   └── UserError                 400  image_generation_user_error
    │       ├── ModerationBlocked     400  … moderation_blocked
    │       └── NoImageInReply        400  … no_image_in_reply
    ├── Unauthorized                  401  invalid_request_error
    ├── Forbidden                     403  invalid_request_error
    ├── NotFound                      404  invalid_request_error
    ├── MethodNotAllowed              405  invalid_request_error
    ├── TaskCanceled                  409  invalid_request_error    task_canceled
    ├── TaskNotCancelable             409  invalid_request_error    task_not_cancelable
    ├── RequestTimeout                408  invalid_request_error    request_timeout
    ├── RequestTooLarge               413  invalid_request_error    request_too_large
    ├── IdempotencyKeyReused          422  invalid_request_error    idempotency_key_reused
    ├── RateLimited                   429  requests                 rate_limit_exceeded
    ├── UpstreamError                 500  server_error             upstream_error
    │   ├── UpstreamNeedsOperator     500  … upstream_error         key, account, model, address or dialect are wrong
    │   │   └── UpstreamAuth          500  … upstream_auth          our upstream key was refused: never a 401
    │   ├── UpstreamUnreachable       500  … upstream_unreachable   certainly no image was generated
    │   ├── UpstreamTimeout           500  … upstream_timeout       an image may have been generated
    │   └── UpstreamInvalidReply      500  … upstream_broken        the reply could not be parsed
    ├── JobLost                       500  server_error             question_lost  its replica died, it may be paid for
    ├── ImageUnavailable              500  image_generation_server_error  image_download_failed
    └── ServiceUnavailable            503  server_error             server_is_overloaded
        └── SpoolFull                 503  … spool_full             the disk is full; an image already paid for is kept

`message` is public and must never contain a secret, prompt, stack trace or internal address. `detail` goes to the log
only. No error has the status 502 or 504, because CDNs replace the bodies of such responses.
"""

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar

_JOB_LOST = (
    "The server that worked on this request has died, perhaps after the image was paid for. "
    "If you send the request again, it is paid for again."
)

_CANCELED = "The task was canceled before anything was sent to an upstream. Nothing was charged."

_SPOOL_FULL = "The server has no room left for this image. Please try again later."

#: Of a server that drains. The client may ask another one.
SHUTTING_DOWN = "The server is shutting down. Please try again."

_KEY_REUSED = "This Idempotency-Key was used with another request body. Use a new key for a new request."


class RetrySafety(Enum):
    """What a failed attempt says about another one, and about its cost; decided by evidence."""

    SAFE = "surely no work was done"
    OTHER_UPSTREAM = "surely no work was done, and only another upstream can help"
    FUTILE = "surely no work was done, and every other attempt would end the same way"
    AMBIGUOUS = "work may have been done: the operator decides"
    UNSAFE = "work has probably been done"

    @property
    def may_have_cost(self) -> bool:
        """Whether the attempt may have been paid for. If not, forgetting it and asking again cost nothing twice."""
        return self in {RetrySafety.AMBIGUOUS, RetrySafety.UNSAFE}


class ApiError(Exception):
    """`should_retry` becomes the header x-should-retry where it is not None: official SDKs obey it.

    `extra` joins the error object beside the four keys (`moderation_details`). `retry_safety` is that of the upstream
    attempts that led to the error, None where there was no attempt. `counts_against_upstream`: it is a failure of the
    upstream itself (a 5xx, silence, broken transport), so its circuit breaker counts it. For the operator there are
    `upstream_sentence`, the upstream's own first sentence without keys and addresses, and `place`, the setting to mend.
    """

    status: ClassVar[int] = 500
    type: str = "server_error"
    code: str | None = None
    should_retry: bool | None = False
    retry_safety: RetrySafety | None = None
    upstream_sentence: str = ""
    place: str | None = None
    counts_against_upstream: bool = False

    def __init__(
        self,
        message: str = "The server had an error while processing your request. Sorry about that!",
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  the field's name in the API
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.code
        self.type = type if type is not None else self.type
        self.detail = detail
        self.extra = dict(extra or {})
        self._headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error | self.extra}

    @property
    def may_have_cost(self) -> bool:
        """Whether an attempt that led to the error may have been paid for."""
        return self.retry_safety is not None and self.retry_safety.may_have_cost

    @property
    def headers(self) -> dict[str, str]:
        if self.should_retry is None:
            return self._headers
        return {"x-should-retry": str(self.should_retry).lower()} | self._headers


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"


class UserError(InvalidRequest):
    type = "image_generation_user_error"


class ModerationBlocked(UserError):
    code = "moderation_blocked"
    retry_safety = RetrySafety.UNSAFE


class NoImageInReply(UserError):
    code = "no_image_in_reply"
    retry_safety = RetrySafety.UNSAFE


class Unauthorized(ApiError):
    status = 401
    type = "invalid_request_error"


class Forbidden(ApiError):
    status = 403
    type = "invalid_request_error"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"


class TaskCanceled(ApiError):
    status = 409
    type = "invalid_request_error"
    code = "task_canceled"

    def __init__(self, message: str = _CANCELED, **more: Any) -> None:
        super().__init__(message, **more)


class TaskNotCancelable(ApiError):
    status = 409
    type = "invalid_request_error"
    code = "task_not_cancelable"


class RequestTimeout(ApiError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class RequestTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class IdempotencyKeyReused(ApiError):
    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"

    def __init__(self, message: str = _KEY_REUSED, **more: Any) -> None:
        super().__init__(message, **more)


class RateLimited(ApiError):
    """An invitation to retry after `retry_after` seconds, limited to 1 to 60 because SDKs ignore longer waits."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    should_retry = None

    def __init__(self, message: str, *, retry_after: float = 1.0, **more: Any) -> None:
        seconds = min(60.0, max(1.0, retry_after))
        waits = {"retry-after": f"{math.ceil(seconds)}", "retry-after-ms": f"{math.ceil(seconds * 1000)}"}
        super().__init__(message, headers=waits | dict(more.pop("headers", None) or {}), **more)


class UpstreamError(ApiError):
    code = "upstream_error"
    counts_against_upstream = True
    retry_safety = RetrySafety.UNSAFE


class UpstreamNeedsOperator(UpstreamError):
    counts_against_upstream = False


class UpstreamAuth(UpstreamNeedsOperator):
    code = "upstream_auth"


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"
    retry_safety = RetrySafety.SAFE


class UpstreamTimeout(UpstreamError):
    code = "upstream_timeout"


class UpstreamInvalidReply(UpstreamError):
    code = "upstream_broken"


class JobLost(ApiError):
    code = "question_lost"
    retry_safety = RetrySafety.UNSAFE

    def __init__(self, message: str = _JOB_LOST, **more: Any) -> None:
        super().__init__(message, **more)


class ImageUnavailable(ApiError):
    """`is_absent`: nothing is known there, so that nothing will come either if the address is only half of one."""

    is_absent = False
    retry_safety = RetrySafety.UNSAFE
    type = "image_generation_server_error"
    code = "image_download_failed"


class ServiceUnavailable(ApiError):
    status = 503
    code = "server_is_overloaded"
    should_retry = None


class SpoolFull(ServiceUnavailable):
    """An invitation to retry: before the upstream is asked nothing is lost, and afterwards the result is kept."""

    code = "spool_full"

    def __init__(self, message: str = _SPOOL_FULL, **more: Any) -> None:
        super().__init__(message, headers={"retry-after": "5"} | dict(more.pop("headers", None) or {}), **more)
