"""Requests are checked before they are parsed: key, length, framing, content type, JSON."""

import asyncio
import base64
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest
import structlog
from backports import zstd
from PIL import Image
from starlette.types import Message

from app.config.settings import Settings
from app.images.fetch import Fetcher
from app.main import create_app
from tests.support.raw_http import build_request, chunked_body, connect, send_request
from tests.support.sample_images import chunk
from tests.support.servers import RunningDemo, RunningLimner, run_limner

KEY = "authorization: Bearer sk-client"
LIMIT = 256 * 1024
IMAGE_LIMIT = 128 * 1024


@pytest.fixture(scope="module")
def limner(demo: RunningDemo) -> Iterator[RunningLimner]:
    options = {"api_keys": "sk-client", "max_request_bytes": LIMIT, "max_image_bytes": IMAGE_LIMIT}
    with run_limner(demo.url, **options, rehost="never") as running:
        yield running


def form(*parts: tuple[str, str], boundary: str = "B") -> bytes:
    """Build a form of text parts."""
    head = 'content-disposition: form-data; name="'
    written = [f'--{boundary}\r\n{head}{name}"\r\n\r\n{value}\r\n' for name, value in parts]
    return "".join([*written, f"--{boundary}--\r\n"]).encode()


def png(length: int) -> bytes:
    """Make a PNG of this many bytes, padded with a chunk that decoders skip."""
    file = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(file, "PNG")
    head, tail = file.getvalue()[:33], file.getvalue()[33:]
    return head + chunk(b"nuLl", bytes(length - len(head) - len(tail) - 12)) + tail


def data_url(length: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(length)).decode()


def edit(length: int, *, mask: bool = False) -> bytes:
    url = data_url(length)
    more = {"mask": {"image_url": "data:image/png;base64," + base64.b64encode(png(300)).decode()}} if mask else {}
    return orjson.dumps({"prompt": "a hat", "images": [{"image_url": url}], "response_format": "url", **more})


def cut(body: bytes, size: int = 997) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


GENERATIONS = "POST /v1/images/generations"
EDITS = "POST /v1/images/edits"
CHUNKED = "transfer-encoding: chunked"
JSON = "content-type: application/json"
FORM = "content-type: multipart/form-data; boundary=B"
SMALL = b'{"prompt":"a fox","response_format":"url"}'
BLANK = b" " * LIMIT

DATA_URL, LARGE_URL = data_url(300), data_url(75_000)

TOO_LARGE = f"Maximum content size limit ({LIMIT}) exceeded."
NOT_JSON = "We could not parse the JSON body of your request"
SERVED = "This server makes images: /v1/images/generations, /v1/images/edits and /v1/models."
NOT_FORM = "We could not parse the multipart body of your request."
WRONG_TYPE = "Unsupported content type '{}'. Use 'application/json' or 'multipart/form-data'."


@dataclass(frozen=True, slots=True)
class Case:
    """A request and the expected error; a message that ends in … is a prefix."""

    name: str
    raw: bytes
    status: int = 200
    message: str = ""
    code: str | None = None


