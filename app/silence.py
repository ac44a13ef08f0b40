"""`GET /v1/silence/SECONDS` says nothing for that long, then answers: what `limner check --patience` asks for."""

import asyncio
import re
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.access.auth import Access
from app.errors import InvalidRequest, RateLimited
from app.responses import JsonResponse

#: Seconds at most, and how many may wait at once: each holds a connection.
LONGEST, MOST = 900, 4


def silence_routes(access: Access, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> APIRouter:
    """Costs nothing, but needs a key as a picture does."""
    router = APIRouter()
    waiting = 0

    @router.get("/silence/{seconds}", include_in_schema=False)
    async def silence(seconds: str, http: Request) -> Response:
        nonlocal waiting
        access.admit(http.headers)
        length = read_length(seconds)
        if waiting == MOST:
            raise RateLimited("Others are listening to the silence. Please try again shortly.")
        waiting += 1
        try:
            await sleep(length)
        finally:
            waiting -= 1
        return JsonResponse({"object": "silence", "seconds": length})

    return router


def read_length(seconds: str) -> float:
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", seconds) is None or float(seconds) > LONGEST:
        raise InvalidRequest(f"A silence has 0 to {LONGEST} seconds.", param="seconds", code="invalid_value")
    return float(seconds)
