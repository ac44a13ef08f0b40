"""Serve stored images at `/kept/NAME`, with conditional and range requests.

Starlette's FileResponse serves ranges of files on disk only; here disk, memory and buckets behave the same.
"""

import re
from collections.abc import Mapping
from email.utils import formatdate

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.openapi import error_responses
from app.api.route_table import RouteTable
from app.errors import NotFound
from app.images.store import ImageStore, StoredImage, cache_control, media_type

#: A single range. For several, a server may ignore the header and send the whole (RFC 9110, 14.2).
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.ASCII | re.IGNORECASE)


def parse_range(header: str | None, size: int) -> range | None:
    """Return the bytes that a Range header selects.

    None means that the header is missing or must be ignored, so the whole is sent. An empty range cannot be satisfied.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match.group(1, 2) == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(size, int(last) + 1) if last else size)


#: Bytes that are read from the store at a time.
_CHUNK_BYTES = 2**20


class StoredImageResponse(Response):
    """Send a stored image, and close it afterwards. `headers` are those that all stored images have."""

    def __init__(self, stored: StoredImage, request_headers: Headers, headers: Mapping[str, str]) -> None:
        self._stored = stored
        modified = formatdate(stored.modified, usegmt=True)
        all_headers = {**headers, "accept-ranges": "bytes", "etag": stored.etag, "last-modified": modified}
        part = requested_range(request_headers, stored, modified)
        is_whole = part is None
        self._part = range(stored.size) if part is None else part
        status = 200 if is_whole else 206
        if is_not_modified(request_headers, stored.etag):
            status, self._part = 304, range(0)
        elif not self._part:
            status, all_headers["content-range"] = 416, f"bytes */{stored.size}"
        elif not is_whole:
            all_headers["content-range"] = f"bytes {self._part[0]}-{self._part[-1]}/{stored.size}"
        super().__init__(None, status, all_headers, media_type(stored.name))
        if status != 304:
            self.headers["content-length"] = str(len(self._part))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        part = range(0) if scope["method"] == "HEAD" else self._part
        try:
            # Read before the status is sent, so that a store that fails causes an error response, not a cut image.
            chunk = await self._read(part)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                part = part[len(chunk) :]
                chunk = await self._read(part)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._stored.close()

    async def _read(self, part: range) -> bytes:
        return await self._stored.read(part.start, min(len(part), _CHUNK_BYTES)) if part else b""


def is_not_modified(headers: Headers, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")}
    return bool(tags & {etag, "*"})


def requested_range(headers: Headers, stored: StoredImage, modified: str) -> range | None:
    """Return the requested part, or None for the whole.

    `If-Range` names the version that the client has a part of. If that is another one, it gets the whole.
    """
    if headers.get("if-range", stored.etag) not in {stored.etag, modified}:
        return None
    return parse_range(headers.get("range"), stored.size)


def stored_image_routes(store: ImageStore, ttl: float) -> RouteTable:
    """Serve stored images, without a key since their names cannot be guessed. They are kept for `ttl` seconds."""
    router = RouteTable(("kept images",))
    headers = {
        "cache-control": cache_control(ttl),
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'",
        "cross-origin-resource-policy": "cross-origin",
    }

    @router.add(
        "/kept/{name}",
        ("GET", "HEAD"),
        summary="Get a stored image until it expires",
        response_class=Response,
        responses={
            200: {"description": "The image.", "content": {"image/*": {}}},
            **error_responses(404, not_found_code="image_not_found"),
        },
    )
    async def kept(name: str, http: Request) -> Response:
        stored = await store.get(name)
        if stored is None:
            raise NotFound("This image does not exist or has expired.", code="image_not_found")
        return StoredImageResponse(stored, http.headers, headers)

    return router
