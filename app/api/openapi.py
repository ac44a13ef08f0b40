"""Schemas and examples of the OpenAPI document.

The endpoints read and write their bodies themselves, so FastAPI cannot derive this from their signatures.
"""

from dataclasses import dataclass
from typing import Any

from app.api.planning_schemas import DRY_RUN
from app.errors import (
    SHUTTING_DOWN,
    ApiError,
    Forbidden,
    IdempotencyKeyReused,
    InvalidRequest,
    ModerationBlocked,
    NotFound,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    ServiceUnavailable,
    TaskCanceled,
    TaskNotCancelable,
    Unauthorized,
    UpstreamTimeout,
    UserError,
)
from app.protocol.image_request import schema
from app.protocol.parameters import Operation

#: The name of a stored image, and the id of a job.
IMAGE_NAME_EXAMPLE = "Zk3v0yq1mE7r9wXc5uT8bN2hD4jL6pAf.png"
JOB_ID_EXAMPLE = "req_11e38150c7c64ee994eac76878a65bca"

#: An image of 16x16 pixels, so that the example of an edit works as it is.
_GRAY_IMAGE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVR42mM8wYAKmBhGtAAA5cgA6C0e9MkAAAAASUVORK5CYII="
)

_REQUEST_EXAMPLE = {"model": "gpt-image-2", "prompt": "A lighthouse in a storm, oil on canvas", "size": "1536x1024"}

#: JSON bodies of requests, by the title of the example.
REQUEST_EXAMPLES: dict[Operation, dict[str, Any]] = {
    Operation.GENERATION: {
        "bytes": {"value": _REQUEST_EXAMPLE},
        "link": {"value": _REQUEST_EXAMPLE | {"response_format": "url"}},
        "stream": {"value": _REQUEST_EXAMPLE | {"stream": True, "partial_images": 2}},
    },
    Operation.EDIT: {
        "input image": {
            "value": _REQUEST_EXAMPLE | {"prompt": "Make it night", "images": [{"image_url": _GRAY_IMAGE}]}
        },
    },
}

RESPONSE_EXAMPLE: dict[str, Any] = {
    "created": 1763800000,
    "data": [{"url": f"http://127.0.0.1:8000/kept/{IMAGE_NAME_EXAMPLE}"}],
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

#: The id of a task, and a task that is running.
TASK_ID_EXAMPLE = "imgtask_11e38150c7c64ee994eac76878a65bca"
TASK_EXAMPLE: dict[str, Any] = {
    "id": TASK_ID_EXAMPLE,
    "task_id": TASK_ID_EXAMPLE,
    "object": "image.generation.task",
    "status": "processing",
    "expires_at": 1763886400,
}
RECEIPT_EXAMPLE = {**TASK_EXAMPLE, "poll_url": f"/v1/images/tasks/{TASK_ID_EXAMPLE}"}

ACCEPTED_EXAMPLE = {"id": JOB_ID_EXAMPLE, "object": "image.result", "status": "in_progress"}


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """The meaning of a status, and errors that have it."""

    meaning: str
    examples: tuple[ApiError, ...]


_TOO_MANY = "Invalid 'n': integer above maximum value. Expected a value <= 10, but got 11 instead."
_ODD_SIZE = (
    "Invalid size '100x100'. Width and height must both be divisible by 16. "
    "The nearest legal sizes are 816x816 and 832x816."
)

#: Statuses that any endpoint with a key may return.
ERROR_EXAMPLES: dict[int, ErrorExample] = {
    400: ErrorExample(
        "The request is invalid, or the upstream refused it; repeating it does not help.",
        (
            InvalidRequest(_TOO_MANY, param="n", code="integer_above_max_value"),
            UserError(_ODD_SIZE, param="size", code="invalid_value"),
            ModerationBlocked("Your request was rejected by the upstream's safety system."),
        ),
    ),
    401: ErrorExample(
        "The key is missing or wrong.", (Unauthorized("Incorrect API key provided.", code="invalid_api_key"),)
    ),
    403: ErrorExample(
        "The key is not allowed to do this.",
        (Forbidden("This key does not have access to model 'dall-e-3'.", param="model", code="model_not_found"),),
    ),
    404: ErrorExample(
        "The model, result or image does not exist.",
        (
            NotFound("The model 'dall-e-9' does not exist.", param="model", code="model_not_found"),
            NotFound("This result does not exist or has expired.", code="result_not_found"),
            NotFound("This image does not exist or has expired.", code="image_not_found"),
        ),
    ),
    408: ErrorExample(
        "The body of the request did not arrive in time.",
        (RequestTimeout("The body of the request came too slowly: less than 65536 bytes within 60 s."),),
    ),
    409: ErrorExample(
        "The task was canceled, or cannot be canceled any more.",
        (TaskCanceled(), TaskNotCancelable("The task has already ended, so it cannot be canceled.")),
    ),
    413: ErrorExample(
        "The body, or one image in it, is too large.",
        (RequestTooLarge("One image of the request is larger than the limit of 67108864 bytes."),),
    ),
    422: ErrorExample(
        "The Idempotency-Key was used with another body.",
        (IdempotencyKeyReused(),),
    ),
    429: ErrorExample(
        "Too many requests; `retry-after` says when to try again.",
        (RateLimited("Too many requests are waiting on this server. Please try again shortly."),),
    ),
    500: ErrorExample(
        "The upstream or this server failed; `x-should-retry: false` if a repeated request might be billed twice.",
        (UpstreamTimeout("The upstream did not finish within 600 s. The image may have been made."), ApiError()),
    ),
    503: ErrorExample("The server is shutting down.", (ServiceUnavailable(SHUTTING_DOWN),)),
}

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_TOKENS = {
    "type": "object",
    "properties": {"image_tokens": _COUNT, "text_tokens": _COUNT},
    "required": ["image_tokens", "text_tokens"],
}

USAGE = {
    "type": "object",
    "properties": {
        "input_tokens": _COUNT,
        "input_tokens_details": _TOKENS,
        "output_tokens": _COUNT,
        "output_tokens_details": _TOKENS,
        "total_tokens": _COUNT,
    },
    "required": ["input_tokens", "input_tokens_details", "output_tokens", "total_tokens"],
}

IMAGES = {
    "type": "object",
    "properties": {
        "created": {"type": "integer"},
        "background": {"enum": ["transparent", "opaque"]},
        "data": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"b64_json": _TEXT, "url": _TEXT},
                "oneOf": [{"required": ["b64_json"]}, {"required": ["url"]}],
            },
        },
        "output_format": _TEXT,
        "quality": {"enum": ["low", "medium", "high"]},
        "size": _TEXT,
        "usage": USAGE,
        "safety_identifier": _TEXT,
    },
    "required": ["created", "data", "usage"],
}

