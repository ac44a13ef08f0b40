"""A link in whose middle a reply may end is a result only if an image is there, and half a link never is."""

from dataclasses import dataclass, field

import orjson
import pytest

from app.errors import ApiError, ImageUnavailable, NoImageInReply, UpstreamInvalidReply
from app.images.blob import Blob
from app.jobs.pipeline_interface import GenerationResult, PartialImage
from app.protocol.chat_reply import ChatReply
from app.protocol.input_images import InputImage
from app.protocol.parameters import Operation
from app.protocol.reply_parser import read_reply
from tests.support.pipeline_world import PNG, URL, World, bytes_in, request_for, result_of, run, text_reply
from tests.support.sample_images import gradient, saved

OTHER = saved(gradient(size=(9, 9)), "PNG")
SIGNED = f"{URL}?sig=0123456789"
HALF = f"{URL}?sig=01234"
FIRST = "https://cdn.example.com/gen/0.png"
PAGE = b"<!DOCTYPE html><html><title>Not found</title></html>"


@dataclass
class Web(World):
    """Records each probe: its URL, and whether it was patient."""

    probed: list[tuple[str, bool]] = field(default_factory=list)

    async def probe(self, url: str, *, patient: bool) -> Blob:
        self.probed.append((url, patient))
        return await super().probe(url, patient=patient)


def web(text: str, pages: dict[str, bytes], reason: str | None = "length") -> Web:
    return Web([[text_reply(text, finish_reason=reason)]], web=pages)


@pytest.mark.parametrize("reason", ["length", "content_filter", "gone fishing"])
@pytest.mark.parametrize("text", [f"Here: {SIGNED}", f"![fox]({SIGNED}", f'<img src="{SIGNED}'])
def test_a_whole_link_is_handed_out_once_its_bytes_were_seen(text: str, reason: str) -> None:
    world = web(text, {SIGNED: PNG}, reason)
    (image,) = result_of(request_for(response_format="url"), world).images
    assert image.url == SIGNED
    assert (world.probed, world.fetched) == ([(SIGNED, True)], [SIGNED])


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
@pytest.mark.parametrize("reason", ["length", "error"])
@pytest.mark.parametrize("pages", [{}, {HALF: PAGE}], ids=["nothing", "a page"])
def test_half_a_link_is_no_result(pages: dict[str, bytes], reason: str, response_format: str) -> None:
    world = web(f"Here: {HALF}", pages, reason)
    with pytest.raises(NoImageInReply, match=f"finish_reason {reason}"):
        run(request_for(response_format=response_format), world)
    assert world.probed == [(HALF, True)]


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_a_link_whose_host_does_not_answer_is_kept_for_a_repeat(response_format: str) -> None:
    world = web(f"Here: {SIGNED}", {})
    world.away.add(SIGNED)
    with pytest.raises(ImageUnavailable):
        run(request_for(response_format=response_format), world)
    assert world.probed == [(SIGNED, True)]


def test_a_link_whose_end_is_known_is_handed_out_unseen() -> None:
    world = web(f"Here: {SIGNED}", {}, "stop")
    assert [image.url for image in result_of(request_for(response_format="url"), world).images] == [SIGNED]
    assert world.fetched == []


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    images: tuple[bytes, ...]
    n: int = 1


BESIDE = [
    Case("the image before half a link", f"![a]({FIRST}) ![b]({HALF}", (OTHER,)),
    Case("the image before a whole link", f"![a]({FIRST}) ![b]({SIGNED}", (PNG,)),
    Case("both", f"![a]({FIRST}) ![b]({SIGNED}", (OTHER, PNG), n=2),
    Case("a smaller copy before half a link to the original", f"![a]({FIRST}?w=512) [4096x4096]({HALF}", (OTHER,)),
    Case("an image within half a link", f"[![a]({FIRST})]({HALF}", (OTHER,)),
]  # fmt: skip


