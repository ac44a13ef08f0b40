"""Bound what other servers send beside the bodies of their responses, on all connections that this server opens.

aiohttp limits only each line and the number of headers. So a head may have hundreds of MiB, interim responses, trailers
and extensions of chunks may have no end, and what arrives on an unused connection is kept. All of it is parsed as fast
as it comes, while other requests wait: for 2 s, with 2 GiB of memory.
"""

import asyncio
import os
import socket
from contextlib import suppress
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import _EXC_SENTINEL
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

#: Interim responses in front of the final one (RFC 9110, 15.2). Few servers send any.
MAX_INTERIM = 16

#: Bytes of a response that belong to no body, and how many more there may be for each byte of the body. A server that
#: sends every byte as a chunk needs five.
MAX_OVERHEAD = 2**20
_MORE_FOR_EACH_BYTE = 16

#: Bytes that are parsed at a time until the head has come: 800 of the shortest responses, in 10 ms.
_PIECE = 16 * 1024


class EndlessOverhead(aiohttp.ClientError):
    """A server sends too much that belongs to no body."""


class BoundedConnector(aiohttp.TCPConnector):
    """Opens connections to servers that may send whatever they like."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = cast("partial[ResponseHandler]", partial(BoundedProtocol, loop=self._loop))


class BoundedProtocol(ResponseHandler):
    """One connection. It is closed when its server sends too much, or anything that nobody has asked for.

    `is_used`: whether it was handed out before; set by connectors that need to know.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.is_used = False
        self._overhead_left, self._interim_left = MAX_OVERHEAD, MAX_INTERIM
        self._body: StreamReader | None = None
        self._has_ended = False

    def set_response_params(self, **options: Any) -> None:
        """Prepare for the response to the next request."""
        self._overhead_left, self._interim_left, self._body = MAX_OVERHEAD, MAX_INTERIM, None
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """Parse what has come. Without data, go on with what was held back while parsing was paused."""
        position = 0
        while self._body is None and position < len(data) and self.is_connected():
            self._take(data[position : position + _PIECE])
            position += _PIECE
        if (position < len(data) or not data) and self.is_connected():
            self._take(data[position:] if position else data)

    def _take(self, data: bytes) -> None:
        if data and self._body is not None and self._body.is_eof():
            self.close()
            return
        self._overhead_left -= len(data)
        super().data_received(data)
        size = 0 if self._body is None else self._body.total_bytes
        if self.is_connected() and self._overhead_left + size * (1 + _MORE_FOR_EACH_BYTE) < 0:
            self._refuse()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Read what has arrived before the connection was reset, and end."""
        self._read_the_rest(exc)
        super().connection_lost(exc)
        # It refers to this protocol: together they would stay in memory until the next full garbage collection.
        self._body = None

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _EXC_SENTINEL) -> None:
        """End the connection with an error, unless its response has arrived."""
        self._read_the_rest(exc)
        super().set_exception(exc, exc_cause)

    def _read_the_rest(self, exc: BaseException | None) -> None:
        """Read what the system still has of a response in front of a reset.

        A server may answer before it has read all of a request, and close the connection. What it sent is still there,
        but event loops stop reading when a write fails. What is encrypted can be read by nobody else then.
        """
        transport, had_ended, self._has_ended = self.transport, self._has_ended, True
        if had_ended or not isinstance(exc, OSError) or self._body is not None or transport is None:
            return
        is_plain = transport.get_extra_info("sslcontext") is None
        if data := _arrived(transport.get_extra_info("socket").fileno()) if is_plain else b"":
            super().data_received(data)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take the head of a response, and its body."""
        message, body = data
        if self.is_eof():
            # It was refused because of what came before in the same piece.
            return
        if self._body is not None:
            self.close()
        elif message.code >= 200 or message.code == 101:
            self._body = body
            super().feed_data(data, size)
        elif self._interim_left:
            self._interim_left -= 1
            super().feed_data(data, size)
        else:
            self._refuse()

    def _refuse(self) -> None:
        self.set_exception(EndlessOverhead())
        # Not `self.abort`, after which nobody would learn that the body has broken off.
        cast("asyncio.Transport", self.transport).abort()


def _arrived(descriptor: int) -> bytes:
    """Return the first bytes that a socket has received, enough for a short response; none if no descriptor is free."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as end:
        return end.recv(_PIECE, socket.MSG_DONTWAIT)
    return b""
