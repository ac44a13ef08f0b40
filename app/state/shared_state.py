"""Share state between replicas in Redis, and carry on alone while Redis is down."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from app.errors import ApiError, ServiceUnavailable
from app.observability.logging import log
from app.observability.metrics import STATE_ERRORS
from app.state.local_counters import LocalCounters

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.lock import Lock
    from redis.commands.core import AsyncScript

T = TypeVar("T")

#: Seconds for one command, and seconds to wait after a failure before Redis is tried again.
_TIMEOUT = 1.0

#: Seconds to wait for a lock, which is also how long it is held at most, and seconds between two attempts.
_LOCK_TIMEOUT, _LOCK_POLL_INTERVAL = 1.0, 0.01

#: Connections to Redis, and seconds that a command waits for a free one.
_MAX_CONNECTIONS, _CONNECTION_WAIT = 16, 10.0


class Counters(Protocol):
    """What is used of the storage of `limits` in Redis, and done alike in memory: windows for limits, plain numbers."""

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...
    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]: ...
    async def incr(self, key: str, expiry: int, amount: int = 1) -> int: ...
    async def get(self, key: str) -> int: ...


class SharedState:
    """The connection to Redis, with counters and scripts.

    While Redis is down, this process counts alone; with `fail_closed` it refuses what needs the shared state. After a
    failure no command is sent for a second; then one caller tries Redis again, and the others do not wait for it.

    `is_shared`: whether a Redis is configured, even if it is down.
    """

    def __init__(self, url: str, *, fail_closed: bool, now: Callable[[], float] = time.monotonic) -> None:
        """`url`: the address of a Redis, or `memory:` to share nothing. No connection is opened yet."""
        self._fail_closed = fail_closed
        self._now = now
        self._retry_at: float | None = None
        self._connection_errors: tuple[type[Exception], ...] = (OSError,)
        self._redis = None if url == "memory:" else self._connect(url)
        self.is_shared = self._redis is not None
        self._redis_counters = None if self._redis is None else _open_counters(self._redis)
        self._local_counters: Counters = LocalCounters()
        self._scripts: dict[str, AsyncScript] = {}

    @property
    def is_down(self) -> bool:
        """Whether Redis did not answer the last time."""
        return self._retry_at is not None

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    async def ping(self) -> None:
        """Check that Redis answers. Does nothing when no state is shared.

        Raises:
            OSError: Redis cannot be reached or refuses this client. The message gives the reason.
        """
        try:
            if self._redis is not None:
                await self._redis.ping()
        except self._connection_errors as error:
            raise ConnectionError(str(error)) from None

    async def eviction_policy(self) -> str | None:
        """Return by which rule Redis drops keys when its memory is full; None where it drops none, or does not say."""
        memory = await self.run(lambda redis: redis.info("memory")) or {}
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        return policy if memory.get("maxmemory") and policy != "noeviction" else None

    async def with_counters(self, name: str, use: Callable[[Counters], Awaitable[T]]) -> T:
        """Call `use` with the shared counters, or with those of this process while Redis is down.

        Over all replicas, one call for each `name` runs at a time. What `use` raises is passed on.

        Raises:
            ServiceUnavailable: Redis is down, and this server fails closed.
        """
        if (redis := self._redis) is None or (counters := self._redis_counters) is None:
            return await use(self._local_counters)
        lock = redis.lock(
            f"limner:lock:{name}", timeout=_LOCK_TIMEOUT, blocking_timeout=_LOCK_TIMEOUT, sleep=_LOCK_POLL_INTERVAL
        )
        result = await self._guarded(lambda: self._with_lock(lock, lambda: use(counters)))
        if result is None:
            self._raise_if_fail_closed()
            return await use(self._local_counters)
        return result[0]

    async def run(self, use: Callable[["Redis"], Awaitable[T]], *, required: bool = False) -> T | None:
        """Call `use` with the Redis client. Returns None when no state is shared, or while Redis is down.

        Raises:
            ServiceUnavailable: Redis is down, the call is `required`, and this server fails closed.
        """
        if (redis := self._redis) is None:
            return None
        result = await self._guarded(lambda: use(redis))
        if result is None and required:
            self._raise_if_fail_closed()
        return None if result is None else result[0]

    async def run_script(self, file_name: str, keys: list[str], args: list[Any], *, required: bool = False) -> Any:
        """Run a Lua file of this package atomically in Redis. Returns and raises as `run` does."""
        return await self.run(lambda redis: self._script(redis, file_name)(keys, args), required=required)

    def _script(self, redis: "Redis", file_name: str) -> "AsyncScript":
        # Reading and hashing the file takes as long as a command, so it is done once.
        if file_name not in self._scripts:
            self._scripts[file_name] = redis.register_script(files("app.state").joinpath(file_name).read_text())
        return self._scripts[file_name]

    async def _with_lock(self, lock: "Lock", use: Callable[[], Awaitable[T]]) -> T:
        # A caller that does not get the lock in time proceeds without it. The lock only keeps several limits consistent
        # with each other; each limit by itself is counted atomically.
        is_held = await lock.acquire()
        try:
            return await use()
        finally:
            if is_held:
                # A lock that cannot be released expires.
                with suppress(*self._connection_errors):
                    await lock.release()

    async def _guarded(self, use: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        """Call `use` and record whether Redis answered. Returns None while it is down.

        The result is wrapped in a tuple, since it may be None itself.
        """
        if self._retry_at is not None:
            if self._now() < self._retry_at:
                return None
            # This caller tries Redis again. The others must not wait for the outcome.
            self._retry_at = self._now() + 2 * _TIMEOUT
        try:
            result = await _with_cancellation(use)
        except self._connection_errors as error:
            self._mark_down(error)
            return None
        except ApiError:
            # The request was counted and refused, so Redis has answered.
            self._mark_up()
            raise
        self._mark_up()
        return (result,)

    def _raise_if_fail_closed(self) -> None:
        if self._fail_closed:
            raise ServiceUnavailable("The server cannot count at the moment. Please try again.", detail="Redis is away")

    def _mark_down(self, error: Exception) -> None:
        STATE_ERRORS.inc()
        if self._retry_at is None:
            log.error("state_down", closed=self._fail_closed, error=type(error).__name__)
        self._retry_at = self._now() + _TIMEOUT

    def _mark_up(self) -> None:
        if self._retry_at is not None:
            log.info("state_up")
        self._retry_at = None

    def _connect(self, url: str) -> "Redis":
        # Imported here: the client takes seven megabytes, which a server that shares nothing should not pay for.
        from redis.asyncio import BlockingConnectionPool, Redis  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415

        self._connection_errors = (RedisError, OSError)
        pool = BlockingConnectionPool.from_url(
            redis_address(url),
            max_connections=_MAX_CONNECTIONS,
            timeout=_CONNECTION_WAIT,
            # One immediate retry: Redis may have closed the connection since it was last used.
            retry=Retry(NoBackoff(), 1),
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
        )
        pool.connection_class = _with_uvloop(pool.connection_class)
        return Redis.from_pool(pool)


def _with_uvloop(connection_class: Any) -> Any:
    """Return a class of connections that also know a lost connection by the exception of uvloop, and open another one.

    redis-py expects what asyncio does: to write to a connection that was lost meanwhile is a `ConnectionError`.
    """
    from redis.exceptions import ConnectionError as LostConnection  # noqa: PLC0415  # reason: as above

    class Connection(connection_class):  # type: ignore[misc]  # reason: there is one for TCP, for TLS and for sockets
        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            try:
                await super().send_packed_command(*args, **options)
            except RuntimeError as error:
                if "the handler is closed" not in str(error):
                    raise
                raise LostConnection(str(error)) from error

    return Connection


async def _with_cancellation(use: Callable[[], Awaitable[T]]) -> T:
    """Call `use`, and raise the cancellation of this task that it has swallowed.

    redis-py sends by `asyncio.wait_for`, which in Python 3.11 returns the result where it is ready at the moment of the
    cancellation. A loop of commands that was canceled would go on for ever, and whoever waits for its end, too.
    """
    count = _cancellations()
    result = await use()
    if _cancellations() > count:
        raise asyncio.CancelledError
    return result


def _cancellations() -> int:
    """Return how often this task was canceled. What runs outside of a task cannot be."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def redis_address(url: str) -> str:
    """Return the address for the Redis client. Valkey's protocol and addresses are the same except for the scheme."""
    return re.sub("^valkey", "redis", url)


def _open_counters(redis: "Redis") -> Counters:
    from limits.aio.storage import RedisStorage  # noqa: PLC0415  # reason: as above

    return RedisStorage(
        # Only parsed: connections come from the pool. So the password is not repeated here.
        "async+redis://",
        implementation="redispy",
        key_prefix="limner",
        connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # reason: limits passes it on to redis-py
    )
