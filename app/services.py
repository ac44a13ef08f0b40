"""What the settings mean for each part of the server: how it is built from them."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from app import __version__
from app.access.auth import Authenticator
from app.access.concurrency import FairSemaphore
from app.access.keys import KeyFile
from app.access.limits import KeyLimits
from app.config.field_types import STANDARD_OUTPUT
from app.config.settings import Settings
from app.config.upstreams import UpstreamEntry
from app.errors import ApiError
from app.images.blob import Blob
from app.images.fetch import Fetcher
from app.images.store import ImageStore, StoreConfig
from app.images.transcode import Transcoder
from app.jobs.pipeline import Policy
from app.jobs.pipeline_io import Parts
from app.jobs.registry import Once
from app.jobs.service import Studio
from app.jobs.sharing import Handover
from app.jobs.usage_record import Books
from app.observability.ledger import Ledger
from app.observability.logging import log
from app.observability.metrics import sample_gauges
from app.observability.tracing import OtlpTracing
from app.state.circuit_reports import exchange_circuit_reports
from app.state.job_table import Board
from app.state.shared_state import SharedState
from app.upstream.client import Upstream, open_transport
from app.upstream.pool import Member, Upstreams
from app.upstream.spec import UpstreamSpec


def open_access(settings: Settings, book: KeyFile | None) -> Authenticator:
    keys = (key.get_secret_value() for key in settings.api_keys)
    return Authenticator(keys, pass_through=settings.pass_through, key_file=book)


def policy(settings: Settings) -> Policy:
    return Policy(
        stream=settings.upstream_stream,
        default_format=settings.default_response_format,
        rehost=settings.rehost,
        mask=settings.mask,
        pass_links=settings.pass_image_urls,
    )


def store_config(settings: Settings) -> StoreConfig:
    return StoreConfig(
        url=settings.image_store,
        ttl=settings.image_ttl,
        max_bytes=settings.image_store_max_bytes,
        key=settings.image_store_key,
        serve=settings.store_serve,
    )


def open_books(settings: Settings) -> Books:
    to_stdout = settings.ledger == STANDARD_OUTPUT
    ledger = None if settings.ledger is None else Ledger(None if to_stdout else settings.ledger)
    tracing = None if settings.traces is None else OtlpTracing(settings.traces, __version__)
    return Books(ledger, tracing, log_prompts=settings.log_prompts)


def open_once(settings: Settings) -> Once:
    return Once(
        ttl=settings.answer_ttl,
        key_ttl=settings.idempotency_ttl,
        most=settings.max_answers,
        most_bytes=settings.max_answers_bytes,
    )


def turns(settings: Settings) -> int:
    """No more than the upstreams take together: the rest waits in the queue, which is fair between callers."""
    limits = [entry.max_concurrency for entry in settings.effective_upstreams]
    all_of_them = sum(limit for limit in limits if limit is not None)
    return settings.max_concurrency if None in limits else min(settings.max_concurrency, all_of_them)


def open_upstreams(settings: Settings) -> Upstreams:
    transport = open_transport()
    specs = [upstream_spec(entry, settings) for entry in settings.effective_upstreams]
    return Upstreams(
        [Member(spec, Upstream(spec, transport)) for spec in specs],
        timeout=settings.upstream_timeout,
        attempts=settings.upstream_attempts,
        ambiguous=settings.retry_ambiguous,
    )


def upstream_spec(entry: UpstreamEntry, settings: Settings) -> UpstreamSpec:
    return UpstreamSpec(
        name=entry.name,
        models=entry.model_map,
        dialect=entry.dialect,
        priority=entry.priority,
        weight=entry.weight,
        max_concurrency=entry.max_concurrency,
        base_url=entry.base_url,
        api_key=entry.api_key,
        timeout=settings.upstream_timeout,
        connect_timeout=settings.upstream_connect_timeout,
        idle_timeout=settings.upstream_idle_timeout,
        max_reply_bytes=4 * settings.max_image_bytes * 4 // 3,
        user_agent=f"limner/{__version__}",
        origin={field: settings.location_of(entry, field) for field in ("base_url", "api_key", "model")},
    )


#: Seconds between two sweeps of the image store, at most.
_SWEEP = 600.0


@asynccontextmanager
async def open_parts(settings: Settings, store: ImageStore, books: Books, app: FastAPI) -> AsyncGenerator[None, None]:
    """Everything that needs an event loop; closed in the opposite order, after the questions under way have ended."""
    new_blob = partial(Blob, settings.spool_dir)
    fetcher = Fetcher(
        new_blob=new_blob,
        allow=settings.fetch_allow,
        timeout=settings.fetch_timeout,
        max_bytes=settings.max_image_bytes,
    )
    transcoder = Transcoder(new_blob=new_blob)
    upstreams = open_upstreams(settings)
    once = open_once(settings)
    state = SharedState(settings.shared_state, fail_closed=settings.state_down == "closed")
    board = Board(state, ttl=settings.answer_ttl, key_ttl=settings.idempotency_ttl)
    studio = Studio(
        turns=FairSemaphore(turns(settings), settings.max_queue),
        limits=KeyLimits(state, settings.max_queue),
        parts=Parts(upstreams, fetcher, transcoder, store, board, settings.shrink_inputs, settings.public_url),
        policy=policy(settings),
        once=once,
        handover=Handover(once, board, store),
        keepalive_after=settings.keepalive_after,
    )
    app.state.studio = studio
    beside = [asyncio.create_task(work) for work in recurring(settings, studio, store, state)]
    try:
        yield
    finally:
        await studio.drain(settings.shutdown_grace)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        once.close()
        await state.close()
        await upstreams.close()
        await fetcher.close()
        transcoder.close()
        store.close()
        await books.close()


def recurring(
    settings: Settings, studio: Studio, store: ImageStore, state: SharedState
) -> list[Coroutine[Any, Any, None]]:
    return [
        sweep(store, studio.once, min(_SWEEP, settings.image_ttl, settings.answer_ttl)),
        sample_gauges(studio.turns, studio.parts.upstreams.circuits),
        studio.handover.beat(),
        exchange_circuit_reports(state, studio.parts.upstreams),
    ]


async def sweep(store: ImageStore, once: Once, seconds: float) -> None:
    while True:
        once.sweep()
        try:
            log.debug("store_purge", removed=await store.delete_expired())
        except ApiError as error:
            log.warning("store_purge_failed", error=error.detail)
        await asyncio.sleep(seconds)
