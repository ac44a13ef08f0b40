"""Which field an error is about: those of the operator's own dialect are the operator's, the client's words are not."""

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from app.errors import RetrySafety
from app.upstream.error_body import AttemptFacts, parse_error_body
from app.upstream.error_mapping import classify
from app.upstream.request_fields import limners_field

#: What a made-up vendor's dialect fills.
EASEL = ("options.format", "options.effort", "style", "modalities", "n", "negative_prompt", "vendorOptions.safe")
GOOGLE = ("extra_body.google.image_config.aspect_ratio", "extra_body.google.image_config.image_size")
TOP = ("quality", "size", "style", "n")


@dataclass(frozen=True, slots=True)
class Case:
    """`own`: the fields with the client's words. `field`: the one that is the operator's, None where none is."""

    name: str
    message: str
    field: str | None
    fields: tuple[str, ...] = EASEL
    param: object = None
    own: tuple[str, ...] = ()


CASES = (
    Case("a place by param", "Unknown parameter: 'options.format'.", "options.format", param="options.format"),
    Case("a place by its last step", "Extra inputs are not permitted", "options.effort", param="effort"),
    Case("the object around a place", "Unknown parameter.", "options", param="options"),
    Case("a value inside a place", "not a number", "style", param="style.0"),
    Case("a constant by param", "Unsupported value", "n", param="n"),
    Case("a constant in quotes", "Unknown parameter: 'n'", "n"),
    Case("a constant's name, which is no word of a language", "negative_prompt is not for this model", "negative_prompt"),
    Case("a constant in camel case", "vendorOptions are for enterprise accounts", "vendorOptions"),
    Case("a constant in another spelling", "bad", "negative_prompt", param="negativePrompt"),
    Case("a word beside a sign", "style: Extra inputs are not permitted", "style"),
    Case("a word before its noun", "The style parameter is not supported by this model", "style"),
    Case("a word after its noun", "We have no parameter style here", "style"),
    Case("a word of a list", "Unrecognized request argument supplied: style", "style"),
    Case("a word of a language proves nothing", "This style of image is too dark for us", None),
    Case("nothing of ours", "Unknown parameter: 'seed'", None, param="seed"),
    Case("nothing of ours, in words", "I do not like this", None),
    Case("modalities that only the second attempt has", "modalities must be text", "modalities"),
    Case("an upstream that knows no extra fields", "Unknown parameter: 'extra_body'.", "extra_body.google", GOOGLE, "extra_body.google"),
    Case("Google's extra fields, in words", "extra_body: extra fields not permitted", "extra_body", GOOGLE),
    Case("Google's own path", "Invalid value", GOOGLE[0], GOOGLE, "generationConfig.imageConfig.aspectRatio"),
    Case("Google's own path, the object", "Invalid value", "extra_body.google.image_config", GOOGLE, "generation_config.image_config"),
    Case("extra fields without such a dialect", "extra_body: extra fields not permitted", "extra_body", ()),
    Case("a field without a dialect", "Unknown parameter: 'size'", None, (), "size"),
    Case("a size that the client chose", "Invalid size '1000x1000'. Must be divisible by 16.", None, TOP, "size", ("size",)),
    Case("a size that this model cannot make", "Unsupported size 3840x2160", None, TOP, "size", ("size",)),
    Case("a size in quotes, in words", "Invalid value for 'size': 3840x2160", None, TOP, own=("size",)),
    Case("a value that is unknown", "Unknown value 'vivid' for parameter 'style'; the value is not supported", None, TOP, "style", ("style",)),
    Case("a value that the parameter does not take", "The parameter value of style is not supported", None, TOP, "style", ("style",)),
    Case("a size that nobody but the dialect chose", "Invalid size '832x1248'.", "size", TOP, "size"),
    Case("a field that is not known, whatever the client chose", "Unknown parameter: 'size'.", "size", TOP, "size", ("size",)),
    Case("OpenAI's words for it", "Unsupported parameter: 'style' is not supported with this model.", "style", TOP, "style", ("style",)),
    Case("FastAPI's words for it", "Extra inputs are not permitted", "size", TOP, "size", ("size",)),
    Case("Python's words for it", "create() got an unexpected keyword argument 'quality'", "quality", TOP, own=("quality",)),
    Case("a sentence for it", "This model does not support the quality parameter", "quality", TOP, own=("quality",)),
    Case("the noun before it", "The parameter quality is not supported", "quality", TOP, own=("quality",)),
    Case("metadata of the client beside that of the dialect", "too many properties", None, ("metadata.quality",), "metadata", ("metadata",)),
    Case("a quality in metadata", "Unknown parameter: 'metadata.quality'", "metadata.quality", ("metadata.quality",), "metadata.quality", ("metadata",)),
    Case("a list of parts, for Rust", "invalid type: sequence, expected a string at line 1 column 60", "messages", ()),
    Case("a list of parts, for Go", "json: cannot unmarshal array into Go struct field ChatMessage.messages.content of type string", "messages", ()),
    Case("a list of parts, for pydantic 1", "str type expected", "messages", (), "messages.0.content"),
    Case("a picture in the messages", "Invalid image size", None, TOP, "messages.0.content.1.image_url.size"),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_field_of_an_error(case: Case) -> None:
    facts = AttemptFacts(now=0, elapsed=0.5, dialect_fields=case.fields, client_fields=case.own)
    body = orjson.dumps({"error": {"message": case.message, "param": case.param}})
    assert limners_field(parse_error_body(400, {}, body, facts)) == case.field


@pytest.mark.parametrize("case", [case for case in CASES if case.field], ids=lambda case: case.name)
def test_another_upstream_may_be_asked(case: Case) -> None:
    facts = AttemptFacts(now=0, elapsed=0.5, dialect_fields=case.fields, client_fields=case.own)
    error: dict[str, Any] = {"message": case.message, "param": case.param}
    failure = classify(400, {}, orjson.dumps({"error": error}), facts)
    assert (failure.error.status, failure.error.code, failure.setting) == (500, "upstream_dialect", "dialect")
    assert failure.retry_safety is RetrySafety.OTHER_UPSTREAM
    assert f"'{case.field}'" in failure.error.message
