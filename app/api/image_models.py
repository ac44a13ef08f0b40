"""Serve `GET /v1/images/models`: what a caller may ask of each model here, as JSON schemas and numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.access.auth import Authenticator
from app.access.keys import ClientKey, Rate
from app.access.limits import QUALITIES
from app.api.openapi import NEEDS_KEY, error_responses, json_response
from app.api.planning_schemas import IMAGE_MODEL_EXAMPLE, IMAGE_MODELS
from app.api.responses import OrjsonResponse
from app.api.route_table import RouteTable
from app.api.size_rules import size_mode_of, size_rules
from app.config.settings import Settings
from app.protocol.chat_request import carried_parameters
from app.protocol.dialects import Dialect
from app.protocol.image_request import PARAMETERS
from app.protocol.image_response import default_response_format
from app.protocol.money import write_amount
from app.protocol.parameters import ChoiceParam, Destination, Parameter
from app.protocol.size_fit import SizeMode
from app.upstream.pool import UpstreamPool
from app.upstream.spec import UpstreamSpec


@dataclass(frozen=True, slots=True)
class ImageModels:
    """Describe models, as the settings and the upstreams of the server have them."""

    pool: UpstreamPool
    settings: Settings

    def describe(self, key: ClientKey | None) -> dict[str, Any]:
        """Return the descriptors of all models that a key permits, and the limits of that key."""
        upstream, allowed = (None, ()) if key is None else (key.upstream, key.models)
        models = [self._describe_model(name, key, upstream) for name in self.settings.list_models(upstream, allowed)]
        limits = None if key is None else _limits(key, self.settings.currency)
        return {"object": "list", "data": models, "limits": limits}

    def _describe_model(self, name: str, key: ClientKey | None, upstream: str | None) -> dict[str, Any]:
        specs = [(self.pool.member(each).spec, model) for each, model in self.pool.candidates(name, upstream).items()]
        dialects = [spec.dialect for spec, _ in specs]
        return {
            "id": name,
            "object": "image.model",
            "owned_by": "limner",
            "default_response_format": default_response_format(name, self.settings.default_response_format),
            "sizes": _sizes(dialects, key, size_mode_of(key, self.settings.size)),
            "parameters": {each.names(form=False)[0]: _describe(each, dialects, key) for each in PARAMETERS},
            "prices": [price for spec, model in specs for price in _prices(spec, model)],
        }


def _prices(spec: UpstreamSpec, model: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of an upstream's price list that may apply to one of its models."""
    for row in spec.prices.rows:
        if not row.models or model in row.models:
            amounts = {"image": row.image, "million_tokens_in": row.tokens_in, "million_tokens_out": row.tokens_out}
            yield {
                **{name: None if amount is None else write_amount(amount) for name, amount in amounts.items()},
                "currency": spec.prices.currency,
                "sizes": list(row.sizes),
                "qualities": list(row.qualities),
            }


def _sizes(dialects: Sequence[Dialect], key: ClientKey | None, mode: SizeMode) -> dict[str, Any]:
    """Return the limits of a size, and what becomes of it: lists are None where any upstream takes all."""
    rules = size_rules(mode)
    largest = None if key is None else key.max_size
    return {
        "mode": mode.value,
        "multiple_of": rules.multiple,
        "min_pixels": rules.min_pixels,
        "max_pixels": rules.max_pixels if largest is None else largest.pixels,
        "min_edge": rules.min_edge,
        "max_edge": rules.max_edge,
        "max_aspect_ratio": rules.max_aspect_ratio,
        "upstream_sizes": _union([dialect.sizes for dialect in dialects]),
        "upstream_ratios": _union([dialect.ratios for dialect in dialects]),
    }


def _union(lists: Sequence[tuple[str, ...]]) -> list[str] | None:
    return list(dict.fromkeys(value for each in lists for value in each)) if all(lists) else None


def _describe(parameter: Parameter, dialects: Sequence[Dialect], key: ClientKey | None) -> dict[str, Any]:
    whole = parameter.schema(form=False)
    schema: dict[str, Any] = {**(whole["anyOf"][0] if "anyOf" in whole else whole)}
    schema["description"] = parameter.description
    if isinstance(parameter.type, ChoiceParam):
        schema["enum"] = list(parameter.type.values)
    if key is not None and parameter.name == "n" and key.images:
        schema["maximum"] = min(schema["maximum"], *(rate.amount for rate in key.images))
    if key is not None and parameter.name == "quality" and key.max_quality is not None:
        refused = QUALITIES[QUALITIES.index(key.max_quality) + 1 :]
        schema["enum"] = [value for value in schema["enum"] if value not in refused]
    return {
        "operations": sorted(operation.value for operation in parameter.operations),
        "required": parameter.required,
        "effect": _effect(parameter, [carried_parameters(dialect) for dialect in dialects]),
        "schema": schema,
    }


def _effect(parameter: Parameter, carried: Sequence[Mapping[str, bool]]) -> str:
    """Return where a parameter has an effect: `here`, `upstream` (at one at least that has the model), or `none`."""
    if parameter.destination is Destination.NONE:
        return "none"
    if parameter.destination is Destination.LOCAL:
        return "here"
    return "upstream" if any(each.get(parameter.name, True) for each in carried) else "none"


def _limits(key: ClientKey, currency: str) -> dict[str, Any]:
    monthly_cost = key.monthly_cost
    return {
        "requests": [_rate(rate) for rate in key.requests],
        "images": [_rate(rate) for rate in key.images],
        "monthly_images": key.monthly_images,
        "monthly_cost": None if monthly_cost is None else {"amount": write_amount(monthly_cost), "currency": currency},
        "concurrency": key.concurrency,
        "max_size": None if key.max_size is None else str(key.max_size),
        "max_quality": key.max_quality,
    }


def _rate(rate: Rate) -> dict[str, Any]:
    return {"amount": rate.amount, "period": rate.period}


def image_model_routes(models: ImageModels, authenticator: Authenticator) -> RouteTable:
    """Return the route that describes the models that a caller may use."""
    router = RouteTable(("models",))

    @router.add(
        "/images/models",
        ("GET", "HEAD"),
        summary="Describe what may be asked of each model: parameters, sizes, limits of the key, prices",
        responses={200: json_response(IMAGE_MODELS, "The models.", IMAGE_MODEL_EXAMPLE), **error_responses(401)},
        openapi_extra=NEEDS_KEY,
    )
    async def image_models(http: Request) -> Response:
        return OrjsonResponse(models.describe(authenticator.authenticate(http.headers).key))

    return router
