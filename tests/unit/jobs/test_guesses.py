"""An address that may lead to anything is judged by its bytes: in every language, and never by its words."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.errors import ApiError, ImageUnavailable, ModerationBlocked, NoImageInReply, UpstreamInvalidReply
from app.images.blob import Blob
from app.jobs.pipeline import Pipeline
from app.jobs.pipeline_interface import GenerationResult, PartialImage, PipelinePolicy
from app.protocol.input_images import InputImage
from app.protocol.parameters import Operation
from tests.support.guess_corpus import IMAGE_URL, PAGE_URLS, refusals, results
from tests.support.pipeline_world import PNG, World, bytes_in, request_for, result_of, run, text_reply
from tests.support.sample_images import gradient, saved

OTHER = saved(gradient(size=(9, 9)), "PNG")
PAGE = b"<!DOCTYPE html><html><title>Rules</title></html>"
PAGES = dict.fromkeys(PAGE_URLS, PAGE)
U1, U2, U3 = (f"https://out.painter.example/r/{number}a{number}b" for number in (1, 2, 3))


@dataclass
class Web(World):
    """Records each probe. `appears`: an address that is found by a patient probe only; `hangs`: one without an end."""

    probed: list[tuple[str, bool]] = field(default_factory=list)
    appears: str = ""
    hangs: str = ""

    async def probe(self, url: str, *, patient: bool) -> Blob:
        self.probed.append((url, patient))
        if url == self.hangs:
            await asyncio.Event().wait()
        if url == self.appears and not patient:
            raise ImageUnavailable("its host answered 403")
        return await self.fetch(url)


def web(text: str, pages: dict[str, bytes], **more: Any) -> Web:
    return Web([[text_reply(text)]], web=pages, **more)


async def collect(pipeline: Pipeline) -> PartialImage | GenerationResult | ApiError:
    items: list[PartialImage | GenerationResult] = []
    try:
        await pipeline.run(items.append)
    except ApiError as error:
        return error
    return items[-1]


def test_every_sentence_in_every_language_gives_its_image() -> None:
    async def check() -> list[str]:
        wrong = []
        for reply in results():
            world = web(reply.text, {**PAGES, IMAGE_URL: PNG})
            outcome = await collect(Pipeline(request_for(), world, PipelinePolicy()))
            is_right = isinstance(outcome, GenerationResult) and [bytes_in(image) for image in outcome.images] == [PNG]
            if not is_right or len(world.probed) > len(reply.links):
                wrong.append(reply.name)
        return wrong

    assert asyncio.run(check()) == []


def test_no_refusal_in_any_language_gives_an_image() -> None:
    async def check() -> list[str]:
        wrong = []
        for reply in refusals():
            world = web(reply.text, PAGES)
            outcome = await collect(Pipeline(request_for(response_format="url"), world, PipelinePolicy()))
            is_right = isinstance(outcome, ApiError) and outcome.status == 400 and reply.text[2:8] in outcome.message
            if not is_right or [url for url, _ in world.probed] != list(reply.links):
                wrong.append(reply.name)
        return wrong

    assert asyncio.run(check()) == []


def test_the_likeliest_address_is_asked_first_in_most_sentences() -> None:
    async def first_probes() -> list[str]:
        worlds = [web(reply.text, {**PAGES, IMAGE_URL: PNG}) for reply in results() if len(reply.links) > 1]
        for world in worlds:
            await collect(Pipeline(request_for(), world, PipelinePolicy()))
        return [world.probed[0][0] for world in worlds]

    first = asyncio.run(first_probes())
    assert first.count(IMAGE_URL) > 0.95 * len(first)


@dataclass(frozen=True)
class NoImage:
    name: str
    body: bytes


NO_IMAGES = [
    NoImage("a page", PAGE),
    NoImage("JSON", b'{"error": "expired"}'),
    NoImage("a tracking pixel", saved(gradient(size=(1, 1)), "GIF")),
    NoImage("a spacer", saved(gradient(size=(40, 1)), "PNG")),
    NoImage("a few pixels", saved(gradient(size=(3, 2)), "PNG")),
    NoImage("nothing that is known", b"\0" * 100),
]


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
@pytest.mark.parametrize("case", NO_IMAGES, ids=lambda case: case.name)
def test_what_is_no_image_by_its_bytes_is_no_result(case: NoImage, response_format: str) -> None:
    world = web(f"Voici : {IMAGE_URL}", {IMAGE_URL: case.body})
    with pytest.raises(NoImageInReply, match="It said: Voici"):
        run(request_for(response_format=response_format), world)
    assert world.probed == [(IMAGE_URL, False)]


def test_an_address_is_handed_out_only_after_its_bytes_were_seen() -> None:
    world = web(f"Voici : {IMAGE_URL}", {IMAGE_URL: PNG})
    (image,) = result_of(request_for(response_format="url"), world).images
    assert (image.url, image.form) == (IMAGE_URL, "guessed-address")
    assert world.fetched == [IMAGE_URL]


@pytest.mark.parametrize(
    "text", [f"![fox]({IMAGE_URL})", f'{{"image_url": "{IMAGE_URL}"}}', f"![x]({IMAGE_URL}?w=9&h=9)"]
)
def test_an_image_in_markup_is_looked_at_too_if_its_address_has_no_image_ending(text: str) -> None:
    world = web(text, {IMAGE_URL: PNG, f"{IMAGE_URL}?w=9&h=9": PNG})
    assert result_of(request_for(response_format="url"), world).images[0].url in world.fetched


def test_a_refusal_stays_one_wherever_its_links_lead() -> None:
    words = "I can't help with that, it violates our content policy"
    for text in (f"{words}: {U1}", f"{words}: ![rules]({U1})"):
        for pages in ({}, {U1: PAGE}):
            world = web(text, pages)
            with pytest.raises((ModerationBlocked, ImageUnavailable)) as caught:
                run(request_for(), world)
            assert isinstance(caught.value, ModerationBlocked) or ("![" in text and not pages)
            assert all(not patient for _, patient in world.probed)


def test_what_could_not_be_had_is_no_server_error() -> None:
    with pytest.raises(NoImageInReply):
        run(request_for(), web(f"Voici : {U1}", {}))


def test_an_image_that_appears_later_is_waited_for() -> None:
    world = web(f"Voici : {U1}\n\nAide : https://painter.example/aide", {U1: PNG}, appears=U1)
    assert [bytes_in(image) for image in result_of(request_for(), world).images] == [PNG]
    assert world.probed == [(U1, False), ("https://painter.example/aide", False), (U1, True)]


def test_only_a_few_addresses_are_asked() -> None:
    links = " ".join(f"https://e{number}.example/x" for number in range(40))
    world = web(links, {})
    with pytest.raises(NoImageInReply):
        run(request_for(), world)
    assert len(world.probed) == 5


def test_all_guesses_together_take_no_longer_than_one_download() -> None:
    world = web(f"Voici : {U1}", {}, hangs=U1)
    with pytest.raises(NoImageInReply):
        run(request_for(), world, replace(PipelinePolicy(), fetch_timeout=0))


def test_at_most_n_images_are_downloaded() -> None:
    world = web(f"1: {U1}\n2: {U2}\n3: {U3}", dict.fromkeys((U1, U2, U3), PNG))
    world.replies.append([text_reply("")])
    assert len(result_of(request_for(n=2), world).images) == 2
    assert len(world.probed) == 2


def test_the_picture_of_the_client_is_no_result_under_another_address() -> None:
    world = web(f"You sent {U1}", {U1: PNG, U2: OTHER})
    request = request_for(operation=Operation.EDIT, images=(InputImage(source=world.blob(PNG)),))
    with pytest.raises(NoImageInReply):
        run(request, world)
    world = web(f"You sent {U1} and I made {U2}", {U1: PNG, U2: OTHER})
    request = request_for(operation=Operation.EDIT, images=(InputImage(source=world.blob(PNG)),))
    assert [bytes_in(image) for image in result_of(request, world).images] == [OTHER]


def test_where_an_image_in_markup_is_a_page_the_other_addresses_are_looked_at() -> None:
    world = web(f"![login](https://painter.example/login)\n\n{U1}", {"https://painter.example/login": PAGE, U1: PNG})
    assert [bytes_in(image) for image in result_of(request_for(), world).images] == [PNG]


PREVIEW_URL = "https://out.painter.example/p/1_thumb.png"


@pytest.mark.parametrize(("page", "image"), [(PNG, PNG), (PAGE, OTHER), (None, OTHER)])
def test_a_preview_is_taken_only_if_no_address_beside_it_leads_to_an_image(page: bytes | None, image: bytes) -> None:
    pages = {PREVIEW_URL: OTHER} | ({} if page is None else {U1: page})
    world = web(f"![preview]({PREVIEW_URL})\n\nFull size: {U1}", pages)
    assert [bytes_in(each) for each in result_of(request_for(), world).images] == [image]
    assert world.probed == [(U1, False)]


def test_the_error_of_a_stream_that_broke_off_wins_over_its_guesses() -> None:
    reply = text_reply(f"Voici : {U1} ", complete=False)
    with pytest.raises(UpstreamInvalidReply, match="cut"):
        run(request_for(stream=True), Web([[reply, UpstreamInvalidReply("cut")]], web={U1: PAGE}))


def test_an_image_that_cannot_be_stored_is_not_taken_for_a_missing_one() -> None:
    class FullStore(Web):
        async def store(self, image: Any, info: Any) -> str:
            raise ImageUnavailable("The image store is full.")

    world = FullStore([[text_reply(f"Voici : {U1}")]], web={U1: PNG})
    with pytest.raises(ImageUnavailable, match="full"):
        run(request_for(response_format="url"), world, replace(PipelinePolicy(), rehost="always"))
