"""Say what a request would do, without doing it: the chat body, the upstream, the price. Nothing is sent or charged."""

from collections.abc import Mapping
from typing import Any

import orjson

from app.access.auth import Caller
from app.access.limits import apply_key_policy, check_image_count
from app.errors import UserError
from app.images.input_limits import InputLimits
from app.jobs.pipeline_interface import PipelinePolicy
from app.protocol.chat_request import ChatRequest, ignored_at, wants_stream
from app.protocol.image_request import ImagesRequest
from app.protocol.input_images import InputImage
from app.protocol.money import write_amount
from app.protocol.redaction import redact_keys
from app.protocol.validation_errors import quote
from app.upstream.pool import UpstreamPool
from app.upstream.spec import UpstreamSpec

#: The request header that asks for a dry run.
DRY_RUN_HEADER = "x-limner-dry-run"

_YES, _NO = {"true", "1", "yes", "on"}, {"", "false", "0", "no", "off"}


def is_dry_run(value: str) -> bool:
    """Return whether the value of the header asks for a dry run.

    Raises:
        UserError: It means neither. Read as a no, it would cost an image that the client does not want.
    """
    word = value.strip().lower()
    if word not in _YES | _NO:
        message = f"Invalid value of the header {DRY_RUN_HEADER}: '{quote(value)}'. Expected 'true' or 'false'."
        raise UserError(message, param=DRY_RUN_HEADER, code="invalid_value")
    return word in _YES


def dry_run(
    request: ImagesRequest, caller: Caller, pool: UpstreamPool, policy: PipelinePolicy, limits: InputLimits
) -> dict[str, Any]:
    """Return what would be sent for a request, after the checks of the client key.

    Images are placeholders: they are neither downloaded nor converted.

    Raises:
        ApiError: The request would be refused before anything is sent.
    """
    key = caller.key
    request = apply_key_policy(key, request)
    check_image_count(key, request.n)
    names = {id(image): f"images[{index}]" for index, image in enumerate(request.images)}
    names |= {id(image): name for name, image in (("mask", request.mask), ("markup", request.markup)) if image}
    images = [image for image in (*request.images, request.markup, request.mask) if image is not None]
    passes_links = policy.pass_links and request.has_only_links
    chat = ChatRequest(
        request,
        tuple(
            image.url if passes_links and image.url is not None else _placeholder(names[id(image)], image)
            for image in images
        ),
        stream=wants_stream(policy.stream, request),
    )
    sent = sum(min(_size(image), limits.max_bytes or _size(image)) for image in images)
    upstream = None if key is None else key.upstream
    member, sent_json = pool.preview(chat, request.model, upstream, sent)
    secrets = [value for each in pool.members for value in each.client.secrets]
    body = orjson.loads(b"".join(sent_json.chunks()))
    return {
        "object": "image.dry_run",
        "upstream": member.spec.name,
        "requests": request.n,
        "price": _price(request, member.spec, pool.candidates(request.model, upstream)[member.spec.name]),
        "ignored": ignored_at(request, member.spec.dialect),
        "body": {name: value if name == "messages" else _redacted(value, secrets) for name, value in body.items()},
    }


def _price(request: ImagesRequest, spec: UpstreamSpec, model: str) -> dict[str, Any] | None:
    """Return what all images of a request cost together, None where the price list cannot tell."""
    size = request.upstream_size_text
    row = spec.prices.find(model, size, request.quality)
    possible = [each for each in spec.prices.rows if each.holds(model, size, request.quality, unknown=True)]
    is_unclear = None in {size, request.quality} and len(possible) > 1
    if row is None or row.image is None or is_unclear or (row.tokens_in, row.tokens_out) != (None, None):
        return None
    return {"amount": write_amount(request.n * row.image), "currency": spec.prices.currency}


def _size(image: InputImage) -> int:
    return 0 if image.source is None else image.source.size


def _placeholder(name: str, image: InputImage) -> str:
    what = "a link, which is downloaded" if image.is_link else f"{_size(image)} bytes" if image.source else "base64"
    return f"<{name}: {what}>"


def _redacted(value: Any, secrets: list[str]) -> Any:
    """Return a value of the body without keys: constants of a dialect may hold one."""
    if isinstance(value, Mapping):
        return {name: _redacted(each, secrets) for name, each in value.items()}
    if isinstance(value, list):
        return [_redacted(each, secrets) for each in value]
    return redact_keys(value, secrets) if isinstance(value, str) else value
