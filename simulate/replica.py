"""One replica: the job layer of Limner as `Services.build` puts it together, on a loop and a network of the simulation."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from pydantic import SecretStr
from starlette.requests import Request

from app.access.auth import Authenticator, Caller
from app.access.capacity import Capacity
from app.access.concurrency import FairSemaphore
from app.access.limits import KeyLimits
from app.api.context import RequestContext, set_context
from app.api.delivery import KeepAlive
from app.api.images import ImageEndpoints
from app.api.responses import ErrorResponse
from app.config.settings import Settings
from app.errors import ApiError, ImageUnavailable, SpoolFull
from app.images.blob import Blob, Spool
from app.images.fetch import Fetcher
from app.images.input_limits import InputLimits
from app.images.store import StoredImage, store_failed
from app.images.transcode import Transcoder
from app.jobs.job import Job
from app.jobs.pipeline_interface import PipelinePolicy
from app.jobs.pipeline_io import Backends
from app.jobs.registry import JobRegistry
from app.jobs.service import ImageService, JobReader, Submission
from app.jobs.sharing import JobSharing
from app.jobs.tasks import ImageTasks
from app.jobs.usage_record import UsageRecorder
from app.jobs.webhooks import Webhooks
from app.protocol.image_format import ImageInfo
from app.protocol.parameters import Operation
from app.state.job_table import JobTable
from app.state.shared_state import SharedState
from app.state.timings import SharingTimings
from app.upstream.client import UpstreamClient
from app.upstream.pool import PoolMember, UpstreamPool
from app.upstream.spec import ModelMap, UpstreamSpec
from app.upstream.token_check import TokenCheck
from simulate.clock import Clock, ReplicaLoop
from simulate.images import call_of, call_of_link, image_of
from simulate.redis import SimulatedRedis, SimulatedRedisClient
from simulate.upstream import SimulatedTransport, SimulatedUpstream

#: The shape of the defaults; a look at another replica's job is rarer, since each costs time here.
TIMINGS = SharingTimings(heartbeat=2.0, suspect_after=5.0, dead_after=15.0, poll=1.0)

#: Seconds: of one request, of silence within a reply.
UPSTREAM_TIMEOUT, IDLE_TIMEOUT = 30.0, 10.0

#: Kept results of each replica: few, so that some are evicted.
MAX_RETAINED = 9

_SETTINGS = Settings(_env_file=None, upstream_base_url="https://upstream.example/v1", upstream_api_key="sk-up")


@dataclass(slots=True)
class Outside:
    """What all replicas share, and what goes wrong there.

    Attributes:
        failing_downloads: How many downloads of the images of each prompt fail from now on, and how.
        full_disk: There is no room for an image, before it is asked for.
        on_charge: Takes the task of each request that is charged.
        on_joined: Takes the id of each request that has joined a job, and that of the job.
        full_store: The image store takes nothing.
    """

    clock: Clock
    chance: Random
    redis: SimulatedRedis
    upstream: SimulatedUpstream
    fail_closed: bool = False
    keepalive_after: float = 240.0
    is_shared: bool = True
    failing_downloads: dict[str, list[str]] = field(default_factory=dict)
    full_store: bool = False
    full_disk: bool = False
    on_charge: Callable[[object], None] = lambda _: None
    on_joined: Callable[[str, str], None] = lambda *_: None
    stored: dict[str, bytes] = field(default_factory=dict)


class SimulatedFetcher:
    """Downloads images, after a while, or fails."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    async def fetch(self, url: str, _: object = None) -> Blob:
        outside = self._outside
        call = call_of_link(url)
        await asyncio.sleep(0.005 + 0.5 * outside.chance.random() ** 4)
        failures = outside.failing_downloads.get(outside.upstream.calls[call - 1].prompt)
        if failures:
            raise _DOWNLOAD_FAILURES[failures.pop()]()
        blob = Blob()
        blob.write(image_of(call))
        return blob

    async def probe(self, url: str, _: object = None, *, patient: bool = True) -> Blob:
        return await self.fetch(url)

    async def is_public(self, url: str, _: object = None) -> bool:
        return True


