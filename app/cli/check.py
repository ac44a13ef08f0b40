"""`limner check`: asks the configured upstream step by step, and stops at the first step that fails."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from app.config.settings import Settings
from app.errors import ApiError
from app.images.blob import Blob
from app.images.store import ImageStore, StoredImage
from app.images.stores import open_store
from app.main import create_app
from app.protocol.image_format import ImageInfo
from app.protocol.inline_images import placeholder_png
from app.services import store_config, upstream_spec
from app.state.shared_state import redis_address
from app.upstream.client import Upstream, open_transport

#: Seconds, and who waits no longer unless told otherwise.
CLIENT_TIMEOUTS = (
    (30, "Haystack and Heroku"),
    (60, "nginx, AWS load balancers, Spring AI and LangChain4j"),
    (100, "Cloudflare and .NET"),
    (120, "ruby-openai"),
    (600, "the OpenAI SDKs"),
)


def clients_that_time_out(seconds: float) -> str:
    """In words; empty where everybody waits."""
    known = [f"{who} ({limit} s)" for limit, who in CLIENT_TIMEOUTS if seconds >= limit]
    return ", ".join(known)


class TimingTransport(httpx.AsyncBaseTransport):
    """Seconds since the last question was sent: until the head of its answer came, and until the answer ended."""

    def __init__(self, transport: httpx.AsyncBaseTransport, now: Callable[[], float] = time.perf_counter) -> None:
        self.first_byte: float | None = None
        self.last_byte: float | None = None
        self._transport = transport
        self._now = now

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        began = self._now()
        response = await self._transport.handle_async_request(request)
        self.first_byte = self._now() - began
        response.stream = _TimedStream(response, lambda: self._stop(began))
        return response

    def _stop(self, began: float) -> None:
        self.last_byte = self._now() - began

    async def aclose(self) -> None:
        await self._transport.aclose()


class _TimedStream(httpx.AsyncByteStream):
    def __init__(self, response: httpx.Response, stop: Callable[[], None]) -> None:
        # Declared to be of either kind.
        self._stream: Any = response.stream
        self._stop = stop

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk
        self._stop()

    async def aclose(self) -> None:
        await self._stream.aclose()


class CheckFailed(Exception):
    """Why a step failed and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Check:
    """`run` says what it has found, or raises Failed."""

    name: str
    run: Callable[[Settings], Coroutine[Any, Any, str]]


def run_check(step: Check, settings: Settings) -> bool:
    """Whether it went well. Prints its line, with the milliseconds it took."""
    began = time.perf_counter()
    try:
        said = asyncio.run(step.run(settings))
    except CheckFailed as reason:
        print(f"FAIL  {step.name:<8} {reason}")
        return False
    print(f"ok    {step.name:<8} {said} ({(time.perf_counter() - began) * 1000:.0f} ms)")
    return True


#: A picture of some hundred bytes. Stores cannot remove one, so it stays for its time.
_SAMPLE = placeholder_png(0)

#: Seconds.
_TIMEOUT = 5.0


def environment_checks(settings: Settings) -> list[Check]:
    """Those for which there is something to ask."""
    keeps, shares = settings.rehost != "never", settings.shared_state != "memory:"
    return [*([Check("store", check_store)] if keeps else []), *([Check("state", check_state)] if shares else [])]


async def check_store(settings: Settings) -> str:
    try:
        store = open_store(store_config(settings))
    except OSError as error:
        raise CheckFailed(f"LIMNER_IMAGE_STORE cannot be opened: {error}") from None
    with closing(store):
        try:
            name = await write_sample(store, settings)
            stored = await store.get(name)
            data = b"" if stored is None else await read_sample(stored)
            link = await store.url_for(name)
        except ApiError as error:
            raise CheckFailed(error.detail or error.message) from None
    if data != _SAMPLE:
        raise CheckFailed("what LIMNER_IMAGE_STORE was given cannot be read back")
    return f"a picture written and read; {await check_link(link)}"


async def write_sample(store: ImageStore, settings: Settings) -> str:
    with closing(Blob(settings.spool_dir)) as blob:
        blob.write(_SAMPLE)
        return await store.put(blob, ImageInfo("image/png", 8, 8, alpha=False))


async def read_sample(stored: StoredImage) -> bytes:
    with closing(stored):
        return await stored.read(0, stored.size)


async def check_link(link: str | None) -> str:
    """A link that only clients can reach is none that fails."""
    if link is None:
        return "served by this server"
    host = urlsplit(link).netloc
    try:
        tls = ssl.create_default_context()
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT, verify=tls) as http:
            response = await http.get(link)
    except httpx.HTTPError as error:
        return f"its link to {host} cannot be reached from here: {type(error).__name__}"
    if response.content != _SAMPLE:
        raise CheckFailed(f"the link to {host} answers {response.status_code} in place of the picture")
    return f"its link to {host} works"


