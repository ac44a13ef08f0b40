"""The workloads that are measured: the requests, and the size of a correct response."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from bench.padded_png import padded_png
from bench.process import MIB
from bench.wire import head

_BOUNDARY = "bench-d2f4b0c7"
_KEY = "authorization: Bearer sk-client"


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request and the response that it must get.

    Attributes:
        output_bytes: Size of the generated image when it is returned as base64; 0 for a URL.
        input_bytes: Size of one input image.
        input_images: Number of input images; 0 for a generation, more for an edit.
        form: How the upstream's reply carries the image; `paced`: by a link whose host sends 50 MiB/s.
        concurrency: Numbers of parallel connections with which the workload is measured.
    """

    name: str
    output_bytes: int = 0
    input_bytes: int = 0
    input_images: int = 0
    form: Literal["link", "data", "paced"] = "link"
    concurrency: tuple[int, ...] = (1, 8, 32)

    @property
    def path(self) -> str:
        """The path of the generated image at the upstream."""
        return f"/{'paced' if self.form == 'paced' else 'generated'}/{self.output_bytes}.png"

    @property
    def response_format(self) -> str:
        return "b64_json" if self.output_bytes else "url"

    @property
    def uploaded_bytes(self) -> int:
        """Bytes of input images in one request."""
        return self.input_bytes * self.input_images

    @property
    def transferred_bytes(self) -> int:
        """Bytes of images in one request and its response."""
        return self.output_bytes + self.uploaded_bytes

    def prompt(self, delay: float = 0) -> str:
        return f"bench {self.output_bytes} {delay * 1000:.0f} {self.form}"

    def request(self, headers: Sequence[str] = ()) -> list[bytes]:
        """Return head and body in chunks; equal input images share their bytes. `headers` are further lines."""
        if self.input_images:
            return self._edit_request(headers)
        return generation_request(self.prompt(), self.response_format, headers=headers)

    def accepts_body_of(self, size: int) -> bool:
        """Return whether a response body of this size can hold the requested image and not much else."""
        return 0 <= size - (self.output_bytes + 2) // 3 * 4 < 2048

    def _edit_request(self, headers: Sequence[str]) -> list[bytes]:
        fields = {
            "prompt": self.prompt(),
            "model": "gpt-image-2",
            "size": "1024x1024",
            "response_format": self.response_format,
        }
        body = [_part(f'name="{name}"') + value.encode() + b"\r\n" for name, value in fields.items()]
        for index in range(self.input_images):
            body.append(_part(f'name="image[]"; filename="{index}.png"', "content-type: image/png\r\n"))
            body += [padded_png(self.input_bytes), b"\r\n"]
        body.append(f"--{_BOUNDARY}--\r\n".encode())
        request_line = "POST /v1/images/edits HTTP/1.1"
        content_type = f"multipart/form-data; boundary={_BOUNDARY}"
        return [head(request_line, sum(map(len, body)), content_type, _KEY, *headers), *body]


def _part(disposition: str, headers: str = "") -> bytes:
    return f"--{_BOUNDARY}\r\ncontent-disposition: form-data; {disposition}\r\n{headers}\r\n".encode()


def generation_request(
    prompt: str, response_format: str, *, stream: bool = False, headers: Sequence[str] = ()
) -> list[bytes]:
    fields = {"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024"}
    body = orjson.dumps({**fields, "stream": True} if stream else {**fields, "response_format": response_format})
    return [head("POST /v1/images/generations HTTP/1.1", len(body), "application/json", _KEY, *headers), body]


SMALL = Workload("url")
WORKLOADS = (
    SMALL,
    Workload("base64 64 KiB", output_bytes=64 * 1024),
    Workload("base64 2 MiB", output_bytes=2 * MIB),
    Workload("base64 20 MiB", output_bytes=20 * MIB),
    Workload("data URL 2 MiB", output_bytes=2 * MIB, form="data"),
    Workload("data URL 20 MiB", output_bytes=20 * MIB, form="data"),
    Workload("edit 2 MiB", input_bytes=2 * MIB, input_images=1),
    Workload("edit 20 MiB", input_bytes=20 * MIB, input_images=1),
    Workload("edit 16 x 2 MiB", input_bytes=2 * MIB, input_images=16, concurrency=(1, 8)),
    Workload("edit 16 x 20 MiB", input_bytes=20 * MIB, input_images=16, concurrency=(1,)),
)
