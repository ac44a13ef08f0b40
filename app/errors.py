"""The one tree of errors that a client may see, each with its OpenAI body and headers.

    ApiError                          500  server_error
    ├── InvalidRequest                400  invalid_request_error
    │   └── UserError                 400  image_generation_user_error
    │       ├── ModerationBlocked     400  … moderation_blocked
    │       └── NoImageInReply        400  … no_image_in_reply
    ├── Unauthorized                  401  invalid_request_error
    ├── Forbidden                     403  invalid_request_error
    ├── NotFound                      404  invalid_request_error
    ├── MethodNotAllowed              405  invalid_request_error
    ├── BodyTimeout                   408  invalid_request_error    request_timeout
    ├── TooLarge                      413  invalid_request_error    request_too_large
    │   └── SpoolFull                 413  … spool_full             507 would be repeated, and fail, and cost again
    ├── IdempotencyKeyReused          422  invalid_request_error    idempotency_key_reused
    ├── RateLimited                   429  requests                 rate_limit_exceeded
    ├── UpstreamError                 500  server_error             upstream_error
    │   ├── UpstreamAuth              500  … upstream_auth          our key was refused: never a 401
    │   ├── UpstreamUnreachable       500  … upstream_unreachable   surely no work was done
    │   ├── UpstreamTimeout           500  … upstream_timeout       the picture may have been made
    │   └── UpstreamBroken            500  … upstream_broken        an answer nobody can read
    ├── QuestionLost                  500  server_error             question_lost  its server died, perhaps after paying
    ├── ImageUnavailable              500  image_generation_server_error  image_download_failed
    └── Unavailable                   503  server_error             server_is_overloaded

`message` is public: no secret, prompt, stack trace or inner address is ever put into it. `detail` is for the log only.
502 and 504 are not in the tree: CDNs replace the bodies of those.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

_LOST = (
    "The server that worked on this question has died, perhaps after the image was paid for. "
    "Asked again, it is paid for again."
)


class ApiError(Exception):
    """`asked_again` becomes the header x-should-retry where it is not None: official SDKs obey it.

    `extra` joins the error object beside the four keys (`moderation_details`).
    """

    status: ClassVar[int] = 500
    type: str = "server_error"
    code: str | None = None
    asked_again: bool | None = False

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
    def headers(self) -> dict[str, str]:
        if self.asked_again is None:
            return self._headers
        return {"x-should-retry": str(self.asked_again).lower()} | self._headers


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"


class UserError(InvalidRequest):
    type = "image_generation_user_error"


class ModerationBlocked(UserError):
    code = "moderation_blocked"


class NoImageInReply(UserError):
    code = "no_image_in_reply"


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


class BodyTimeout(ApiError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class TooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class SpoolFull(TooLarge):
    code = "spool_full"


class IdempotencyKeyReused(ApiError):
    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class RateLimited(ApiError):
    """The one error that invites a repeat: `retry_after` seconds, 1 to 60, since SDKs ignore more."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    asked_again = None

    def __init__(self, message: str, *, retry_after: float = 1.0, **more: Any) -> None:
        seconds = min(60.0, max(1.0, retry_after))
        waits = {"retry-after": f"{math.ceil(seconds)}", "retry-after-ms": f"{math.ceil(seconds * 1000)}"}
        super().__init__(message, headers=waits | dict(more.pop("headers", None) or {}), **more)


class UpstreamError(ApiError):
    code = "upstream_error"


class UpstreamAuth(UpstreamError):
    code = "upstream_auth"


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    code = "upstream_timeout"


class UpstreamBroken(UpstreamError):
    code = "upstream_broken"


class QuestionLost(ApiError):
    code = "question_lost"

    def __init__(self, message: str = _LOST, **more: Any) -> None:
        super().__init__(message, **more)


class ImageUnavailable(ApiError):
    type = "image_generation_server_error"
    code = "image_download_failed"


class Unavailable(ApiError):
    status = 503
    code = "server_is_overloaded"
    asked_again = None
