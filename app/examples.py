"""Examples for the OpenAPI document: questions, their answers, and for each status the errors that have it."""

from dataclasses import dataclass
from typing import Any

from app.errors import (
    ApiError,
    BodyTimeout,
    Forbidden,
    IdempotencyKeyReused,
    InvalidRequest,
    ModerationBlocked,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unavailable,
    UpstreamTimeout,
    UserError,
)
from app.protocol.image_request import Operation

#: The name of a kept picture, and the id of a question.
KEPT = "Zk3v0yq1mE7r9wXc5uT8bN2hD4jL6pAf.png"
QUESTION_ID = "req_11e38150c7c64ee994eac76878a65bca"

#: A picture of 16x16 pixels, so that the example of an edit works wherever it is pasted.
_GREY = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVR42mM8wYAKmBhGtAAA5cgA6C0e9MkAAAAASUVORK5CYII="
)

_QUESTION = {"model": "gpt-image-2", "prompt": "A lighthouse in a storm, oil on canvas", "size": "1536x1024"}

#: Bodies in JSON that a client may send, by what they show.
QUESTIONS: dict[Operation, dict[str, Any]] = {
    Operation.GENERATION: {
        "bytes": {"value": _QUESTION},
        "link": {"value": _QUESTION | {"response_format": "url"}},
        "stream": {"value": _QUESTION | {"stream": True, "partial_images": 2}},
    },
    Operation.EDIT: {
        "picture": {"value": _QUESTION | {"prompt": "Make it night", "images": [{"image_url": _GREY}]}},
    },
}

ANSWER: dict[str, Any] = {
    "created": 1763800000,
    "data": [{"url": f"http://127.0.0.1:8000/kept/{KEPT}"}],
    "output_format": "png",
    "quality": "high",
    "size": "1536x1024",
    "usage": {
        "input_tokens": 20,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 20},
        "output_tokens": 1372,
        "output_tokens_details": {"image_tokens": 1372, "text_tokens": 0},
        "total_tokens": 1392,
    },
}

PROMISED = {"id": QUESTION_ID, "object": "image.result", "status": "in_progress"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What a status means, and errors that have it."""

    meaning: str
    examples: tuple[ApiError, ...]


_TOO_MANY = "Invalid 'n': integer above maximum value. Expected a value <= 10, but got 11 instead."
_ODD_SIZE = "Invalid size '100x100'. Width and height must both be divisible by 16."

#: Statuses that any endpoint with a key may answer with.
FAULTS: dict[int, Fault] = {
    400: Fault(
        "Something is wrong with the request, or the upstream refused to paint it; a repeat would not help.",
        (
            InvalidRequest(_TOO_MANY, param="n", code="integer_above_max_value"),
            UserError(_ODD_SIZE, param="size", code="invalid_value"),
            ModerationBlocked("Your request was rejected by the upstream's safety system."),
        ),
    ),
    401: Fault("No key, or a wrong one.", (Unauthorized("Incorrect API key provided.", code="invalid_api_key"),)),
    403: Fault(
        "The key may not do this.",
        (Forbidden("This key does not have access to model 'dall-e-3'.", param="model", code="model_not_found"),),
    ),
    404: Fault(
        "There is no such thing.",
        (
            NotFound("The model 'dall-e-9' does not exist.", param="model", code="model_not_found"),
            NotFound("There is no such result, or its time is over.", code="result_not_found"),
            NotFound("This image does not exist, or its time is over.", code="image_not_found"),
        ),
    ),
    408: Fault(
        "The body stopped coming.", (BodyTimeout("The body of the request did not come: no byte within 60 s."),)
    ),
    413: Fault(
        "The body, or one image in it, is too large.",
        (TooLarge("One image of the request is larger than the limit of 67108864 bytes."),),
    ),
    422: Fault(
        "The Idempotency-Key was used with another body.",
        (
            IdempotencyKeyReused(
                "This Idempotency-Key was used with another request body. Use a new key for a new question."
            ),
        ),
    ),
    429: Fault(
        "Too many requests; `retry-after` says when to come back.",
        (RateLimited("Too many requests are waiting on this server. Please try again shortly."),),
    ),
    500: Fault(
        "The upstream or this server failed; `x-should-retry: false` where a repeat might be paid for twice.",
        (UpstreamTimeout("The upstream did not finish within 600 s. The image may have been made."), ApiError()),
    ),
    503: Fault("The server is shutting down.", (Unavailable("The server is shutting down. Please try again."),)),
}
