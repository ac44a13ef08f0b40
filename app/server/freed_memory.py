"""Return memory to the system when a crowd of requests has gone.

glibc keeps what was freed for later requests. After 4,000 requests that waited at the same time these were 260 MiB.
"""

import ctypes
import gc
from collections.abc import Callable

#: Requests in flight at once that are a crowd: fewer leave less than 10 MiB behind.
_CROWD = 128

#: Seconds after which their connections to upstreams, which nobody uses any more, have been closed, and seconds after
#: which their retained results have expired, most of which were delivered.
_LATER = (6.0, 75.0)


def find_malloc_trim() -> Callable[[], object]:
    """Return glibc's function that returns freed memory; one that does nothing where there is another C library."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return int
    # Keeps nothing at the end of the heap. Not called in a thread: others could not allocate memory meanwhile.
    return lambda: trim(ctypes.c_size_t(0))


class FreedMemory:
    """Notice when a crowd has gone. `release` returns freed memory to the system, `collect` frees more before."""

    def __init__(self, release: Callable[[], object] | None = None, collect: Callable[[], object] = gc.collect) -> None:
        self._release = find_malloc_trim() if release is None else release
        self._collect = collect
        self._most = 0
        self._due: list[float] = []

    def look(self, in_flight: int, now: float) -> None:
        """Note the requests in flight. Release memory when most of a crowd has gone, and twice more a little later."""
        self._most = max(self._most, in_flight)
        if self._most >= _CROWD and in_flight <= self._most // 4:
            self._most, self._due = in_flight, [now + seconds for seconds in _LATER]
            self._release()
        elif self._due and now >= self._due[0]:
            self._due.pop(0)
            if not self._due and in_flight < _CROWD:
                # Python keeps freed tuples for later ones until a full collection. Each of them keeps a page: 13 MiB.
                # With a thousand requests in flight it would take 0.1 s.
                self._collect()
            self._release()
