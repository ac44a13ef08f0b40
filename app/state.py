"""What replicas share: counters, in this process or in Redis."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from app.errors import Unavailable
from app.log import log
from app.metrics import STATE_ERRORS

T = TypeVar("T")

#: Seconds for one command, and seconds without another try after one that failed.
_PATIENCE = 1.0


class State:
    """`url` is `memory:` or that of a Redis. While Redis is away this process counts for itself, unless `closed`."""

    def __init__(self, url: str, *, closed: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._closed = closed
        self._now = now
        self._away_until: float | None = None
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._lost: tuple[type[Exception], ...] = (OSError,)
        self._redis = None if url == "memory:" else self._open_redis(url)
        self._shared = None if self._redis is None else MovingWindowRateLimiter(self._redis)

    async def ask(self, use: Callable[[MovingWindowRateLimiter], Awaitable[T]]) -> T:
        """Raises what `use` raises, and Unavailable where Redis is away and `closed` says so."""
        if self._shared is None:
            return await use(self._own)
        if self._away_until is None or self._now() >= self._away_until:
            try:
                given = await use(self._shared)
            except self._lost as error:
                self._lose(error)
            else:
                self._find()
                return given
        if self._closed:
            raise Unavailable("The server cannot count at the moment. Please try again.", detail="Redis is away")
        return await use(self._own)

    def _lose(self, error: Exception) -> None:
        """Told once, not at every try; counted each time."""
        STATE_ERRORS.inc()
        if self._away_until is None:
            log.error("shared state is away", closed=self._closed, error=type(error).__name__)
        self._away_until = self._now() + _PATIENCE

    def _find(self) -> None:
        if self._away_until is not None:
            log.info("shared state is back")
        self._away_until = None

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.bridge.storage.aclose()  # type: ignore[attr-defined]  # reason: limits has no way to close

    def _open_redis(self, url: str) -> RedisStorage:
        """One more try, at once: a connection may have been closed since it was used last.

        Imported here, since who counts alone should not hold seven megabytes of a client for it.
        """
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415

        self._lost = (RedisError, OSError)
        return RedisStorage(
            f"async+{url}",
            implementation="redispy",
            key_prefix="limner",
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
            retry=Retry(NoBackoff(), 1),  # type: ignore[arg-type]  # reason: redis-py takes more than limits says
        )
