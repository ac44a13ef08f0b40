"""Health, metrics, models and stored images over real HTTP."""

import asyncio
import hashlib
import io
import mimetypes
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from PIL import Image

from app.protocol.image_format import ImageInfo
from tests.support.sample_images import as_blob
from tests.support.servers import RunningLimner, run_limner

NO_UPSTREAM = "http://127.0.0.1:9"
TTL = 3600


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def limner(folder: Path) -> Iterator[RunningLimner]:
    keys = folder / "keys.toml"
    keys.write_text(KEY_TABLE)
    options = {
        "api_keys": "sk-client",
        "keys_file": keys,
        "image_store": f"disk://{folder / 'images'}",
        "image_ttl": TTL,
        "models": "a/b,one",
    }
    with run_limner(NO_UPSTREAM, **options) as running:
        yield running


@pytest.fixture(scope="module")
def http(limner: RunningLimner) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=limner.url, trust_env=False) as client:
        yield client


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


def store_image(limner: RunningLimner, media_type: str = "image/png") -> str:
    """Put an image into the store of the running server, and return its path."""
    info = ImageInfo(media_type, 8, 8, alpha=False)
    return f"/kept/{asyncio.run(limner.services.store.put(as_blob(png()), info))}"


KEY = {"authorization": "Bearer sk-client"}
GUEST = {"authorization": "Bearer sk-guest"}
KEY_TABLE = f"""
[[keys]]
name = "guest"
sha256 = "{hashlib.sha256(b"sk-guest").hexdigest()}"
models = ["one", "two"]
"""
CARD = {"id": "one", "object": "model", "created": 1_733_011_200, "owned_by": "limner"}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    path: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    expected: object = None


