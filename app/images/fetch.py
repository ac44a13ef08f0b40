"""The only file that downloads: checked address, pinned, few redirects, counted bytes, one deadline.

Plain aiohttp, not httpx over it: a download is nothing but a GET, and the httpx layer would cost more than the rest of
it together and cut the bytes into pieces of 16 KiB.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from app import __version__
from app.errors import ImageUnavailable
from app.images.blob import Blob
from app.images.ssrf import AddressBlocked, AllowRule, FetchTarget, check_addresses, check_redirect, check_url
from app.observability.logging import log

#: A name server that hangs takes one of these for its whole time, and never one that others work in.
DNS_THREADS = 16

#: Seconds for one answer, the wait for a free thread counted.
DNS_TIMEOUT = 5.0

#: Seconds an answer is good for. A lookup costs as much as all the rest of a small download.
DNS_CACHE_SECONDS = 10.0
DNS_CACHE_SIZE = 1000


def system_lookup(name: str) -> list[str]:
    """Blocks. Families that this machine has no address of are left out."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(answer[4][0]) for answer in found]


class DnsResolver:
    """To be closed. What is remembered was not checked: whoever connects checks each time."""

    def __init__(self, lookup: Callable[[str], list[str]] = system_lookup) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(DNS_THREADS, "limner-names")
        self._cache: dict[str, tuple[float, list[str]]] = {}

    async def resolve(self, name: str) -> list[str]:
        """Raises TimeoutError, or the OSError of the system."""
        loop = asyncio.get_running_loop()
        until, answers = self._cache.get(name, (0.0, []))
        if loop.time() < until:
            return answers
        async with asyncio.timeout(DNS_TIMEOUT):
            answers = await loop.run_in_executor(self._threads, self._lookup, name)
        if len(self._cache) >= DNS_CACHE_SIZE:
            self._cache.clear()
        self._cache[name] = (loop.time() + DNS_CACHE_SECONDS, answers)
        return answers

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


MAX_REDIRECTS = 5

#: Seconds between tries. The picture is paid for, and a CDN may need a while until every edge of it knows a new file.
RETRY_DELAYS = (0.2, 0.6, 1.8, 5.0)

#: 202: still being written. The rest are faults that pass; so are all of 5xx.
TRANSIENT_STATUSES = frozenset({202, 404, 408, 425, 429})
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})

#: Nobody asked for these. Inflating a bomb would hold up everyone, so such a body is refused, not decoded.
COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})

#: Seconds for a connection, and for the next byte. The deadline of the download stands above both.
CONNECT_TIMEOUT = 10.0
IDLE_TIMEOUT = 30.0

#: Bytes gathered before they are written: a slow host sends many small pieces, and each may be a write to a file.
CHUNK_SIZE = 64 * 1024

_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": f"limner/{__version__}"}

#: The addresses that this task may connect to now. One task downloads one picture, hop after hop.
_pinned_addresses: ContextVar[tuple[str, ...]] = ContextVar("_checked", default=())

Resolve = Callable[[str], Awaitable[Sequence[str]]]


class _FetchError(Exception):
    """One try has failed, `again`: the next may not. The reason is public, `detail` is for the log."""

    def __init__(self, reason: str, *, is_transient: bool, detail: str = "") -> None:
        super().__init__(reason)
        self.is_transient = is_transient
        self.detail = detail


@dataclass(slots=True)
class _Download:
    """One picture. `inner`: it is reached only by the allow list, so its URL is nobody's business."""

    url: str
    is_internal: bool = False
    last_failure: str = ""

    @property
    def loggable_url(self) -> str:
        """The URL as the log may have it: a query may be a signature, a user name brings a password."""
        return re.sub(r"//[^/?#]*@", "//", self.url.partition("?")[0])[:300]

    def failed(self, reason: str, detail: str = "") -> ImageUnavailable:
        image = "The image" if self.is_internal else f"The image at {self.url}"
        said = "; ".join(filter(None, (f"{self.loggable_url}: {reason}", detail)))
        return ImageUnavailable(f"{image} could not be downloaded: {reason}.", detail=said)


