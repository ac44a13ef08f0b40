"""HTTP connections to upstreams, by aiohttp behind the interface of httpx, which tests and commands implement, too."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from functools import cache
from typing import Any, cast

import aiohttp
import httpx

from app.bounded_responses import BoundedConnector, BoundedProtocol
from app.connection_ends import is_closed
from app.upstream.spec import UpstreamSpec

#: What sends requests: `open_transport` makes one, tests and `limner check` have others.
Transport = httpx.AsyncBaseTransport

#: Seconds that an unused connection is kept: less than the shortest limit of common servers (5 s: Node and uvicorn). If
#: the server closes it while a request is on its way, there is no way to know whether that request was paid for.
_KEEP_ALIVE = 4.0

#: What the head of a response may have: the characters of a line, and headers. aiohttp itself takes 8190 and 128, which
#: proxies with cookies, policies and traces exceed; the reply behind such a head is paid for all the same.
_MAX_LINE, _MAX_HEADERS = 256 * 1024, 2000

#: Bytes of a reply that are received ahead. With aiohttp's own limit it joins up to 750 KiB before they are read.
_READ_AHEAD = 64 * 1024


def open_transport(spec: UpstreamSpec | None = None) -> Transport:
    """Return a transport with as many connections as there are requests. Its session opens with the first request.

    Only the proxy and the certificates of `spec` matter.
    """
    # True is the context that aiohttp has made anyway: one more takes 1 MiB, and 20 ms at the start.
    context = True if spec is None or spec.tls_ca is None else ssl.create_default_context(cafile=spec.tls_ca)
    proxy = None if spec is None or spec.proxy is None else httpx.Proxy(spec.proxy.get_secret_value())
    return AiohttpTransport(context, proxy)


class PlainRequest(httpx.Request):
    """A POST that is not prepared as httpx does it, which reads and copies each header four times.

    `address`: its URL; `fields`: its headers, by name. httpx's forms of them are made where they are asked for: not by
    the transport below.
    """

    def __init__(
        self,
        address: str,
        fields: Mapping[str, str],
        stream: httpx.AsyncByteStream | httpx.ByteStream,
        extensions: dict[str, Any],
    ) -> None:
        self.method, self.address, self.fields = "POST", address, fields
        self.stream, self.extensions = stream, extensions

    @property
    def url(self) -> httpx.URL:  # type: ignore[override]  # nobody changes it
        """The URL."""
        return httpx.URL(self.address)

    @property
    def headers(self) -> httpx.Headers:  # type: ignore[override]  # nobody changes them
        """The headers, in UTF-8."""
        return httpx.Headers(self.fields, encoding="utf-8")


class PlainResponse(httpx.Response):
    """A response that is not prepared as httpx does it, which reads and copies each header three times."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status_code = response.status
        self.stream: ResponseStream = ResponseStream(response)
        self.extensions = {"reason_phrase": (response.reason or "").encode()}
        self._raw_headers = response.raw_headers

    @property
    def headers(self) -> httpx.Headers:  # type: ignore[override]  # nobody changes them
        """The headers."""
        return httpx.Headers(self._raw_headers)

    @property
    def fields(self) -> dict[str, str]:
        """The same by their names in lower case. Of one name, all values are joined."""
        fields: dict[str, str] = {}
        for raw_name, raw_value in self._raw_headers:
            name, value = raw_name.decode("latin-1").lower(), _decode(raw_value)
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return fields

    async def aclose(self) -> None:
        """Close the body."""
        await self.stream.aclose()


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Connections to one upstream.

    Nothing is taken from the environment but the operating system's certificates (and SSL_CERT_FILE): a proxy variable
    would send the key through the proxy. It is used without httpx's client, which could follow redirects and keep
    cookies, and costs a tenth of a small request.
    """

    def __init__(self, context: ssl.SSLContext | bool, proxy: httpx.Proxy | None = None) -> None:
        self._context = context
        self._proxy = None if proxy is None else str(proxy.url)
        self._password = _password_header(proxy)
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return when the head of its response has come.

        Raises:
            NothingSent: The connection ended before a byte was written.
            httpx.TransportError: There is no response. The cause is the exception of aiohttp.
        """
        if self._session is None:
            self._session = self.new_session()
        seconds = request.extensions["timeout"]
        sending = self._session.request(
            request.method,
            request.address if isinstance(request, PlainRequest) else str(request.url),
            **self._options(request),
            data=_body_of(request),
            allow_redirects=False,
            auto_decompress=False,
            timeout=_limits(seconds["connect"], seconds["pool"]),
        )
        is_one_piece = isinstance(request.stream, httpx.ByteStream)
        # Many wait for their upstreams at the same time, and this takes 4 KiB, which nobody needs meanwhile.
        del request
        try:
            response = await sending
        except aiohttp.ClientError as error:
            # What aiohttp raises instead of writing. Head and body of a small request are written at once.
            is_unsent = is_one_piece and isinstance(error.__cause__, aiohttp.ClientConnectionResetError)
            raise (NothingSent if is_unsent else httpx.TransportError)(str(error)) from error
        return PlainResponse(response)

    def _options(self, request: httpx.Request) -> Mapping[str, Any]:
        """Return the headers of a request, and the way that it goes."""
        fields = request.fields if isinstance(request, PlainRequest) else dict(request.headers)
        headers = {_name_of(name): value for name, value in fields.items()}
        if self._proxy is None:
            return {"headers": headers}
        if request.url.scheme == "https":
            return {"headers": headers, "proxy": self._proxy, "proxy_headers": {**self._password}}
        # The proxy reads the head of a plain request itself, and gets none of its own.
        return {"headers": {**headers, **self._password}, "proxy": self._proxy}

    def new_session(self) -> aiohttp.ClientSession:
        """Return a session, which needs a running event loop."""
        # Without a limit: aiohttp's own would quietly stop at 100 connections.
        connector = LiveConnector(limit=0, ssl=self._context, keepalive_timeout=_KEEP_ALIVE)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=_READ_AHEAD,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_HEADERS,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


