"""Keep the last drawn images in memory, and serve them under names that cannot be guessed."""

import secrets
from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

#: Total size of the kept images; the oldest are dropped first.
MAX_BYTES = 192 * 1024 * 1024
MAX_IMAGES = 256

_PUBLIC_HEADERS = {"access-control-allow-origin": "*", "cache-control": "public, max-age=86400"}


@dataclass(slots=True)
class HostedImage:
    """An image behind a URL that may fail at first.

    The first requests get `not_found_count` times a 404, then `redirect_count` redirects to itself, then
    `truncated_count` incomplete bodies; all others get the image.
    """

    data: bytes
    media_type: str
    not_found_count: int = 0
    truncated_count: int = 0
    redirect_count: int = 0


class TruncatedResponse(Response):
    """Announce the whole body and send half of it, so that the server closes the connection."""

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

    def add(self, image: HostedImage, extension: str) -> str:
        """Store an image, and return the name under which it is served."""
        name = secrets.token_urlsafe(18) + extension
        self._images[name] = image
        self._bytes += len(image.data)
        while len(self._images) > self._limits[0] or (self._bytes > self._limits[1] and len(self._images) > 1):
            _, oldest = self._images.popitem(last=False)
            self._bytes -= len(oldest.data)
        return name

    def clear(self) -> None:
        self._images.clear()
        self._bytes = self.downloads = 0

    async def serve(self, request: Request) -> Response:
        self.downloads += request.method == "GET"
        image = self._images.get(request.path_params["name"])
        if image is None:
            return Response("Not Found", 404, _PUBLIC_HEADERS, "text/plain")
        if image.not_found_count:
            image.not_found_count -= 1
            return Response("Not Found", 404, _PUBLIC_HEADERS, "text/plain")
        if image.redirect_count:
            image.redirect_count -= 1
            return RedirectResponse(request.url.path, 302, _PUBLIC_HEADERS)
        if image.truncated_count:
            image.truncated_count -= 1
            return TruncatedResponse(image.data, 200, _PUBLIC_HEADERS, image.media_type)
        return Response(image.data, 200, _PUBLIC_HEADERS, image.media_type)
