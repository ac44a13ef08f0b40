"""A reply whose whole body is the image itself, as servers send it that put no chat around their images."""

from collections.abc import Callable
from typing import Any

import pybase64

from app.protocol.byte_sink import ByteSink
from app.protocol.data_url import image_data_url
from app.protocol.image_format import bytes_reader, is_complete
from app.protocol.inline_images import placeholder_png


class ImageBody:
    """The bytes of an image, which go into a sink while they arrive."""

    def __init__(self, new_sink: Callable[[], ByteSink] | None) -> None:
        """Keep the bytes in a sink of `new_sink`, or without it in memory."""
        self._sink = None if new_sink is None else new_sink()
        self._chunks: list[bytes] = []

    def feed(self, data: bytes) -> None:
        if self._sink is None:
            self._chunks.append(data)
        else:
            self._sink.write(data)

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the image is missing."""
        if self._sink is not None:
            return is_complete(self._sink.read_at, self._sink.size)
        data = b"".join(self._chunks)
        return is_complete(bytes_reader(data), len(data))

    def message(self) -> tuple[dict[str, Any], dict[str, ByteSink]]:
        """Return the image as the message of a chat, and the sinks by the data URLs that stand for them in it."""
        if self._sink is None:
            return _message(image_data_url(b"".join(self._chunks))), {}
        url = f"data:image/png;base64,{pybase64.b64encode_as_string(placeholder_png(0))}"
        return _message(url), {url: self._sink}


def _message(url: str) -> dict[str, Any]:
    return {"content": "", "parts": [{"type": "image_url", "image_url": {"url": url}}]}
