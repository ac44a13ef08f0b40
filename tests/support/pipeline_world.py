"""The pipeline with everything that it needs in memory: upstream, web, image store."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pybase64

from app.errors import ImageUnavailable
from app.images.blob import Blob, Spool
from app.jobs.pipeline import Pipeline
from app.jobs.pipeline_interface import GenerationResult, PartialImage, PipelinePolicy
from app.protocol.byte_sink import ByteSink
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import ChatRequest
from app.protocol.dialects import DIALECTS
from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage
from app.protocol.parameters import Operation
from app.protocol.reply_parser import read_reply
from tests.support.sample_images import gradient, saved

PNG = saved(gradient(size=(8, 8)), "PNG")
JPEG = saved(gradient(size=(8, 8)), "JPEG")
WEBP = saved(gradient(size=(8, 8)), "WEBP")
URL = "https://cdn.example.com/gen/1.png"
JPEG_URL = "https://cdn.example.com/gen/1.jpg"


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{pybase64.b64encode(data).decode()}"


def text_reply(text: str, complete: bool = True, **more: Any) -> ChatReply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return replace(read_reply(orjson.dumps({"choices": [choice], "usage": usage})), complete=complete)


def image_reply(*urls: str) -> ChatReply:
    return text_reply("\n".join(f"![image]({url})" for url in urls))


@dataclass
class World:
    """Implements `PipelineIO` in memory.

    Attributes:
        replies: For each chat request the snapshots of its reply, or an error at their end. The last one serves all others.
        web: What can be downloaded, by URL.
        away: URLs whose host does not answer.
        sent: The body of each chat request, and whether a stream was requested.
        stored: The bytes and the media type of each image in the store.
        converted: What each conversion returns; None: nothing is to do.
        masks: The two images of each call of `check_mask`, and the original and the mask of each of `apply_mask`.
        prepared: The arguments of each call of `prepare`.
        signed: What signing returns; None: it fails.
        signings: What each call of `sign` was asked for.
        bugs: What was reported as one.
    """

    replies: list[list[ChatReply | Exception]]
    web: dict[str, bytes] = field(default_factory=lambda: {URL: PNG, JPEG_URL: PNG})
    sent: list[tuple[dict[str, Any], bool]] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    private: set[str] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    stored: list[tuple[bytes, str]] = field(default_factory=list)
    converted: bytes | None = None
    signed: bytes | None = None
    signings: list[tuple[bytes, bytes, bool, bool]] = field(default_factory=list)
    spool: Spool = field(default_factory=Spool)
    masks: list[tuple[bytes, bytes]] = field(default_factory=list)
    prepared: list[tuple[bytes, int, bytes | None]] = field(default_factory=list)
    bugs: list[Exception] = field(default_factory=list)
    open_requests: int = 0

    async def ask(self, chat: ChatRequest, on_reply: Callable[[ChatReply], Awaitable[None]]) -> None:
        body = chat.body(DIALECTS["gpt-image-2-chat"], "gpt-image-2-chat")
        self.sent.append((orjson.loads(b"".join(body.chunks())), chat.stream))
        self.open_requests += 1
        try:
            for item in self.replies[min(len(self.sent), len(self.replies)) - 1]:
                await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                await on_reply(item)
        finally:
            self.open_requests -= 1

    def new_blob(self) -> Blob:
        return self.spool.new_blob()

    def blob(self, data: bytes) -> Blob:
        blob = self.new_blob()
        blob.write(data)
        return blob

    async def is_public(self, url: str) -> bool:
        return url not in self.private

    async def fetch(self, url: str, *, is_result: bool = True) -> Blob:
        self.fetched.append(url)
        if url not in self.web:
            error = ImageUnavailable(f"The image at {url} could not be downloaded: status 404.")
            error.is_absent = url not in self.away
            raise error
        return self.blob(self.web[url])

    async def probe(self, url: str, *, patient: bool) -> Blob:
        return await self.fetch(url)

    async def prepare(self, image: ByteSink, index: int, *, size_of: ByteSink | None = None) -> ByteSink:
        self.prepared.append((content(image), index, None if size_of is None else content(size_of)))
        return image

    async def check_mask(self, mask: ByteSink, image: ByteSink, *, exact: bool) -> None:
        self.masks.append((content(mask), content(image)))

    async def apply_mask(self, result: ByteSink, original: ByteSink, mask: ByteSink) -> Blob:
        self.masks.append((content(original), content(mask)))
        return self.blob(WEBP)

    async def convert(self, image: ByteSink, request: ImagesRequest) -> ByteSink:
        return image if self.converted is None else self.blob(self.converted)

    async def sign(self, image: ByteSink, original: ByteSink, *, is_ingredient: bool, is_masked: bool) -> Blob | None:
        self.signings.append((content(image), content(original), is_ingredient, is_masked))
        return None if self.signed is None else self.blob(self.signed)

    async def store(self, image: ByteSink, info: ImageInfo) -> str:
        self.stored.append((content(image), info.media_type))
        return f"https://limner.example/stored/{len(self.stored)}.png"

    def report_bug(self, bug: Exception) -> None:
        self.bugs.append(bug)


def content(image: ByteSink) -> bytes:
    return image.read_at(0, image.size)


def request_for(**more: Any) -> ImagesRequest:
    fields = {"operation": Operation.GENERATION, "prompt": "a fox", "model": "gpt-image-2", **more}
    return ImagesRequest(**fields)


POLICY = PipelinePolicy()


def run(request: ImagesRequest, world: World, policy: PipelinePolicy = POLICY) -> list[PartialImage | GenerationResult]:
    items: list[PartialImage | GenerationResult] = []
    asyncio.run(Pipeline(request, world, policy).run(items.append))
    return items


def result_of(request: ImagesRequest, world: World, policy: PipelinePolicy = POLICY) -> GenerationResult:
    *partials, result = run(request, world, policy)
    assert isinstance(result, GenerationResult)
    assert partials == []
    return result


def bytes_in(image: OutputImage) -> bytes:
    assert image.source is not None
    return b"".join(image.source.chunks(1000))
