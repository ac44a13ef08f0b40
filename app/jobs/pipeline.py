"""The straight line: one request for pictures, read from top to bottom.

    load the pictures it brings ─▶ write the question ─▶ ask, n times side by side ─▶ find the images in each reply
    ─▶ download or decode each ─▶ measure ─▶ convert if asked ─▶ keep if it needs a URL ─▶ one item of the answer

An edit is a generation that brings pictures; a stream is the same generator, encoded item by item.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Generic, Literal, Protocol, TypeVar, cast

from app.errors import ApiError, ImageUnavailable, NoImageInReply, UserError
from app.extraction.forms import FoundImage, find_images
from app.extraction.partial import PartialImageTracker, without_open_end
from app.extraction.refusal import no_image_error
from app.protocol.chat_reply import ChatReply
from app.protocol.data_url import decode_data_url
from app.protocol.dialects import chat_body, to_image_url
from app.protocol.image_format import ImageInfo, read_info
from app.protocol.image_request import ImagesRequest, InputImage
from app.protocol.image_response import OutputImage, effective_response_format, link_matches_request
from app.protocol.inline_images import ByteSink, probably_equal
from app.protocol.json_stream import Base64String, ByteSource, StreamingJson
from app.protocol.usage import Usage

B = TypeVar("B", bound=ByteSink)

#: The question as an upstream wants it put, by its dialect and what it calls the model.
Put = Callable[[str, str], StreamingJson]


class Ask(Protocol):
    """Snapshots of one reply while it grows, the whole reply last. Raises UpstreamError and its kind."""

    def __call__(self, put: Put, *, stream: bool) -> AsyncGenerator[ChatReply, None]: ...


@dataclass(frozen=True, slots=True)
class Edge(Generic[B]):
    """The edge of the world, all that a request needs from outside.

    `fetch` raises ImageUnavailable. `prepare` makes an input picture fit for the upstream (its place among them; as
    large as the picture that it is a mask for), `check_mask` compares a mask with its picture; both raise UserError.
    `restore` puts back what a mask covers (result, original, mask). `convert` gives the very same bytes back where
    nothing needs doing. `keep` gives a URL that works for a stranger.
    """

    ask: Ask
    fetch: Callable[[str], Awaitable[B]]
    blob: Callable[[], B]
    prepare: Callable[[B, int, B | None], Awaitable[B]]
    check_mask: Callable[[B, B], Awaitable[None]]
    restore: Callable[[B, B, B], Awaitable[B]]
    convert: Callable[[B, ImagesRequest], Awaitable[B]]
    keep: Callable[[B, ImageInfo], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator has decided."""

    stream: Literal["auto", "always", "never"] = "auto"
    default_format: Literal["auto", "url", "b64_json"] = "auto"
    rehost: Literal["never", "needed", "always"] = "needed"
    mask: Literal["guide", "exact"] = "guide"
    pass_links: bool = False


@dataclass(frozen=True, slots=True)
class Partial:
    """A picture on the way to the one asked for."""

    painted: OutputImage


@dataclass(frozen=True, slots=True)
class Answer:
    """All pictures of a request, in order of arrival; `failed` questions brought none."""

    painted: tuple[OutputImage, ...]
    usage: Usage
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Inputs(Generic[B]):
    """The pictures of an edit as they go upstream (bytes or links), as they came, and a mask that holds exactly."""

    fit: Sequence[B | str] = ()
    given: Sequence[B] = ()
    mask: B | None = None


@dataclass(frozen=True, slots=True)
class Commission(Generic[B]):
    """One request, what it brings, and all that it takes to serve it."""

    request: ImagesRequest
    edge: Edge[B]
    policy: Policy
    inputs: Inputs[B]


