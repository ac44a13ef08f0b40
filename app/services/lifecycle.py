"""Build every long-lived object of one server, start them, and close them in order."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from app.access.auth import Authenticator
from app.access.key_usage import KeyUsage
from app.access.keys import KeyFile
from app.config.settings import Settings
from app.errors import ApiError
from app.images.blob import Blob, Spool, SpoolMemory
from app.images.spare_files import SpareFiles
from app.images.store import ImageStore
from app.images.stores import open_store
from app.jobs.job import Job
from app.jobs.pipeline_io import Backends
from app.jobs.registry import JobRegistry
from app.jobs.service import ImageService
from app.jobs.tasks import ImageTasks
from app.jobs.usage_record import UsageRecorder
from app.jobs.webhooks import Webhooks
from app.observability.hourly import HourlyReports, HourlySummary
from app.observability.logging import log
from app.observability.metrics import sample_gauges
from app.services.callers import build_authenticator, build_usage_recorder, build_webhooks, ledger_file, open_key_file
from app.services.images import build_backends, build_store_config
from app.services.jobs import build_registry, build_service
from app.services.upstreams import build_token_check
from app.state.circuit_reports import exchange_circuit_reports
from app.state.job_table import JobTable
from app.state.shared_state import SharedState
from app.state.timings import DEFAULT_TIMINGS, SharingTimings
from app.upstream.pool import UpstreamPool
from app.upstream.token_check import TokenCheck
from app.upstream.transport import Transport

#: Seconds between two purges of the image store, at most.
_MAX_PURGE_INTERVAL = 600.0


@dataclass(frozen=True, slots=True)
class Services:
    """All parts of one server. `build` makes them without an event loop; they work inside `running`."""

    settings: Settings
    authenticator: Authenticator
    key_file: KeyFile | None
    recorder: UsageRecorder
    state: SharedState
    backends: Backends
    registry: JobRegistry
    service: ImageService
    token_check: TokenCheck
    webhooks: Webhooks

    @classmethod
    def build(
        cls,
        settings: Settings,
        *,
        transport: Transport | None = None,
        timings: SharingTimings = DEFAULT_TIMINGS,
    ) -> "Services":
        """Build everything. `transport` sends the requests to upstreams, `timings` are those of the job table.

        Raises:
            InvalidKeyFile: The file of client keys cannot be read or used.
            InvalidSigner: The certificate or the key for signing cannot be used.
            OSError: The image store cannot be opened.
        """
        key_file = open_key_file(settings)
        store = open_store(build_store_config(settings))
        state = SharedState(settings.shared_state, fail_closed=settings.state_down == "closed")
        table = JobTable[Job](state, ttl=settings.answer_ttl, key_ttl=settings.idempotency_ttl, timings=timings)
        backends = build_backends(settings, transport, store, table)
        registry = build_registry(settings, timings)
        service = build_service(settings, state, backends, registry)
        authenticator = build_authenticator(settings, key_file)
        return cls(
            settings=settings,
            authenticator=authenticator,
            key_file=key_file,
            recorder=build_usage_recorder(settings),
            state=state,
            backends=backends,
            registry=registry,
            service=service,
            token_check=build_token_check(settings, backends.pool),
            webhooks=build_webhooks(settings, state, authenticator, service),
        )

    @property
    def spool_memory(self) -> SpoolMemory:
        """What the blobs of all requests hold in memory, and the files that they no longer need."""
        return self.backends.spool_memory

    def new_blob(self) -> Blob:
        """Return an empty blob that no spool owns."""
        return Blob(self.settings.spool_dir, memory=self.spool_memory)

    def new_spool(self) -> Spool:
        """Return an empty spool."""
        return Spool(self.settings.spool_dir, self.spool_memory)

    def hourly_reports(self) -> HourlyReports:
        """Return what sums up the last day, for the status."""
        return HourlyReports(self.recorder.hourly or HourlySummary(), ledger_file(self.settings))

    def key_usage(self) -> KeyUsage:
        """Return what reports the use of the limits of client keys, for the status."""
        file = self.key_file
        return KeyUsage(self.service.limits, lambda: () if file is None else file.keys, self.settings.currency)

    @property
    def pool(self) -> UpstreamPool:
        """The upstreams."""
        return self.backends.pool

    @property
    def store(self) -> ImageStore:
        """Where images are kept that need a URL."""
        return self.backends.store

    @property
    def tasks(self) -> ImageTasks:
        """What tells the states of asynchronous tasks."""
        return self.webhooks.tasks

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Run the background tasks. At the end, drain the service, then close everything in the opposite order."""
        self.backends.transcoder.start()
        if self.backends.signer is not None:
            self.backends.signer.start()
        if self.key_file is not None:
            self.key_file.watch()
        tasks = [asyncio.create_task(work) for work in self.background_tasks()]
        try:
            yield
        finally:
            if self.key_file is not None:
                self.key_file.close()
            await self.service.drain(self.settings.shutdown_grace)
            await self.webhooks.drain()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.registry.close()
            await self.state.close()
            await self.pool.close()
            await self.backends.fetcher.close()
            await self.webhooks.sender.http.close()
            self.spool_memory.spare_files.close()
            self.backends.transcoder.close()
            if self.backends.signer is not None:
                self.backends.signer.close()
            self.store.close()
            await self.recorder.close()

    def background_tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what goes on while the server runs, whether or not there are requests."""
        return [
            purge_expired(self.store, self.registry, self.spool_memory.spare_files, purge_interval(self.settings)),
            sample_gauges(self.service.semaphore, self.pool.public_circuits),
            self.service.sharing.heartbeat_loop(),
            exchange_circuit_reports(self.state, self.pool),
            self.webhooks.send_forever(),
        ]


def purge_interval(settings: Settings) -> float:
    """Return the seconds between two purges: nothing is there for more than twice as long as it should be."""
    return min(_MAX_PURGE_INTERVAL, settings.image_ttl, settings.answer_ttl)


async def purge_expired(
    store: ImageStore,
    registry: JobRegistry,
    spare_files: SpareFiles,
    seconds: float,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Drop expired jobs, stored images and spare files, every `seconds`, for ever."""
    while True:
        registry.drop_expired()
        spare_files.close()
        try:
            log.debug("store_purge", removed=await store.delete_expired())
        except ApiError as error:
            log.warning("store_purge_failed", error=error.detail)
        await sleep(seconds)