class Fetcher:
    """To be made while the event loop runs.

    `resolve` gives the addresses of a name and raises OSError; `sleep` waits between tries. `tls` None: what the system
    trusts. Redirects from https to http are followed: nothing secret goes along, and the picture is paid for.
    """

    def __init__(
        self,
        *,
        new_blob: Callable[[], Blob],
        allow: tuple[AllowRule, ...] = (),
        timeout: float = 120.0,
        max_bytes: int = 64 * 1024 * 1024,
        resolve: Resolve | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._new_blob = new_blob
        self._allow = allow
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._dns = DnsResolver()
        self._resolve = resolve or self._dns.resolve
        self._sleep = sleep
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                force_close=True,
                use_dns_cache=False,
                resolver=_PinnedResolver(),
                socket_factory=_open_socket,
                ssl=tls or True,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=IDLE_TIMEOUT),
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=CHUNK_SIZE,
            middlewares=(_no_implicit_retry,),
        )

    async def close(self) -> None:
        await self._session.close()
        self._dns.close()

    async def fetch(self, url: str) -> Blob:
        """The caller closes the blob. Raises ImageUnavailable, whose message suits a client's own URL as well as a
        result's: the former is a UserError with the same message. SpoolFull goes through."""
        download = _Download(url)
        try:
            async with asyncio.timeout(self._timeout):
                return await self._download_with_retries(download)
        except TimeoutError:
            raise download.failed(f"it took longer than {self._timeout:g} seconds", download.last_failure) from None
        except AddressBlocked as error:
            download.is_internal = True
            raise download.failed(str(error), error.detail) from None
        except _FetchError as error:
            raise download.failed(str(error), error.detail) from None

    async def _download_with_retries(self, download: _Download) -> Blob:
        for pause in RETRY_DELAYS:
            try:
                return await self._attempt(download)
            except _FetchError as error:
                if not error.is_transient:
                    raise
                download.last_failure = f"before that: {error}"
                log.warning("image_download_retry", place=download.loggable_url, reason=str(error), detail=error.detail)
            await self._sleep(pause)
        return await self._attempt(download)

    async def _attempt(self, download: _Download) -> Blob:
        """One try, always from the first URL: what it redirects to may be signed for a minute only."""
        target = check_url(download.url, self._allow)
        download.is_internal = any(entry.host == target.name for entry in self._allow)
        download.is_internal |= await self._pin_addresses(target)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._session.get(URL(target.url, encoded=True), allow_redirects=False)
            try:
                location = response.headers.get("Location")
                if response.status not in REDIRECT_STATUSES or location is None:
                    return await self._receive(response)
            finally:
                # At once, not by `async with`: a wait here could be cancelled, and nobody would close the blob.
                response.close()
            try:
                target = check_redirect(target, location, self._allow)
                await self._pin_addresses(target)
            except AddressBlocked as error:
                reason = "it redirects to where this server may not go"
                raise _FetchError(reason, is_transient=False, detail=error.detail) from None
        raise _FetchError(f"it redirects more than {MAX_REDIRECTS} times", is_transient=False)

    async def _pin_addresses(self, target: FetchTarget) -> bool:
        """From here on this task can connect to the checked addresses of `target` and to no other.

        Whether it is open only by the allow list. Raises Refused.
        """
        answers = [str(target.address)] if target.address is not None else await self._resolve_name(target.name)
        inner = check_addresses(target, [ip_address(answer) for answer in answers], self._allow)
        _pinned_addresses.set(tuple(answers))
        return inner

    async def _resolve_name(self, name: str) -> Sequence[str]:
        try:
            return await self._resolve(name)
        except OSError as error:
            again = isinstance(error, TimeoutError) or error.errno == socket.EAI_AGAIN
            raise _FetchError("its host name could not be looked up", is_transient=again, detail=str(error)) from None

    async def _receive(self, response: aiohttp.ClientResponse) -> Blob:
        if response.status not in {200, 203}:
            again = response.status in TRANSIENT_STATUSES or response.status >= 500
            raise _FetchError(f"its host answered {response.status}", is_transient=again)
        codings = response.headers.get("Content-Encoding", "").lower().replace(" ", "").split(",")
        if not COMPRESSIONS.isdisjoint(codings):
            raise _FetchError("its host sent it compressed", is_transient=False)
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large()
        with ExitStack() as undo:
            blob = undo.enter_context(self._new_blob())
            await self._copy_to_blob(response.content, blob)
            if not blob.size:
                raise _FetchError("its host sent no bytes", is_transient=True)
            undo.pop_all()
        return blob

    async def _copy_to_blob(self, body: aiohttp.StreamReader, blob: Blob) -> None:
        held: list[bytes] = []
        holds = 0
        while piece := await _read_chunk(body):
            held.append(piece)
            holds += len(piece)
            if blob.size + holds > self._max_bytes:
                raise self._too_large()
            if holds >= CHUNK_SIZE:
                blob.write(b"".join(held))
                held, holds = [], 0
        blob.write(b"".join(held))

    def _too_large(self) -> _FetchError:
        return _FetchError(f"it is larger than {self._max_bytes:,} bytes", is_transient=False)


class _PinnedResolver(AbstractResolver):
    """Hands the connector the checked addresses and never asks again: a name that changes its mind is too late."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}
            for address in _pinned_addresses.get()
        ]

    async def close(self) -> None: ...


def _open_socket(place: tuple[Any, ...]) -> socket.socket:
    """The connector asks no resolver for a literal address, but it comes here with every one that it connects to."""
    family, kind, protocol, _, address = place
    if address[0] not in _pinned_addresses.get():
        raise RuntimeError("an address that was not checked")
    return socket.socket(family, kind, protocol)


async def _no_implicit_retry(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """aiohttp repeats a GET on its own where the connection breaks: here the tries are counted, and pauses kept."""
    try:
        return await send(request)
    except aiohttp.ClientError as error:
        raise _to_fetch_error(error) from None


async def _read_chunk(body: aiohttp.StreamReader) -> bytes:
    try:
        return await body.readany()
    except aiohttp.ClientError as error:
        raise _to_fetch_error(error) from None


#: The first row whose class fits.
CLIENT_ERRORS: tuple[tuple[type[aiohttp.ClientError], str, bool], ...] = (
    (aiohttp.ClientSSLError, "its host cannot be trusted (TLS)", False),
    (aiohttp.ClientConnectorError, "its host cannot be reached", True),
    (aiohttp.ServerTimeoutError, "its host fell silent", True),
    (aiohttp.ClientResponseError, "its host answered in no HTTP", True),
    (aiohttp.ClientPayloadError, "it broke off before its end", True),
    (aiohttp.ClientError, "its host broke the connection", True),
)


def _to_fetch_error(error: aiohttp.ClientError) -> _FetchError:
    """The text of some aiohttp errors holds the whole URL: only the system's own words go into the log."""
    reason, again = next((reason, again) for kind, reason, again in CLIENT_ERRORS if isinstance(error, kind))
    detail = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return _FetchError(reason, is_transient=again, detail=detail)