class NothingSent(httpx.TransportError):
    """The connection ended before a byte of the request was written."""


class LiveConnector(BoundedConnector):
    """Connections of which none is used again once its server has closed it.

    A busy process would notice that only after sending, and could not tell whether the request was paid for.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """Return a new connection, or a used one that its server has not closed."""
        while True:
            connection = await super().connect(req, traces, timeout)
            # Neither is None before the connection is released.
            protocol = cast("BoundedProtocol", connection.protocol)
            transport = cast("asyncio.Transport", connection.transport)
            if not protocol.is_used or not is_closed(transport.get_extra_info("socket")):
                protocol.is_used = True
                return connection
            connection.close()


class ResponseStream(httpx.AsyncByteStream):
    """The body of a response, in pieces as they come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._response.content.readany()
        except aiohttp.ClientError as error:
            # aiohttp tells of the end of a connection before it hands out what had come by then. That was paid for, and
            # may name the image.
            piece = self._response.content._read_nowait(-1)
            if not piece:
                raise httpx.ReadError(str(error)) from error
        if not piece:
            raise StopAsyncIteration
        return piece

    def arrived(self) -> bytes:
        """Return what has arrived and was not read yet, without waiting."""
        content = self._response.content
        return content.read_nowait() if content.exception() is None else b""

    async def aclose(self) -> None:
        """Give the connection back, or close it where the body was not read to its end."""
        if self._response.connection is None:
            return  # aiohttp has given it back at the end of the body.
        self._response.release()
        await self._response.wait_for_close()


@cache
def _limits(connect: float | None, pool: float | None) -> aiohttp.ClientTimeout:
    """Return the time limits of requests to an upstream: the same for all of them."""
    return aiohttp.ClientTimeout(sock_connect=connect, connect=pool)


@cache
def _name_of(name: str) -> str:
    """Return the name of a header in aiohttp's type, which would otherwise be made for each request: 1 KiB.

    The names are those that are written here and in settings.
    """
    return type(aiohttp.hdrs.ACCEPT)(name)


def _body_of(request: httpx.Request) -> Any:
    """Return the bytes of a small body, and the stream of a large one."""
    if isinstance(request.stream, httpx.ByteStream):
        return b"".join(request.stream) or None
    return request.stream


def _password_header(proxy: httpx.Proxy | None) -> Mapping[str, str]:
    """Return the user and the password of a proxy as a header: aiohttp is about to remove its class for them."""
    if proxy is None or proxy.auth is None:
        return {}
    return {"proxy-authorization": aiohttp.encode_basic_auth(*proxy.auth)}
