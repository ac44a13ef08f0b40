"""A reply for which the disk has no room: its image was paid for, so it is delivered from memory, or no retry invited."""

import asyncio
import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.images import blob
from app.protocol.data_url import image_data_url
from tests.support import billing_upstream
from tests.support.billing_upstream import BilledLimner, BillingUpstream, billed_limner
from tests.support.sample_images import noise, saved

IMAGE = saved(noise((700, 700)), "PNG")


@dataclass(frozen=True, slots=True)
class Shortage:
    """`function`: what fails, of `module`; at its first `successes` calls it does not."""

    name: str
    module: Any
    function: str
    number: int
    successes: int = 0


SHORTAGES = [
    Shortage("no file can be made", tempfile, "TemporaryFile", errno.ENOSPC),
    Shortage("no descriptor is left for a file", tempfile, "TemporaryFile", errno.EMFILE),
    Shortage("the folder is gone", tempfile, "TemporaryFile", errno.ENOENT),
    Shortage("the disk fails", os, "write", errno.EIO, 1),
    Shortage("nothing can be written", os, "write", errno.ENOSPC),
    Shortage("the disk becomes full within the image", os, "write", errno.ENOSPC, 1),
    Shortage("the quota is used up within the image", os, "write", errno.EDQUOT, 2),
]


def failing(shortage: Shortage) -> Callable[..., Any]:
    real, left = getattr(shortage.module, shortage.function), shortage.successes

    def fail(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(shortage.number, os.strerror(shortage.number))
        return real(*args, **options)

    return fail


@pytest.fixture(autouse=True)
def large_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(billing_upstream, "IMAGE", image_data_url(IMAGE))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda shortage: shortage.name)
def test_an_image_for_which_the_disk_has_no_room_is_delivered(
    shortage: Shortage, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = BillingUpstream()

    async def play() -> tuple[httpx.Response, int]:
        async with billed_limner(upstream, tmp_path, spool_memory="0") as limner:
            with monkeypatch.context() as full:
                full.setattr(shortage.module, shortage.function, failing(shortage))
                return await limner.generate(stream=stream), limner.services.spool_memory.used

    response, used = asyncio.run(play())
    assert response.status_code == 200, response.text
    assert image_data_url(IMAGE).partition(",")[2] in response.text
    assert (len(upstream.bill), used) == (1, len(IMAGE))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["a full disk", "a disk that fails"])
@pytest.mark.parametrize("key", [{}, {"idempotency-key": "k"}], ids=["without a key", "under a key"])
def test_where_no_memory_is_left_either_no_retry_is_invited(
    key: dict[str, str], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = BillingUpstream()

    async def ask(limner: BilledLimner) -> httpx.Response:
        body = {"model": "gpt-image-2", "prompt": "a fox"}
        return await limner.http.post("/v1/images/generations", json=body, headers=key)

    async def play() -> list[httpx.Response]:
        async with billed_limner(upstream, tmp_path, spool_memory="0") as limner:
            with monkeypatch.context() as full:
                full.setattr(blob, "RESCUE_MEMORY", len(IMAGE) - 1)
                full.setattr(os, "write", failing(Shortage("", os, "write", number, 1)))
                lost = await ask(limner)
            assert limner.services.spool_memory.used == 0
            return [lost, await ask(limner)]

    lost, again = asyncio.run(play())
    error = lost.json()["error"]
    assert (lost.status_code, lost.headers["x-should-retry"], error["code"]) == (500, "false", "question_lost")
    assert "Asked again, it is paid for again." in error["message"]
    # The client has been told. Its next request without a key is its own decision; one under the key never pays twice.
    assert (again.status_code, len(upstream.bill)) == ((500, 1) if key else (200, 2))


@dataclass(frozen=True, slots=True)
class FullStore:
    name: str
    parameters: dict[str, Any]
    settings: dict[str, Any]
    status: int


FULL_STORES = [
    FullStore("a link is wanted", {"response_format": "url"}, {}, 503),
    FullStore("a link is the default of the model", {"model": "dall-e-3"}, {}, 503),
    FullStore("a link is the operator's default", {}, {"default_response_format": "url"}, 503),
    FullStore("bytes are wanted", {"response_format": "b64_json"}, {}, 200),
    FullStore("a stream carries bytes", {"response_format": "url", "stream": True}, {}, 200),
    FullStore("the operator stores nothing", {"response_format": "url"}, {"rehost": "never"}, 200),
]


@pytest.mark.parametrize("case", FULL_STORES, ids=lambda case: case.name)
def test_nothing_is_paid_for_that_the_image_store_has_no_room_for(case: FullStore, tmp_path: Path) -> None:
    """The same request is answered as soon as there is room again."""
    upstream = BillingUpstream()
    options: dict[str, Any] = {"image_store": f"disk://{tmp_path}/images", **case.settings}

    async def few() -> int:
        return 1000

    async def play() -> list[httpx.Response]:
        async with billed_limner(upstream, tmp_path, **options) as limner:
            store_of = limner.services.store
            free, store_of.free_bytes = store_of.free_bytes, few  # type: ignore[method-assign]
            first = await limner.generate(**case.parameters)
            assert len(upstream.bill) == (case.status == 200)
            store_of.free_bytes = free  # type: ignore[method-assign]
            return [first, await limner.generate(**case.parameters)]

    first, second = asyncio.run(play())
    assert (first.status_code, second.status_code) == (case.status, 200), first.text
    if case.status == 503:
        assert (first.headers["retry-after"], first.json()["error"]["code"]) == ("5", "server_is_overloaded")
