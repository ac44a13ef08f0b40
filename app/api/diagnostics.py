"""Serve two tools for setting up a server: `POST /v1/explain` and `GET /v1/silence/SECONDS`.

The first reports which images a pasted chat reply holds, as `limner explain` does. The second stays silent for a while,
to find out which proxies or clients close a silent connection.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.access.auth import Authenticator
from app.api.body import limited_body
from app.api.responses import OrjsonResponse
from app.errors import InvalidRequest, RateLimited
from app.extraction.explain import json_report, parse_pasted
from app.extraction.forms import explain

#: Bytes of one pasted reply: enough for four million pixels in base64. A malicious one costs two seconds of CPU time.
MAX_REPLY_BYTES = 16 * 2**20
#: Replies that are analyzed at once; more would take CPU time away from image requests.
MAX_CONCURRENT_EXPLAINS = 2

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def explain_routes(access: Authenticator, timeout: float) -> APIRouter:
    """Explaining costs no money, but needs a client key as image requests do.

    `timeout`: seconds without a byte of the body.
    """
    router = APIRouter()
    reading = 0

    @router.post("/explain", include_in_schema=False)
    async def diagnose(http: Request) -> Response:
        nonlocal reading
        access.authenticate(http.headers)
        if reading == MAX_CONCURRENT_EXPLAINS:
            raise RateLimited("Other replies are being explained. Please try again shortly.")
        reading += 1
        try:
            reply = b"".join([chunk async for chunk in limited_body(http, MAX_REPLY_BYTES, timeout)])
            # In a thread, so that the event loop keeps serving other requests.
            return await asyncio.to_thread(explain_reply, reply)
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            reading -= 1

    return router


def explain_reply(reply: bytes) -> Response:
    pasted = parse_pasted(reply)
    return OrjsonResponse(json_report(pasted, explain(pasted.reply)), headers=_HEADERS)


#: Limits of the silence endpoint: its length, and how many may wait at once, because each holds a connection.
MAX_SILENCE_SECONDS, MAX_CONCURRENT_SILENCES = 900, 4


def silence_routes(access: Authenticator, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> APIRouter:
    """Silence costs no money, but needs a client key as image requests do."""
    router = APIRouter()
    waiting = 0

    @router.get("/silence/{seconds}", include_in_schema=False)
    async def silence(seconds: str, http: Request) -> Response:
        nonlocal waiting
        access.authenticate(http.headers)
        length = parse_seconds(seconds)
        if waiting == MAX_CONCURRENT_SILENCES:
            raise RateLimited("Other clients are using this endpoint. Please try again shortly.")
        waiting += 1
        try:
            await sleep(length)
        finally:
            waiting -= 1
        return OrjsonResponse({"object": "silence", "seconds": length})

    return router


def parse_seconds(seconds: str) -> float:
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", seconds) is None or float(seconds) > MAX_SILENCE_SECONDS:
        raise InvalidRequest(
            f"The length of the silence must be between 0 and {MAX_SILENCE_SECONDS} seconds.",
            param="seconds",
            code="invalid_value",
        )
    return float(seconds)
