"""Diagnostic endpoints end when the server drains; tests/integration has them over real sockets."""

import asyncio

import pytest

from app.api.diagnostics import unless_draining
from app.errors import ServiceUnavailable


async def answer() -> str:
    return "done"


async def never() -> str:
    await asyncio.Event().wait()
    return "never"


def test_work_is_done_while_the_server_does_not_drain() -> None:
    async def scene() -> str:
        return await unless_draining(answer(), asyncio.Event())

    assert asyncio.run(scene()) == "done"


def test_work_is_cancelled_when_the_server_drains() -> None:
    async def scene() -> None:
        draining = asyncio.Event()
        asyncio.get_running_loop().call_soon(draining.set)
        await unless_draining(never(), draining)

    with pytest.raises(ServiceUnavailable, match="shutting down"):
        asyncio.run(scene())