ACCEPTED = {
    "type": "object",
    "properties": {"id": _TEXT, "object": {"const": "image.result"}, "status": {"const": "in_progress"}},
    "required": ["id", "object", "status"],
}

_TASK_FIELDS: dict[str, Any] = {
    "id": _TEXT,
    "task_id": _TEXT,
    "object": {"const": "image.generation.task"},
    "expires_at": _COUNT,
}

RECEIPT = {
    "type": "object",
    "properties": {**_TASK_FIELDS, "status": {"const": "processing"}, "poll_url": _TEXT},
    "required": [*_TASK_FIELDS, "status", "poll_url"],
}

ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}

TASK = {
    "type": "object",
    "properties": {
        **_TASK_FIELDS,
        "status": {"enum": ["processing", "completed", "failed"]},
        "http_status": _COUNT,
        "image_url": _TEXT,
        "result": IMAGES,
        "error": ERROR["properties"]["error"],
    },
    "required": [*_TASK_FIELDS, "status"],
}

#: One event of a stream. `data` is JSON.
EVENT = {
    "type": "object",
    "properties": {"event": _TEXT, "data": {"type": "string", "contentMediaType": "application/json"}},
    "required": ["event", "data"],
}

MODEL = {
    "type": "object",
    "properties": {"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT},
    "required": ["id", "object", "created", "owned_by"],
}

MODELS = {
    "type": "object",
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": MODEL}},
    "required": ["object", "data"],
}

#: The fields of images stand at the top, where readers of the document look for them.
IMAGES_OR_DRY_RUN = {
    "type": "object",
    "properties": IMAGES["properties"],
    "anyOf": [{"required": IMAGES["required"]}, DRY_RUN],
}

STATUS = {"type": "object", "properties": {"status": _TEXT}, "required": ["status"]}

READINESS = {
    "type": "object",
    "properties": {
        "status": _TEXT,
        "upstreams": {
            "type": "object",
            "description": "The state of the circuit breaker of each upstream, by its place in the configuration.",
            "additionalProperties": {"enum": ["closed", "open", "half-open"]},
        },
    },
    "required": ["status", "upstreams"],
}

#: For endpoints that need a client key.
NEEDS_KEY: dict[str, Any] = {"security": [{"bearer": []}]}


def json_response(schema: dict[str, Any], description: str, *examples: Any) -> dict[str, Any]:
    content = {"schema": schema} | ({"example": examples[0]} if examples else {})
    return {"description": description, "content": {"application/json": content}}


def error_responses(*statuses: int, not_found_code: str = "model_not_found") -> dict[int | str, dict[str, Any]]:
    """Describe the errors of an endpoint, by status. `not_found_code` is the code of its 404."""
    return {status: _error_response(status, not_found_code) for status in statuses}


def _error_response(status: int, not_found_code: str) -> dict[str, Any]:
    described = ERROR_EXAMPLES[status]
    examples = {
        error.code or error.type: {"value": error.body}
        for error in described.examples
        if status != 404 or error.code == not_found_code
    }
    return {
        "description": described.meaning,
        "content": {"application/json": {"schema": ERROR, "examples": examples}},
    }


def patch_schema(document: dict[str, Any]) -> None:
    """Correct FastAPI's document: add how keys are sent and what paths contain, and remove its 422 responses.

    FastAPI's own 422 (invalid parameters of a path) never occurs, because all of them are plain strings.
    """
    document["components"] = {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if operation["responses"].get("422", {}).get("description") == "Validation Error":
                del operation["responses"]["422"]
            for parameter in operation.get("parameters", ()):
                parameter.update(_PATH_PARAMETERS.get(path, {}) if parameter["in"] == "path" else {})


_HEADERS = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Requests with the same key and the same body are executed once, for a day.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "order-4711",
    },
    {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async` requests an immediate 202. It has no effect on a stream.",
        "schema": {"type": "string"},
        "example": "respond-async",
    },
    {
        "name": "x-limner-dry-run",
        "in": "header",
        "description": "`true` answers what would be sent, and sends it to nobody.",
        "schema": {"enum": ["true", "false"]},
        "example": "false",
    },
]

#: The parameters of paths.
_PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "/v1/images/results/{result_id}": {
        "description": "The `id` of a 202, as in its `location`.",
        "example": JOB_ID_EXAMPLE,
    },
    "/v1/images/tasks/{task_id}": {"description": "The `id` of a task.", "example": TASK_ID_EXAMPLE},
    "/v1/models/{name}": {"description": "A name from `GET /v1/models`.", "example": "gpt-image-2"},
    "/kept/{name}": {
        "description": "The name at the end of the `url` in a response.",
        "example": IMAGE_NAME_EXAMPLE,
    },
}


def image_endpoint(operation: Operation, summary: str) -> dict[str, Any]:
    """Return keyword arguments for the route."""
    content_200 = {
        "application/json": {"schema": IMAGES_OR_DRY_RUN, "example": RESPONSE_EXAMPLE},
        "text/event-stream": {"schema": EVENT},
    }
    images = {
        "description": "The images, or with `stream` the events, the last of which holds the image.",
        "content": content_200,
    }
    return _endpoint(operation, summary, operation.value, {200: images, 202: _accepted()})


def task_submission_endpoint(operation: Operation, summary: str) -> dict[str, Any]:
    """Return keyword arguments for the route."""
    receipt = json_response(RECEIPT, "The task, which is polled at `poll_url`.", RECEIPT_EXAMPLE)
    return _endpoint(operation, summary, f"{operation}_task", {202: receipt}) | {"status_code": 202}


def _accepted() -> dict[str, Any]:
    description = (
        "With `Prefer: respond-async`: the result will be at `location`. With `async`: a task, polled at `poll_url`."
    )
    examples = {"respond-async": {"value": ACCEPTED_EXAMPLE}, "async": {"value": RECEIPT_EXAMPLE}}
    content = {"schema": {"anyOf": [ACCEPTED, RECEIPT]}, "examples": examples}
    return {"description": description, "content": {"application/json": content}}


def _endpoint(
    operation: Operation, summary: str, operation_id: str, responses: dict[int | str, dict[str, Any]]
) -> dict[str, Any]:
    body = {"schema": schema(operation, form=False), "examples": REQUEST_EXAMPLES[operation]}
    content = {"application/json": body, "multipart/form-data": {"schema": schema(operation, form=True)}}
    return {
        "tags": ["images"],
        "summary": summary,
        "operation_id": operation_id,
        "openapi_extra": {"requestBody": {"required": True, "content": content}, "parameters": _HEADERS, **NEEDS_KEY},
        "responses": {**responses, **error_responses(*ERROR_EXAMPLES)},
    }


def task_endpoint(summary: str, operation_id: str, *, may_conflict: bool = False) -> dict[str, Any]:
    """Return keyword arguments for the route. `may_conflict`: what is asked may be impossible by now."""
    conflict = (409,) if may_conflict else ()
    return {
        "tags": ["images"],
        "summary": summary,
        "operation_id": operation_id,
        "openapi_extra": NEEDS_KEY,
        "responses": {
            200: json_response(TASK, "The task.", TASK_EXAMPLE),
            **error_responses(401, 404, *conflict, 500, 503, not_found_code="result_not_found"),
        },
    }


def result_endpoint() -> dict[str, Any]:
    """Return keyword arguments for the route."""
    return {
        "tags": ["images"],
        "summary": "Get the result of a request that was sent with `Prefer: respond-async`",
        "operation_id": "image_result",
        "openapi_extra": NEEDS_KEY,
        "responses": {
            200: json_response(IMAGES, "The images.", RESPONSE_EXAMPLE),
            202: json_response(ACCEPTED, "Not finished yet; `retry-after` says when to try again.", ACCEPTED_EXAMPLE),
            **error_responses(*ERROR_EXAMPLES, not_found_code="result_not_found"),
        },
    }
