"""What replicas share: in this process, or in Redis."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from app.errors import Unavailable
from app.log import log
from app.metrics import STATE_ERRORS

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

#: Seconds for one command, and seconds without another try after one that failed.
_PATIENCE = 1.0

#: Connections to Redis, and seconds that a command waits for one of them.
_CONNECTIONS, _CROWDED = 16, 10.0


class State:
    """`url` is `memory:` or that of a Redis. While Redis is away this process is on its own, unless `closed`."""

    def __init__(self, url: str, *, closed: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._closed = closed
        self._now = now
        self._away_until: float | None = None
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._lost: tuple[type[Exception], ...] = (OSError,)
        self._redis = None if url == "memory:" else self._connect(url)
        self._limiter = None if self._redis is None else _limiter(url, self._redis)

    @property
    def is_shared(self) -> bool:
        return self._redis is not None

    async def count(self, use: Callable[[MovingWindowRateLimiter], Awaitable[T]]) -> T:
        """With all replicas, or else alone. Raises what `use` raises, and Unavailable where alone is not allowed."""
        if (limiter := self._limiter) is None:
            return await use(self._own)
        given = await self._reach(lambda: use(limiter))
        if given is None:
            self._refuse_if_closed()
            return await use(self._own)
        return given[0]

    async def share(self, use: Callable[["Redis"], Awaitable[T]], *, vital: bool = False) -> T | None:
        """None where nothing is shared or Redis is away: then what is `vital` raises Unavailable, if `closed`."""
        if (redis := self._redis) is None:
            return None
        given = await self._reach(lambda: use(redis))
        if given is None and vital:
            self._refuse_if_closed()
        return None if given is None else given[0]

    async def _reach(self, use: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        if self._away_until is not None and self._now() < self._away_until:
            return None
        try:
            given = await use()
        except self._lost as error:
            self._lose(error)
            return None
        self._find()
        return (given,)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unavailable("The server cannot count at the moment. Please try again.", detail="Redis is away")

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
            await self._redis.aclose()

    def _connect(self, url: str) -> "Redis":
        """One more try, at once: a connection may have been closed since it was used last.

        Imported here, since who counts alone should not hold seven megabytes of a client for it.
        """
        from redis.asyncio import BlockingConnectionPool, Redis  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415

        self._lost = (RedisError, OSError)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_CROWDED,
            retry=Retry(NoBackoff(), 1),
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
        )
        return Redis.from_pool(pool)


def _limiter(url: str, redis: "Redis") -> MovingWindowRateLimiter:
    storage = RedisStorage(
        f"async+{url}",
        implementation="redispy",
        key_prefix="limner",
        connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # reason: limits passes on what redis-py takes
    )
    return MovingWindowRateLimiter(storage)
