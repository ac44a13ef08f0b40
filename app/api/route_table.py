"""Routes with their descriptions: Starlette serves them, FastAPI describes them once somebody asks for the schema.

FastAPI is not imported before that: it would be a tenth of the memory at rest and a fifth of the time to start.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import signature
from typing import Any, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import __version__
from app.api.openapi import patch_schema
from app.api.responses import OrjsonResponse

_SUMMARY = "The OpenAI Images API in front of a chat model that generates images."

Method = Literal["GET", "HEAD", "POST", "DELETE"]

#: A function of the request, `http`, and of those parameters of the path that it needs. One that is not async takes
#: only the request, and runs in a thread.
Handler = Callable[..., Any]

_H = TypeVar("_H", bound=Handler)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path with its methods. `description`: arguments of FastAPI's route; None leaves it out of the schema."""

    path: str
    methods: Sequence[Method]
    handler: Handler
    description: Mapping[str, Any] | None


@dataclass(slots=True)
class RouteTable:
    """Endpoints in the order in which they are tried. `tags` group them in the schema."""

    tags: Sequence[str] = ()
    endpoints: list[Endpoint] = field(default_factory=list)

    def add(self, path: str, methods: Sequence[Method], **description: Any) -> Callable[[_H], _H]:
        """Decorate the function that answers at a path. Without a description the schema leaves it out."""

        def add(handler: _H) -> _H:
            described = {"tags": [*self.tags], **description} if description else None
            self.endpoints.append(Endpoint(path, methods, handler, described))
            return handler

        return add

    def routes(self, prefix: str = "") -> Iterator[Route]:
        """Yield the routes for Starlette, each below `prefix`."""
        for each in self.endpoints:
            route = Route(f"{prefix}{each.path}", _of_request(each.handler), methods=[*each.methods])
            # Starlette adds HEAD to every GET.
            route.methods = {*each.methods}
            yield route


def schema_routes(described: Sequence[tuple[RouteTable, str]]) -> RouteTable:
    """Return the route of the OpenAPI document of `described` tables, each below its prefix.

    The document takes a megabyte, and most servers never send it, so it is built at the first request for it.
    """
    router = RouteTable()
    document = cache(partial(_openapi_document, described))

    # Not async, so Starlette runs it in a thread: importing FastAPI takes longer than other requests should wait.
    @router.add("/openapi.json", ("GET", "HEAD"))
    def openapi(http: Request) -> Response:
        root = http.scope.get("root_path", "")
        return OrjsonResponse({**document(), "servers": [{"url": root}]} if root else document())

    return router


def _openapi_document(described: Sequence[tuple[RouteTable, str]]) -> dict[str, Any]:
    from fastapi import APIRouter  # noqa: PLC0415  # reason: see above
    from fastapi.openapi.utils import get_openapi  # noqa: PLC0415

    router = APIRouter()
    for table, prefix in described:
        for each in table.endpoints:
            if each.description is not None:
                methods: list[str] = [method for method in each.methods if method != "HEAD"]
                router.add_api_route(f"{prefix}{each.path}", each.handler, methods=methods, **each.description)
    document = get_openapi(title="Limner", version=__version__, summary=_SUMMARY, routes=router.routes)
    patch_schema(document)
    return document


def _of_request(handler: Handler) -> Handler:
    """Return a function that takes only the request, as Starlette wants it."""
    names = signature(handler).parameters.keys()
    if names == {"http"}:
        return handler

    async def handle(http: Request) -> Response:
        given = {**http.path_params, "http": http}
        answer: Response = await handler(**{name: given[name] for name in names})
        return answer

    return handle
