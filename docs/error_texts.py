"""What each error means, what to do about it, and whether it costs: the texts of the table in docs/errors.md.

Status, type and whether SDKs retry come from app/errors.py.
"""

from dataclasses import dataclass

from app.errors import (
    ApiError,
    Forbidden,
    IdempotencyKeyReused,
    ImageUnavailable,
    InvalidRequest,
    JobLost,
    MethodNotAllowed,
    ModerationBlocked,
    NoImageInReply,
    NotFound,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    ServiceUnavailable,
    SpoolFull,
    TaskCanceled,
    TaskNotCancelable,
    Unauthorized,
    UpstreamAuth,
    UpstreamError,
    UpstreamInvalidReply,
    UpstreamNeedsOperator,
    UpstreamTimeout,
    UpstreamUnreachable,
    UserError,
)


@dataclass(frozen=True, slots=True)
class ErrorText:
    """One row of the table.

    Attributes:
        code: Empty for errors without a code.
        kinds: The classes of the error; all have the same status.
        costs: Whether the upstream bills the request.
        type, is_retried: Given if the code that raises the error overrides those of the class.
    """

    code: str
    kinds: tuple[type[ApiError], ...]
    happened: str
    remedy: str
    costs: str = "no"
    type: str | None = None
    is_retried: bool | None = None


_BAD_REQUEST = (InvalidRequest, UserError)
_REDELIVERED = "yes; within ten minutes, the same request gets the image without paying again"

