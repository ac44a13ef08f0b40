"""The application as a whole: paths, preflights, errors of the framework, start and end."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.api.context import RequestContext, context_of, set_context
from app.config.settings import Settings
from app.errors import NotFound
from app.images.blob import Blob, SpoolMemory
from app.images.spare_files import SpareFiles
from app.images.store import store_unreachable
from app.jobs.registry import JobRegistry
from app.main import EXPOSED_HEADERS, create_app, handle_api_error, handle_http_exception, services_of
from app.services.images import stores_in
from app.services.lifecycle import purge_expired
from tests.support.raw_http import RawResponse, build_request, connect, send_request
from tests.support.servers import RunningLimner, run_demo, run_limner

PAGE = "https://app.example"


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_demo() as demo, run_limner(demo.url, api_keys="sk-client") as running:
        yield running


def settings(folder: Path, **more: Any) -> Settings:
    return Settings(**{"upstream_base_url": "http://127.0.0.1:9/v1", "image_store": f"disk://{folder}/store", **more})


def error(message: str, type: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:  # noqa: A002
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


@dataclass(frozen=True, slots=True)
class Framework:
    name: str
    line: str
    status: int
    message: str
    headers: tuple[str, ...] = ()


SERVED = "This server makes images: /v1/images/generations, /v1/images/edits and /v1/models."

FRAMEWORK = [
    Framework("an unknown path", "GET /v1/nothing", 404, f"Invalid URL (GET /v1/nothing). {SERVED}"),
    Framework("an endpoint of another API", "POST /v1/chat/completions", 404, f"Invalid URL (POST /v1/chat/completions). {SERVED}"),
    Framework("a long path", f"GET /{'a' * 5000}", 404, f"Invalid URL (GET /{'a' * 98}…)"),
    Framework("the path of another version", "POST /api/v3/images/generations", 404, f"Invalid URL (POST /api/v3/images/generations). {SERVED}"),
    Framework("an escaped question mark", "GET /a%3Fb", 404, "Invalid URL (GET /a%3Fb)"),
    Framework("escapes that are not UTF-8", "GET /%ff%00", 404, "Invalid URL (GET /\ufffd\x00)"),
    Framework("an invalid host", "GET /v1/nothing", 404, f"Invalid URL (GET /v1/nothing). {SERVED}", ("host: [",)),
    Framework("another method", "GET /v1/images/generations", 405, "Not allowed: GET /v1/images/generations. Use POST."),
    Framework("an unknown method", "PROPFIND /healthz", 405, "Not allowed: PROPFIND /healthz. Use GET or HEAD."),
]  # fmt: skip


@pytest.mark.parametrize("case", FRAMEWORK, ids=lambda case: case.name)
def test_errors_of_the_framework_have_the_body_of_openai_errors(limner: RunningLimner, case: Framework) -> None:
    host_headers = case.headers or ("host: HOST",)
    raw = "\r\n".join([f"{case.line} HTTP/1.1", *host_headers, f"origin: {PAGE}", "", ""]).encode()
    response = send_request(limner.url, raw)
    assert (response.status, response.headers["content-type"]) == (case.status, "application/json")
    assert response.json() == error(case.message)
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["x-should-retry"] == "false"
    assert ("allow" in response.headers) == (case.status == 405)


@pytest.mark.parametrize(("path", "methods"), [("/v1/models", "GET, HEAD"), ("/v1/images/generations", "POST")])
def test_options_without_a_preflight_tell_the_methods(limner: RunningLimner, path: str, methods: str) -> None:
    response = send_request(limner.url, build_request(f"OPTIONS {path}"))
    assert (response.status, response.body) == (204, b"")
    assert response.headers["allow"] == f"{methods}, OPTIONS"


PATHS = [
    "/v1/images/generations",
    "/images/generations",
    "/v1//images/generations",
    "//v1/images/generations",
    "/v1/images/generations/",
    "/v1//images///generations//",
    "/v1/images/generations?api-version=2025-04-01-preview",
    "/v1//images/generations?api-version=",
    "/openai/v1/images/generations",
    "/v1/openai/images/generations",
    "/openai/images/generations?api-version=preview",
    "/api/v1/images/generations",
]


@pytest.mark.parametrize("path", PATHS)
def test_all_paths_that_clients_make_of_their_base_url_work(limner: RunningLimner, path: str) -> None:
    body = b'{"model":"gpt-image-2","prompt":"a fox","response_format":"url"}'
    response = send_request(limner.url, build_request(f"POST {path}", "authorization: Bearer sk-client", body=body))
    assert response.status == 200
    assert response.json()["data"][0]["url"].startswith("http://")


STAINLESS = "authorization, cache-control, content-type, pragma, x-stainless-arch, x-stainless-lang, x-stainless-os, x-stainless-package-version, x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version, x-stainless-timeout"


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1//images/edits", "/images/edits", "/v1/models", f"/kept/{'A' * 32}.png", "/nothing"])  # fmt: skip
def test_a_preflight_needs_no_key_and_allows_every_header_it_names(limner: RunningLimner, path: str) -> None:
    preflight_headers = (f"access-control-request-headers: {STAINLESS}", "access-control-request-method: POST")
    response = send_request(limner.url, build_request(f"OPTIONS {path}", f"origin: {PAGE}", *preflight_headers))
    assert response.status == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["access-control-allow-headers"] == STAINLESS
    assert "POST" in response.headers["access-control-allow-methods"].split(", ")
    assert response.headers["access-control-max-age"] == "86400"
    assert "access-control-allow-private-network" not in response.headers
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers["x-request-id"].startswith("req_")


def test_a_public_page_may_call_a_server_of_the_private_network(limner: RunningLimner) -> None:
    asked = ("access-control-request-method: POST", "access-control-request-private-network: true")
    preflight = build_request("OPTIONS /v1/images/generations", f"origin: {PAGE}", *asked)
    response = send_request(limner.url, preflight)
    assert (response.status, response.headers["access-control-allow-private-network"]) == (200, "true")


@dataclass(frozen=True, slots=True)
class ResponseCase:
    name: str
    raw: bytes
    status: int


RESPONSES = [
    ResponseCase("an image", build_request("POST /v1/images/generations", f"origin: {PAGE}", "authorization: Bearer sk-client", body=b'{"prompt":"a fox"}'), 200),
    ResponseCase("no key", build_request("POST /v1/images/generations", f"origin: {PAGE}", body=b'{"prompt":"a fox"}'), 401),
    ResponseCase("an invalid parameter", build_request("POST /v1/images/generations", f"origin: {PAGE}", "authorization: Bearer sk-client", body=b'{"prompt":""}'), 400),
]  # fmt: skip


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.name)
def test_scripts_of_any_page_may_read_responses_and_their_headers(limner: RunningLimner, case: ResponseCase) -> None:
    response = send_request(limner.url, case.raw)
    assert response.status == case.status
    assert response.headers["access-control-allow-origin"] == "*"
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert set(EXPOSED_HEADERS) == set(exposed)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    ours = {name for name in response.headers if name.startswith(("x-", "retry-"))} - {"x-content-type-options"}
    assert ours <= set(exposed)


def test_only_the_configured_origins_may_call() -> None:
    with run_limner("http://127.0.0.1:9", cors_origins=PAGE) as limner:
        own, other = (
            send_request(limner.url, build_request("GET /v1/models", f"origin: {o}"))
            for o in (PAGE, "https://b.example")
        )
    assert own.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-origin" not in other.headers


def test_a_bug_is_a_500_that_pages_can_read(limner: RunningLimner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(limner.service.backends.store, "get", fail)
    response = send_request(limner.url, build_request(f"GET /kept/{'A' * 32}.png", f"origin: {PAGE}"))
    assert response.status == 500
    message = "The server had an error while processing your request. Sorry about that!"
    assert response.json() == error(message, "server_error")
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["x-request-id"].startswith("req_")


def request_for(path: str = "/v1/nothing") -> Request:
    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    set_context(scope, RequestContext("req_1"))
    return Request(scope)


def test_the_detail_of_an_error_is_only_logged() -> None:
    http = request_for()
    response = asyncio.run(handle_api_error(http, NotFound("Gone.", code="gone", detail="inner address")))
    assert context_of(http.scope).log_fields == {"error": "gone", "detail": "inner address"}
    assert b"inner" not in bytes(response.body)
    asyncio.run(handle_api_error(http, NotFound("Gone.")))
    assert context_of(http.scope).log_fields == {"error": "invalid_request_error", "detail": None}


def test_unknown_exceptions_are_raised_again() -> None:
    for handler in (handle_api_error, handle_http_exception):
        with pytest.raises(KeyError):
            asyncio.run(handler(request_for(), KeyError("bug")))


def test_other_errors_of_the_framework_are_bad_requests() -> None:
    response = asyncio.run(handle_http_exception(request_for(), HTTPException(418, "Too short.")))
    assert response.status_code == 400
    assert b'"Too short."' in bytes(response.body)


def test_the_store_is_purged_periodically() -> None:
    class Enough(Exception):
        pass

    class Store:
        purges = 0

        async def delete_expired(self) -> int:
            self.purges += 1
            if self.purges == 2:
                raise store_unreachable("away for a while")
            return self.purges

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise Enough

    store, registry = Store(), JobRegistry(ttl=1, key_ttl=1, max_retained=1, max_retained_bytes=1)
    memory = SpoolMemory(0, spare_files=SpareFiles(10))
    with Blob(memory=memory) as blob:
        blob.write(b"image")
    with structlog.testing.capture_logs() as records, pytest.raises(Enough):
        asyncio.run(purge_expired(store, registry, memory.spare_files, 7.0, sleep))  # type: ignore[arg-type]
    assert memory.spare_files.take() is None
    assert (store.purges, slept) == (3, [7.0] * 3)
    assert [record.get("removed") for record in records] == [1, None, 3]
    assert records[1]["log_level"] == "warning"
    assert records[1]["error"] == "LIMNER_IMAGE_STORE: away for a while"


def test_the_room_of_spare_files_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.images.free_bytes", lambda _: 1000)
    services = services_of(create_app(settings(tmp_path)))
    services.spool_memory.spare_files.size = 24
    assert services.service.capacity.free_bytes() == 1024


@pytest.mark.parametrize(
    ("store", "folder", "shares"),
    [("disk://{}/images", "{}", True), ("disk://{}/images", "/proc", False), ("memory:", "{}", False)],
)
def test_whether_images_are_stored_on_the_disk_of_the_spool_is_found_out(
    store: str, folder: str, shares: bool, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    assert stores_in(settings(tmp_path, image_store=store.format(tmp_path)), Path(folder.format(tmp_path))) is shares


def test_closing_cancels_jobs_that_do_not_end(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, shutdown_grace=0.01))

    async def run() -> asyncio.Task[Any]:
        async with app.router.lifespan_context(app):
            endless = asyncio.create_task(asyncio.Event().wait())
            services_of(app).service.tasks.add(endless)  # type: ignore[arg-type]
            assert not services_of(app).service.is_draining
        assert services_of(app).service.is_draining
        return endless

    assert asyncio.run(run()).cancelled()


def test_the_server_does_not_start_with_an_unusable_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"a file where the folder belongs")
    with pytest.raises(OSError, match="store"):
        create_app(settings(tmp_path))


def test_connections_are_persistent_and_pipelined_requests_answered_in_order(limner: RunningLimner) -> None:
    with connect(limner.url) as connection:
        connection.send(build_request("GET /healthz") + build_request("GET /v1/models") + build_request("GET /nothing"))
        responses: list[RawResponse] = [connection.read_response() for _ in range(3)]
    assert [response.status for response in responses] == [200, 401, 404]
    assert len({response.headers["x-request-id"] for response in responses}) == 3


def test_the_openapi_document_is_served(limner: RunningLimner) -> None:
    documents = [httpx.get(f"{limner.url}/openapi.json", trust_env=False).json() for _ in range(2)]
    assert documents[0] == documents[1]
    assert documents[0]["info"]["title"] == "Limner"
