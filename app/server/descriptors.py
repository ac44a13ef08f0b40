"""The descriptors of this process: the three standard ones, and the limit, which many systems set to 1,024."""

import os
import resource
from contextlib import suppress

#: More descriptors than any server needs. Some systems allow a billion, which makes tables of the kernel large.
_MOST = 2**17

#: The last of the standard streams.
_STANDARD_ERROR = 2


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, at most to 131,072, and return the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS names no hard limit, but refuses what is more than the kernel's own.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else soft


def fill_standard_descriptors() -> None:
    """Open the null device as each standard stream that was closed (`limner serve 2>&-`).

    A connection would get its number otherwise, and what is written to the stream would go there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)
