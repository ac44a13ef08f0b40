"""Make HTTP requests to checked addresses only, against server-side request forgery.

Each URL and each address it resolves to is checked for each request, and only checked addresses are connected to. A
kept connection is used again only if it was opened to the same addresses. Redirects are not followed.

It uses aiohttp directly, not httpx on top of it: a download is only a GET, and the httpx layer would cost more than
everything else and cut the bytes into chunks of 16 KiB.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from app.bounded_responses import BoundedConnector, EndlessOverhead
from app.images.dns import DnsResolver
from app.images.download_proxy import DownloadProxy, read_proxy
from app.images.own_addresses import is_own_address
from app.images.ssrf import Address, AllowRule, FetchTarget, check_addresses, check_url, is_local_name, origin_of

#: Seconds for a connection, and for the next byte.
CONNECT_TIMEOUT = 10.0
IDLE_TIMEOUT = 30.0

#: Seconds that an unused connection is kept, where connections are kept: less than the shortest limit of common servers
#: (5 s: Node and uvicorn).
KEEP_ALIVE = 4.0

#: Bytes of a response that are read ahead.
READ_AHEAD = 64 * 1024
#: Characters of a line and number of headers that a response may have: those of CDNs are longer than aiohttp's limits.
_MAX_LINE, _MAX_HEADERS = 64 * 1024, 500

Resolve = Callable[[str], Awaitable[Sequence[str]]]


class FetchError(Exception):
    """One attempt has failed. The message may be shown to clients, `detail` is only for the log.

    `is_transient`: the next attempt may succeed. `is_absent`: the host says that nothing is there, or nobody knows it.
    """

    def __init__(self, reason: str, *, is_transient: bool, is_absent: bool = False, detail: str = "") -> None:
        super().__init__(reason)
        self.is_transient, self.is_absent = is_transient, is_absent
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
        proxy: str | None = None,
        own_host: str | None = None,
        is_own: Callable[[Address], bool] = is_own_address,
        keeps_connections: bool = False,
    ) -> None:
        """Keep what requests need. No connection is opened yet.

        Args:
            headers: Those of every request.
            allow: Hosts and networks that may be reached although they are not public.
            resolve: Returns the addresses of a host name and raises OSError. By default the system is queried.
            tls: The certificates to trust. None means those that the system trusts.
            certificates: By the address of an upstream, the file of those to trust at its origin instead.
            proxy: The address of an HTTP proxy that leads to everything but what `allow` opens.
            own_host: The host under which clients reach this server, if it is known.
            is_own: Whether an address belongs to this machine, which is not reached.
            keeps_connections: The connection of a response that was read to its end serves a later request, too.
        """
        self._headers = headers
        self._allow = allow
        self._dns = DnsResolver()
        self.resolve = resolve or self._dns.resolve
        self._tls = tls
        self._tls_of = {origin_of(url): ssl.create_default_context(cafile=file) for url, file in certificates.items()}
        self._proxy = None if proxy is None else read_proxy(proxy)
        self._own_host, self._is_own = own_host, is_own
        self._keeps_connections = keeps_connections
        self._open_session: aiohttp.ClientSession | None = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        # Opened by the first request, since aiohttp needs a running event loop for it.
        if self._open_session is None:
            self._open_session = self._new_session()
        return self._open_session

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=BoundedConnector(
                limit=0,
                use_dns_cache=False,
                **({"keepalive_timeout": KEEP_ALIVE} if self._keeps_connections else {"force_close": True}),
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
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_HEADERS,
            request_class=_PinnedRequest,
            middlewares=(_only_stale_connections_replaced,),
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
            AddressBlocked, FetchError: As for `resolve_checked`.
        """
        addresses, is_internal = await self.resolve_checked(target)
        if self._proxy is None or is_internal:
            _route.set(_Route(addresses))
        else:
            _route.set(_Route(await self._addresses_of_proxy(self._proxy), self._proxy))
        return is_internal

    async def resolve_checked(self, target: FetchTarget) -> tuple[tuple[str, ...], bool]:
        """Return the addresses of the target, and whether only the allow list makes it reachable.

        Raises:
            AddressBlocked: One of its addresses may not be reached.
            FetchError: Its name could not be looked up.
        """
        addresses = await self._addresses_of(target)
        is_internal = (bool(addresses) or self._proxy is None) and await self._check(target, addresses)
        return tuple(addresses), is_internal

    async def send(
        self, method: str, target: FetchTarget, headers: Mapping[str, str], body: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Send one request to the target that was pinned last, and return its response, which the caller closes.

        Raises:
            FetchError: The connection has failed.
        """
        tls = self._tls_of.get(origin_of(target.url), True)
        url = URL(target.url, encoded=True)
        proxy = _route.get().proxy
        way = {"headers": headers} if proxy is None else proxy.options(target.url, headers)
        return await self._session.request(method, url, allow_redirects=False, data=body, ssl=tls, **way)

    async def _addresses_of(self, target: FetchTarget) -> Sequence[str]:
        """Return the addresses of the target, none where only the proxy may know them."""
        if target.address is not None:
            return [str(target.address)]
        try:
            return await self._resolve_name(target.name)
        except FetchError:
            # Where only a proxy leads out, name servers often know no names of the world outside. Where such a name
            # leads is then the proxy's decision, but not that of a name with a meaning in this network.
            is_ours = is_local_name(target.name) or any(rule.host == target.name for rule in self._allow)
            if self._proxy is None or is_ours:
                raise
            return []

    async def _addresses_of_proxy(self, proxy: DownloadProxy) -> tuple[str, ...]:
        try:
            return tuple(await self.resolve(proxy.host))
        except OSError as error:
            detail = f"the proxy's name could not be looked up: {error}"
            raise FetchError("its host cannot be reached", is_transient=True, detail=detail) from None

    async def _check(self, target: FetchTarget, addresses: Sequence[str]) -> bool:
        """Return whether only the allow list makes the target reachable. Raises `AddressBlocked`."""
        public = await self._own_public_addresses(target)
        return check_addresses(
            target,
            [ip_address(address) for address in addresses],
            self._allow,
            lambda address: str(address) in public or self._is_own(address),
        )

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
            is_absent = not is_transient
            raise FetchError(reason, is_transient=is_transient, is_absent=is_absent, detail=str(error)) from None


# Connecting to checked addresses only


@dataclass(slots=True)
class _Route:
    """The addresses that a task may connect to: those of the target, or of the proxy that leads to it.

    `is_new`: a connection was opened for the present request, none was kept for it.
    """

    addresses: tuple[str, ...] = ()
    proxy: DownloadProxy | None = None
    is_new: bool = False


#: Where a task has pinned nothing: no address may be connected to.
_NOWHERE = _Route()

#: The route of this task at present. A task sends one request after the other.
_route: ContextVar[_Route] = ContextVar("_route", default=_NOWHERE)


class _PinnedResolver(AbstractResolver):
    """Give the connector the checked addresses instead of resolving the name again, as its addresses may change."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}
            for address in _route.get().addresses
        ]

    async def close(self) -> None: ...


