"""Keeps the last painted pictures in memory and serves them under names nobody can guess."""

import secrets
from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

#: What all kept pictures may hold together; the oldest go first.
MAX_BYTES = 192 * 1024 * 1024
MAX_IMAGES = 256

_OPEN_TO_ALL = {"access-control-allow-origin": "*", "cache-control": "public, max-age=86400"}


@dataclass(slots=True)
class HostedImage:
    """What a link answers: first `absent` 404s, `hops` redirects to itself, `cuts` broken bodies, then the picture."""

    data: bytes
    media_type: str
    not_found_count: int = 0
    truncated_count: int = 0
    redirect_count: int = 0


class TruncatedResponse(Response):
    """Announces the whole body and sends half: a server closes the connection of a response that has no end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body)[: len(self.body) // 2], "more_body": True})


class ImageHost:
    def __init__(self, max_images: int = MAX_IMAGES, max_bytes: int = MAX_BYTES) -> None:
        self.downloads = 0
        self._limits = max_images, max_bytes
        self._images: OrderedDict[str, HostedImage] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._images)

    def add(self, exhibit: HostedImage, extension: str) -> str:
        """The name under which it is served."""
        name = secrets.token_urlsafe(18) + extension
        self._images[name] = exhibit
        self._bytes += len(exhibit.data)
        while len(self._images) > self._limits[0] or (self._bytes > self._limits[1] and len(self._images) > 1):
            _, oldest = self._images.popitem(last=False)
            self._bytes -= len(oldest.data)
        return name

    def clear(self) -> None:
        self._images.clear()
        self._bytes = self.downloads = 0

    async def serve(self, request: Request) -> Response:
        self.downloads += request.method == "GET"
        exhibit = self._images.get(request.path_params["name"])
        if exhibit is None:
            return Response("Not Found", 404, _OPEN_TO_ALL, "text/plain")
        if exhibit.not_found_count:
            exhibit.not_found_count -= 1
            return Response("Not Found", 404, _OPEN_TO_ALL, "text/plain")
        if exhibit.redirect_count:
            exhibit.redirect_count -= 1
            return RedirectResponse(request.url.path, 302, _OPEN_TO_ALL)
        if exhibit.truncated_count:
            exhibit.truncated_count -= 1
            return TruncatedResponse(exhibit.data, 200, _OPEN_TO_ALL, exhibit.media_type)
        return Response(exhibit.data, 200, _OPEN_TO_ALL, exhibit.media_type)