CASES = [
    # JSON.
    Case("JSON", build_request(GENERATIONS, KEY, JSON, body=SMALL)),
    Case("JSON with a charset", build_request(GENERATIONS, KEY, "content-type: Application/JSON ; charset=utf-8", body=SMALL)),
    Case("JSON by another name", build_request(GENERATIONS, KEY, "content-type: text/json", body=SMALL)),
    Case("JSON in a form of its own", build_request(GENERATIONS, KEY, "content-type: application/vnd.api+json", body=SMALL)),
    Case("JSON, said twice", build_request(GENERATIONS, KEY, "content-type: application/json, application/json", body=SMALL)),
    Case("JSON without a content type", build_request(GENERATIONS, KEY, body=SMALL)),
    Case("JSON with an empty content type", build_request(GENERATIONS, KEY, "content-type:", body=SMALL)),
    Case("JSON in chunks, cut anywhere", build_request(GENERATIONS, KEY, JSON, CHUNKED) + chunked_body(SMALL[:5], SMALL[5:6], SMALL[6:])),
    Case("JSON with white space around it", build_request(GENERATIONS, KEY, JSON, body=b"\r\n\t " + SMALL + b" \n")),
    Case("a key twice in one object: the last one counts", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":1,"prompt":"a fox","response_format":"url"}')),
    Case("no body at all", build_request(GENERATIONS, KEY, JSON), 400, f"{NOT_JSON}…"),
    Case("JSON that ends too early", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"a'), 400, f"{NOT_JSON}…"),
    Case("JSON with trailing data", build_request(GENERATIONS, KEY, JSON, body=SMALL + b"x"), 400, f"{NOT_JSON}…"),
    Case("NaN", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"a fox","n":NaN}'), 400, f"{NOT_JSON}…"),
    Case("an infinite number", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"a fox","n":Infinity}'), 400, f"{NOT_JSON}…"),
    Case("a number of many digits", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"a fox","n":' + b"9" * 10_000 + b"}"), 400, f"{NOT_JSON}…"),
    Case("ten thousand brackets", build_request(GENERATIONS, KEY, JSON, body=b"[" * 10_000), 400, f"{NOT_JSON}…"),
    Case("ten thousand brackets, closed again", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"a fox","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"), 400, f"{NOT_JSON}…"),
    Case("half a surrogate pair", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"a fox \\ud83d","response_format":"url"}')),
    Case("text that is not UTF-8", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"\xff"}'), 400, f"{NOT_JSON}…"),
    Case("UTF-16", build_request(GENERATIONS, KEY, JSON, body=SMALL.decode().encode("utf-16"))),
    Case("UTF-8 with a byte order mark", build_request(GENERATIONS, KEY, JSON, body=b"\xef\xbb\xbf" + SMALL)),
    Case("UTF-32 in small chunks", build_request(GENERATIONS, KEY, JSON, CHUNKED) + chunked_body(*cut(SMALL.decode().encode("utf-32"), 3))),
    Case("a charset that the content type names", build_request(GENERATIONS, KEY, "content-type: application/json; charset=iso-8859-1", body=SMALL.replace(b"fox", b"f\xe9e"))),
    Case("a raw line end in a string", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"one\ntwo"}'), 400, f"{NOT_JSON}: unexpected control character in string at line 1, column 15."),
    Case("JSON that was encoded twice", build_request(GENERATIONS, KEY, JSON, body=orjson.dumps(SMALL.decode())), 400, "The body of the request is a JSON string that holds JSON: it was encoded twice. Send the object itself.", "invalid_type"),
    Case("a prompt of white space", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":" \\n"}'), 400, "Invalid 'prompt': a string of white space only. Expected at least one visible character.", "empty_string"),
    # Compressed bodies.
    Case("gzip", build_request(GENERATIONS, KEY, JSON, "content-encoding: gzip", body=gzip.compress(SMALL))),
    Case("gzip in chunks, byte by byte", build_request(GENERATIONS, KEY, JSON, CHUNKED, "content-encoding: GZIP") + chunked_body(*cut(gzip.compress(SMALL), 1))),
    Case("zstd", build_request(GENERATIONS, KEY, JSON, "content-encoding: zstd", body=zstd.compress(SMALL))),
    Case("deflate", build_request(GENERATIONS, KEY, JSON, "content-encoding: deflate", body=zlib.compress(SMALL))),
    Case("a compressed form", build_request(EDITS, KEY, FORM, "content-encoding: gzip", body=gzip.compress(form(("prompt", "a fox"), ("image", DATA_URL), ("response_format", "url"))))),
    Case("brotli", build_request(GENERATIONS, KEY, JSON, "content-encoding: br", body=b"\x8b\x03\x80abc\x03"), 400, "Unsupported content-encoding. Use 'gzip', 'deflate', 'zstd' or none, and let the body be what it says.", "invalid_value"),
    Case("gzip of more than the limit", build_request(GENERATIONS, KEY, JSON, "content-encoding: gzip", body=gzip.compress(SMALL + BLANK)), 413, f"Maximum content size limit ({LIMIT}) exceeded, decompressed.", "request_too_large"),
    Case("gzip that is cut off", build_request(GENERATIONS, KEY, JSON, "content-encoding: gzip", body=gzip.compress(SMALL)[:-9]), 400, "The compressed body of the request is damaged: it ends too early."),
    Case("a list", build_request(GENERATIONS, KEY, JSON, body=b"[]"), 400, "The body of the request must be a JSON object.", "invalid_type"),
    # Azure's paths.
    Case("a deployment", build_request("POST /openai/deployments/gpt-image-2/images/generations?api-version=1", KEY, JSON, body=SMALL)),
    Case("a deployment, but no key", build_request("POST /openai/deployments/gpt-image-2/images/generations", JSON, body=SMALL), 401, "You didn't provide an API key. …"),
    Case("a deployment with another endpoint", build_request("POST /openai/deployments/gpt-image-2/images/others", KEY, JSON, body=SMALL), 404, f"Invalid URL (POST /openai/deployments/gpt-image-2/images/others). {SERVED}"),
    Case("an invalid deployment name", build_request("POST /openai/deployments/a%20b/images/generations", KEY, JSON, body=SMALL), 404, f"Invalid URL (POST /openai/deployments/a b/images/generations). {SERVED}"),
    # Forms.
    Case("a form on generations", build_request(GENERATIONS, KEY, FORM, body=form(("prompt", "a fox"), ("n", "1"), ("response_format", "url")))),
    Case("a form on generations, in chunks", build_request(GENERATIONS, KEY, FORM, CHUNKED) + chunked_body(*[bytes([byte]) for byte in form(("prompt", "a fox"), ("response_format", "url"))])),
    Case("a form without a boundary", build_request(GENERATIONS, KEY, "content-type: multipart/form-data", body=form()), 400, f"{NOT_FORM} Its content type needs a boundary of 1 to 70 characters."),
    Case("a form with another boundary", build_request(GENERATIONS, KEY, FORM, body=form(("prompt", "a fox"), boundary="C")), 400, f"{NOT_FORM}…"),
    Case("a form without its end", build_request(GENERATIONS, KEY, FORM, body=form(("prompt", "a fox"))[:-6]), 400, f"{NOT_FORM} It ends before its closing boundary."),
    Case("a too large image in a form", build_request(EDITS, KEY, FORM, body=form(("prompt", "a")).replace(b'"prompt"', b'"image"; filename="a"').replace(b"\r\na\r\n", b"\r\n" + b"x" * (IMAGE_LIMIT + 1) + b"\r\n")), 413, f"One part of the form is larger than the limit of {IMAGE_LIMIT} bytes.", "request_too_large"),
    Case("a large image as text of a form, as the Node client writes strings", build_request(EDITS, KEY, FORM, body=form(("prompt", "a hat"), ("image", LARGE_URL), ("response_format", "url")))),
    Case("a too large image as text of a form", build_request(EDITS, KEY, FORM, body=form(("prompt", "a hat"), ("image", data_url(IMAGE_LIMIT + 1)))), 413, f"One image of the request is larger than the limit of {IMAGE_LIMIT} bytes.", "request_too_large"),
    # JSON with images that are so large that they are spooled.
    Case("a large image", build_request(EDITS, KEY, JSON, body=edit(75_000))),
    Case("a large image in small chunks", build_request(EDITS, KEY, JSON, CHUNKED) + chunked_body(*cut(edit(75_000)))),
    Case("a large image and a mask", build_request(EDITS, KEY, JSON, body=edit(75_000, mask=True))),
    Case("a too large image", build_request(EDITS, KEY, JSON, body=edit(IMAGE_LIMIT + 1)), 413, f"One image of the request is larger than the limit of {IMAGE_LIMIT} bytes.", "request_too_large"),
    Case("a large image where none is allowed", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"%s"}' % base64.b64encode(png(75_000))), 400, "The request holds base64 of an image where no image belongs.", "invalid_value"),
    Case("a large image as markup", build_request(EDITS, KEY, JSON, body=edit(75_000).replace(b'"prompt"', b'"markup":{"b64_json":"%s"},"prompt"' % base64.b64encode(png(76_000))))),
    Case("a large image under an unknown name", build_request(GENERATIONS, KEY, JSON, body=b'{"prompt":"a hat","init_image":"%s"}' % base64.b64encode(png(75_000))), 400, "Unknown parameter: 'init_image'. To edit images, use /v1/images/edits with 'images'.", "unknown_parameter"),
    Case("a large image under an unknown name whose meaning is plain", build_request(EDITS, KEY, JSON, body=b'{"prompt":"a hat","response_format":"url","init_image":"%s"}' % base64.b64encode(png(75_000)))),
    # Other content types.
    Case("a form with URL encoding", build_request(GENERATIONS, KEY, "content-type: application/x-www-form-urlencoded", body=b"prompt=a+fox"), 400, WRONG_TYPE.format("application/x-www-form-urlencoded")),
    Case("plain text", build_request(GENERATIONS, KEY, "content-type: text/plain", body=SMALL), 400, WRONG_TYPE.format("text/plain")),
    Case("another kind of multipart", build_request(EDITS, KEY, "content-type: multipart/mixed; boundary=B", body=form()), 400, WRONG_TYPE.format("multipart/mixed")),
    # Length.
    Case("a body as long as allowed", build_request(GENERATIONS, KEY, JSON, body=SMALL + BLANK[len(SMALL) :])),
    Case("a body one byte longer", build_request(GENERATIONS, KEY, JSON, body=SMALL + BLANK[len(SMALL) :] + b" "), 413, TOO_LARGE, "request_too_large"),
    Case("a too large content length, without the body", build_request(GENERATIONS, KEY, JSON, f"content-length: {LIMIT + 1}"), 413, TOO_LARGE, "request_too_large"),
    Case("a length of nineteen digits", build_request(EDITS, KEY, FORM, f"content-length: {10**18}"), 413, TOO_LARGE, "request_too_large"),
    Case("chunks as long as allowed", build_request(GENERATIONS, KEY, JSON, CHUNKED) + chunked_body(SMALL, BLANK[len(SMALL) :])),
    Case("chunks that are too long together", build_request(GENERATIONS, KEY, JSON, CHUNKED) + chunked_body(SMALL, BLANK), 413, TOO_LARGE, "request_too_large"),
    Case("chunks that do not end", build_request(GENERATIONS, KEY, JSON, CHUNKED) + chunked_body(BLANK, BLANK)[:-5], 413, TOO_LARGE, "request_too_large"),
    # Key first.
    Case("no key and a content length of a gigabyte", build_request(EDITS, FORM, "content-length: 1073741824"), 401, "You didn't provide an API key…"),
    Case("a wrong key before a wrong body", build_request(GENERATIONS, "authorization: Bearer sk-other", "content-type: text/plain", "content-length: 1073741824"), 401, "Incorrect API key provided.", "invalid_api_key"),
    Case("no key and endless chunks", build_request(EDITS, FORM, CHUNKED), 401, "You didn't provide an API key…"),
    Case("two keys, one of them right", build_request(GENERATIONS, KEY, "authorization: Bearer x", body=SMALL), 401, "Malformed Authorization header…"),
    Case("the route before the key", build_request("POST /v1/images/nothing", "content-length: 1073741824"), 404, "Invalid URL (POST /v1/images/nothing). This server makes images…"),
    Case("the method before the key", build_request("PUT /v1/images/edits", "content-length: 1073741824"), 405, "Not allowed: PUT /v1/images/edits. Use POST."),
    Case("a result without a key", build_request("GET /v1/images/results/req_0"), 401, "You didn't provide an API key…"),
    Case("an unknown result", build_request("GET /v1/images/results/req_0", KEY), 404, "This result does not exist or has expired.", "result_not_found"),
    Case("a retired endpoint", build_request("POST /v1/images/variations", KEY, "content-length: 1073741824"), 404, "The images/variations endpoint has been retired. Use /v1/images/edits…", "endpoint_retired"),
    Case("a retired endpoint without the prefix", build_request("POST /images/variations", KEY), 404, "The images/variations endpoint has been retired…", "endpoint_retired"),
    Case("a retired endpoint without a key", build_request("POST /v1/images/variations"), 401, "You didn't provide an API key…"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_is_checked_in_order(limner: RunningLimner, demo: RunningDemo, case: Case) -> None:
    """If the body is not sent, a response shows that the server did not wait for it."""
    demo.state.reset()
    response = send_request(limner.url, case.raw)
    assert (response.status, response.headers["content-type"]) == (case.status, "application/json")
    assert demo.state.calls == (case.status == 200)
    if case.status == 200:
        assert response.json()["data"][0]["url"].startswith(demo.url)
        return
    error = response.json()["error"]
    whole, _, shortened = case.message.partition("…")
    assert not shortened
    assert error["message"].startswith(whole) if "…" in case.message else error["message"] == whole
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", error["param"], case.code)
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-request-id"].startswith("req_")


def test_100_continue_is_sent_only_for_a_valid_key(limner: RunningLimner) -> None:
    expects = (JSON, "expect: 100-continue", f"content-length: {len(SMALL)}")
    with connect(limner.url) as connection:
        connection.send(build_request(GENERATIONS, "authorization: Bearer sk-wrong", *expects))
        assert connection.read_response().status == 401
    with connect(limner.url) as connection:
        connection.send(build_request(GENERATIONS, KEY, *expects))
        assert connection.read_response().status == 100
        connection.send(SMALL)
        assert connection.read_response().status == 200


def test_100_continue_is_not_sent_for_a_too_large_body(limner: RunningLimner) -> None:
    with connect(limner.url) as connection:
        connection.send(build_request(EDITS, KEY, FORM, "expect: 100-continue", f"content-length: {LIMIT + 1}"))
        assert connection.read_response().status == 413


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: HOST\r\n\r\n"
FRAMED = {
    "a length and chunks": build_request(GENERATIONS, KEY, "content-length: 5", CHUNKED) + chunked_body() + SMUGGLED,
    "two lengths": build_request(GENERATIONS, KEY, "content-length: 2", "content-length: 42") + b"{}" + SMUGGLED,
    "a length that is no number": build_request(GENERATIONS, KEY, "content-length: -1") + SMUGGLED,
    "a chunk of a size that is none": build_request(GENERATIONS, KEY, CHUNKED) + b"zz\r\n" + SMUGGLED,
}


@pytest.mark.parametrize("name", FRAMED)
def test_a_smuggled_request_is_not_answered(limner: RunningLimner, name: str) -> None:
    """There is exactly one response, and the connection is closed."""
    with connect(limner.url) as connection:
        connection.send(FRAMED[name])
        assert connection.read_response().status == 400
        assert connection.read_to_end() == b""


def test_a_client_that_disconnects_within_its_body_is_no_error(tmp_path: Path) -> None:
    # With a key of its own, or the upstream would be asked about the client's key, over connections that nobody closes.
    given = {"upstream_api_key": "sk-upstream", "image_store": f"disk://{tmp_path}"}
    app = create_app(Settings.model_validate({"upstream_base_url": "http://127.0.0.1:9/v1", **given}))
    begun: Message = {"type": "http.request", "body": b'{"prompt":', "more_body": True}
    coming: Iterator[Message] = iter([begun, {"type": "http.disconnect"}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(coming)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer x")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/images/generations",
        "headers": headers,
        "query_string": b"",
    }
    with structlog.testing.capture_logs() as records:
        asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 499
    assert [(record["event"], record["status"]) for record in records] == [("request", 499)]


FORM_TYPE = "multipart/form-data; boundary=B"


@pytest.mark.parametrize(("kind", "sent"), [("application/json", b""), ("application/json", b'{"prompt":'), (FORM_TYPE, b""), (FORM_TYPE, b"--B\r\n")])  # fmt: skip
def test_a_missing_body_is_a_timeout(demo: RunningDemo, kind: str, sent: bytes) -> None:
    head = ("authorization: Bearer x", f"content-type: {kind}", "content-length: 100")
    with run_limner(demo.url, client_body_timeout=0.05) as limner, connect(limner.url) as connection:
        connection.send(build_request("POST /v1/images/edits", *head), sent)
        response = connection.read_response()
        assert (response.status, response.json()["error"]["code"]) == (408, "request_timeout")
        assert (response.headers["x-should-retry"], connection.read_to_end()) == ("false", b"")


def test_a_slow_body_is_read(demo: RunningDemo) -> None:
    body = b'{"prompt":"a fox"}'
    with run_limner(demo.url, client_body_timeout=20) as limner, connect(limner.url) as connection:
        connection.send(build_request(GENERATIONS, "authorization: Bearer x", JSON, f"content-length: {len(body)}"))
        connection.send(*(body[at : at + 1] for at in range(len(body))))
        assert connection.read_response().status == 200


def test_json_that_is_large_without_its_images_is_rejected(demo: RunningDemo) -> None:
    with run_limner(demo.url) as limner:
        body = b'{"prompt":"a fox","more":[' + b"{}," * 1_500_000
        response = send_request(limner.url, build_request(GENERATIONS, "authorization: Bearer x", JSON, body=body))
    assert (response.status, response.json()["error"]["code"]) == (413, "request_too_large")


def test_a_script_of_a_page_gets_a_link_that_it_can_read(demo: RunningDemo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts of images seldom let the scripts of other sites read them."""

    async def is_public(*_: object) -> bool:
        return True

    monkeypatch.setattr(Fetcher, "is_public", is_public)
    key = {"authorization": "Bearer sk-client"}
    with run_limner(demo.url, api_keys="sk-client") as limner, httpx.Client(trust_env=False, headers=key) as http:
        request = {"prompt": "a fox", "response_format": "url"}
        by_program, by_page = (
            http.post(f"{limner.url}/v1/images/generations", json=request, headers=headers).json()["data"][0]["url"]
            for headers in ({}, {"origin": "https://app.example"})
        )
    assert by_program.startswith(demo.url)
    assert by_page.startswith(f"{limner.url}/kept/")
