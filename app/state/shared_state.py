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
_TIMEOUT = 1.0

#: Seconds that one waits at most to be the one that counts, and between two tries.
_LOCK_TIMEOUT, _LOCK_POLL_INTERVAL = 1.0, 0.01

#: Connections to Redis, and seconds that a command waits for one of them.
_MAX_CONNECTIONS, _CONNECTION_WAIT = 16, 10.0


class SharedState:
    """`url` is `memory:` or that of a Redis. While Redis is away this process is on its own, unless `closed`."""

    def __init__(self, url: str, *, fail_closed: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._fail_closed = fail_closed
        self._now = now
        self._retry_at: float | None = None
        self._local_counters = MemoryStorage()
        self._connection_errors: tuple[type[Exception], ...] = (OSError,)
        self._redis = None if url == "memory:" else self._connect(url)
        self._scripts: dict[str, AsyncScript] = {}
        self._redis_counters = None if self._redis is None else _open_counters(self._redis)

    @property
    def is_shared(self) -> bool:
        return self._redis is not None

    async def with_counters(self, name: str, use: Callable[[Counters], Awaitable[T]]) -> T:
        """With all replicas, one at a time of those with that name; or else alone.

        Raises what `use` raises, and Unavailable where alone is not allowed.
        """
        if (redis := self._redis) is None or (counters := self._redis_counters) is None:
            return await use(self._local_counters)
        lock = redis.lock(
            f"limner:lock:{name}", timeout=_LOCK_TIMEOUT, blocking_timeout=_LOCK_TIMEOUT, sleep=_LOCK_POLL_INTERVAL
        )
        given = await self._guarded(lambda: self._with_lock(lock, lambda: use(counters)))
        if given is None:
            self._raise_if_fail_closed()
            return await use(self._local_counters)
        return given[0]

    async def run(self, use: Callable[["Redis"], Awaitable[T]], *, required: bool = False) -> T | None:
        """None where nothing is shared or Redis is away: then what is `vital` raises Unavailable, if `closed`."""
        if (redis := self._redis) is None:
            return None
        given = await self._guarded(lambda: use(redis))
        if given is None and required:
            self._raise_if_fail_closed()
        return None if given is None else given[0]

    async def run_script(self, file_name: str, keys: list[str], args: list[Any], *, required: bool = False) -> Any:
        """What the Lua file of that name answers, in one step of Redis; otherwise as `share`."""
        return await self.run(lambda redis: self._script(redis, file_name)(keys, args), required=required)

    def _script(self, redis: "Redis", rules: str) -> "AsyncScript":
        """Read and hashed once: that would take as long as a command."""
        if rules not in self._scripts:
            self._scripts[rules] = redis.register_script(files("app.state").joinpath(rules).read_text())
        return self._scripts[rules]

    async def _with_lock(self, lock: "Lock", use: Callable[[], Awaitable[T]]) -> T:
        """Who does not get the lock in time goes on without: it keeps several limits in step, each holds by itself."""
        is_ours = await lock.acquire()
        try:
            return await use()
        finally:
            if is_ours:
                # What cannot be given back comes to its end by itself.
                with suppress(*self._connection_errors):
                    await lock.release()

    async def _guarded(self, use: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        if self._retry_at is not None:
            if self._now() < self._retry_at:
                return None
            # One finds out whether it is back; the others need not wait for that.
            self._retry_at = self._now() + 2 * _TIMEOUT
        try:
            given = await use()
        except self._connection_errors as error:
            self._mark_down(error)
            return None
        except ApiError:
            # Counted, and refused.
            self._mark_up()
            raise
        self._mark_up()
        return (given,)

    def _raise_if_fail_closed(self) -> None:
        if self._fail_closed:
            raise ServiceUnavailable("The server cannot count at the moment. Please try again.", detail="Redis is away")

    def _mark_down(self, error: Exception) -> None:
        """Told once, not at every try; counted each time."""
        STATE_ERRORS.inc()
        if self._retry_at is None:
            log.error("shared state is away", closed=self._fail_closed, error=type(error).__name__)
        self._retry_at = self._now() + _TIMEOUT

    def _mark_up(self) -> None:
        if self._retry_at is not None:
            log.info("shared state is back")
        self._retry_at = None

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

        self._connection_errors = (RedisError, OSError)
        pool = BlockingConnectionPool.from_url(
            redis_address(url),
            max_connections=_MAX_CONNECTIONS,
            timeout=_CONNECTION_WAIT,
            retry=Retry(NoBackoff(), 1),
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
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
