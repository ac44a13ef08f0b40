"""What the OpenAPI document says: the endpoints read and write their bodies themselves, so FastAPI cannot know."""

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

PROMISE = {
    "type": "object",
    "properties": {"id": _TEXT, "object": {"const": "image.result"}, "status": {"const": "in_progress"}},
    "required": ["id", "object", "status"],
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

#: One event of a stream: `data` is JSON.
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

STATUS = {"type": "object", "properties": {"status": _TEXT}, "required": ["status"]}

READINESS = {
    "type": "object",
    "properties": {
        "status": _TEXT,
        "upstreams": {
            "type": "object",
            "description": "The circuit of each upstream, by its name.",
            "additionalProperties": {"enum": ["closed", "open", "half-open"]},
        },
    },
    "required": ["status", "upstreams"],
}

#: Statuses that any endpoint with a key may answer with, and what they mean.
FAULTS = {
    400: "Something is wrong with the request, or the upstream refused to paint it; a repeat would not help.",
    401: "No key, or a wrong one.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    413: "The body, or one image in it, is too large.",
    422: "The Idempotency-Key was used with another body.",
    429: "Too many requests; `retry-after` says when to come back.",
    500: "The upstream or this server failed; `x-should-retry: false` where a repeat might be paid for twice.",
    503: "The server is shutting down.",
}


#: For an endpoint that asks for a key.
NEEDS_KEY: dict[str, Any] = {"security": [{"bearer": []}]}


def json_response(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def fault_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: json_response(ERROR, FAULTS[status]) for status in statuses}


def complete(document: dict[str, Any]) -> None:
    """Say in FastAPI's document what it cannot know: how a key is sent, and that no parameter is ever worth a 422."""
    document["components"] = {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}}
    for path in document["paths"].values():
        for operation in path.values():
            if operation["responses"].get("422", {}).get("description") == "Validation Error":
                del operation["responses"]["422"]


def image_endpoint(operation: Operation, summary: str) -> dict[str, Any]:
    """Keyword arguments for the route."""
    form = schema(operation, form=True)
    content = {"application/json": {"schema": schema(operation, form=False)}, "multipart/form-data": {"schema": form}}
    answer = {"application/json": {"schema": IMAGES}, "text/event-stream": {"schema": EVENT}}
    return {
        "tags": ["images"],
        "summary": summary,
        "operation_id": operation.value,
        "openapi_extra": {"requestBody": {"required": True, "content": content}, **NEEDS_KEY},
        "responses": {
            200: {"description": "The pictures, or with `stream` the events that end in one.", "content": answer},
            202: json_response(PROMISE, "With `Prefer: respond-async`: `location` is where the answer will be."),
            **fault_responses(*FAULTS),
        },
    }


def result_endpoint() -> dict[str, Any]:
    """Keyword arguments for the route."""
    return {
        "tags": ["images"],
        "summary": "The answer to a question that was asked with `Prefer: respond-async`",
        "operation_id": "image_result",
        "openapi_extra": NEEDS_KEY,
        "responses": {
            200: json_response(IMAGES, "The pictures."),
            202: json_response(PROMISE, "Not ready yet; `retry-after` says when to come back."),
            **fault_responses(*FAULTS),
        },
    }
