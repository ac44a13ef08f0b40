"""Every long-lived object of the server: built from the settings, opened and closed in order."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from app import __version__
from app.access.auth import Authenticator
from app.access.capacity import Capacity, count_open_descriptors, descriptor_limit, free_bytes
from app.access.concurrency import FairSemaphore
from app.access.key_usage import KeyUsage
from app.access.keys import KeyFile
from app.access.limits import KeyLimits
from app.access.webhook_secrets import WebhookSecrets
from app.config.connections import DIRECT
from app.config.field_types import STANDARD_OUTPUT
from app.config.settings import Settings
from app.config.upstreams import UpstreamEntry
from app.errors import ApiError
from app.images.blob import Blob, Spool, SpoolMemory
from app.images.fetch import Fetcher
from app.images.guarded_http import GuardedHttp
from app.images.signer import Signer, SigningKey, load_signing_key
from app.images.spare_files import MAX_SPARE_BYTES, SpareFiles
from app.images.store import ImageStore, StoreConfig
from app.images.stores import open_store
from app.images.transcode import Transcoder
from app.jobs.job import Job
from app.jobs.pipeline_interface import PipelinePolicy
from app.jobs.pipeline_io import Backends
from app.jobs.registry import JobRegistry
from app.jobs.service import ImageService
from app.jobs.sharing import JobSharing
from app.jobs.tasks import ImageTasks
from app.jobs.usage_record import UsageRecorder
from app.jobs.webhook_sender import HEADERS, WebhookSender
from app.jobs.webhooks import Webhooks
from app.observability.hourly import HourlyReports, HourlySummary
from app.observability.ledger import Ledger
from app.observability.logging import log
from app.observability.metrics import sample_gauges
from app.observability.tracing import OtlpTracing
from app.protocol.prices import PriceList
from app.state.circuit_reports import exchange_circuit_reports
from app.state.job_table import JobTable
from app.state.shared_state import SharedState
from app.state.timings import DEFAULT_TIMINGS, SharingTimings
from app.state.webhook_queue import WebhookQueue
from app.upstream.client import UpstreamClient
from app.upstream.pool import PoolMember, UpstreamPool
from app.upstream.spec import UpstreamSpec
from app.upstream.token_check import TokenCheck
from app.upstream.transport import Transport, open_transport

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
        tasks = [asyncio.create_task(work) for work in self.background_tasks()]
        try:
            yield
        finally:
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
        settings = self.settings
        return [
            purge_expired(
                self.store,
                self.registry,
                self.spool_memory.spare_files,
                min(_MAX_PURGE_INTERVAL, settings.image_ttl, settings.answer_ttl),
            ),
            sample_gauges(self.service.semaphore, self.pool.public_circuits),
            self.service.sharing.heartbeat_loop(),
            exchange_circuit_reports(self.state, self.pool),
            self.webhooks.send_forever(),
        ]


def open_key_file(settings: Settings) -> KeyFile | None:
    """Return the file of client keys, if there is one. Raises `InvalidKeyFile`."""
    names = [entry.name for entry in settings.effective_upstreams]
    return None if settings.keys_file is None else KeyFile(settings.keys_file, names)


def build_service(settings: Settings, state: SharedState, backends: Backends, registry: JobRegistry) -> ImageService:
    """Return what accepts requests for images."""
    return ImageService(
        semaphore=FairSemaphore(max_in_flight(settings), settings.max_queue),
        limits=KeyLimits(state, settings.max_queue, currency=settings.currency),
        backends=backends,
        policy=pipeline_policy(settings),
        registry=registry,
        sharing=JobSharing(registry, backends.job_table, backends.store),
        capacity=build_capacity(settings, backends.spool_memory.spare_files, registry.make_room),
    )


def build_webhooks(
    settings: Settings, state: SharedState, authenticator: Authenticator, service: ImageService
) -> Webhooks:
    """Return what tells clients that their asynchronous requests have ended."""
    http = GuardedHttp(
        headers=HEADERS, allow=settings.fetch_allow, proxy=download_proxy(settings), own_host=own_host(settings)
    )
    return Webhooks(
        queue=WebhookQueue(state),
        tasks=ImageTasks(
            service, service.backends.store, partial(Spool, settings.spool_dir, service.backends.spool_memory)
        ),
        sender=WebhookSender(http),
        secrets=build_webhook_secrets(settings, authenticator),
        # The file may allow them to a key at any time.
        is_used=settings.webhooks or settings.keys_file is not None,
    )


def build_webhook_secrets(settings: Settings, authenticator: Authenticator) -> WebhookSecrets:
    """Return what finds the secrets that sign webhooks."""
    root = settings.webhook_secret
    return WebhookSecrets(authenticator, None if root is None else root.get_secret_value().encode())


def own_host(settings: Settings) -> str | None:
    """Return the host under which clients reach this server, if it is known."""
    return None if settings.public_url is None else urlsplit(settings.public_url).hostname


def build_authenticator(settings: Settings, key_file: KeyFile | None) -> Authenticator:
    """Return what checks client keys."""
    keys = (key.get_secret_value() for key in settings.api_keys)
    return Authenticator(keys, pass_through=settings.pass_through, key_file=key_file)


def build_token_check(settings: Settings, pool: UpstreamPool) -> TokenCheck:
    """Return what checks the keys that callers bring for upstreams. Callers with a key of ours are known already."""
    is_needed = settings.pass_through and not settings.has_client_keys
    return TokenCheck([member.client for member in pool.members] if is_needed else [])


def pipeline_policy(settings: Settings) -> PipelinePolicy:
    """Return what the settings decide about each request."""
    return PipelinePolicy(
        stream=settings.upstream_stream,
        default_format=settings.default_response_format,
        rehost=settings.rehost,
        mask=settings.mask,
        credentials=settings.credentials,
        sign="never" if settings.sign_certificates is None else settings.sign,
        pass_links=settings.pass_image_urls,
        fetch_timeout=settings.fetch_timeout,
    )


def build_store_config(settings: Settings) -> StoreConfig:
    """Return where stored images are kept, and for how long."""
    return StoreConfig(
        url=settings.image_store,
        ttl=settings.image_ttl,
        max_bytes=settings.image_store_max_bytes,
        key=settings.image_store_key,
        serve=settings.store_serve,
    )


def build_usage_recorder(settings: Settings) -> UsageRecorder:
    """Return where usage records are written."""
    ledger = None if settings.ledger is None else Ledger(ledger_file(settings))
    tracing = None if settings.traces is None else OtlpTracing(settings.traces, __version__)
    # With a ledger file its lines are summed up, which are those of all workers.
    hourly = HourlySummary() if ledger_file(settings) is None else None
    return UsageRecorder(ledger, tracing, settings.log_prompts, hourly, settings.currency)


def ledger_file(settings: Settings) -> Path | None:
    """Return the file of the ledger; None if there is none, or if it is the standard output."""
    return None if settings.ledger == STANDARD_OUTPUT else settings.ledger


def build_backends(
    settings: Settings, transport: Transport | None, store: ImageStore, table: JobTable[Job]
) -> Backends:
    """Return what all jobs share."""
    memory = SpoolMemory(settings.spool_memory, spare_files=SpareFiles(MAX_SPARE_BYTES))
    new_blob = partial(Blob, settings.spool_dir, memory=memory)
    pool = build_pool(settings, transport)
    specs = [member.spec for member in pool.members]
    fetcher = Fetcher(
        new_blob=new_blob,
        certificates={spec.base_url: spec.tls_ca for spec in specs if spec.tls_ca is not None},
        allow=settings.fetch_allow,
        proxy=download_proxy(settings),
        timeout=settings.fetch_timeout,
        max_bytes=settings.max_image_bytes,
        own_host=own_host(settings),
    )
    transcoder = Transcoder(new_blob=new_blob, memory=settings.image_memory)
    limits, strips_location = settings.shrink_inputs, settings.strip_location
    signer = build_signer(settings, new_blob)
    return Backends(pool, fetcher, transcoder, store, table, limits, strips_location, signer, memory)


def signing_key(settings: Settings) -> SigningKey | None:
    """Return the key that signs converted images, if there is one, after it has signed a sample.

    Raises:
        InvalidSigner: The certificate or the key cannot be used.
    """
    if settings.sign_certificates is None or settings.sign_key is None:
        return None
    return load_signing_key(settings.sign_certificates, settings.sign_key.get_secret_value())


def build_signer(settings: Settings, new_blob: Callable[[], Blob] = Blob) -> Signer | None:
    """Return what signs converted images, None if there is no certificate.

    Raises:
        InvalidSigner: The certificate or the key cannot be used.
    """
    key = signing_key(settings)
    if key is None:
        return None
    log.info("signing_ready", subject=key.subject, algorithm=key.algorithm, until=key.until.isoformat())
    return Signer(
        key,
        version=__version__,
        timestamps=settings.sign_timestamps,
        new_blob=new_blob,
        memory=settings.image_memory,
    )


def build_capacity(settings: Settings, spare_files: SpareFiles, make_room: Callable[[int], bool]) -> Capacity:
    """Return what refuses work for which this machine has no room, and calls `make_room` before that."""
    folder = Path(tempfile.gettempdir()) if settings.spool_dir is None else settings.spool_dir
    return Capacity(
        free_bytes=lambda: free_bytes(folder) + spare_files.size,
        open_descriptors=count_open_descriptors,
        descriptor_limit=descriptor_limit,
        max_uploads=settings.max_upload_bytes,
        max_image_bytes=settings.max_image_bytes,
        make_room=make_room,
    )


def build_registry(settings: Settings, timings: SharingTimings) -> JobRegistry:
    """Return the empty registry of jobs."""
    return JobRegistry(
        ttl=settings.answer_ttl,
        key_ttl=settings.idempotency_ttl,
        max_retained=settings.max_answers,
        max_retained_bytes=settings.max_answers_bytes,
        delivered_ttl=timings.delivered,
    )


def max_in_flight(settings: Settings) -> int:
    """Return how many upstream requests may be in flight: no more than all upstreams take together.

    All others wait in the queue, which is fair between callers.
    """
    limits = [entry.max_concurrency for entry in settings.effective_upstreams]
    total = sum(limit for limit in limits if limit is not None)
    return settings.max_concurrency if None in limits else min(settings.max_concurrency, total)


def build_pool(settings: Settings, transport: Transport | None = None) -> UpstreamPool:
    """Return the pool of all upstreams. Those that are reached in the same way share a transport.

    `transport` replaces all of them.
    """
    specs = [build_spec(entry, settings, number) for number, entry in enumerate(settings.effective_upstreams, 1)]
    ways = {(spec.proxy, spec.tls_ca): spec for spec in specs}
    transports = {way: open_transport(spec) if transport is None else transport for way, spec in ways.items()}
    return UpstreamPool(
        [PoolMember(spec, UpstreamClient(spec, transports[spec.proxy, spec.tls_ca])) for spec in specs],
        timeout=settings.upstream_timeout,
        attempts=settings.upstream_attempts,
        ambiguous=settings.retry_ambiguous,
    )


def build_spec(entry: UpstreamEntry, settings: Settings, number: int) -> UpstreamSpec:
    """Return one `[[upstreams]]` table as the pool needs it, with the settings that hold for all upstreams.

    `number` is its place in the list, from 1.
    """
    return UpstreamSpec(
        name=entry.name,
        alias=f"upstream-{number}",
        models=entry.model_map,
        dialect=entry.dialect.build(),
        priority=entry.priority,
        weight=entry.weight,
        max_concurrency=entry.max_concurrency,
        base_url=entry.base_url,
        api_key=entry.api_key,
        timeout=entry.timeout or settings.upstream_timeout,
        has_own_timeout=entry.timeout is not None,
        connect_timeout=settings.upstream_connect_timeout,
        idle_timeout=entry.idle_timeout or settings.upstream_idle_timeout,
        headers=entry.headers,
        proxy=proxy_of(entry, settings),
        tls_ca=entry.tls_ca or settings.upstream_tls_ca,
        stream=entry.stream,
        max_images_bytes=entry.max_images_bytes or settings.upstream_max_images_bytes,
        origin_downloads_with_key=settings.upstream_origin_downloads_with_key
        if entry.origin_downloads_with_key is None
        else entry.origin_downloads_with_key,
        max_reply_bytes=4 * settings.max_image_bytes * 4 // 3,
        user_agent=entry.user_agent or settings.upstream_user_agent or f"limner/{__version__}",
        prices=PriceList(settings.currency, tuple(row.build() for row in entry.prices)),
        origin={field: settings.location_of(entry, field) for field in ("base_url", "api_key", "model", "dialect")},
    )


def proxy_of(entry: UpstreamEntry, settings: Settings) -> SecretStr | None:
    """Return the proxy through which an upstream is reached."""
    proxy = entry.proxy or settings.upstream_proxy
    return None if _address_of(proxy) is None else proxy


def download_proxy(settings: Settings) -> str | None:
    """Return the address of the proxy through which images are downloaded."""
    return _address_of(settings.fetch_proxy or settings.upstream_proxy)


def _address_of(proxy: SecretStr | None) -> str | None:
    address = None if proxy is None else proxy.get_secret_value()
    return None if address == DIRECT else address


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
