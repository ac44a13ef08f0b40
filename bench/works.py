"""The kinds of work that are measured: what a request looks like, and how its answer must look."""

from dataclasses import dataclass
from typing import Literal

import orjson

from bench.pictures import picture
from bench.process import MIB
from bench.wire import head

_BOUNDARY = "bench-d2f4b0c7"
_KEY = "authorization: Bearer sk-client"


@dataclass(frozen=True, slots=True)
class Work:
    """`answer` and `upload` are the bytes of one picture; `pictures` go up with each request."""

    name: str
    answer: int = 0
    upload: int = 0
    pictures: int = 0
    form: Literal["link", "data"] = "link"
    at_once: tuple[int, ...] = (1, 8, 32)

    @property
    def wants(self) -> str:
        return "b64_json" if self.answer else "url"

    @property
    def uploaded(self) -> int:
        """Bytes of pictures in one request."""
        return self.upload * self.pictures

    @property
    def moved(self) -> int:
        """Bytes of pictures in one request and its answer."""
        return self.answer + self.uploaded

    def prompt(self, hold: float = 0) -> str:
        return f"bench {self.answer} {hold * 1000:.0f} {self.form}"

    def request(self) -> list[bytes]:
        """Head and body, in pieces that share the bytes of equal pictures."""
        return self._edit() if self.pictures else generation(self.prompt(), self.wants)

    def is_answered_by(self, size: int) -> bool:
        """Whether a body of so many bytes can hold what was asked for, and not much else."""
        return 0 <= size - (self.answer + 2) // 3 * 4 < 2048

    def _edit(self) -> list[bytes]:
        fields = {"prompt": self.prompt(), "model": "gpt-image-2", "size": "1024x1024", "response_format": self.wants}
        body = [_part(f'name="{name}"') + value.encode() + b"\r\n" for name, value in fields.items()]
        for index in range(self.pictures):
            body.append(_part(f'name="image[]"; filename="{index}.png"', "content-type: image/png\r\n"))
            body += [picture(self.upload), b"\r\n"]
        body.append(f"--{_BOUNDARY}--\r\n".encode())
        first = "POST /v1/images/edits HTTP/1.1"
        return [head(first, sum(map(len, body)), f"multipart/form-data; boundary={_BOUNDARY}", _KEY), *body]


def _part(disposition: str, more: str = "") -> bytes:
    return f"--{_BOUNDARY}\r\ncontent-disposition: form-data; {disposition}\r\n{more}\r\n".encode()


def generation(prompt: str, wants: str, *, stream: bool = False) -> list[bytes]:
    order = {"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024"}
    body = orjson.dumps({**order, "stream": True} if stream else {**order, "response_format": wants})
    return [head("POST /v1/images/generations HTTP/1.1", len(body), "application/json", _KEY), body]


SMALL = Work("url")
WORKS = (
    SMALL,
    Work("base64 64 KiB", answer=64 * 1024),
    Work("base64 2 MiB", answer=2 * MIB),
    Work("base64 20 MiB", answer=20 * MIB),
    Work("data URL 2 MiB", answer=2 * MIB, form="data"),
    Work("data URL 20 MiB", answer=20 * MIB, form="data"),
    Work("edit 2 MiB", upload=2 * MIB, pictures=1),
    Work("edit 20 MiB", upload=20 * MIB, pictures=1),
    Work("edit 16 x 2 MiB", upload=2 * MIB, pictures=16, at_once=(1, 8)),
    Work("edit 16 x 20 MiB", upload=20 * MIB, pictures=16, at_once=(1,)),
)