def _open_socket(address_info: tuple[Any, ...]) -> socket.socket:
    # The connector calls no resolver for a URL with a literal address, but calls this function for every connection.
    family, kind, protocol, _, address = address_info
    route = _route.get()
    if address[0] not in route.addresses:
        raise RuntimeError("an address that was not checked")
    route.is_new = True
    return socket.socket(family, kind, protocol)


class _PinnedRequest(aiohttp.ClientRequest):
    """A request that gets a kept connection only if it was opened to the very addresses that are checked for it now.

    The connector finds kept connections by a key with the host's name and without its addresses, which may change.
    """

    @property
    def connection_key(self) -> ConnectionKey:
        # The field is free: no request names another host for TLS than its URL does.
        return super().connection_key._replace(server_hostname=" ".join(sorted(_route.get().addresses)))


# Errors of the connection

#: For each class of error: the reason shown to clients, and whether it is transient. The first match applies.
CLIENT_ERRORS: tuple[tuple[type[aiohttp.ClientError], str, bool], ...] = (
    (EndlessOverhead, "its host answered in no HTTP", False),
    (aiohttp.ClientSSLError, "its host cannot be trusted (TLS)", False),
    (aiohttp.ClientConnectorError, "its host cannot be reached", True),
    (aiohttp.ServerTimeoutError, "its host fell silent", True),
    (aiohttp.ClientHttpProxyError, "the way to its host is closed", True),
    (aiohttp.ClientResponseError, "its host answered in no HTTP", True),
    (aiohttp.ClientPayloadError, "it broke off before its end", True),
    (aiohttp.ClientError, "its host broke the connection", True),
)


#: A connection that ended before the head of a response.
_BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


async def _only_stale_connections_replaced(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    # aiohttp by itself repeats a GET when any connection breaks, unless a middleware raises another error. Attempts are
    # counted by those who send them, with delays between them. Only a kept connection that its host closes just now is
    # no attempt.
    route = _route.get()
    while True:
        route.is_new = False
        try:
            return await send(request)
        except aiohttp.ClientError as error:
            if route.is_new or not isinstance(error, _BROKEN):
                raise to_fetch_error(error) from None


def to_fetch_error(error: aiohttp.ClientError) -> FetchError:
    """Return what an error of aiohttp means."""
    reason, is_transient = next(
        (reason, transient) for kind, reason, transient in CLIENT_ERRORS if isinstance(error, kind)
    )
    # The text of some errors of aiohttp contains the whole URL, so only the system's own text is logged.
    detail = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    if isinstance(error, aiohttp.ClientHttpProxyError):
        detail = f"the proxy answered {error.status}"
    return FetchError(reason, is_transient=is_transient, detail=detail)