ERROR_TEXTS = (
    ErrorText(
        "missing_required_parameter",
        _BAD_REQUEST[:1],
        "`prompt`, the image of an edit, or a model is missing.",
        "Send the parameter that `param` names.",
    ),
    ErrorText(
        "unknown_parameter",
        _BAD_REQUEST[:1],
        "An image is sent where none belongs, or the upstream does not know a parameter.",
        "Leave out the parameter that `param` names.",
    ),
    ErrorText(
        "invalid_value",
        _BAD_REQUEST,
        "A value is not allowed, a size breaks a rule, or the upstream rejects a value.",
        "See the [parameters](images-api.md#parameters); the message names the rule.",
    ),
    ErrorText(
        "invalid_type",
        _BAD_REQUEST[:1],
        "A value has the wrong type, such as text instead of a number.",
        "Send the type that the message names.",
    ),
    ErrorText("empty_string", _BAD_REQUEST[:1], "A text is empty.", "Send some text."),
    ErrorText(
        "string_above_max_length", _BAD_REQUEST[:1], "A text is too long.", "Shorten it to the length in the message."
    ),
    ErrorText("integer_below_min_value", _BAD_REQUEST[:1], "A number is too small.", "The message names the limit."),
    ErrorText("integer_above_max_value", _BAD_REQUEST[:1], "A number is too large.", "The message names the limit."),
    ErrorText("empty_array", _BAD_REQUEST[:1], "The list of images is empty.", "Send 1 to 16 images."),
    ErrorText("array_above_max_length", _BAD_REQUEST[:1], "There are more than 16 images.", "Send 1 to 16 images."),
    ErrorText(
        "object_above_max_properties", _BAD_REQUEST[:1], "`metadata` has more than 16 pairs.", "Send fewer pairs."
    ),
    ErrorText(
        "unsupported_parameter",
        _BAD_REQUEST[1:],
        "Two parameters exclude each other, such as `stream` and `n` above 1, or one needs what the request is not: "
        "`webhook_url` needs an asynchronous request.",
        "Leave out one of them, or make the request asynchronous.",
    ),
    ErrorText(
        "invalid_image_file",
        _BAD_REQUEST[1:],
        "An input image is damaged, or is not an image.",
        "Send a PNG, JPEG, WebP, GIF, AVIF, TIFF or BMP.",
    ),
    ErrorText(
        "invalid_image_url",
        _BAD_REQUEST[1:],
        "The link of an input image cannot be downloaded.",
        "Test the link from the server's network. Private addresses need `LIMNER_FETCH_ALLOW`.",
    ),
    ErrorText("invalid_base64", _BAD_REQUEST[1:], "The base64 of an input image is invalid.", "Encode the file again."),
    ErrorText(
        "invalid_mask_image_format",
        _BAD_REQUEST[1:],
        "The mask has no transparency, or not the size of the first image.",
        "Save the mask as a PNG with alpha channel, with the size of the first image.",
    ),
    ErrorText(
        "moderation_blocked",
        (ModerationBlocked,),
        "The upstream refuses to generate this image.",
        "Change the prompt; the message has the upstream's reason.",
        costs="if the upstream refused in a reply",
    ),
    ErrorText(
        "no_image_in_reply",
        (NoImageInReply,),
        "The upstream answered in words only, or with links that lead to no image; its words and reasons "
        "(`finish_reason NO_IMAGE`, a task that was begun) are in the message.",
        "Ask for an image more clearly. If the reply in the log has an image, give it to `limner explain`.",
        costs="yes",
    ),
    ErrorText(
        "invalid_api_key",
        (Unauthorized,),
        "The key is missing, wrong or expired.",
        "Send one of the client keys, or in pass-through mode a key of the upstream.",
    ),
    ErrorText(
        "model_not_found",
        (Forbidden, NotFound),
        "The client key may not use this model (403), or no upstream has it (404).",
        "Use a name from `GET /v1/models`.",
    ),
    ErrorText(
        "host_not_allowed",
        (Forbidden,),
        "The server needs no key, and the request names a host that it does not know as its own.",
        "Operator: see [Servers without keys](security.md#servers-without-keys).",
    ),
    ErrorText(
        "origin_not_allowed",
        (Forbidden,),
        "The server needs no key, and the request comes from a page of another site.",
        "Operator: see [Servers without keys](security.md#servers-without-keys).",
    ),
    ErrorText(
        "upstream_forbidden",
        (Forbidden,),
        "The upstream forbids this request; its words are in the message.",
        "Change the request. Operator: the words may be about the account; `detail` in the log has all of them.",
    ),
    ErrorText(
        "webhooks_not_allowed",
        (Forbidden,),
        "The request names a `webhook_url`, and webhooks are not allowed.",
        "Leave it out and poll. Operator: set `LIMNER_WEBHOOKS=true`, or `webhooks = true` for the key.",
    ),
    ErrorText("status_key_not_set", (Forbidden,), "`/v1/status` has no key.", "Operator: set `LIMNER_STATUS_KEY`."),
    ErrorText(
        "",
        (Forbidden,),
        "Pass-through: the upstream forbids this to the caller's key. `code` is the upstream's.",
        "Ask the provider of the key.",
    ),
    ErrorText("endpoint_retired", (NotFound,), "`/v1/images/variations` no longer exists.", "Send an edit."),
    ErrorText(
        "image_not_found",
        (NotFound,),
        "A stored image has expired.",
        "Download images in time. Operator: raise `LIMNER_IMAGE_TTL`.",
    ),
    ErrorText(
        "result_not_found",
        (NotFound,),
        "There is no asynchronous request or task with this id and key, or its result has expired.",
        "Fetch results in time, with the same key: those of tasks within a day, others within ten minutes.",
    ),
    ErrorText("", (NotFound, MethodNotAllowed), "There is no such path, or not with this method.", "Check the path."),
    ErrorText(
        "request_timeout",
        (RequestTimeout,),
        "The request body stopped arriving.",
        "Check the network. Operator: `LIMNER_CLIENT_BODY_TIMEOUT`.",
    ),
    ErrorText(
        "task_canceled",
        (TaskCanceled,),
        "The task was canceled by its client before anything was sent to an upstream.",
        "Submit it again, with another `Idempotency-Key`.",
    ),
    ErrorText(
        "task_not_cancelable",
        (TaskNotCancelable,),
        "The task was sent to an upstream, has ended, or another request waits for it; the message says which.",
        "Poll the task.",
    ),
    ErrorText(
        "request_too_large",
        (RequestTooLarge,),
        "The body or an image is too large, for Limner or for the upstream.",
        "Send less. Operator: raise `LIMNER_MAX_REQUEST_BYTES`, `LIMNER_MAX_IMAGE_BYTES`.",
    ),
    ErrorText(
        "idempotency_key_reused",
        (IdempotencyKeyReused,),
        "An `Idempotency-Key` was used for two different requests.",
        "Use a new key for each request.",
    ),
    ErrorText(
        "rate_limit_exceeded",
        (RateLimited,),
        "Too many requests are waiting here, a limit of the key is reached, or the upstream accepts no more.",
        "Wait as long as `retry-after` says.",
    ),
    ErrorText(
        "insufficient_quota",
        (RateLimited,),
        "The monthly budget of the key is used up, or, in pass-through mode, the caller's account.",
        "Wait for the next month, or top up the account.",
        type="insufficient_quota",
        is_retried=False,
    ),
    ErrorText(
        "upstream_auth",
        (UpstreamAuth,),
        "The upstream rejects this server's key, or its account lacks a permission for what was asked.",
        "Operator: replace the key; `detail` in the log says where it is set and why, `limner check` tests it.",
    ),
    ErrorText(
        "upstream_quota", (UpstreamNeedsOperator,), "This server's account is used up.", "Operator: top up the account."
    ),
    ErrorText(
        "upstream_model",
        (UpstreamNeedsOperator,),
        "The upstream does not have the configured model, or no provider for it under the account's data policy.",
        "Operator: correct the name; `detail` in the log has the upstream's words and says where it is set.",
    ),
    ErrorText(
        "upstream_dialect",
        (UpstreamNeedsOperator,),
        "The upstream rejects a field that only Limner writes.",
        "Operator: choose another [dialect](upstreams.md#dialects); `detail` in the log says where it is set.",
    ),
    ErrorText(
        "upstream_blocked",
        (UpstreamNeedsOperator,),
        "A firewall in front of the upstream blocks this server.",
        "Operator: ask the provider to admit this server's address and the user agent in the message.",
    ),
    ErrorText(
        "upstream_unreachable",
        (UpstreamUnreachable,),
        "The upstream cannot be reached.",
        "Operator: `limner check` shows the step that fails.",
    ),
    ErrorText(
        "upstream_overloaded",
        (UpstreamError,),
        "The upstream is overloaded, even after a pause.",
        "Try again later. Operator: add another upstream.",
        costs="maybe, if the upstream took two seconds or more to say so",
    ),
    ErrorText(
        "upstream_timeout",
        (UpstreamTimeout,),
        "The upstream took too long. It may have generated the image.",
        "Operator: raise `LIMNER_UPSTREAM_TIMEOUT` or `LIMNER_UPSTREAM_IDLE_TIMEOUT`.",
        costs="maybe",
    ),
    ErrorText(
        "upstream_broken",
        (UpstreamInvalidReply, UpstreamNeedsOperator),
        "The upstream's reply cannot be parsed, ended early, has more than 4 MiB beside its images or more than four "
        "times `LIMNER_MAX_IMAGE_BYTES` with them, is a web page, or is a redirect.",
        "Operator: see `detail` in the log; `limner explain` reads the raw reply. After a web page or a redirect, look "
        "at `LIMNER_UPSTREAM_BASE_URL`, which ends in `/v1` at most upstreams.",
        costs="maybe; a redirect does not",
    ),
    ErrorText(
        "upstream_error",
        (UpstreamError, UpstreamNeedsOperator),
        "The upstream returned another error, or has no chat at the configured address.",
        "Operator: see `detail` in the log.",
        costs="maybe; a wrong address does not",
    ),
    ErrorText(
        "question_lost",
        (JobLost,),
        "The server that ran the job died, perhaps after paying, or had no room for the reply, on the disk and in "
        "memory. A client gets this error once, or always under an `Idempotency-Key`.",
        "Send the request again if it is worth another payment. Operator: find out why the server died, or give "
        "`LIMNER_SPOOL_DIR` room.",
        costs="maybe",
    ),
    ErrorText(
        "image_download_failed",
        (ImageUnavailable,),
        "The image was generated, but its link cannot be downloaded.",
        "Repeat the request. Operator: the log has the reason; private addresses need `LIMNER_FETCH_ALLOW`.",
        costs=_REDELIVERED,
    ),
    ErrorText(
        "image_unreadable",
        (ImageUnavailable,),
        "The image was generated, but its file is damaged.",
        "Repeat the request. Operator: if the error remains, ask the upstream.",
        costs=_REDELIVERED,
    ),
    ErrorText(
        "image_not_kept",
        (ImageUnavailable,),
        "The image was generated, but could not be stored.",
        "Operator: give `LIMNER_IMAGE_STORE` room; then repeat the request.",
        costs=_REDELIVERED,
    ),
    ErrorText(
        "",
        (ApiError,),
        "A bug in Limner.",
        "Operator: the log has `unhandled_error` with the stack trace; please report it.",
        costs="maybe",
    ),
    ErrorText(
        "image_store_unavailable",
        (ServiceUnavailable,),
        "The store of a stored image does not respond.",
        "Try again later. Operator: check the store.",
    ),
    ErrorText(
        "spool_full",
        (SpoolFull,),
        "The server has no room for images.",
        "Send the same request again later. Operator: give `LIMNER_SPOOL_DIR` more room.",
        costs=_REDELIVERED,
    ),
    ErrorText(
        "server_is_overloaded",
        (ServiceUnavailable,),
        "The server is shutting down, has no room for more images, files or connections, or its shared state is down "
        "(`LIMNER_STATE_DOWN=closed`).",
        "Repeat the request; SDKs do so by themselves.",
        costs="no; maybe if it interrupted a running job, with `x-should-retry: false`",
    ),
)