async def check_state(settings: Settings) -> str:
    """Without what is in front of the host: a password."""
    from redis.asyncio import Redis  # noqa: PLC0415  reason: seven megabytes for who shares nothing
    from redis.exceptions import RedisError  # noqa: PLC0415

    url = redis_address(settings.shared_state)
    parts = urlsplit(url)
    host = parts.path if parts.hostname is None else f"{parts.hostname}:{parts.port or 6379}"
    try:
        async with Redis.from_url(url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT) as redis:
            await redis.ping()
    except (RedisError, OSError) as error:
        raise CheckFailed(f"no answer from {host}: {error}. See LIMNER_SHARED_STATE") from None
    return f"{host} answers"


#: What helps against something that cuts silent answers.
_IDLE_TIMEOUT_REMEDY = "Set LIMNER_KEEPALIVE_AFTER to less, or have clients stream"


#: What of the upstream's configuration an error speaks of, by its code.
FIELD_BY_ERROR_CODE = {"upstream_auth": "api_key", "upstream_quota": "api_key", "upstream_model": "model"}


def run_checks(settings: Settings, *, with_generation: bool, idle_seconds: float | None = None) -> int:
    """The exit code. What costs nothing comes first; each upstream is taken as far as it goes.

    `patience`: seconds of silence to try on the way that clients take to the running server.
    """
    if not all(run_check(step, settings) for step in environment_checks(settings)):
        return 1
    steps = [*UPSTREAM_CHECKS, Check("paint", check_generation)] if with_generation else UPSTREAM_CHECKS
    went_well = True
    for entry in settings.effective_upstreams:
        if settings.upstreams:
            print(f"{entry.name}:")
        alone = settings.model_copy(update={"upstreams": (entry,)}) if settings.upstreams else settings
        went_well = all(run_check(step, alone) for step in steps) and went_well
    if idle_seconds is not None:
        went_well = (
            run_check(Check("patience", partial(check_idle_timeout, seconds=idle_seconds)), settings) and went_well
        )
    if went_well and not with_generation:
        print("      No picture was asked for: limner check --paint does that, and costs one picture.")
    return 0 if went_well else 1


async def check_address(settings: Settings) -> str:
    url = httpx.URL(settings.effective_upstreams[0].base_url)
    see = f"See {settings.location_of(settings.effective_upstreams[0], 'base_url')}"
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    began = time.perf_counter()
    try:
        async with asyncio.timeout(settings.upstream_connect_timeout):
            addresses = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
            resolved = time.perf_counter()
            writer = await connect_to_any([str(address[4][0]) for address in addresses], port)
    except TimeoutError:
        raise CheckFailed(f"no answer from {url.host}:{port} within LIMNER_UPSTREAM_CONNECT_TIMEOUT") from None
    except ConnectionRefusedError:
        raise CheckFailed(f"nothing listens at {url.host}:{port}. {see}") from None
    except OSError as error:
        raise CheckFailed(f"cannot reach {url.host}:{port}: {error}. {see}") from None
    connected = time.perf_counter()
    peer = writer.get_extra_info("peername")[0]
    writer.close()
    await writer.wait_closed()
    times = f"name {(resolved - began) * 1000:.0f} ms, connect {(connected - resolved) * 1000:.0f} ms"
    return f"{url.host}:{port} is {peer}; {times}"


