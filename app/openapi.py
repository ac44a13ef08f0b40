"""What the OpenAPI document says about the image endpoints: they read their bodies themselves."""

from typing import Any

from app.pure.images import Operation, schema

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

ERROR = {
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

#: Statuses that any endpoint with a key may answer with, and what they mean.
FAULTS = {
    400: "Something is wrong with the request, or the upstream refused to paint it; a repeat would not help.",
    401: "No key, or a wrong one.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    413: "The body, or one image in it, is too large.",
    429: "Too many requests; `retry-after` says when to come back.",
    500: "The upstream or this server failed; `x-should-retry: false` where a repeat might be paid for twice.",
    503: "The server is shutting down.",
}


def fault_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": ERROR}}
    return {status: {"description": FAULTS[status], "content": content} for status in statuses}


def image_endpoint(operation: Operation, summary: str) -> dict[str, Any]:
    """Keyword arguments for the route."""
    form = schema(operation, form=True)
    content = {"application/json": {"schema": schema(operation, form=False)}, "multipart/form-data": {"schema": form}}
    answer = {"application/json": {"schema": IMAGES}, "text/event-stream": {"schema": _TEXT}}
    return {
        "tags": ["images"],
        "summary": summary,
        "operation_id": operation.value,
        "openapi_extra": {"requestBody": {"required": True, "content": content}, "security": [{"bearer": []}]},
        "responses": {
            200: {"description": "The pictures, or with `stream` the events that end in one.", "content": answer},
            **fault_responses(*FAULTS),
        },
    }
