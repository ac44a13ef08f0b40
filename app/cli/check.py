"""`limner check`: try the settings step by step, from what costs nothing to one real image, and say what is wrong."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import click
import httpx
import orjson

from app.api.context import context_of
from app.api.diagnostics import parse_seconds
from app.cli.main import COMMANDS_PAGE
from app.cli.settings import load_settings
from app.cli.tapped_stream import TappedStream
from app.config.settings import Settings
from app.errors import ApiError, InvalidRequest, UpstreamAuth
from app.images.blob import Blob
from app.images.signer import InvalidSigner
from app.images.store import ImageStore, StoredImage
from app.images.stores import open_store
from app.main import create_app
from app.protocol.image_format import ImageInfo
from app.protocol.inline_images import placeholder_png
from app.protocol.text_body import is_page
from app.services.images import build_store_config, signing_key
from app.services.upstreams import build_spec
from app.state.shared_state import SharedState
from app.upstream.error_body import AttemptFacts
from app.upstream.error_mapping import classify
from app.upstream.spec import UpstreamSpec
from app.upstream.transport import open_transport

#: An image of some hundred bytes. Stores cannot delete a single image, so it stays until it expires.
_SAMPLE = placeholder_png(0)

#: Seconds for the link of a stored image.
_LINK_TIMEOUT = 5.0

#: What is wrong with a Redis that drops keys.
_MAY_DROP = (
    "drops records when its memory is full, so that repeats pay again: its maxmemory-policy is {}, set noeviction"
)

#: What helps if a proxy cuts silent responses.
_IDLE_TIMEOUT_REMEDY = "Set LIMNER_KEEPALIVE_AFTER to less, or have clients stream"

#: Seconds without a byte after which clients and proxies give up by default, in ascending order.
CLIENT_TIMEOUTS = (
    (30, "Haystack and Heroku"),
    (60, "nginx, AWS load balancers, Spring AI and LangChain4j"),
    (100, "Cloudflare and .NET"),
    (120, "ruby-openai"),
    (600, "the OpenAI SDKs"),
)


def _parse_patience(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_seconds(value)
    except InvalidRequest as error:
        raise click.BadParameter(error.message) from None


@click.command("check")
@click.option("--paint", is_flag=True, help="Also generate one real image, which costs money.")
@click.option(
    "--patience",
    is_flag=False,
    flag_value="150",
    callback=_parse_patience,
    metavar="[SECONDS]",
    help="Also test whether LIMNER_PUBLIC_URL leads to the running server, and the connection stays open for so many "
    "seconds of silence: 150 if no number is given.",
)
def command(paint: bool, patience: float | None) -> int:
    """Try the image store, the shared state, and each upstream."""
    code = run_checks(load_settings(), with_generation=paint, idle_seconds=patience)
    if code != 0:
        print(f"      See {COMMANDS_PAGE}")
    return code


class CheckFailed(Exception):
    """A check failed. The message says why and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the output. `run` returns what it has found, or raises `CheckFailed`."""

    name: str
    run: Callable[[Settings], Coroutine[Any, Any, str]]


def run_checks(settings: Settings, *, with_generation: bool, idle_seconds: float | None = None) -> int:
    """Run all checks, print a line for each, and return the exit code.

    The checks of an upstream end with the first that fails; those of the next upstream follow. `with_generation` adds
    an image from each upstream, and `idle_seconds` so much silence between clients and the running server.
    """
    if not all(run_check(check, settings) for check in environment_checks(settings)):
        return 1
    checks = [*UPSTREAM_CHECKS, Check("paint", check_generation)] if with_generation else UPSTREAM_CHECKS
    all_passed = True
    for entry in settings.effective_upstreams:
        if settings.upstreams:
            print(f"{entry.name}:")
        single = settings.model_copy(update={"upstreams": (entry,)}) if settings.upstreams else settings
        all_passed = all(run_check(check, single) for check in checks) and all_passed
    if idle_seconds is not None:
        idle_check = Check("patience", partial(check_idle_timeout, seconds=idle_seconds))
        all_passed = run_check(idle_check, settings) and all_passed
    if all_passed and not with_generation:
        print("      No image was generated: limner check --paint does that, and costs one image.")
    return 0 if all_passed else 1


def run_check(check: Check, settings: Settings) -> bool:
    """Run one check, print its line with the milliseconds it took, and return whether it passed."""
    started_at = time.perf_counter()
    try:
        found = asyncio.run(check.run(settings))
    except CheckFailed as reason:
        print(f"FAIL  {check.name:<8} {reason}")
        return False
    print(f"ok    {check.name:<8} {found} ({(time.perf_counter() - started_at) * 1000:.0f} ms)")
    return True


def environment_checks(settings: Settings) -> list[Check]:
    """Return the checks of the image store, the shared state and the signing key, of those that are in use."""
    checks = [Check("store", check_store)] if settings.rehost != "never" else []
    checks += [Check("state", check_state)] if settings.shared_state != "memory:" else []
    return [*checks, Check("sign", check_signing)] if settings.sign_certificates is not None else checks


async def check_signing(settings: Settings) -> str:
    """Sign a sample."""
    try:
        key = signing_key(settings)
    except InvalidSigner as error:
        raise CheckFailed(str(error)) from None
    return "no certificate" if key is None else f"{key.subject}, until {key.until:%Y-%m-%d}"


async def check_store(settings: Settings) -> str:
    """Write an image, read it back, and follow its link if it has one."""
    try:
        store = open_store(build_store_config(settings))
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
        raise CheckFailed("an image that was written to LIMNER_IMAGE_STORE cannot be read back")
    return f"an image was written and read; {await check_link(link)}"


async def write_sample(store: ImageStore, settings: Settings) -> str:
    with closing(Blob(settings.spool_dir)) as blob:
        blob.write(_SAMPLE)
        return await store.put(blob, ImageInfo("image/png", 8, 8, alpha=False))


async def read_sample(stored: StoredImage) -> bytes:
    with closing(stored):
        return await stored.read(0, stored.size)


async def check_link(link: str | None) -> str:
    """Follow the link of the sample image. One that only clients can reach is not a failure."""
    if link is None:
        return "this server serves it"
    host = urlsplit(link).netloc
    try:
        tls = ssl.create_default_context()
        async with httpx.AsyncClient(trust_env=False, timeout=_LINK_TIMEOUT, verify=tls) as http:
            response = await http.get(link)
    except httpx.HTTPError as error:
        return f"its link to {host} cannot be reached from here: {type(error).__name__}"
    if response.content != _SAMPLE:
        raise CheckFailed(f"the link to {host} answers {response.status_code} instead of the image")
    return f"its link to {host} works"


async def check_state(settings: Settings) -> str:
    # Only host and port or the path of a socket are printed: the address may contain a password.
    address = urlsplit(settings.shared_state)
    host = address.path if address.hostname is None else f"{address.hostname}:{address.port or 6379}"
    state = SharedState(settings.shared_state, fail_closed=False)
    try:
        await state.ping()
        policy = await state.eviction_policy()
    except OSError as error:
        raise CheckFailed(f"no answer from {host}: {error}. See LIMNER_SHARED_STATE") from None
    finally:
        await state.close()
    return f"{host} answers" if policy is None else f"{host} answers, but {_MAY_DROP.format(policy)}"


async def check_address(settings: Settings) -> str:
    (entry,) = settings.effective_upstreams
    proxy = build_spec(entry, settings, 1).proxy
    url = httpx.URL(entry.base_url if proxy is None else proxy.get_secret_value())
    see = f"See {settings.location_of(entry, 'base_url' if proxy is None else 'proxy')}"
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    started_at = time.perf_counter()
    try:
        async with asyncio.timeout(settings.upstream_connect_timeout):
            addresses = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
            resolved_at = time.perf_counter()
            writer = await connect_to_any([str(address[4][0]) for address in addresses], port)
    except TimeoutError:
        raise CheckFailed(f"no answer from {url.host}:{port} within LIMNER_UPSTREAM_CONNECT_TIMEOUT") from None
    except ConnectionRefusedError:
        raise CheckFailed(f"nothing listens at {url.host}:{port}. {see}") from None
    except OSError as error:
        raise CheckFailed(f"cannot reach {url.host}:{port}: {error}. {see}") from None
    connected_at = time.perf_counter()
    peer = writer.get_extra_info("peername")[0]
    writer.close()
    await writer.wait_closed()
    dns, connect = (resolved_at - started_at) * 1000, (connected_at - resolved_at) * 1000
    what = "" if proxy is None else "the proxy "
    return f"{what}{url.host}:{port} is {peer}; name {dns:.0f} ms, connect {connect:.0f} ms"


async def connect_to_any(addresses: Sequence[str], port: int) -> asyncio.StreamWriter:
    """Connect to the first address that accepts.

    Raises:
        OSError: No address accepts; the error is that of the last one.
    """
    for address in addresses[:-1]:
        with suppress(OSError):
            return (await asyncio.open_connection(address, port))[1]
    return (await asyncio.open_connection(addresses[-1], port))[1]


async def check_tls(settings: Settings) -> str:
    (entry,) = settings.effective_upstreams
    url = httpx.URL(entry.base_url)
    if url.scheme == "http":
        return "none: with plain http the key is sent unencrypted"
    spec = build_spec(entry, settings, 1)
    if spec.proxy is not None:
        return "through the proxy, checked with the key"
    try:
        async with asyncio.timeout(settings.upstream_connect_timeout):
            _, writer = await asyncio.open_connection(url.host, url.port or 443)
            started_at = time.perf_counter()
            await writer.start_tls(ssl.create_default_context(cafile=spec.tls_ca), server_hostname=url.host)
    except ssl.SSLCertVerificationError as error:
        raise CheckFailed(f"no TLS with {url.host}: {error}") from None
    except (TimeoutError, OSError) as error:
        plain = f"If it speaks plain http, see {settings.location_of(entry, 'base_url')}"
        raise CheckFailed(_join(f"no TLS with {url.host}: {str(error) or type(error).__name__}", plain)) from None
    handshake = (time.perf_counter() - started_at) * 1000
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    await writer.wait_closed()
    return f"{version}, certificate valid for {url.host}; handshake {handshake:.0f} ms"


async def check_key(settings: Settings) -> str:
    """Request the list of models. Few upstreams document it; else only a generation shows whether a key works."""
    (entry,) = settings.effective_upstreams
    if entry.api_key is None:
        return f"none: {settings.location_of(entry, 'api_key')} is unset, callers bring their own"
    spec = build_spec(entry, settings, 1)
    own = {name: value.get_secret_value() for name, value in spec.headers.items()}
    headers = {**own, "authorization": f"Bearer {entry.api_key.get_secret_value()}", "user-agent": spec.user_agent}
    try:
        # The certificates are those for requests of images, not those that httpx brings along.
        tls = ssl.create_default_context(cafile=spec.tls_ca)
        proxy = None if spec.proxy is None else spec.proxy.get_secret_value()
        timeout = settings.upstream_connect_timeout + 10
        async with httpx.AsyncClient(trust_env=False, timeout=timeout, verify=tls, proxy=proxy) as http:
            response = await http.get(f"{entry.base_url}/models", headers=httpx.Headers(headers, encoding="utf-8"))
    except httpx.HTTPError as error:
        raise CheckFailed(f"no answer to GET /models: {type(error).__name__}") from None
    if not response.is_success:
        return describe_refusal(response, spec)
    if is_page(response.text):
        location = settings.location_of(entry, "base_url")
        missing = f"If there is no API at this address, see {location}, which ends in /v1 at most upstreams"
        return _join("not checked: GET /models answers a web page", missing)
    models = dict.fromkeys(model for model in (entry.model_map.default, *entry.models.values()) if model is not None)
    return f"accepted; {', '.join(describe_model(response.content, model) for model in models)}"


#: What upstreams answer that have no list of models.
_NO_LIST = frozenset({404, 405, 410})


def describe_refusal(response: httpx.Response, spec: UpstreamSpec) -> str:
    """Return why the key could not be checked: many upstreams have no list of models, or do not show it.

    Raises:
        CheckFailed: There is evidence that the key is refused, that the account has no credit, or that every request to
            this address goes wrong.
    """
    secrets = () if spec.api_key is None else (spec.api_key.get_secret_value(),)
    facts = AttemptFacts(time.time(), secrets=secrets, user_agent=spec.user_agent, reason=response.reason_phrase)
    failure = classify(response.status_code, response.headers, response.content, facts)
    quote, location = _quote(failure.error.upstream_sentence), spec.origin["api_key"]
    if isinstance(failure.error, UpstreamAuth):
        raise CheckFailed(_join(f"the upstream refuses {location} with status {response.status_code}", quote))
    if failure.setting == "api_key":
        raise CheckFailed(_join(failure.error.message, f"See {location}", quote))
    if failure.setting == "base_url" and response.status_code not in _NO_LIST:
        target = response.headers.get("location")
        redirect = f"It redirects to {target}" if response.is_redirect and target else ""
        raise CheckFailed(_join(failure.error.message, redirect, f"See {spec.origin['base_url']}"))
    return _join(f"not checked: GET /models answers {response.status_code}", quote)


def describe_failure(error: ApiError) -> str:
    """Return the message, the place of the setting to mend, and what the upstream said unless the message has it."""
    place = f"See {error.place}" if error.place else ""
    return _join(
        error.message, place, "" if error.upstream_sentence in error.message else _quote(error.upstream_sentence)
    )


def _quote(sentence: str) -> str:
    return f"The upstream says: {sentence}" if sentence else ""


def _join(*sentences: str) -> str:
    *others, last = filter(None, sentences)
    return " ".join(
        [*(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in others), last]
    )


def describe_model(body: bytes, model: str) -> str:
    """Return whether the upstream lists the model. Some do not list all that they offer, so this is no failure."""
    try:
        names = {entry["id"] for entry in orjson.loads(body)["data"]}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "its list of models cannot be read"
    return f"{model} is {'' if model in names else 'NOT '}among its {len(names)} models"


UPSTREAM_CHECKS = [Check("address", check_address), Check("tls", check_tls), Check("key", check_key)]


async def check_generation(settings: Settings) -> str:
    """Generate an image with the whole server, so that download and conversion are checked too."""
    (entry,) = settings.effective_upstreams
    if entry.api_key is None:
        raise CheckFailed(f"{settings.location_of(entry, 'api_key')} is unset, so there is no key to pay with")
    timing = TimingTransport(open_transport(build_spec(entry, settings, 1)))
    try:
        # Client keys are not needed, since nothing else can reach this server, and may be known by their digests only.
        app = create_app(settings.model_copy(update={"api_keys": (), "keys_file": None}), transport=timing)
    except OSError as error:
        raise CheckFailed(f"LIMNER_IMAGE_STORE cannot be opened: {error}") from None
    errors: list[ApiError | None] = []

    async def note_error(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        errors.append(context_of(scope).error)

    body = {"prompt": "A small lighthouse", "size": "1024x1024", "quality": "low", "response_format": "b64_json"}
    model = {} if entry.model_map.default is not None else {"model": next(iter(entry.models))}
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(note_error)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as http:  # noqa: S113
            response = await http.post("/v1/images/generations", json=body | model)
    if not response.is_success:
        raise CheckFailed(describe_failure(errors[0] or ApiError()))
    document = response.json()
    return f"{document['size']} {document['output_format']}, {describe_generation(response.headers, timing)}"


def describe_generation(headers: Mapping[str, str], timing: "TimingTransport") -> str:
    """Return how the image was found, how long that took, and which clients would have timed out before."""
    upstream, overhead = float(headers["x-limner-upstream-ms"]), float(headers["x-limner-overhead-ms"])
    first, last = ((seconds or 0) * 1000 for seconds in (timing.first_byte, timing.last_byte))
    times = f"upstream {upstream:.0f} ms (first byte {first:.0f} ms, whole {last:.0f} ms), Limner {overhead:.0f} ms"
    clients = clients_that_time_out(upstream / 1000)
    cut = f"; without streaming cut by {clients}" if clients else ""
    return f"found as {headers['x-limner-reply-form']}; {times}{cut}"


def clients_that_time_out(seconds: float) -> str:
    """Return the names of clients and proxies that wait for less; empty if all wait so long."""
    return ", ".join(f"{names} ({limit} s)" for limit, names in CLIENT_TIMEOUTS if seconds >= limit)


class TimingTransport(httpx.AsyncBaseTransport):
    """Measure the last response: seconds from its request to its first byte and to its last one."""

    def __init__(self, transport: httpx.AsyncBaseTransport, now: Callable[[], float] = time.perf_counter) -> None:
        self.first_byte: float | None = None
        self.last_byte: float | None = None
        self._transport = transport
        self._now = now

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        started_at = self._now()
        response = await self._transport.handle_async_request(request)
        self.first_byte = self._now() - started_at
        response.stream = TappedStream(response, lambda _: self._note_chunk(started_at))
        return response

    def _note_chunk(self, started_at: float) -> None:
        self.last_byte = self._now() - started_at

    async def aclose(self) -> None:
        await self._transport.aclose()


async def check_idle_timeout(settings: Settings, seconds: float) -> str:
    """Wait for a silent response of the running server as a client from outside, to see whether a proxy cuts it."""
    if settings.public_url is None:
        raise CheckFailed("LIMNER_PUBLIC_URL is unset: set it to the address that clients use")
    keys = [key.get_secret_value() for key in settings.api_keys]
    usable = [key for key in keys if not key.lower().startswith("sha256:")]
    if keys and not usable:
        raise CheckFailed("LIMNER_API_KEYS has only digests of keys, but this check needs a key")
    headers = {"authorization": f"Bearer {usable[0] if usable else 'limner-check'}"}
    started_at = time.perf_counter()
    try:
        tls = ssl.create_default_context()
        async with httpx.AsyncClient(trust_env=False, timeout=seconds + 30, verify=tls) as http:
            response = await http.get(f"{settings.public_url}/v1/silence/{seconds:g}", headers=headers)
    except httpx.HTTPError as error:
        raise CheckFailed(f"{_cut_after(started_at)}: {type(error).__name__}. {_IDLE_TIMEOUT_REMEDY}") from None
    if response.status_code == 404:
        raise CheckFailed(f"no Limner of this version answers at {settings.public_url}")
    if response.status_code == 401:
        raise CheckFailed(f"{settings.public_url} refuses the key. Set LIMNER_API_KEYS to one that it accepts")
    if not response.is_success:
        raise CheckFailed(f"{_cut_after(started_at)}: status {response.status_code}. {_IDLE_TIMEOUT_REMEDY}")
    return f"{seconds:g} s of silence pass through {settings.public_url}"


def _cut_after(started_at: float) -> str:
    return f"cut after {time.perf_counter() - started_at:.0f} s"
