"""A table of routes becomes Starlette's routes, and a document."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app.api.route_table import RouteTable, schema_routes


@pytest.fixture
def table() -> RouteTable:
    table = RouteTable(("things",))

    @table.add("/things/{name}/parts/{part}", ("GET", "HEAD"), summary="Get a part")
    async def part(part: str, http: Request) -> Response:
        return PlainTextResponse(f"{part} of {http.path_params['name']}")

    @table.add("/things", ("POST",))
    async def hidden(http: Request) -> Response:
        return PlainTextResponse(http.method)

    @table.add("/things", ("GET",), tags=["lists"], summary="List")
    def listed(http: Request) -> Response:
        return PlainTextResponse(http.url.path)

    return table


def ask(app: Starlette, method: str, path: str, root_path: str = "") -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://limner") as http:
            return await http.request(method, path)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        pytest.param("GET", "/v1/things/a/parts/b", 200, "b of a", id="parameters in the path"),
        pytest.param("HEAD", "/v1/things/a/parts/b", 200, "", id="HEAD beside GET"),
        pytest.param("POST", "/v1/things", 200, "POST", id="POST"),
        pytest.param("GET", "/v1/things", 200, "/v1/things", id="GET at the path of a POST"),
        pytest.param("HEAD", "/v1/things", 405, "", id="HEAD where there is only GET"),
        pytest.param("GET", "/things", 404, "Not Found", id="the path without its prefix"),
    ],
)
def test_a_path_is_served_with_its_own_methods_only(
    table: RouteTable, method: str, path: str, status: int, text: str
) -> None:
    response = ask(Starlette(routes=[*table.routes("/v1")]), method, path)
    assert (response.status_code, response.text) == (status, text)


def test_the_document_lists_what_is_described(table: RouteTable) -> None:
    app = Starlette(routes=[*schema_routes([(table, "/v1")]).routes()])
    document = ask(app, "GET", "/openapi.json").json()
    assert document["info"]["title"] == "Limner"
    found = {(path, method): each["tags"] for path, of in document["paths"].items() for method, each in of.items()}
    assert found == {("/v1/things/{name}/parts/{part}", "get"): ["things"], ("/v1/things", "get"): ["lists"]}
    assert ask(app, "GET", "/openapi.json").json() == document


def test_behind_a_prefix_of_a_proxy_the_document_names_it(table: RouteTable) -> None:
    app = Starlette(routes=[*schema_routes([(table, "/v1")]).routes()])
    assert ask(app, "GET", "/proxy/openapi.json", "/proxy").json()["servers"] == [{"url": "/proxy"}]
    assert "servers" not in ask(app, "GET", "/openapi.json").json()
