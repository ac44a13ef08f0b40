"""Keeps the last painted pictures in memory and serves them under names nobody can guess."""

import secrets
from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

#: What all kept pictures may hold together; the oldest go first.
MAX_BYTES = 192 * 1024 * 1024
MAX_PICTURES = 256

_OPEN_TO_ALL = {"access-control-allow-origin": "*", "cache-control": "public, max-age=86400"}


@dataclass(slots=True)
class Exhibit:
    """What a link answers: first `absent` 404s, `hops` redirects to itself, `cuts` broken bodies, then the picture."""

    data: bytes
    media_type: str
    absent: int = 0
    cuts: int = 0
    hops: int = 0


class CutShort(Response):
    """Announces the whole body and sends half: a server closes the connection of a response that has no end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body)[: len(self.body) // 2], "more_body": True})


class Gallery:
    def __init__(self, max_pictures: int = MAX_PICTURES, max_bytes: int = MAX_BYTES) -> None:
        self.downloads = 0
        self._limits = max_pictures, max_bytes
        self._exhibits: OrderedDict[str, Exhibit] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._exhibits)

    def keep(self, exhibit: Exhibit, extension: str) -> str:
        """The name under which it is served."""
        name = secrets.token_urlsafe(18) + extension
        self._exhibits[name] = exhibit
        self._bytes += len(exhibit.data)
        while len(self._exhibits) > self._limits[0] or (self._bytes > self._limits[1] and len(self._exhibits) > 1):
            _, oldest = self._exhibits.popitem(last=False)
            self._bytes -= len(oldest.data)
        return name

    def clear(self) -> None:
        self._exhibits.clear()
        self._bytes = self.downloads = 0

    async def show(self, request: Request) -> Response:
        self.downloads += request.method == "GET"
        exhibit = self._exhibits.get(request.path_params["name"])
        if exhibit is None:
            return Response("Not Found", 404, _OPEN_TO_ALL, "text/plain")
        if exhibit.absent:
            exhibit.absent -= 1
            return Response("Not Found", 404, _OPEN_TO_ALL, "text/plain")
        if exhibit.hops:
            exhibit.hops -= 1
            return RedirectResponse(request.url.path, 302, _OPEN_TO_ALL)
        if exhibit.cuts:
            exhibit.cuts -= 1
            return CutShort(exhibit.data, 200, _OPEN_TO_ALL, exhibit.media_type)
        return Response(exhibit.data, 200, _OPEN_TO_ALL, exhibit.media_type)