@pytest.mark.parametrize("case", BESIDE, ids=lambda case: case.name)
def test_what_stands_before_an_open_link_counts_where_that_is_none(case: Case) -> None:
    world = web(case.text, {FIRST: OTHER, f"{FIRST}?w=512": OTHER, SIGNED: PNG})
    world.replies.append([text_reply("")])
    images = result_of(request_for(n=case.n), world).images
    assert tuple(map(bytes_in, images)) == case.images
    assert not any(patient for _, patient in world.probed)


def test_each_message_may_have_an_open_end() -> None:
    first, second = (text_reply(f"Here: {url}", finish_reason="length") for url in (HALF, SIGNED))
    reply = ChatReply(first.messages + second.messages, ends=first.ends + second.ends)
    world = Web([[reply]], web={SIGNED: PNG})
    assert [bytes_in(image) for image in result_of(request_for(), world).images] == [PNG]


def stream(*documents: object, url: str = SIGNED) -> Web:
    body = b"".join(b"data: " + orjson.dumps(document) + b"\n\n" for document in documents)
    return Web([[read_reply(body)]], web={url: PNG})


def test_a_text_that_is_no_piece_of_the_one_before_keeps_its_link() -> None:
    """Pieces of a robot are joined, and each with a link may be a text of its own, too."""
    world = stream({"content": "Painting. "}, {"text": f"See {SIGNED}"}, {"content": "Done"})
    assert [image.url for image in result_of(request_for(response_format="url"), world).images] == [SIGNED]
    assert world.probed == [(f"{SIGNED}Done", True), (SIGNED, True)]


def test_half_a_link_in_one_piece_of_several_is_no_result() -> None:
    world = stream({"content": f"See {HALF}"}, {"content": "56789"})
    assert [image.url for image in result_of(request_for(response_format="url"), world).images] == [SIGNED]
    world = stream({"content": f"See {HALF}"}, {"content": "56"})
    with pytest.raises(NoImageInReply):
        run(request_for(response_format="url"), world)
    assert world.probed == [(f"{HALF}56", True), (HALF, True)]


def test_only_a_few_open_links_are_looked_at() -> None:
    choices = [{"index": index, "delta": {"content": f"See {URL}?{index}"}} for index in range(9)]
    world = stream({"choices": choices})
    with pytest.raises(NoImageInReply):
        run(request_for(), world)
    assert len(world.probed) == 4


def test_the_image_of_the_client_is_no_result_behind_an_open_link_either() -> None:
    world = web(f"Here: {SIGNED}", {SIGNED: PNG})
    request = request_for(operation=Operation.EDIT, images=(InputImage(source=world.blob(PNG)),))
    with pytest.raises(NoImageInReply):
        run(request, world)


def test_a_stream_that_breaks_off_within_a_link_ends_with_its_error() -> None:
    lost = UpstreamInvalidReply("The upstream broke off in its reply.")
    for url, outcome in ((HALF, None), (SIGNED, PNG)):
        world = Web([[text_reply(f"Here: {url}", complete=False), lost]], web={SIGNED: PNG})
        if outcome is None:
            with pytest.raises(ApiError) as caught:
                run(request_for(), world)
            assert caught.value is lost
        else:
            assert [bytes_in(image) for image in result_of(request_for(), world).images] == [outcome]


def test_no_open_link_is_a_partial_image() -> None:
    texts = [f"{FIRST}\n{URL}", f"{FIRST}\n{SIGNED}", f"{FIRST}\n{SIGNED}\nDone."]
    world = Web([[text_reply(text, complete=text.endswith(".")) for text in texts]], web={FIRST: OTHER, SIGNED: PNG})
    *partials, result = run(request_for(stream=True, partial_images=3), world)
    assert [bytes_in(each.image) for each in partials if isinstance(each, PartialImage)] == [OTHER]
    assert isinstance(result, GenerationResult)
    assert [bytes_in(image) for image in result.images] == [PNG]
    assert (world.probed, URL in world.fetched) == ([], False)
