"""Schemas for clients that plan a request: descriptions of models, and dry runs."""

from typing import Any

from app.protocol.size_fit import SizeMode

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_SCHEMA = {"type": "object", "description": "A JSON schema."}
_NUMBER_OR_NULL = {"type": ["integer", "null"]}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_TEXTS = {"type": "array", "items": _TEXT}
_TEXTS_OR_NULL = {"anyOf": [_TEXTS, {"type": "null"}]}
_RATES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"amount": _COUNT, "period": {"enum": ["minute", "hour", "day"]}},
        "required": ["amount", "period"],
    },
}
_PRICE = {
    "type": "object",
    "description": "A row of a price list: amounts are decimal numbers as texts, empty lists stand for all.",
    "properties": {
        **dict.fromkeys(("image", "million_tokens_in", "million_tokens_out"), _TEXT_OR_NULL),
        "currency": _TEXT,
        "sizes": _TEXTS,
        "qualities": _TEXTS,
    },
    "required": ["image", "currency", "sizes", "qualities"],
}
_AMOUNT = {
    "type": "object",
    "description": "Money: a decimal number in a text.",
    "properties": {"amount": _TEXT, "currency": _TEXT},
    "required": ["amount", "currency"],
}

_SIZE_RULES = ("multiple_of", "min_pixels", "max_pixels", "min_edge", "max_edge", "max_aspect_ratio")

IMAGE_MODEL = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "object": {"const": "image.model"},
        "owned_by": _TEXT,
        "default_response_format": {"enum": ["url", "b64_json"]},
        "sizes": {
            "type": "object",
            "properties": {
                "mode": {"enum": [mode.value for mode in SizeMode]},
                **dict.fromkeys(_SIZE_RULES, _COUNT),
                **dict.fromkeys(("upstream_sizes", "upstream_ratios"), _TEXTS_OR_NULL),
            },
            "required": ["mode", *_SIZE_RULES],
        },
        "parameters": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "operations": _TEXTS,
                    "required": {"type": "boolean"},
                    "effect": {"enum": ["here", "upstream", "none"]},
                    "schema": _SCHEMA,
                },
                "required": ["operations", "required", "effect", "schema"],
            },
        },
        "prices": {"type": "array", "items": _PRICE},
    },
    "required": ["id", "object", "owned_by", "default_response_format", "sizes", "parameters", "prices"],
}

IMAGE_MODELS = {
    "type": "object",
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": IMAGE_MODEL},
        "limits": {
            "type": ["object", "null"],
            "description": "The limits of the key, null if it has no entry in the key file.",
            "properties": {
                "requests": _RATES,
                "images": _RATES,
                "monthly_images": _NUMBER_OR_NULL,
                "monthly_cost": {"anyOf": [_AMOUNT, {"type": "null"}]},
                "concurrency": _NUMBER_OR_NULL,
                "max_size": _TEXT_OR_NULL,
                "max_quality": _TEXT_OR_NULL,
            },
        },
    },
    "required": ["object", "data", "limits"],
}

IMAGE_MODEL_EXAMPLE: dict[str, Any] = {
    "object": "list",
    "data": [
        {
            "id": "gpt-image-2",
            "object": "image.model",
            "owned_by": "limner",
            "default_response_format": "b64_json",
            "sizes": {
                "mode": "native",
                "multiple_of": 16,
                "min_pixels": 655360,
                "max_pixels": 8294400,
                "min_edge": 16,
                "max_edge": 3840,
                "max_aspect_ratio": 3,
                "upstream_sizes": None,
                "upstream_ratios": None,
            },
            "parameters": {
                "quality": {
                    "operations": ["image_edit", "image_generation"],
                    "required": False,
                    "effect": "upstream",
                    "schema": {"type": "string", "enum": ["low", "medium", "high", "auto"]},
                }
            },
            "prices": [],
        }
    ],
    "limits": None,
}

DRY_RUN = {
    "type": "object",
    "properties": {
        "object": {"const": "image.dry_run"},
        "upstream": _TEXT,
        "requests": _COUNT,
        "price": {"anyOf": [_AMOUNT, {"type": "null"}]},
        "ignored": _TEXTS,
        "body": {"type": "object", "description": "The chat request, with placeholders for images."},
    },
    "required": ["object", "upstream", "requests", "price", "ignored", "body"],
}