_DOWNLOAD_FAILURES: dict[str, Callable[[], Exception]] = {
    "gone": lambda: ImageUnavailable("The image could not be downloaded: status 404."),
    "spool full": lambda: SpoolFull("The server has no room left for this image."),
    "no descriptors": lambda: OSError(24, "Too many open files"),
}

DOWNLOAD_FAILURES = tuple(_DOWNLOAD_FAILURES)


class SimulatedStore:
    """The image store of all replicas."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    async def put(self, blob: Blob, info: ImageInfo) -> str:
        outside = self._outside
        await asyncio.sleep(0.002 + 0.1 * outside.chance.random() ** 4)
        if outside.full_store:
            raise store_failed("full")
        data = blob.read_at(0, blob.size)
        name = f"{call_of(data):06d}-{len(outside.stored)}.{info.extension}"
        outside.stored[name] = data
        return name

    async def url_for(self, name: str) -> str | None:
        return None

    async def get(self, name: str) -> StoredImage | None:
        data = self._outside.stored.get(name)
        if data is None:
            return None

        async def read(offset: int, size: int) -> bytes:
            return data[offset : offset + size]

        return StoredImage(name, len(data), 0.0, read)

    async def free_bytes(self) -> int | None:
        return None

    async def delete_expired(self) -> int:
        return 0

    def close(self) -> None: ...


class SimulatedLimits(KeyLimits):
    """Tells the checker of each charge. The callers here have no limits."""

    def __init__(self, state: SharedState, outside: Outside) -> None:
        super().__init__(state, 64)
        self._outside = outside

    async def charge(self, caller: Caller, images: int) -> dict[str, str]:
        self._outside.on_charge(asyncio.current_task())
        return await super().charge(caller, images)


@dataclass(slots=True)
class SimulatedService(ImageService):
    """Tells the checker which job each request has joined."""

    outside: Outside = field(kw_only=True)

    async def submit(self, submission: Submission) -> JobReader:
        reader = await ImageService.submit(self, submission)
        if reader.job.id != submission.id:
            self.outside.on_joined(submission.id, reader.job.id)
        return reader


class Replica:
    """One server process. `number` stays the same when it is started again."""

    def __init__(self, number: int, outside: Outside) -> None:
        self.number, self.outside = number, outside
        self.loop = ReplicaLoop(outside.clock)  # type: ignore[abstract]  # reason: only what is used is there
        self.state = SharedState("memory:", fail_closed=outside.fail_closed, now=self.loop.time)
        if outside.is_shared:
            # Given here, since the client of a real Redis would open sockets.
            self.state._redis = cast(Any, SimulatedRedisClient(outside.redis, self.loop))
            self.state.is_shared = True
        self.table = JobTable[Job](self.state, ttl=600, key_ttl=86_400, timings=TIMINGS)
        self.service = self._build_service()
        self.endpoints = ImageEndpoints(
            settings=_SETTINGS,
            authenticator=Authenticator([], pass_through=False),
            token_check=TokenCheck(()),
            recorder=UsageRecorder(),
            service=self.service,
            tasks=ImageTasks(self.service, self.service.backends.store, Spool, self.loop.time),
            webhooks=cast(Webhooks, None),  # No request names one.
            keepalive=KeepAlive(outside.keepalive_after),
            new_spool=Spool,
        )
        self.loop.start(self.service.sharing.heartbeat_loop())

    def _build_service(self) -> ImageService:
        outside = self.outside
        store = SimulatedStore(outside)
        registry = JobRegistry(
            ttl=600, key_ttl=86_400, max_retained=MAX_RETAINED, max_retained_bytes=2**30, now=self.loop.time
        )
        fetcher = cast(Fetcher, SimulatedFetcher(outside))
        transcoder = cast(Transcoder, None)  # No image is converted.
        return SimulatedService(
            outside=outside,
            semaphore=FairSemaphore(8, 64),
            limits=SimulatedLimits(self.state, outside),
            backends=Backends(self._build_pool(), fetcher, transcoder, store, self.table, InputLimits(2**24, 4096)),
            policy=PipelinePolicy(),
            registry=registry,
            sharing=JobSharing(registry, self.table, store),
            capacity=Capacity(
                free_bytes=lambda: 0 if outside.full_disk else 2**40,
                open_descriptors=lambda: 10,
                descriptor_limit=lambda: 10_000,
                max_image_bytes=2**26,
                max_uploads=2**30,
                clock=self.loop.time,
            ),
        )

    def _build_pool(self) -> UpstreamPool:
        outside, clock = self.outside, self.loop.time
        transport = SimulatedTransport(outside.upstream, self.loop, self.number)
        members = [
            PoolMember(spec, UpstreamClient(spec, transport, monotonic=clock, now=clock))
            for spec in (_spec("first", 0), _spec("second", 1))
        ]
        return UpstreamPool(members, timeout=UPSTREAM_TIMEOUT, monotonic=clock, chance=outside.chance.random)

    @property
    def is_alive(self) -> bool:
        return not self.loop.is_dead

    def kill(self) -> None:
        self.loop.is_dead = self.loop.is_stopped = True

    def serve(self, exchange: "Exchange") -> None:
        """Take a request from the network."""
        if self.is_alive:
            exchange.task = self.loop.start(self._answer(exchange))

    async def _answer(self, exchange: "Exchange") -> None:
        scope = exchange.scope
        http = Request(scope, exchange.receive)
        try:
            if exchange.result_id is None:
                response = await self.endpoints.handle(Operation.GENERATION, http)
            else:
                response = await self.endpoints.result(exchange.result_id, http)
        except ApiError as error:
            response = ErrorResponse(error)
        await response(scope, exchange.receive, exchange.send)


def _spec(name: str, priority: int) -> UpstreamSpec:
    return UpstreamSpec(
        name=name,
        models=ModelMap("painter", {}),
        priority=priority,
        base_url="https://upstream.example/v1",
        api_key=SecretStr("sk-up"),
        timeout=UPSTREAM_TIMEOUT,
        idle_timeout=IDLE_TIMEOUT,
    )


class Exchange:
    """One HTTP request at a replica and its response, seen from the server.

    Attributes:
        on_end: Called with the status, the headers and the body when the last byte was written.
        stalls: Seconds that the client's slow reading holds up each write.
        disconnected_at: When the replica noticed that the client has left.
    """

    def __init__(
        self,
        replica: Replica,
        request_id: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        on_end: Callable[["Exchange"], None],
        *,
        result_id: str | None = None,
        stalls: float = 0.0,
    ) -> None:
        self.replica, self.result_id, self.on_end, self.stalls = replica, result_id, on_end, stalls
        self.status, self.headers, self.body = 0, dict[str, str](), bytearray()
        self.disconnected_at: float | None = None
        self.task: asyncio.Task[None] | None = None
        self._request: bytes | None = body
        self._gone: asyncio.Future[None] = replica.loop.create_future()
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST" if result_id is None else "GET",
            "scheme": "http",
            "path": "/v1/images/generations" if result_id is None else f"/v1/images/results/{result_id}",
            "query_string": b"",
            "root_path": "",
            "server": ("limner.example", 80),
            "headers": [(b"host", b"limner.example"), *headers],
        }
        set_context(self.scope, RequestContext(request_id))

    def disconnect(self) -> None:
        """Let the replica notice that the client has left."""
        if self.disconnected_at is None:
            self.disconnected_at = self.replica.loop.time()
        if not self._gone.done():
            self._gone.set_result(None)

    async def receive(self) -> dict[str, Any]:
        if self._request is not None:
            body, self._request = self._request, None
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.shield(self._gone)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        if self.stalls and self.disconnected_at is None:
            await asyncio.wait((self._gone,), timeout=self.stalls)
        self.body += message["body"]
        if not message.get("more_body"):
            self.on_end(self)
