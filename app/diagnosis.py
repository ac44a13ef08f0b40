"""`POST /v1/explain`: what `limner explain` says of a chat reply, for the page that it was pasted into."""

import asyncio

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.access.auth import Access
from app.errors import RateLimited
from app.extraction.explain import document, read_pasted
from app.extraction.forms import explain
from app.responses import JsonResponse
from app.routes import counted

#: Bytes of one reply: four million pixels in base64. Read with malice they cost two seconds of a processor.
MOST_BYTES = 16 * 2**20
#: Replies that are read at once: one processor at most is kept from painting.
MOST = 2

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def diagnosis_routes(access: Access, patience: float) -> APIRouter:
    """`patience`: seconds without a byte of the reply. Costs no money, but needs a key as a picture does."""
    router = APIRouter()
    reading = 0

    @router.post("/explain", include_in_schema=False)
    async def diagnose(http: Request) -> Response:
        nonlocal reading
        access.admit(http.headers)
        if reading == MOST:
            raise RateLimited("Others have their replies explained. Please try again shortly.")
        reading += 1
        try:
            reply = b"".join([piece async for piece in counted(http, MOST_BYTES, patience)])
            # In a thread: pictures go on meanwhile.
            return await asyncio.to_thread(diagnosis, reply)
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            reading -= 1

    return router


def diagnosis(reply: bytes) -> Response:
    pasted = read_pasted(reply)
    return JsonResponse(document(pasted, explain(pasted.reply)), headers=_HEADERS)
