"""The pages for people, at `/` and `/status`: the files of app/web, sent with a strict Content-Security-Policy."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from app import __version__
from app.config.settings import Settings
from app.errors import NotFound
from app.protocol import sizes

WEB_DIR = Path(__file__).parents[1] / "web"

#: Nothing from elsewhere, nothing inline, no HTML made of text; pictures come as bytes and are shown as `blob:`.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)

_HEADERS = {
    # Asked for again each time, and mostly answered with 304: an old script with a new page would be a riddle.
    "cache-control": "no-cache",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}

_PAGES = {"/": "index.html", "/status": "status.html"}


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    media_type: str
    etag: str


def page_routes(settings: Settings) -> APIRouter:
    """No key: what is sent is the same for everybody and tells no secret. Raises OSError where a file is missing."""
    files = dict(load_assets(settings))
    router = APIRouter()

    def answer(name: str, http: Request) -> Response:
        file = files.get(name)
        if file is None:
            raise NotFound(f"Invalid URL ({http.method} {http.scope['path']})")
        headers = {**_HEADERS, "etag": file.etag}
        if file.etag in http.headers.get("if-none-match", ""):
            return Response(None, 304, headers)
        return Response(file.body, 200, headers, file.media_type)

    async def page(http: Request) -> Response:
        # Not `http.url`, which the client's Host header has a say in.
        path: str = http.scope["path"]
        given = http.scope["raw_path"].decode("latin-1")
        if path != "/" and (slashes := len(given) - len(given.rstrip("/"))):
            # What the page links to is beside it, and not below.
            return Response(None, 308, {**_HEADERS, "location": "../" * slashes + path.rpartition("/")[2]})
        return answer(_PAGES[path], http)

    async def asset(name: str, http: Request) -> Response:
        return answer(name, http)

    for path in _PAGES:
        router.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)
    router.add_api_route("/web/{name}", asset, methods=["GET", "HEAD"], include_in_schema=False)
    return router


def load_assets(settings: Settings) -> Iterator[tuple[str, Asset]]:
    for path in sorted(WEB_DIR.iterdir()):
        yield path.name, web_file(path.name, path.read_bytes())
    yield "server.json", web_file("server.json", orjson.dumps(server_info(settings)))


def web_file(name: str, body: bytes) -> Asset:
    return Asset(body, _MEDIA_TYPES[Path(name).suffix], f'"{sha256(body).hexdigest()[:32]}"')


def server_info(settings: Settings) -> dict[str, object]:
    """What the page must know of its server: whose key it takes, and which rules hold."""
    return {
        "version": __version__,
        "key": "client" if settings.has_client_keys else "upstream" if settings.pass_through else "none",
        "max_image_bytes": int(settings.max_image_bytes),
        "size": {
            "step": sizes.SIZE_MULTIPLE,
            "longest_edge": sizes.MAX_EDGE,
            "ratio": sizes.MAX_ASPECT_RATIO,
            "least_pixels": sizes.MIN_PIXELS,
            "most_pixels": sizes.MAX_PIXELS,
            "legacy": [str(size) for size in sizes.LEGACY_SIZES],
        },
    }