async def paint(request: ImagesRequest, edge: Edge[B], policy: Policy) -> AsyncGenerator[Partial | Answer, None]:
    """Partials as they come, then one Answer. Raises the first error where no question brought a picture."""
    inputs = await load(request, edge, policy)
    commission = Commission(request, edge, policy, inputs)
    stream = {"auto": request.stream, "always": True, "never": False}[policy.stream]
    pictures = [to_image_url(picture) for picture in inputs.fit]

    @cache
    def put(dialect: str, model: str) -> StreamingJson:
        return StreamingJson(chat_body(request, pictures, dialect=dialect, model=model, stream=stream))

    painted: list[OutputImage] = []
    usage = Usage()
    faults: list[ApiError] = []
    questions = [answer(commission, edge.ask(put, stream=stream)) for _ in range(request.n)]
    items = alone(questions[0]) if request.n == 1 else side_by_side(questions)
    async with aclosing(items):
        async for item in items:
            match item:
                case Partial():
                    yield item
                case Answer():
                    painted += item.painted
                    usage += item.usage
                case _:
                    faults.append(item)
    if not painted:
        raise faults[0]
    yield Answer(tuple(painted[: request.n]), usage, failed=len(faults))


async def load(request: ImagesRequest, edge: Edge[B], policy: Policy) -> Inputs[B]:
    """Raises UserError for what is not a picture."""
    if policy.pass_links and request.mask is None and all(picture.is_link for picture in request.images):
        return Inputs([picture.url for picture in request.images if picture.url is not None])
    given = [await load_picture(picture, f"images[{index}]", edge) for index, picture in enumerate(request.images)]
    fit = [await edge.prepare(blob, index, None) for index, blob in enumerate(given)]
    if request.mask is None:
        return Inputs(fit, given)
    mask = await load_picture(request.mask, "mask", edge)
    await edge.check_mask(mask, given[0])
    fit.append(await edge.prepare(mask, len(given), fit[0]))
    return Inputs(fit, given, mask if policy.mask == "exact" else None)


async def load_picture(picture: InputImage, param: str, edge: Edge[B]) -> B:
    """Raises UserError for a link that cannot be downloaded and for base64 that is none."""
    if picture.url is None:
        return cast("B", picture.source)
    try:
        return await bytes_of(picture.url, edge)
    except ImageUnavailable as error:
        raise UserError(error.message, param=param, code="invalid_image_url", detail=error.detail) from None
    except ValueError:
        raise UserError(f"Invalid base64 in '{param}'.", param=param, code="invalid_base64") from None


async def bytes_of(url: str, edge: Edge[B], lifted: Mapping[str, ByteSource] = MappingProxyType({})) -> B:
    """`lifted`: what is decoded already. Raises ImageUnavailable for a link, ValueError for base64 that is none."""
    if url in lifted:
        return cast("B", lifted[url])
    if not url.startswith("data:"):
        return await edge.fetch(url)
    blob = edge.blob()
    blob.write(decode_data_url(url))
    return blob


async def answer(
    commission: Commission[B], snapshots: AsyncGenerator[ChatReply, None]
) -> AsyncGenerator[Partial | Answer, None]:
    """What one question brings: pictures on the way where they are wanted, then those that count."""
    request = commission.request
    previews = PartialImageTracker(request.partial_images if request.stream else 0)
    reply, fault = None, None
    try:
        async with aclosing(snapshots):
            async for reply in snapshots:
                if previews.remaining:
                    for image in previews.superseded(await find(commission, reply)):
                        preview = await attempt(commission, reply, image)
                        if isinstance(preview, OutputImage):
                            yield Partial(preview)
    except ApiError as error:
        # A stream that breaks off after the picture was named is a success, it has been paid for; a draft is not one.
        fault = error
    images = await find(commission, reply) if reply is not None else []
    if fault is not None:
        images = [image for image in images if not image.is_secondary]
    if reply is None or not images:
        raise fault or no_image_error(reply)
    wanted = images[-request.n :]
    if len(wanted) == 1:  # As most replies have: no task for it.
        outcomes = [await attempt(commission, reply, wanted[0])]
    else:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(attempt(commission, reply, image)) for image in wanted]
        outcomes = [task.result() for task in tasks]
    painted = tuple(outcome for outcome in outcomes if isinstance(outcome, OutputImage))
    if not painted:
        raise next(outcome for outcome in outcomes if isinstance(outcome, ApiError))
    yield Answer(painted, reply.usage)