CASES = [
    Case("health, without a key", "/healthz", expected={"status": "ok"}),
    Case("readiness, without a key", "/readyz", expected={"status": "ready", "upstreams": {"upstream-1": "closed"}}),
    Case("all models", "/v1/models", headers=KEY, expected={"object": "list", "data": [CARD | {"id": "a/b"}, CARD]}),
    Case("all models without the prefix", "/models", headers=KEY, expected={"object": "list", "data": [CARD | {"id": "a/b"}, CARD]}),
    Case("one model", "/v1/models/one", headers=KEY, expected=CARD),
    Case("a model with a slash in its name", "/v1/models/a/b", headers=KEY, expected=CARD | {"id": "a/b"}),
    Case("a model with an escaped slash", "/v1/models/a%2Fb", headers=KEY, expected=CARD | {"id": "a/b"}),
    Case("an unknown model", "/v1/models/two", 404, KEY, ("model_not_found", "model", "The model 'two' does not exist.")),
    Case("a model that is shut down, of a server that lists its own models", "/v1/models/dall-e-3", 404, KEY, ("model_not_found", "model", "The model 'dall-e-3' does not exist.")),
    Case("a model with a name too long to repeat", f"/v1/models/{'x' * 200}", 404, KEY, ("model_not_found", "model", f"The model '{'x' * 100}' does not exist.")),
    Case("all models without a key", "/v1/models", 401, {}, (None, None, "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).")),
    Case("an unknown model with a wrong key", "/v1/models/two", 401, {"authorization": "Bearer sk-wrong"}, ("invalid_api_key", None, "Incorrect API key provided.")),
    Case("the models that a key of the key file may use", "/v1/models", headers=GUEST, expected={"object": "list", "data": [CARD, CARD | {"id": "two"}]}),
    Case("a model that a key of the key file may use", "/v1/models/two", headers=GUEST, expected=CARD | {"id": "two"}),
    Case("a model that another key may use", "/v1/models/a/b", 404, GUEST, ("model_not_found", "model", "The model 'a/b' does not exist.")),
    Case("an unknown stored image", f"/kept/{'A' * 32}.png", 404, {}, ("image_not_found", None, "This image does not exist or has expired.")),
    Case("a file outside the image store", "/kept/..%2Fsecret.png", 404, {}, (None, None, "Invalid URL (GET /kept/../secret.png)")),
    Case("the folder of the image store", "/kept/", 404, {}, (None, None, "Invalid URL (GET /kept)")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_endpoints_besides_images(http: httpx.Client, case: Case) -> None:
    response = http.get(case.path, headers=case.headers)
    assert (response.status_code, response.headers["content-type"]) == (case.status, "application/json")
    assert response.headers["x-request-id"].startswith("req_")
    if isinstance(case.expected, tuple):
        code, param, message = case.expected
        expected = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        assert response.json() == {"error": expected}
    else:
        assert response.json() == case.expected


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/v1/models", "/models", "/v1/models/one", "/v1/models/two", "/"]
)
@pytest.mark.parametrize("headers", [KEY, {}], ids=["with a key", "without one"])
def test_a_head_request_has_the_headers_of_a_get(http: httpx.Client, path: str, headers: dict[str, str]) -> None:
    """Load balancers probe with HEAD."""
    head, whole = http.head(path, headers=headers), http.get(path, headers=headers)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    headers_of_head = [
        head.headers.get(name) for name in ("content-type", "access-control-allow-origin", "cache-control")
    ]
    assert headers_of_head == [
        whole.headers.get(name) for name in ("content-type", "access-control-allow-origin", "cache-control")
    ]
    assert path == "/metrics" or head.headers["content-length"] == whole.headers["content-length"]


def test_a_head_request_for_an_image_endpoint_is_rejected(http: httpx.Client) -> None:
    assert http.head("/v1/images/generations", headers=KEY).status_code == 405


def test_the_server_is_not_ready_while_it_is_shutting_down(limner: RunningLimner, http: httpx.Client) -> None:
    limner.service.is_draining = True
    try:
        response = http.get("/readyz")
    finally:
        limner.service.is_draining = False
    assert (response.status_code, response.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(("media_type", "ending"), [("image/png", ".png"), ("image/jpeg", ".jpg"), ("image/webp", ".webp"), ("image/gif", ".gif"), ("image/avif", ".avif"), ("image/heic", ".heic"), ("image/bmp", ".bmp")])  # fmt: skip
def test_a_stored_image_is_served_with_its_media_type(
    limner: RunningLimner, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, media_type: str, ending: str
) -> None:
    # As on a machine without /etc/mime.types, a container for example.
    monkeypatch.setattr(mimetypes, "_db", mimetypes.MimeTypes(filenames=()))
    path = store_image(limner, media_type)
    response = http.get(path, headers={"origin": "https://app.example"})
    assert path.endswith(ending)
    assert (response.status_code, response.content) == (200, png())
    headers = dict(response.headers)
    assert headers.pop("etag").startswith('"')
    assert headers.pop("x-request-id")
    assert headers.pop("last-modified")
    assert headers.pop("date")
    exposed = headers.pop("access-control-expose-headers")
    assert "x-request-id" in exposed.split(", ")
    assert headers == {
        "content-type": media_type,
        "content-length": str(len(png())),
        "accept-ranges": "bytes",
        "cache-control": f"public, max-age={TTL}, immutable",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'",
        "cross-origin-resource-policy": "cross-origin",
        "access-control-allow-origin": "*",
        "vary": "Origin",
    }


def test_a_head_request_for_a_stored_image_has_all_headers(limner: RunningLimner, http: httpx.Client) -> None:
    path = store_image(limner)
    head, whole = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    same = ("content-type", "content-length", "etag", "cache-control", "x-content-type-options")
    assert [head.headers[name] for name in same] == [whole.headers[name] for name in same]
    assert http.head(f"/kept/{'A' * 32}.png").status_code == 404


@dataclass(frozen=True, slots=True)
class Range:
    name: str
    headers: dict[str, str]
    status: int
    part: slice | None
    content_range: str | None = None


SIZE = len(png())
RANGES = [
    Range("the first eight bytes", {"range": "bytes=0-7"}, 206, slice(0, 8), f"bytes 0-7/{SIZE}"),
    Range("from an offset to the end", {"range": "bytes=10-"}, 206, slice(10, None), f"bytes 10-{SIZE - 1}/{SIZE}"),
    Range("the last four bytes", {"range": "bytes=-4"}, 206, slice(-4, None), f"bytes {SIZE - 4}-{SIZE - 1}/{SIZE}"),
    Range("of another image", {"range": "bytes=0-7", "if-range": '"other"'}, 200, slice(None)),
    Range("beyond the end", {"range": f"bytes={SIZE}-"}, 416, None, f"bytes */{SIZE}"),
    Range("without a unit", {"range": "nonsense"}, 200, slice(None)),
    Range("several at once", {"range": "bytes=0-1,4-5"}, 200, slice(None)),
]


@pytest.mark.parametrize("case", RANGES, ids=lambda case: case.name)
def test_ranges_of_a_stored_image(limner: RunningLimner, http: httpx.Client, case: Range) -> None:
    response = http.get(store_image(limner), headers=case.headers)
    assert (response.status_code, response.headers.get("content-range")) == (case.status, case.content_range)
    if case.part is not None:
        assert response.content == png()[case.part]


def test_a_stored_image_expires(limner: RunningLimner, http: httpx.Client, folder: Path) -> None:
    path = store_image(limner)
    file = folder / "images" / path.rpartition("/")[2]
    long_ago = time.time() - TTL - 1
    os.utime(file, (long_ago, long_ago))
    response = http.get(path, headers={"origin": "https://app.example"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "image_not_found")
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["cache-control"] == "no-store"
    assert asyncio.run(limner.services.store.delete_expired()) == 1
    assert not file.exists()


def test_a_stored_image_cannot_be_changed(limner: RunningLimner, http: httpx.Client) -> None:
    path = store_image(limner)
    for method in ("PUT", "DELETE", "POST"):
        response = http.request(method, path)
        assert (response.status_code, response.json()["error"]["type"]) == (405, "invalid_request_error")
    assert http.get(path).content == png()


def test_metrics_need_no_key(limner: RunningLimner) -> None:
    answer = httpx.get(f"{limner.url}/metrics", trust_env=False)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "limner_turns_limit" in answer.text


def test_metrics_can_be_turned_off() -> None:
    with run_limner("http://127.0.0.1:9", metrics=False) as closed:
        assert httpx.get(f"{closed.url}/metrics", trust_env=False).status_code == 404


def test_strangers_see_no_names_of_upstreams() -> None:
    entries = [
        {"name": name, "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-1"} for name in ("secret-deal", "spare-deal")
    ]
    options = {"upstream_base_url": None, "upstream_api_key": None, "upstreams": entries}
    with run_limner("http://127.0.0.1:9", **options, api_keys="sk-client") as limner:
        headers = {"authorization": "Bearer sk-client"}
        body = {"prompt": "a fox"}
        httpx.post(f"{limner.url}/v1/images/generations", json=body, headers=headers, timeout=30, trust_env=False)
        texts = [httpx.get(f"{limner.url}{path}", trust_env=False).text for path in ("/readyz", "/metrics")]
        status = httpx.get(f"{limner.url}/v1/status", headers=headers, trust_env=False).json()
    for text in texts:
        assert "deal" not in text
        assert "upstream-2" in text
    assert [(each["alias"], each["name"]) for each in status["upstreams"]] == [
        ("upstream-1", "secret-deal"),
        ("upstream-2", "spare-deal"),
    ]
