"""The straight line: one request for images, from top to bottom.

    load the input images ─▶ write the chat request ─▶ send it n times side by side ─▶ find images in each reply
    ─▶ download or decode each ─▶ measure ─▶ convert if asked ─▶ store if it needs a URL ─▶ one item of the result

An edit is a generation with input images. A stream is the same run, encoded item by item.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from app.errors import ApiError, ImageUnavailable, ModerationBlocked, NoImageInReply, UserError
from app.extraction.candidates import FoundImage
from app.extraction.filters import is_tracking_pixel
from app.extraction.forms import find_guesses, find_images
from app.extraction.partial import PartialImageTracker
from app.extraction.refusal import is_refusal, no_image_error, shows_samples
from app.extraction.urls import file_name, has_image_ending
from app.jobs.concurrent_work import run_concurrently
from app.jobs.pipeline_interface import Emit, GenerationResult, PartialImage, PipelineIO, PipelinePolicy
from app.loop_turns import in_thread_if_long
from app.protocol.byte_sink import ByteSink, probably_equal
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import ChatRequest, to_image_url, wants_stream
from app.protocol.credentials import has_credentials
from app.protocol.data_url import decode_data_url
from app.protocol.foreign_formats import HEAD, foreign_format
from app.protocol.image_format import ImageInfo, read_info
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage, effective_response_format, link_matches_request, unmet_wishes
from app.protocol.input_images import InputImage
from app.protocol.json_stream import Base64String
from app.protocol.size_fit import SizeMode

_T = TypeVar("_T")

#: Half links, at which a reply may end, that are looked at; each document of a stream may have one.
_MAX_HALF_LINKS = 4

#: The longer edge of an image below which it is an icon, and how many images in front of one are looked at.
_LEAST_EDGE, _MAX_EARLIER = 64, 4

_NO_RESOURCES = "The image was made, but this server has no room for it now. Please ask again: that costs nothing more."


@dataclass(frozen=True, slots=True)
class InputImages:
    """The input images: as they go upstream (blobs or links), and as they came. `mask` is set if it holds exactly."""

    prepared: Sequence[ByteSink | str] = ()
    originals: Sequence[ByteSink] = ()
    mask: ByteSink | None = None


@dataclass(slots=True)
class Pipeline:
    """Serve one request. `run` is the straight line; every other method is one of its steps.

    `undelivered`: why no image could be had of a reply that names some. A repeat of the request may get them.
    """

    request: ImagesRequest
    io: PipelineIO
    policy: PipelinePolicy
    inputs: InputImages = InputImages()
    undelivered: list[ApiError] = field(default_factory=list)

    @property
    def stores_results(self) -> bool:
        """Whether results will be stored, unless the upstream brings links that clients may have."""
        return self.policy.rehost != "never" and self.wanted_format == "url"

    @property
    def wanted_format(self) -> str:
        """`url` or `b64_json`."""
        return effective_response_format(self.request, self.policy.default_format)

    async def run(self, emit: Emit) -> None:
        """Emit partial images as they come, then one result.

        Raises:
            ApiError: If no reply has brought an image, the first error that a repeat may mend, or the first at all.
        """
        self.inputs = await self.load_inputs()
        chat = ChatRequest(
            self.request,
            tuple(to_image_url(image) for image in self.inputs.prepared),
            stream=wants_stream(self.policy.stream, self.request),
        )
        outcomes = await run_concurrently([self.generate(chat, emit) for _ in range(self.request.n)])
        results = [outcome for outcome in outcomes if isinstance(outcome, GenerationResult)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
        if not results:
            raise (self.undelivered or errors)[0]
        images = [image for result in results for image in result.images]
        usage = sum([result.usage for result in results[1:]], results[0].usage)
        emit(GenerationResult(tuple(images[: self.request.n]), usage, failed=len(errors)))

    async def load_inputs(self) -> InputImages:
        """Load and prepare the input images. Raises `UserError` for what is not an image."""
        request = self.request
        sent = [image for image in request.all_images if image is not None]
        if self.policy.pass_links and request.has_only_links:
            return InputImages([image.url for image in sent if image.url is not None])
        originals = [await self.load_image(image, f"images[{index}]") for index, image in enumerate(request.images)]
        for index, original in enumerate(originals):
            _refuse_foreign(original, index)
        prepared = [await self.io.prepare(image, index) for index, image in enumerate(originals)]
        if request.markup is not None:
            markup = await self.load_image(request.markup, "markup")
            prepared.append(await self.io.prepare(markup, len(originals), size_of=prepared[0]))
            originals.append(markup)
        if request.mask is None:
            return InputImages(prepared, originals)
        mask = await self.load_image(request.mask, "mask")
        is_exact = self.policy.mask == "exact"
        await self.io.check_mask(mask, originals[0], exact=is_exact)
        prepared.append(await self.io.prepare(mask, len(originals), size_of=prepared[0]))
        return InputImages(prepared, originals, mask if is_exact else None)

    async def load_image(self, image: InputImage, param: str) -> ByteSink:
        """Return the bytes of one input image.

        Raises:
            UserError: A link cannot be downloaded, or base64 cannot be decoded.
        """
        if image.source is not None:
            return image.source
        try:
            return await self.to_blob(image.url or "", is_result=False)
        except ImageUnavailable as error:
            raise UserError(error.message, param=param, code="invalid_image_url", detail=error.detail) from None
        except ValueError:
            raise UserError(f"Invalid base64 in '{param}'.", param=param, code="invalid_base64") from None

    async def to_blob(
        self, url: str, spooled: Mapping[str, ByteSink] = MappingProxyType({}), *, is_result: bool = True
    ) -> ByteSink:
        """Return the bytes behind a link or a data URL; `spooled` holds data URLs that are decoded already.

        Raises:
            ImageUnavailable: A link cannot be downloaded.
            ValueError: The base64 of a data URL cannot be decoded.
        """
        if url in spooled:
            return spooled[url]
        if not url.startswith("data:"):
            return await self.io.fetch(url, is_result=is_result)
        blob = self.io.new_blob()
        blob.write(decode_data_url(url))
        return blob

    async def generate(self, chat: ChatRequest, emit: Emit) -> GenerationResult | ApiError:
        """Send a chat request once, emit the partial images of its reply, where wanted, and return its result or error.

        A bug becomes an error too: the other replies are paid for, and this one may be read once more.
        """
        tracker = PartialImageTracker(self.request.partial_images if self.request.stream else 0)
        reply: ChatReply | None = None
        error = None

        async def take(snapshot: ChatReply) -> None:
            nonlocal reply
            reply = snapshot
            for image in await self.find_partials(tracker, snapshot) if tracker.remaining else ():
                emit(PartialImage(image))

        try:
            await self.io.ask(chat, take)
        except Exception as caught:  # noqa: BLE001  # reason: see above
            error = self.as_api_error(caught)
        outcome = await self.capture(self.conclude(reply, error))
        if isinstance(outcome, ImageUnavailable) or type(outcome) is ApiError:
            self.undelivered.append(outcome)
        return outcome

    async def find_partials(self, tracker: PartialImageTracker, reply: ChatReply) -> list[OutputImage]:
        """Return the partial images that are new in a reply. The rest of it is read whatever happens here."""
        found = await self.capture(self.find_results(reply, takes_open=_takes_none))
        if isinstance(found, ApiError):
            tracker.remaining = 0
            return []
        return _images_among([await self.try_finish(reply, image) for image in tracker.superseded(found)])

    async def conclude(self, reply: ChatReply | None, error: ApiError | None) -> GenerationResult:
        """Return what a reply has brought at its end; `error` is what it ended with, if it did not end well.

        Raises:
            ApiError: That error, or why there is no image, or why none of the images can be had.
        """
        if reply is None:
            raise error or no_image_error(reply)
        reply, images = await self.find_results_at_end(reply)
        if error is not None:
            # A stream that breaks off after the image was named is a success, since the image was paid for; a draft
            # of the image is not.
            images = [image for image in images if not image.is_secondary]
        outcomes = await self.finish_best(reply, images)
        finished = _images_among(outcomes)
        note_images(reply, finished, has_named=any(not image.is_secondary for image in images))
        if not finished:
            raise await self.failure_of(reply, images, outcomes, error)
        return GenerationResult(tuple(finished), reply.usage)

    async def find_results_at_end(self, reply: ChatReply) -> tuple[ChatReply, list[FoundImage]]:
        """Return a reply that grows no more, and its images. It may have ended in the middle of a link.

        A link at its end counts if an image is behind it; the bytes of that are in the returned reply. If not, it is
        half a link, whose other half nobody knows.
        """
        # A link whose host does not answer counts as whole: nothing says that it is half a link.
        whole, half = dict[str, ByteSink | ImageUnavailable](), set[str]()
        images = await self.find_results(reply)
        while open_links := [each.url for each in images if each.is_open and each.url not in whole]:
            for url in open_links:
                found = None if len(half) >= _MAX_HALF_LINKS else await self.probe_open(url, patient=len(images) == 1)
                if found is None:
                    half.add(url)
                else:
                    whole[url] = found
            if not half.isdisjoint(open_links):
                images = await self.find_results(reply, takes_open=lambda url: url not in half)
        blobs = {url: found for url, found in whole.items() if not isinstance(found, ImageUnavailable)}
        return (replace(reply, spooled_images={**reply.spooled_images, **blobs}) if blobs else reply), images

    async def probe_open(self, url: str, *, patient: bool) -> ByteSink | ImageUnavailable | None:
        """Return the image behind a link in whose middle a reply may end, None where there is none but the client's.

        An error says that nothing is known: its host does not answer at present.
        """
        try:
            blob = await self.io.probe(url, patient=patient)
        except ImageUnavailable as error:
            return None if error.is_absent else error
        return None if read_info(blob.read_at) is None or self.is_input(blob) else blob

    async def find_results(
        self, reply: ChatReply, *, takes_open: Callable[[str], bool] = lambda _: True
    ) -> list[FoundImage]:
        """Return the images of a reply, without those that the client has sent. `takes_open`: see `find_images`."""
        found = await in_thread_if_long(reply.size, find_images, reply, self.sent_texts, takes_open=takes_open)
        return [image for image in found if not await self.is_input_echo(reply, image)]

    @property
    def sent_texts(self) -> list[str]:
        """The links and texts of the client itself. What they contain is no result."""
        request = self.request
        links = [image.url for image in request.all_images if image is not None and image.url is not None]
        return [*links, request.prompt, *request.metadata.values(), *request.unread]

    async def is_input_echo(self, reply: ChatReply, image: FoundImage) -> bool:
        """Return whether an inline image has the bytes of an input image. Links are compared in `find_results`."""
        has_inputs = self.inputs.originals or self.inputs.prepared
        if not has_inputs or not image.url.startswith("data:"):
            return False
        return self.is_input(await self.to_blob(image.url, reply.spooled_images))

    def is_input(self, image: ByteSink) -> bool:
        """Return whether an image has the bytes of an input image."""
        sent = [*self.inputs.originals, *(each for each in self.inputs.prepared if not isinstance(each, str))]
        return any(probably_equal(image, original) for original in sent)

    async def finish_best(self, reply: ChatReply, images: Sequence[FoundImage]) -> list[OutputImage | ApiError]:
        """Return what became of the last images of a reply, or else of others that may stand for them."""
        # A preview is better than nothing, but an address beside it may lead to the image itself.
        is_preview = bool(images) and all(image.is_secondary for image in images)
        outcomes = await self.finish_guesses(reply, (), patient=False) if is_preview else []
        if not outcomes:
            outcomes = await self.finish_all(reply, images[-self.request.n :])
        if len(images) > self.request.n and all(map(_is_icon, outcomes)):
            outcomes = await self.finish_earlier(reply, images[: -self.request.n]) or outcomes
        if images and not _images_among(outcomes):
            outcomes += await self.finish_alternatives(reply, images, outcomes)
        if not is_preview and all(isinstance(outcome, NoImageInReply) for outcome in outcomes):
            outcomes += await self.finish_guesses(reply, {image.url for image in images}, patient=True)
        return outcomes

    async def finish_all(self, reply: ChatReply, images: Sequence[FoundImage]) -> list[OutputImage | ApiError]:
        if len(images) == 1:  # Most replies have one image: no task is needed for it.
            return [await self.try_finish(reply, images[0])]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.try_finish(reply, image)) for image in images]
        return [task.result() for task in tasks]

    async def finish_earlier(self, reply: ChatReply, images: Sequence[FoundImage]) -> list[OutputImage | ApiError]:
        """Return the last of the earlier images that are not icons: buttons and emoji may stand behind the result."""
        finished = await self.finish_all(reply, images[-_MAX_EARLIER:])
        larger = [image for image in _images_among(finished) if not _is_icon(image)]
        return [*larger[-self.request.n :]]

    async def finish_alternatives(
        self, reply: ChatReply, tried: Sequence[FoundImage], outcomes: Sequence[OutputImage | ApiError]
    ) -> list[OutputImage | ApiError]:
        """Return images in place of those that could not be had: the same files elsewhere, and images that count less.

        A preview replaces only what turned out not to be an image. An image that cannot be had now may be there when
        the client repeats its request.
        """
        names = {file_name(image.url) for image in tried[-self.request.n :]}
        # A link that leads to a page or a file of another kind was none to an image, so the images before it count.
        are_none = all(isinstance(outcome, NoImageInReply) for outcome in outcomes)
        others = [image for image in tried[: -self.request.n] if are_none or file_name(image.url) in names]
        failed = [*self.sent_texts, *(image.url for image in tried)]
        others += await in_thread_if_long(reply.size, find_images, reply, failed, takes_open=_takes_none)
        if not are_none:
            others = [image for image in others if not image.is_secondary]
        others = [image for image in others if not await self.is_input_echo(reply, image)]
        return [*_images_among(await self.finish_all(reply, others[-self.request.n :]))]

    async def finish_guesses(
        self, reply: ChatReply, tried: Collection[str], *, patient: bool
    ) -> list[OutputImage | ApiError]:
        """Return the images behind addresses that may lead to anything, within the time of one download."""
        found = await in_thread_if_long(reply.size, find_guesses, reply, self.sent_texts)
        guesses = [each for each in found if each.url not in tried]
        outcomes: list[OutputImage | ApiError] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(self.policy.fetch_timeout):
                await self.try_guesses(reply, guesses, outcomes, patient=patient)
        return outcomes

    async def try_guesses(
        self, reply: ChatReply, guesses: Sequence[FoundImage], outcomes: list[OutputImage | ApiError], *, patient: bool
    ) -> None:
        """Add what became of guesses, judged by their bytes, to `outcomes`: at most `n` images.

        Each is asked once, the likeliest first. Then, if `patient`, the likeliest of those that could not be had is
        tried again, as a new image may not be everywhere yet; after the words of a refusal no image is on its way.
        """
        missing: list[FoundImage] = []
        for guess in guesses:
            if len(outcomes) < self.request.n:
                outcomes += await self.finish_guess(reply, guess, missing, patient=False)
        may_appear = patient and bool(missing) and not outcomes
        if may_appear and not await in_thread_if_long(reply.size, is_refusal, reply):
            outcomes += await self.finish_guess(reply, missing[0], [], patient=True)

    async def finish_guess(
        self, reply: ChatReply, guess: FoundImage, missing: list[FoundImage], *, patient: bool
    ) -> list[OutputImage | ApiError]:
        """Return nothing where there is no image. Where nothing could be had, add the guess to `missing`."""
        try:
            blob = await self.io.probe(guess.url, patient=patient)
        except ImageUnavailable:
            missing.append(guess)
            return []
        outcome = await self.try_finish(reply, guess, blob)
        return [] if self.is_input(blob) or isinstance(outcome, NoImageInReply) else [outcome]

    async def failure_of(
        self,
        reply: ChatReply,
        images: Sequence[FoundImage],
        outcomes: Sequence[OutputImage | ApiError],
        error: ApiError | None,
    ) -> ApiError:
        """Return why a reply has brought no image, and note in `undelivered` what a repeat of the request may mend."""
        errors = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
        mendable = [each for each in errors if not isinstance(each, NoImageInReply)]
        if await in_thread_if_long(reply.size, shows_samples, reply, [image.url for image in images]):
            return error or no_image_error(reply)
        self.undelivered += mendable
        if mendable:
            return mendable[0]
        words = await in_thread_if_long(reply.size, no_image_error, reply)
        # A refusal stays one, wherever its links lead.
        is_refused = isinstance(words, ModerationBlocked)
        return errors[0] if errors and not is_refused else error or words

    async def try_finish(
        self, reply: ChatReply, image: FoundImage, blob: ByteSink | None = None
    ) -> OutputImage | ApiError:
        """Return a failure as a value: one image that cannot be had does not take the others with it."""
        return await self.capture(self.finish(reply, image, blob))

    async def finish(self, reply: ChatReply, image: FoundImage, blob: ByteSink | None = None) -> OutputImage:
        """Return the image as bytes or URL, exactly as asked. `blob`: its bytes, where they were downloaded already.

        Raises:
            ImageUnavailable: It cannot be downloaded or stored.
            NoImageInReply: What was found is not an image.
        """
        is_link = not image.url.startswith("data:")
        may_pass = self.wanted_format == "url" and is_link and await self.may_pass_link(image.url)
        is_trusted = blob is None and not image.is_open and has_image_ending(image.url)
        if may_pass and is_trusted and link_matches_request(image.url, self.request):
            return OutputImage(image.form, url=image.url)
        blob = blob if blob is not None else await self.to_blob(image.url, reply.spooled_images)
        info = read_info(blob.read_at)
        if info is None or is_tracking_pixel(info):
            message = "The upstream answered with a link to something that is not an image."
            raise NoImageInReply(message, detail=image.url)
        made, converted = await self.convert(OutputImage(image.form, info=info, received=info), blob)
        if converted is blob and may_pass:
            return replace(made, url=image.url)
        if self.wanted_format == "b64_json":
            return replace(made, source=converted)
        return replace(made, url=await self.url_of(converted, made.info or info))

    async def convert(self, image: OutputImage, blob: ByteSink) -> tuple[OutputImage, ByteSink]:
        """Return the image as it was asked for, with its bytes: the same blob where nothing is to do."""
        is_signed, sign = has_credentials(blob.read_at), self.policy.sign
        is_masked = self.inputs.mask is not None
        is_kept = is_signed and self.policy.credentials == "keep" and not is_masked
        made, signed = blob if is_kept and sign == "never" else await self.apply_wishes(blob), None
        if made is not blob and (sign == "converted" or (sign == "stripped" and is_signed)):
            signed = await self.io.sign(made, blob, is_ingredient=is_signed, is_masked=is_masked)
        if is_kept and signed is None and image.info is not None:
            return replace(image, credentials="kept", ignored=unmet_wishes(self.request, image.info)), blob
        credentials = "none" if not is_signed else "kept" if made is blob else "stripped"
        if signed is not None:
            made, credentials = signed, "signed"
        info = image.info if made is blob else read_info(made.read_at) or image.info
        return replace(image, info=info, credentials=credentials), made

    async def apply_wishes(self, blob: ByteSink) -> ByteSink:
        """Return the image with the mask, the format and the size of the request: the same blob if nothing changes."""
        if self.inputs.mask is not None:
            blob = await self.io.apply_mask(blob, self.inputs.originals[0], self.inputs.mask)
        return await self.io.convert(blob, self.request)

    async def url_of(self, image: ByteSink, info: ImageInfo) -> str | Base64String:
        """Return a URL of the image: of this server, or one that holds it. Raises `ImageUnavailable`."""
        if self.policy.rehost == "never":
            return Base64String(image, f"data:{info.media_type};base64,")
        return await self.io.store(image, info)

    async def may_pass_link(self, url: str) -> bool:
        """Return whether a link of the upstream may be the answer, because the client can do with it what it wants."""
        # An exact size is a promise about bytes, which a link to other servers does not keep.
        is_exact = self.request.size_mode is not SizeMode.NATIVE or self.inputs.mask is not None
        if self.policy.rehost == "always" or is_exact:
            return False
        # Scripts of a page can read a link only if its host allows it, which hosts of images seldom do. An operator who
        # has images stored never knows that the clients reach what this server reaches.
        return self.policy.rehost == "never" or (not self.request.from_page and await self.io.is_public(url))

    async def capture(self, work: Awaitable[_T]) -> _T | ApiError:
        """Return what `work` gives, or its failure as a value, so that it does not take other images with it."""
        try:
            return await work
        except Exception as caught:  # noqa: BLE001  # reason: the others are paid for
            return self.as_api_error(caught)

    def as_api_error(self, caught: Exception) -> ApiError:
        """Return an error that a client may see. A bug is reported."""
        if isinstance(caught, ApiError):
            return caught
        if isinstance(caught, OSError):
            # No descriptor, no disk: the reply must be read to its end all the same, since it is paid for.
            return ImageUnavailable(_NO_RESOURCES, detail=str(caught))
        self.io.report_bug(caught)
        return ApiError()


def _takes_none(_: str) -> bool:
    return False


def _images_among(outcomes: Sequence[OutputImage | ApiError]) -> list[OutputImage]:
    return [outcome for outcome in outcomes if isinstance(outcome, OutputImage)]


def _is_icon(outcome: OutputImage | ApiError) -> bool:
    """Return whether an image is smaller than any that an upstream paints."""
    info = outcome.received if isinstance(outcome, OutputImage) else None
    return info is not None and max(info.width or _LEAST_EDGE, info.height or _LEAST_EDGE) < _LEAST_EDGE


def _refuse_foreign(image: ByteSink, index: int) -> None:
    """Raise `UserError` for a file that is known and cannot be read, with what to send instead. `index` is from 0."""
    name = foreign_format(image.read_at(0, HEAD))
    if name is not None:
        message = f"Invalid image file or mode for image {index + 1}, please check your image file."
        raise UserError(f"{message} It is {name}: send PNG, JPEG or WebP.", code="invalid_image_file")


def note_images(reply: ChatReply, finished: Sequence[OutputImage], *, has_named: bool) -> None:
    """Note the images of a reply, for its price. An image that the reply has named counts even if it cannot be had."""
    if reply.attempt is not None:
        sizes = [None if image.info is None else image.info.size for image in finished]
        reply.attempt.image_sizes = sizes or [None] * has_named