async def find(commission: Commission[B], reply: ChatReply) -> list[FoundImage]:
    """The images of a reply, without those that the client itself has sent: by their links, and by their bytes."""
    sent = [picture.url for picture in commission.request.images if picture.url is not None]
    found = find_images(without_open_end(reply), sent)
    return [image for image in found if not await is_echo(commission, reply, image)]


async def is_echo(commission: Commission[B], reply: ChatReply, image: FoundImage) -> bool:
    sent = [*commission.inputs.given, *(fit for fit in commission.inputs.fit if not isinstance(fit, str))]
    if not sent or not image.url.startswith("data:"):
        return False
    blob = await bytes_of(image.url, commission.edge, reply.spooled_images)
    return any(probably_equal(blob, given) for given in sent)


async def attempt(commission: Commission[B], reply: ChatReply, image: FoundImage) -> OutputImage | ApiError:
    """One of several pictures that cannot be had, or one on the way, does not take the others with it."""
    try:
        return await deliver(commission, reply, image)
    except ApiError as error:
        return error


async def deliver(commission: Commission[B], reply: ChatReply, image: FoundImage) -> OutputImage:
    """Bytes or URL, exactly what was asked. Raises ImageUnavailable, and NoImageInReply for what is no image."""
    request, edge, policy, inputs = commission.request, commission.edge, commission.policy, commission.inputs
    wanted = effective_response_format(request, policy.default_format)
    linked = not image.url.startswith("data:")
    as_it_is = wanted == "url" and linked and policy.rehost != "always" and inputs.mask is None
    if as_it_is and link_matches_request(image.url, request):
        return OutputImage(image.form, url=image.url)
    blob = await bytes_of(image.url, edge, reply.spooled_images)
    info = read_info(blob.read_at)
    if info is None:
        raise NoImageInReply("The upstream answered with a link to something that is not an image.", detail=image.url)
    if inputs.mask is not None:
        blob = await edge.restore(blob, inputs.given[0], inputs.mask)
    converted = await edge.convert(blob, request)
    if converted is blob and as_it_is:
        return OutputImage(image.form, url=image.url, info=info)
    info = read_info(converted.read_at) or info
    if wanted == "b64_json":
        return OutputImage(image.form, source=converted, info=info)
    if policy.rehost == "never":
        return OutputImage(image.form, url=Base64String(converted, f"data:{info.media_type};base64,"), info=info)
    return OutputImage(image.form, url=await edge.keep(converted, info), info=info)


async def alone(question: AsyncGenerator[Partial | Answer, None]) -> AsyncGenerator[Partial | Answer | ApiError, None]:
    """Most requests ask one question: no task and no queue for it."""
    try:
        async with aclosing(question):
            async for item in question:
                yield item
    except ApiError as error:
        yield error


async def side_by_side(
    questions: Sequence[AsyncGenerator[Partial | Answer, None]],
) -> AsyncGenerator[Partial | Answer | ApiError, None]:
    """The items of all questions in order of arrival; the ApiError of one is an item too."""
    arrived: asyncio.Queue[Partial | Answer | ApiError | asyncio.Task[None]] = asyncio.Queue()

    async def run(question: AsyncGenerator[Partial | Answer, None]) -> None:
        try:
            async with aclosing(question):
                async for item in question:
                    arrived.put_nowait(item)
        except ApiError as error:
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(run(question)) for question in questions]
    for task in tasks:
        task.add_done_callback(arrived.put_nowait)
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if isinstance(item, asyncio.Task):
                running -= 1
                item.result()
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
