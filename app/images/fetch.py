"""Download images, with protection against server-side request forgery and endless bodies.

The only file that downloads. Redirects, bytes and the duration are limited; `GuardedHttp` decides which addresses are
reached.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urljoin

import aiohttp

from app import __version__
from app.errors import ImageUnavailable
from app.images.blob import Blob
from app.images.decompression import MAGIC_SIZE, DamagedCompressionError, ImageDecoder, UnknownCompressionError
from app.images.guarded_http import (
    CONNECT_TIMEOUT,
    IDLE_TIMEOUT,
    FetchError,
    GuardedHttp,
    Resolve,
    to_fetch_error,
)
from app.images.own_addresses import is_own_address
from app.images.ssrf import (
    Address,
    AddressBlocked,
    AllowRule,
    FetchTarget,
    block_reason,
    check_redirect,
    host_of,
    is_local_name,
    origin_of,
)
from app.loop_turns import LoopTurn
from app.observability.logging import log
from app.protocol.image_format import is_cut_off, read_info

MAX_REDIRECTS = 5
UNAUTHORIZED = 401
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})

#: Seconds between attempts. The image is paid for, and a CDN may take a while until all its servers have a new file.
RETRY_DELAYS = (0.2, 0.6, 1.8, 5.0)

#: With these, hosts also refuse whatever does not look like a page of their own that shows the image.
REFUSALS = frozenset({403, 406})

#: Statuses after which a download is tried again, besides all of 5xx. 202: the file is still being written. 403: object
#: storages answer so for a file that is not there yet, unless the caller may list the bucket.
TRANSIENT_STATUSES = frozenset({202, 404, 408, 425, 429}) | REFUSALS

#: Statuses that do not say whether the file is there.
_BUSY = frozenset({408, 425, 429})

#: Bytes of a body that have to arrive within the time for silence, 140 a second: more slowly, no image of 16 KiB would
#: arrive within the time of a download. Another attempt may reach another server of a CDN.
MIN_PROGRESS = 4 * 1024

#: Bytes that are collected before they are written. A slow host sends many small chunks, and each write may go to disk.
CHUNK_SIZE = 64 * 1024

_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": f"limner/{__version__}"}

_PAGE_HEADERS = {"Accept": "image/*,*/*;q=0.8", "User-Agent": f"Mozilla/5.0 (compatible; limner/{__version__})"}

#: No origin gets a key.
NO_KEYS: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True)
class _Download:
    """One image.

    Attributes:
        is_guess: Nothing says that it is an image, so only the first bytes of anything else are downloaded.
        is_internal: Only the allow list makes the host reachable, so clients must not see its URL.
        is_as_page: The next attempt asks as a page of the host does; the host has refused the one before.
        keys: See `Fetcher.fetch`.
        last_failure: Why the attempt before failed, for the log.
    """

    url: str
    is_guess: bool = False
    is_as_page: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    is_internal: bool = False
    last_failure: str = ""

    @property
    def loggable_url(self) -> str:
        """The URL without its query, which may be a signature, and without a user name and password."""
        return re.sub(r"//[^/?#]*@", "//", self.url.partition("?")[0])[:300]

    def failed(self, reason: str, detail: str = "") -> ImageUnavailable:
        image = "The image" if self.is_internal else f"The image at {self.url}"
        detail = "; ".join(filter(None, (f"{self.loggable_url}: {reason}", detail)))
        return ImageUnavailable(f"{image} could not be downloaded: {reason}.", detail=detail)


class Fetcher:
    """Download images. The owner closes it."""

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
        certificates: Mapping[str, Path] = MappingProxyType({}),
        proxy: str | None = None,
        own_host: str | None = None,
        is_own: Callable[[Address], bool] = is_own_address,
    ) -> None:
        """Keep what downloads need. No connection is opened yet.

        `new_blob` creates the blob of a download, `timeout` is that of a whole download with its retries, in seconds,
        `max_bytes` limits an image, and `sleep` waits between attempts. The rest is as for `GuardedHttp`.
        """
        self._new_blob = new_blob
        self._allow = allow
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._sleep = sleep
        self._http = GuardedHttp(
            headers=_HEADERS,
            allow=allow,
            resolve=resolve,
            tls=tls,
            certificates=certificates,
            proxy=proxy,
            own_host=own_host,
            is_own=is_own,
            keeps_connections=True,
        )

    async def close(self) -> None:
        await self._http.close()

    async def fetch(self, url: str, keys: Mapping[str, str] = NO_KEYS) -> Blob:
        """Download an image into a new blob, which the caller closes.

        Redirects from https to http are followed: no secret is sent along, and the image is paid for.

        Args:
            url: Where the image is.
            keys: By origin, the key for a request that this origin has answered with 401. No other origin gets it, nor
                does a redirect carry it elsewhere.

        Raises:
            ImageUnavailable: The download has failed. The message suits the result of an upstream and the URL of a
                client alike; for the latter the caller raises a UserError with it.
            SpoolFull: The disk of the blobs is full.
        """
        return await self._run(_Download(url, keys=keys), RETRY_DELAYS)

    async def probe(self, url: str, keys: Mapping[str, str] = NO_KEYS, *, patient: bool) -> Blob:
        """Download what may be an image as `fetch` does, but only the first bytes of anything else.

        `patient`: try again after a failure that may pass.
        """
        return await self._run(_Download(url, is_guess=True, keys=keys), RETRY_DELAYS if patient else ())

    async def is_public(self, url: str, keys: Mapping[str, str] = NO_KEYS) -> bool:
        """Return whether others can download what this server can: not from a private address, nor with a key.

        A name that cannot be looked up counts as public: the client may know it. Only origins of `keys` are asked.
        """
        host = host_of(url)
        if isinstance(host, str):
            try:
                addresses = [] if is_local_name(host) else [ip_address(each) for each in await self._http.resolve(host)]
            except OSError:
                return True
            is_public = bool(addresses) and all(block_reason(address) is None for address in addresses)
        else:
            is_public = host is None or block_reason(host) is None
        return is_public and (origin_of(url) not in keys or not await self._needs_key(url))

    async def _needs_key(self, url: str) -> bool:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                target = self._http.check(url)
                await self._http.pin(target)
                response = await self._get(target)
        except (TimeoutError, AddressBlocked, FetchError):
            return False
        response.close()
        return response.status == UNAUTHORIZED

    async def _run(self, download: _Download, delays: Sequence[float]) -> Blob:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._download_with_retries(download, delays)
        except TimeoutError:
            raise download.failed(f"it took longer than {self._timeout:g} seconds", download.last_failure) from None
        except AddressBlocked as error:
            download.is_internal = True
            raise download.failed(str(error), error.detail) from None
        except FetchError as error:
            failure = download.failed(str(error), error.detail)
            failure.is_absent = error.is_absent
            raise failure from None

    async def _download_with_retries(self, download: _Download, delays: Sequence[float]) -> Blob:
        cut_off_at = 0
        for delay in delays:
            try:
                blob = await self._attempt(download)
                # One that has as many bytes the next time will not become larger.
                if blob.size == cut_off_at or not is_cut_off(blob.read_at, blob.size):
                    return blob
                # It may still be written, or the host may have broken off.
                cut_off_at = blob.size
                blob.close()
                raise FetchError("it is not complete", is_transient=True)
            except FetchError as error:
                if not error.is_transient:
                    raise
                download.last_failure = f"before that: {error}"
                log.warning("image_download_retry", url=download.loggable_url, reason=str(error), detail=error.detail)
            await self._sleep(delay)
        return await self._attempt(download)

    async def _attempt(self, download: _Download) -> Blob:
        """Try once, always from the first URL: the target of a redirect may be signed for only a minute."""
        target = self._http.check(download.url)
        download.is_internal = any(rule.host == target.name for rule in self._allow)
        download.is_internal |= await self._http.pin(target)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._request(target, download)
            try:
                location = response.headers.get("Location")
                if response.status not in REDIRECT_STATUSES or location is None:
                    download.is_as_page = response.status in REFUSALS and not download.is_as_page
                    return await self._receive(response, download.is_guess)
            finally:
                # Not by `async with`, which would wait: cancellation there would leave the blob open. It closes the
                # connection, too, unless all of the response has been read.
                response.close()
            try:
                target = check_redirect(target, location, self._allow)
                await self._http.pin(target)
            except AddressBlocked as error:
                reason = "it redirects to where this server may not go"
                raise FetchError(reason, is_transient=False, detail=error.detail) from None
        raise FetchError(f"it redirects more than {MAX_REDIRECTS} times", is_transient=False)

    async def _request(self, target: FetchTarget, download: _Download) -> aiohttp.ClientResponse:
        response = await self._get(target, _page_headers(target) if download.is_as_page else NO_KEYS)
        if response.status != UNAUTHORIZED:
            return response
        key = download.keys.get(origin_of(target.url) or "")
        if key is None:
            return response
        response.close()
        return await self._get(target, {"Authorization": f"Bearer {key}"})

    async def _get(self, target: FetchTarget, headers: Mapping[str, str] = NO_KEYS) -> aiohttp.ClientResponse:
        return await self._http.send("GET", target, headers)

    async def _receive(self, response: aiohttp.ClientResponse, is_guess: bool) -> Blob:
        if response.status not in {200, 203}:
            is_transient = response.status in TRANSIENT_STATUSES or response.status >= 500
            is_absent = 400 <= response.status < 500 and response.status not in _BUSY
            raise FetchError(f"its host answered {response.status}", is_transient=is_transient, is_absent=is_absent)
        if (response.content_length or 0) > self._max_bytes and not is_guess:
            raise _too_large(self._max_bytes)
        with ExitStack() as on_error:
            blob = on_error.enter_context(self._new_blob())
            try:
                await self._copy_to_blob(response, blob, is_guess)
            except UnknownCompressionError:
                raise FetchError("its host sent it compressed", is_transient=False) from None
            except DamagedCompressionError as error:
                raise FetchError("its compression is damaged", is_transient=True, detail=str(error)) from None
            if not blob.size:
                raise FetchError("its host sent no bytes", is_transient=True)
            on_error.pop_all()
        return blob

    async def _copy_to_blob(self, response: aiohttp.ClientResponse, blob: Blob, is_guess: bool) -> None:
        """Write the body, decompressed where it is compressed. Of a guess that is no image, write only the start."""
        decoder = ImageDecoder(response.headers.get("Content-Encoding", ""))
        collected = _Collected(blob, self._max_bytes)
        chunks = _Chunks(response.content)
        while chunk := await chunks.read():
            if chunks.size > self._max_bytes:
                # Compressed data may be endless and hold nothing.
                raise _too_large(self._max_bytes)
            for decoded in decoder.feed(chunk):
                collected.add(decoded)
                # Chunks take long if they are compressed, or hold a byte each: 4 MB of such ones took 0.5 s.
                await chunks.turn.give_way()
            if is_guess and blob.size + collected.size >= MAGIC_SIZE:
                collected.flush()
                if read_info(blob.read_at) is None:
                    return
                is_guess = False
            # Not held while the next one is waited for: 250 KiB for each download.
            chunk = decoded = b""
        for decoded in decoder.end():
            collected.add(decoded)
        collected.flush()


def _page_headers(target: FetchTarget) -> Mapping[str, str]:
    """Return what a page of the same origin sends for the image. It does not tell where the link was found."""
    return _PAGE_HEADERS | {"Referer": urljoin(target.url, "/")}


@dataclass(slots=True)
class _Chunks:
    """The chunks of a body.

    Attributes:
        size: Bytes that were read.
        deadline: When `MIN_PROGRESS` bytes more than `progress` have to be there, by the clock of the event loop.
        turn: That of the task that reads them.
    """

    body: aiohttp.StreamReader
    size: int = 0
    progress: int = 0
    deadline: float = field(default_factory=lambda: asyncio.get_running_loop().time() + IDLE_TIMEOUT)
    turn: LoopTurn = field(default_factory=LoopTurn)

    async def read(self) -> bytes:
        """Return the next chunk, nothing at the end. Raises `FetchError`."""
        is_waited_for = self.body.total_bytes == self.size
        try:
            chunk = await self.body.readany()
        except aiohttp.ClientError as error:
            raise to_fetch_error(error) from None
        if is_waited_for:
            self.turn.restart()
        self.size += len(chunk)
        self._check_progress()
        return chunk

    def _check_progress(self) -> None:
        now = asyncio.get_running_loop().time()
        if self.size - self.progress >= MIN_PROGRESS:
            self.progress, self.deadline = self.size, now + IDLE_TIMEOUT
        elif now > self.deadline and not self.body.is_eof():
            raise FetchError("its host sends too slowly", is_transient=True)


@dataclass(slots=True)
class _Collected:
    """Bytes on their way into a blob, collected so that it is written less often."""

    blob: Blob
    max_bytes: int
    size: int = 0
    _chunks: list[bytes] = field(default_factory=list)

    def add(self, data: bytes) -> None:
        self._chunks.append(data)
        self.size += len(data)
        if self.blob.size + self.size > self.max_bytes:
            raise _too_large(self.max_bytes)
        if self.size >= CHUNK_SIZE:
            self.flush()

    def flush(self) -> None:
        self.blob.write(b"".join(self._chunks))
        self._chunks.clear()
        self.size = 0


def _too_large(max_bytes: int) -> FetchError:
    return FetchError(f"it is larger than {max_bytes:,} bytes", is_transient=False)
