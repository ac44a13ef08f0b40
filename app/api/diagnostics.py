"""Serve two tools for setting up a server: `POST /v1/explain` and `GET /v1/silence/SECONDS`.

The first reports which images a pasted chat reply holds, as `limner explain` does. The second stays silent for a while,
to find out which proxies or clients close a silent connection.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.access.auth import Authenticator, Caller
from app.access.capacity import Capacity
from app.access.concurrency import FairSemaphore
from app.api.body import LimitedBody, announced_bytes
from app.api.disconnects import DisconnectWatcher
from app.api.responses import ClientDisconnected, OrjsonResponse
from app.api.route_table import RouteTable
from app.errors import SHUTTING_DOWN, InvalidRequest, RateLimited, ServiceUnavailable
from app.extraction.explain import json_report, parse_pasted
from app.extraction.forms import explain
from app.images.blob import Blob
from app.upstream.mending import place_of_error

T = TypeVar("T")

#: Bytes of one pasted reply: enough for four million pixels in base64. A malicious one costs two seconds of CPU time.
MAX_REPLY_BYTES = 16 * 2**20
#: Replies that are analyzed at once, because more would take CPU time away from image requests; and how many may wait.
MAX_CONCURRENT_EXPLAINS, MAX_WAITING_EXPLAINS = 2, 16

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def explain_routes(
    authenticator: Authenticator,
    capacity: Capacity,
    draining: asyncio.Event,
    *,
    new_blob: Callable[[], Blob],
    timeout: float,
) -> RouteTable:
    """Return the route that explains a reply. It costs no money, but needs a client key as image requests do.

    Args:
        authenticator: Identifies callers.
        capacity: Counts the body among the uploads of its caller.
        draining: Set when the server drains, which ends every request that is still being received.
        new_blob: Makes the blobs for bodies. Clients that send slowly hold little memory.
        timeout: Seconds in which a part of the body has to arrive.
    """
    router = RouteTable()
    # Taken once the whole body is here: a client that sends slowly keeps no slot from others.
    slots = FairSemaphore(MAX_CONCURRENT_EXPLAINS, MAX_WAITING_EXPLAINS)

    async def receive(http: Request, caller: Caller, blob: Blob) -> None:
        with capacity.upload(caller.id, announced_bytes(http, MAX_REPLY_BYTES)) as upload:
            async for chunk in LimitedBody(http, MAX_REPLY_BYTES, timeout, upload.add):
                blob.write(chunk)

    @router.add("/explain", ("POST",))
    async def diagnose(http: Request) -> Response:
        caller = authenticator.authenticate(http.headers)
        with closing(new_blob()) as blob:
            try:
                await unless_draining(receive(http, caller, blob), draining)
                async with slots.acquire(caller.id):
                    # In a thread, so that the event loop keeps serving other requests.
                    return await asyncio.to_thread(explain_reply, blob)
            except ClientDisconnect:
                return Response(status_code=499)

    return router


async def unless_draining(work: Coroutine[None, None, T], draining: asyncio.Event) -> T:
    """Return what `work` gives, or cancel it when the server drains.

    Raises:
        ServiceUnavailable: The server drains.
    """
    tasks = asyncio.create_task(work), asyncio.create_task(draining.wait())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if draining.is_set():
            raise ServiceUnavailable(SHUTTING_DOWN)
        return await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def explain_reply(blob: Blob) -> Response:
    data = blob.read_at(0, blob.size)
    pasted = parse_pasted(data)
    report = json_report(pasted, explain(pasted.reply))
    if not report["found"] and (place := place_of_error(data, is_error=pasted.reply.error is not None)):
        report["mend"] = place
    return OrjsonResponse(report, headers=_HEADERS)


#: The longest silence.
MAX_SILENCE_SECONDS = 900
#: How many requests may wait at once, of one caller and of all: each holds a connection.
MAX_SILENCES_OF_CALLER, MAX_SILENCES = 4, 64


def silence_routes(
    authenticator: Authenticator, draining: asyncio.Event, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> RouteTable:
    """Return the route that stays silent. It costs no money, but needs a client key; draining ends each silence."""
    router = RouteTable()
    waiting: Counter[str] = Counter()

    async def pause(seconds: float) -> None:
        await sleep(seconds)

    @router.add("/silence/{seconds}", ("GET",))
    async def silence(seconds: str, http: Request) -> Response:
        nonlocal waiting
        caller = authenticator.authenticate(http.headers).id
        length = parse_seconds(seconds)
        if waiting[caller] == MAX_SILENCES_OF_CALLER or waiting.total() == MAX_SILENCES:
            raise RateLimited("Too many requests wait at this endpoint. Please try again shortly.")
        waiting[caller] += 1
        watcher = DisconnectWatcher.of(http)
        try:
            await watcher.wait_for(unless_draining(pause(length), draining), None)
        except ClientDisconnected:
            return Response(status_code=499)
        finally:
            watcher.cancel()
            # Unlike `waiting[caller] -= 1`, this removes callers that have no waiting request.
            waiting -= Counter([caller])
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
