"""Serve the pages at `/`, `/status` and `/docs`: the files of app/web with a strict Content-Security-Policy.

Starlette's StaticFiles would not make this shorter: its ETag is made of the file's time instead of its content, and
media types, headers, redirects and `server.json` would still be written here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import Response

from app import __version__
from app.api.route_table import RouteTable
from app.api.size_rules import size_rules
from app.config.settings import Settings
from app.errors import NotFound

WEB_DIR = Path(__file__).parents[1] / "web"

#: Nothing from other servers, nothing inline, no HTML made from text. Images arrive as bytes and are shown as `blob:`.
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
    # Browsers revalidate each file (mostly a 304), so that they never mix an old script with a new page.
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

_PAGES = {"/": "index.html", "/status": "status.html", "/docs": "openapi.html"}


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    media_type: str
    etag: str


def page_routes(settings: Settings) -> RouteTable:
    """Serve the pages. They need no key: they are the same for every visitor and hold no secret.

    Raises:
        OSError: A file of app/web cannot be read.
    """
    assets = dict(load_assets(settings))
    router = RouteTable()

    def respond(name: str, http: Request) -> Response:
        found = assets.get(name)
        if found is None:
            raise NotFound(f"Invalid URL ({http.method} {http.scope['path']})")
        headers = {**_HEADERS, "etag": found.etag}
        if found.etag in http.headers.get("if-none-match", ""):
            return Response(None, 304, headers)
        return Response(found.body, 200, headers, found.media_type)

    async def page(http: Request) -> Response:
        # Not `http.url`, because the client's Host header can change its path.
        path: str = http.scope["path"]
        raw_path = http.scope["raw_path"].decode("latin-1")
        if path != "/" and (slashes := len(raw_path) - len(raw_path.rstrip("/"))):
            # The links of the page are relative to its parent, so `/status/` would break them.
            return Response(None, 308, {**_HEADERS, "location": "../" * slashes + path.rpartition("/")[2]})
        return respond(_PAGES[path], http)

    async def asset(name: str, http: Request) -> Response:
        return respond(name, http)

    for path in _PAGES:
        router.add(path, ("GET", "HEAD"))(page)
    router.add("/web/{name:path}", ("GET", "HEAD"))(asset)
    return router


def load_assets(settings: Settings) -> Iterator[tuple[str, Asset]]:
    """Read all files of app/web, by their paths below it, and add `server.json`."""
    for path in sorted(WEB_DIR.rglob("*.*")):
        name = path.relative_to(WEB_DIR).as_posix()
        yield name, make_asset(name, path.read_bytes())
    yield "server.json", make_asset("server.json", orjson.dumps(server_info(settings)))


def make_asset(name: str, body: bytes) -> Asset:
    return Asset(body, _MEDIA_TYPES[Path(name).suffix], f'"{sha256(body).hexdigest()[:32]}"')


def server_info(settings: Settings) -> dict[str, object]:
    """Return what the page needs to know: which kind of key the server takes, and the rules for images."""
    rules = size_rules(settings.size)
    return {
        "version": __version__,
        "key": "client" if settings.has_client_keys else "upstream" if settings.pass_through else "none",
        "max_image_bytes": int(settings.max_image_bytes),
        # As app/web/sizes.js applies them.
        "size": {**rules._asdict(), "legacy": [str(size) for size in rules.legacy]},
    }
