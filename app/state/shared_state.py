"""What replicas share: in this process, or in Redis."""

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from limits.aio.storage import MemoryStorage, RedisStorage

from app.errors import ApiError, ServiceUnavailable
from app.observability.logging import log
from app.observability.metrics import STATE_ERRORS

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.lock import Lock
    from redis.commands.core import AsyncScript

T = TypeVar("T")

#: What both can do: `acquire_entry` and `get_moving_window` for limits, `incr` and `get` for plain numbers.
Counters = MemoryStorage | RedisStorage

#: Seconds for one command, and seconds without another try after one that failed.
_PATIENCE = 1.0

#: Seconds that one waits at most to be the one that counts, and between two tries.
_WAIT, _STEP = 1.0, 0.01

#: Connections to Redis, and seconds that a command waits for one of them.
_CONNECTIONS, _CROWDED = 16, 10.0


class State:
    """`url` is `memory:` or that of a Redis. While Redis is away this process is on its own, unless `closed`."""

    def __init__(self, url: str, *, closed: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._closed = closed
        self._now = now
        self._away_until: float | None = None
        self._own = MemoryStorage()
        self._lost: tuple[type[Exception], ...] = (OSError,)
        self._redis = None if url == "memory:" else self._connect(url)
        self._scripts: dict[str, AsyncScript] = {}
        self._counters = None if self._redis is None else _open_counters(self._redis)

    @property
    def is_shared(self) -> bool:
        return self._redis is not None

    async def count(self, name: str, use: Callable[[Counters], Awaitable[T]]) -> T:
        """With all replicas, one at a time of those with that name; or else alone.

        Raises what `use` raises, and Unavailable where alone is not allowed.
        """
        if (redis := self._redis) is None or (counters := self._counters) is None:
            return await use(self._own)
        lock = redis.lock(f"limner:lock:{name}", timeout=_WAIT, blocking_timeout=_WAIT, sleep=_STEP)
        given = await self._reach(lambda: self._one_at_a_time(lock, lambda: use(counters)))
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

    async def step(self, rules: str, keys: list[str], said: list[Any], *, vital: bool = False) -> Any:
        """What the Lua file of that name answers, in one step of Redis; otherwise as `share`."""
        return await self.share(lambda redis: self._script(redis, rules)(keys, said), vital=vital)

    def _script(self, redis: "Redis", rules: str) -> "AsyncScript":
        """Read and hashed once: that would take as long as a command."""
        if rules not in self._scripts:
            self._scripts[rules] = redis.register_script(files("app.state").joinpath(rules).read_text())
        return self._scripts[rules]

    async def _one_at_a_time(self, lock: "Lock", use: Callable[[], Awaitable[T]]) -> T:
        """Who does not get the lock in time goes on without: it keeps several limits in step, each holds by itself."""
        is_ours = await lock.acquire()
        try:
            return await use()
        finally:
            if is_ours:
                # What cannot be given back comes to its end by itself.
                with suppress(*self._lost):
                    await lock.release()

    async def _reach(self, use: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        if self._away_until is not None:
            if self._now() < self._away_until:
                return None
            # One finds out whether it is back; the others need not wait for that.
            self._away_until = self._now() + 2 * _PATIENCE
        try:
            given = await use()
        except self._lost as error:
            self._lose(error)
            return None
        except ApiError:
            # Counted, and refused.
            self._find()
            raise
        self._find()
        return (given,)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ServiceUnavailable("The server cannot count at the moment. Please try again.", detail="Redis is away")

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
            redis_address(url),
            max_connections=_CONNECTIONS,
            timeout=_CROWDED,
            retry=Retry(NoBackoff(), 1),
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
        )
        return Redis.from_pool(pool)


def redis_address(url: str) -> str:
    """Valkey's protocol is the same, and so are its addresses but for one word."""
    return re.sub("^valkey", "redis", url)


def _open_counters(redis: "Redis") -> RedisStorage:
    """The address that counts is that of the pool; the other one has only to be well-formed, and tells no password."""
    return RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix="limner",
        connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # reason: limits passes on what redis-py takes
    )
