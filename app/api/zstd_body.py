"""Decompress request bodies in zstd. Imported for the first of them: the library takes 0.5 MiB, and few come."""

import sys
import zlib

if sys.version_info >= (3, 14):  # pragma: no cover  the locks are for older versions
    from compression import zstd
else:
    from backports import zstd

#: 8 MiB, what a sender may demand of a receiver (RFC 9659). The library's own limit is 128 MiB.
_MAX_WINDOW_LOG = 23


class ZstdDecompressor:
    """One stream in zstd."""

    def __init__(self) -> None:
        self._stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})

    @property
    def eof(self) -> bool:
        """Whether the end of the stream has come."""
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        """Whether all that was given is decompressed."""
        return self._stream.needs_input

    @property
    def unused_data(self) -> bytes:
        """What has followed the end."""
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return up to `max_length` decompressed bytes. Raises `zlib.error` if the data is damaged."""
        try:
            return self._stream.decompress(data, max_length)
        except zstd.ZstdError as error:
            raise zlib.error(str(error)) from error
