"""Serve `GET /v1/models` and `GET /v1/models/NAME`."""

from collections.abc import Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response

from app.access.auth import Authenticator
from app.api.openapi import MODEL, MODELS, NEEDS_KEY, error_responses, json_response
from app.api.responses import OrjsonResponse
from app.api.route_table import RouteTable
from app.config.upstreams import OFFICIAL_MODELS, RETIRED_MODELS
from app.errors import NotFound

#: 2024-12-01: a fixed date, so that responses can be cached and compared.
_CREATED = 1_733_011_200

#: Returns the model names of one upstream (None: of all), restricted to the given names if there are any.
ListModels = Callable[[str | None, tuple[str, ...]], Iterable[str]]


def model_routes(list_models: ListModels, authenticator: Authenticator) -> RouteTable:
    """List the models that the caller may use: all of them, or those that its entry in the key file allows."""
    router = RouteTable(("models",))

    def names(http: Request) -> tuple[str, ...]:
        client_key = authenticator.authenticate(http.headers).key
        upstream, allowed = (None, ()) if client_key is None else (client_key.upstream, client_key.models)
        return tuple(list_models(upstream, allowed))

    @router.add(
        "/models",
        ("GET", "HEAD"),
        summary="List the models that are known; other names are accepted too",
        responses={200: json_response(MODELS, "The models."), **error_responses(401)},
        openapi_extra=NEEDS_KEY,
    )
    async def models(http: Request) -> Response:
        return OrjsonResponse({"object": "list", "data": [_card(name) for name in names(http)]})

    @router.add(
        "/models/{name:path}",
        ("GET", "HEAD"),
        summary="Get one model",
        responses={200: json_response(MODEL, "The model."), **error_responses(401, 404)},
        openapi_extra=NEEDS_KEY,
    )
    async def model(name: str, http: Request) -> Response:
        listed = names(http)
        # Where all names are accepted, so are those of models that OpenAI has shut down.
        is_retired = name in RETIRED_MODELS and {*OFFICIAL_MODELS} <= {*listed}
        if name not in listed and not is_retired:
            raise NotFound(f"The model '{name[:100]}' does not exist.", param="model", code="model_not_found")
        return OrjsonResponse(_card(name))

    return router


def _card(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "limner"}
