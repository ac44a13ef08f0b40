"""An upstream without sockets that keeps a bill, and fails in all the ways that cost money or do not."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import orjson

from app.config.settings import Settings
from app.main import create_app
from app.services.lifecycle import Services
from tests.support.sample_images import gradient, saved

IMAGE = f"data:image/png;base64,{base64.b64encode(saved(gradient(), 'PNG')).decode()}"


class BrokenBody(httpx.AsyncByteStream):
    """A body whose connection breaks off."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"id": "lo'
        raise httpx.ReadError("connection lost")


@dataclass
class BillingUpstream(httpx.AsyncBaseTransport):
    """The upstream. `bill` has a row for each request on which it has worked, in the columns of OpenRouter's export.

    Attributes:
        fault: Returns what happens to the next request: `ok`, `busy`, `refused`, `timeout`, `lost`, `broken`, `text`, or
            `silent`, a timeout before any work.
        cost: Returns what the next image costs.
        reports: Whether a reply says its cost.
        now: Seconds since 1970.
    """

    fault: Callable[[], str] = lambda: "ok"
    cost: Callable[[], str] = lambda: "0.04"
    reports: bool = True
    now: Callable[[], float] = lambda: 1_800_000_000.0
    headers: dict[str, str] = field(default_factory=dict)
    bill: list[dict[str, str]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        model = orjson.loads(await request.aread())["model"]
        fault, number = self.fault(), next(self._numbers)
        if fault == "silent":
            raise TimeoutError
        if fault == "refused":
            raise httpx.ConnectError("refused")
        if fault == "busy":
            return self._answer(429, {"error": {"message": "busy", "code": "rate_limit_exceeded"}}, number)
        cost, at = self.cost(), datetime.fromtimestamp(self.now(), UTC)
        row = {"generation_id": f"gen-{number}", "created_at": f"{at:%Y-%m-%d %H:%M:%S.%f}"[:-3]}
        self.bill.append({**row, "cost_total": cost, "model_permaslug": model})
        if fault == "timeout":
            raise TimeoutError
        if fault == "lost":
            raise httpx.ReadError("connection lost")
        if fault == "broken":
            return httpx.Response(200, headers={"content-type": "application/json"}, stream=BrokenBody())
        content = "I have no brush today." if fault == "text" else f"![image]({IMAGE})"
        usage: dict[str, Any] = {"prompt_tokens": 100, "completion_tokens": 4000}
        choice = {"index": 0, "message": {"content": content}, "finish_reason": "stop"}
        usage |= {"cost": float(cost)} if self.reports else {}
        return self._answer(200, {"id": f"gen-{number}", "choices": [choice], "usage": usage}, number)

    def _answer(self, status: int, document: dict[str, Any], number: int) -> httpx.Response:
        headers = {"content-type": "application/json", "x-request-id": f"up-{number}", **self.headers}
        return httpx.Response(status, headers=headers, content=orjson.dumps(document))


@dataclass(frozen=True)
class BilledLimner:
    """Limner in front of the upstream, in this process."""

    http: httpx.AsyncClient
    services: Services
    ledger: Path

    async def generate(self, key: str = "", **parameters: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {"model": "gpt-image-2", "prompt": "a fox", **parameters}
        return await self.http.post("/v1/images/generations", json=body, headers=headers)

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.ledger.read_bytes().splitlines()]


@asynccontextmanager
async def billed_limner(
    upstream: BillingUpstream, folder: Path, prices: tuple[dict[str, Any], ...] = (), **settings: Any
) -> AsyncIterator[BilledLimner]:
    entry = {"name": "main", "base_url": "https://up.example/v1", "api_key": "sk-up", "model": "m", "prices": prices}
    defaults = {"upstreams": [entry], "image_store": "memory:", "ledger": str(folder / "ledger.jsonl")}
    app = create_app(Settings(**{**defaults, **settings}), transport=upstream)
    # Retries do not wait.
    app.state.services.pool._sleep = lambda _: asyncio.sleep(0)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http,
    ):
        yield BilledLimner(http, app.state.services, folder / "ledger.jsonl")
