"""Tell what a lost connection to an upstream means: whether the request had been sent, and may have to be paid for."""

from collections.abc import Collection

import aiohttp
import httpx

from app.errors import RetrySafety, UpstreamInvalidReply, UpstreamUnreachable
from app.protocol.redaction import loggable_text
from app.upstream.error_mapping import UpstreamFailure
from app.upstream.transport import NothingSent

#: Failures that surely came before the request was sent. The cause of the exception is looked at, not the exception of
#: httpx: its transport calls every lost connection a ConnectTimeout.
_NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    # A proxy that does not let this server through to the upstream.
    aiohttp.ClientHttpProxyError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
)

#: What a transport raises when a connection is lost.
CONNECTION_LOST = (httpx.HTTPError, aiohttp.ClientError)


def connection_failure(error: Exception, elapsed: float, secrets: Collection[str]) -> UpstreamFailure:
    """Return what it means that an attempt brought no response."""
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    detail = describe(error, secrets)
    if isinstance(error, NothingSent) or isinstance(cause, _NOT_CONNECTED):
        unreachable = UpstreamUnreachable("The upstream cannot be reached.", detail=detail)
        return UpstreamFailure(unreachable, RetrySafety.SAFE, elapsed=elapsed)
    message = "The upstream gave no readable answer. The image may have been made."
    return UpstreamFailure(UpstreamInvalidReply(message, detail=detail), elapsed=elapsed)


def describe(error: Exception, secrets: Collection[str]) -> str:
    """Return the cause of an exception of a transport as text for the log. It may quote what the upstream has sent."""
    cause = error.__cause__ or error
    return loggable_text(f"{type(cause).__name__}: {cause}", secrets)
