"""Make HTTP requests to checked addresses only, against server-side request forgery.

Each URL and each address it resolves to is checked, and only checked addresses are connected to. Redirects are not
followed.

It uses aiohttp directly, not httpx on top of it: a download is only a GET, and the httpx layer would cost more than
everything else and cut the bytes into chunks of 16 KiB.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from app.images.dns import DnsResolver
from app.images.own_addresses import is_own_address
from app.images.ssrf import Address, AllowRule, FetchTarget, check_addresses, check_url, origin_of

#: Seconds for a connection, and for the next byte.
CONNECT_TIMEOUT = 10.0
IDLE_TIMEOUT = 30.0

#: Bytes of a response that are read ahead.
READ_AHEAD = 64 * 1024

Resolve = Callable[[str], Awaitable[Sequence[str]]]


class FetchError(Exception):
    """One attempt has failed. The message may be shown to clients, `detail` is only for the log.

    `is_transient`: the next attempt may succeed.
    """

    def __init__(self, reason: str, *, is_transient: bool, detail: str = "") -> None:
        super().__init__(reason)
        self.is_transient = is_transient
        self.detail = detail


class GuardedHttp:
    """Send requests to addresses that may be reached. The owner closes it."""

    def __init__(
        self,
        *,
        headers: Mapping[str, str],
        allow: tuple[AllowRule, ...] = (),
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        certificates: Mapping[str, Path] = MappingProxyType({}),
        own_host: str | None = None,
        is_own: Callable[[Address], bool] = is_own_address,
    ) -> None:
        """Keep what requests need. No connection is opened yet.

        Args:
            headers: Those of every request.
            allow: Hosts and networks that may be reached although they are not public.
            resolve: Returns the addresses of a host name and raises OSError. By default the system is queried.
            tls: The certificates to trust. None means those that the system trusts.
            certificates: By the address of an upstream, the file of those to trust at its origin instead.
            own_host: The host under which clients reach this server, if it is known.
            is_own: Whether an address belongs to this machine, which is not reached.
        """
        self._headers = headers
        self._allow = allow
        self._dns = DnsResolver()
        self.resolve = resolve or self._dns.resolve
        self._tls = tls
        files = {origin_of(url): file for url, file in certificates.items()}
        self._tls_of = {origin: ssl.create_default_context(cafile=file) for origin, file in files.items()}
        self._own_host, self._is_own = own_host, is_own
        self._open_session: aiohttp.ClientSession | None = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        # Opened by the first request, since aiohttp needs a running event loop for it.
        if self._open_session is None:
            self._open_session = self._new_session()
        return self._open_session

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                force_close=True,
                use_dns_cache=False,
                resolver=_PinnedResolver(),
                socket_factory=_open_socket,
                ssl=self._tls or True,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=IDLE_TIMEOUT),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_AHEAD,
            middlewares=(_no_implicit_retry,),
        )

    async def close(self) -> None:
        if self._open_session is not None:
            await self._open_session.close()
        self._dns.close()

    def check(self, url: str) -> FetchTarget:
        """Parse a URL and check what its text can decide. Raises `AddressBlocked`."""
        return check_url(url, self._allow)

    async def pin(self, target: FetchTarget) -> bool:
        """Resolve and check the target. From here on, this task can connect to the checked addresses only.

        Returns:
            Whether only the allow list makes the target reachable.

        Raises:
            AddressBlocked: One of its addresses may not be reached.
            FetchError: Its name could not be looked up.
        """
        addresses = [str(target.address)] if target.address is not None else await self._resolve_name(target.name)
        public = await self._own_public_addresses(target)
        is_internal = check_addresses(
            target,
            [ip_address(address) for address in addresses],
            self._allow,
            lambda address: str(address) in public or self._is_own(address),
        )
        _pinned_addresses.set(tuple(addresses))
        return is_internal

    async def send(
        self, method: str, target: FetchTarget, headers: Mapping[str, str], body: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Send one request to the target that was pinned last, and return its response, which the caller closes.

        Raises:
            FetchError: The connection has failed.
        """
        tls = self._tls_of.get(origin_of(target.url), True)
        url = URL(target.url, encoded=True)
        return await self._session.request(method, url, allow_redirects=False, headers=headers, data=body, ssl=tls)

    async def _own_public_addresses(self, target: FetchTarget) -> Sequence[str]:
        """Return the addresses under which clients reach this server, as far as they are known.

        Behind NAT no interface has them. Many hosts can share the addresses of a CDN in front of this server; but over
        TLS under another name nothing is sent to a server of this name, because its certificate does not fit.
        """
        host = self._own_host
        if host is None or (target.url.startswith("https:") and target.address is None and target.name != host):
            return ()
        try:
            return await self.resolve(host)
        except OSError:
            return ()

    async def _resolve_name(self, name: str) -> Sequence[str]:
        try:
            return await self.resolve(name)
        except OSError as error:
            is_transient = isinstance(error, TimeoutError) or error.errno == socket.EAI_AGAIN
            reason = "its host name could not be looked up"
            raise FetchError(reason, is_transient=is_transient, detail=str(error)) from None


# Connecting to checked addresses only

#: The addresses that this task may connect to at present. A task sends one request after the other.
_pinned_addresses: ContextVar[tuple[str, ...]] = ContextVar("_pinned_addresses", default=())


class _PinnedResolver(AbstractResolver):
    """Gives the connector the checked addresses instead of resolving the name again, as its addresses may change."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}
            for address in _pinned_addresses.get()
        ]

    async def close(self) -> None: ...


def _open_socket(address_info: tuple[Any, ...]) -> socket.socket:
    # The connector calls no resolver for a URL with a literal address, but calls this function for every connection.
    family, kind, protocol, _, address = address_info
    if address[0] not in _pinned_addresses.get():
        raise RuntimeError("an address that was not checked")
    return socket.socket(family, kind, protocol)


# Errors of the connection

#: For each class of error: the reason shown to clients, and whether it is transient. The first match applies.
CLIENT_ERRORS: tuple[tuple[type[aiohttp.ClientError], str, bool], ...] = (
    (aiohttp.ClientSSLError, "its host cannot be trusted (TLS)", False),
    (aiohttp.ClientConnectorError, "its host cannot be reached", True),
    (aiohttp.ServerTimeoutError, "its host fell silent", True),
    (aiohttp.ClientResponseError, "its host answered in no HTTP", True),
    (aiohttp.ClientPayloadError, "it broke off before its end", True),
    (aiohttp.ClientError, "its host broke the connection", True),
)


async def _no_implicit_retry(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    # aiohttp by itself repeats a GET when the connection breaks, unless a middleware raises another error. Attempts are
    # counted by those who send them, with delays between them.
    try:
        return await send(request)
    except aiohttp.ClientError as error:
        raise to_fetch_error(error) from None


def to_fetch_error(error: aiohttp.ClientError) -> FetchError:
    """Return what an error of aiohttp means."""
    reason, is_transient = next(
        (reason, transient) for kind, reason, transient in CLIENT_ERRORS if isinstance(error, kind)
    )
    # The text of some errors of aiohttp contains the whole URL, so only the system's own text is logged.
    detail = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return FetchError(reason, is_transient=is_transient, detail=detail)