async def connect_to_any(addresses: Sequence[str], port: int) -> asyncio.StreamWriter:
    """The first that lets us; raises what the last one said."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return (await asyncio.open_connection(address, port))[1]
    return (await asyncio.open_connection(addresses[-1], port))[1]


async def check_tls(settings: Settings) -> str:
    url = httpx.URL(settings.effective_upstreams[0].base_url)
    if url.scheme == "http":
        return "none: plain http, the key travels unencrypted"
    try:
        async with asyncio.timeout(settings.upstream_connect_timeout):
            _, writer = await asyncio.open_connection(url.host, url.port or 443)
            began = time.perf_counter()
            await writer.start_tls(ssl.create_default_context(), server_hostname=url.host)
    except (TimeoutError, OSError) as error:
        raise CheckFailed(f"no TLS with {url.host}: {error}") from None
    took = (time.perf_counter() - began) * 1000
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    await writer.wait_closed()
    return f"{version}, certificate good for {url.host}; handshake {took:.0f} ms"


async def check_key(settings: Settings) -> str:
    """Few upstreams document the list; where there is none, only a picture can tell."""
    (entry,) = settings.effective_upstreams
    if entry.api_key is None:
        return f"none: {settings.location_of(entry, 'api_key')} is unset, callers bring their own"
    headers = {"authorization": f"Bearer {entry.api_key.get_secret_value()}"}
    try:
        # The same certificates as for the questions, not those that come with httpx.
        tls = ssl.create_default_context()
        patience = settings.upstream_connect_timeout + 10
        async with httpx.AsyncClient(trust_env=False, timeout=patience, verify=tls) as http:
            response = await http.get(f"{entry.base_url}/models", headers=headers)
    except httpx.HTTPError as error:
        raise CheckFailed(f"no answer to GET /models: {type(error).__name__}") from None
    if response.status_code in {401, 403}:
        raise CheckFailed(
            f"the upstream refuses {settings.location_of(entry, 'api_key')} with status {response.status_code}"
        )
    if not response.is_success:
        return f"not known: GET /models answers {response.status_code}"
    models = dict.fromkeys(model for model in (entry.model_map.default, *entry.models.values()) if model is not None)
    return f"accepted; {', '.join(describe_model(response.content, model) for model in models)}"


def describe_model(body: bytes, model: str) -> str:
    """A relay may sell models that it does not list, so a missing name is said, not held against it."""
    try:
        names = {entry["id"] for entry in orjson.loads(body)["data"]}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "its list of models cannot be read"
    return f"{model} is {'' if model in names else 'NOT '}among its {len(names)} models"


async def check_generation(settings: Settings) -> str:
    """Through the whole server, so that download and conversion are tried too."""
    (entry,) = settings.effective_upstreams
    if entry.api_key is None:
        raise CheckFailed(
            f"{settings.location_of(entry, 'api_key')} is unset: only callers have keys, so nobody is here to pay"
        )
    try:
        # Without the keys of clients, which may be known as digests only: nobody else can reach this server.
        app = create_app(settings.model_copy(update={"api_keys": (), "keys_file": None}))
    except OSError as error:
        raise CheckFailed(f"LIMNER_IMAGE_STORE cannot be opened: {error}") from None
    asked = {"prompt": "A small lighthouse", "size": "1024x1024", "quality": "low", "response_format": "b64_json"}
    named = {} if entry.model_map.default is not None else {"model": next(iter(entry.models))}
    async with app.router.lifespan_context(app):
        (member,) = app.state.studio.parts.upstreams.members
        await member.upstream.close()
        watch = TimingTransport(open_transport())
        member.upstream = Upstream(upstream_spec(entry, settings), watch)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://limner", timeout=None) as http:  # noqa: S113
            response = await http.post("/v1/images/generations", json=asked | named)
    answer = response.json()
    if not response.is_success:
        message, field = answer["error"]["message"], FIELD_BY_ERROR_CODE.get(answer["error"]["code"])
        raise CheckFailed(message if field is None else f"{message} See {settings.location_of(entry, field)}")
    return f"{answer['size']} {answer['output_format']}, {describe_generation(response.headers, watch)}"


def describe_generation(headers: Mapping[str, str], watch: TimingTransport) -> str:
    """How the picture was found, how long it took, and who would not have waited for it."""
    upstream = float(headers["x-limner-upstream-ms"])
    answered = f"first byte {(watch.first_byte or 0) * 1000:.0f} ms, whole {(watch.last_byte or 0) * 1000:.0f} ms"
    took = f"upstream {upstream:.0f} ms ({answered}), Limner {float(headers['x-limner-overhead-ms']):.0f} ms"
    gone = clients_that_time_out(upstream / 1000)
    cut = f"; without a stream cut by {gone}" if gone else ""
    return f"found as {headers['x-limner-reply-form']}; {took}{cut}"


async def check_idle_timeout(settings: Settings, seconds: float) -> str:
    """As a client of the running server, from outside: what stands between may cut an answer that is silent."""
    if settings.public_url is None:
        raise CheckFailed("LIMNER_PUBLIC_URL is unset: nobody says which way clients take")
    keys = [key.get_secret_value() for key in settings.api_keys]
    known = [key for key in keys if not key.startswith("sha256:")]
    if keys and not known:
        raise CheckFailed("LIMNER_API_KEYS has only digests of keys, and this needs a key")
    headers = {"authorization": f"Bearer {known[0] if known else 'limner-check'}"}
    began = time.perf_counter()
    try:
        tls = ssl.create_default_context()
        async with httpx.AsyncClient(trust_env=False, timeout=seconds + 30, verify=tls) as http:
            response = await http.get(f"{settings.public_url}/v1/silence/{seconds:g}", headers=headers)
    except httpx.HTTPError as error:
        raise CheckFailed(f"{_cut_after(began)}: {type(error).__name__}. {_IDLE_TIMEOUT_REMEDY}") from None
    if response.status_code == 404:
        raise CheckFailed(f"no Limner of this version answers at {settings.public_url}")
    if not response.is_success:
        raise CheckFailed(f"{_cut_after(began)}: status {response.status_code}. {_IDLE_TIMEOUT_REMEDY}")
    return f"{seconds:g} s of silence pass through {settings.public_url}"


def _cut_after(began: float) -> str:
    return f"cut after {time.perf_counter() - began:.0f} s"


UPSTREAM_CHECKS = [Check("address", check_address), Check("tls", check_tls), Check("key", check_key)]
