"""The whole pipeline works, with an implementation of `PipelineIO` in memory."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.errors import ApiError, ImageUnavailable, ModerationBlocked, NoImageInReply, UpstreamInvalidReply, UserError
from app.extraction.forms import find_images
from app.images.blob import Blob
from app.jobs import pipeline
from app.jobs.pipeline_interface import GenerationResult, PartialImage
from app.protocol import image_format
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import MARKUP_INSTRUCTION
from app.protocol.file_parts import ReadAt
from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest
from app.protocol.input_images import InputImage
from app.protocol.json_stream import Base64String
from app.protocol.parameters import Operation
from app.protocol.size_fit import SizeMode
from app.protocol.sizes import Size
from tests.support.pipeline_world import (
    JPEG,
    JPEG_URL,
    PNG,
    POLICY,
    URL,
    WEBP,
    World,
    bytes_in,
    data_url,
    image_reply,
    request_for,
    result_of,
    run,
    text_reply,
)
from tests.support.sample_images import gradient, saved
from tests.support.signed_images import signed as signed_file


def test_a_linked_image_is_downloaded_and_measured() -> None:
    world = World([[image_reply(URL)]])
    result = result_of(request_for(size=Size(1536, 1024), quality="high", metadata={"a": "b"}, user="u"), world)
    (image,) = result.images
    assert bytes_in(image) == PNG
    assert image.info == ImageInfo("image/png", 8, 8, alpha=False)
    assert (result.usage.as_images_api()["total_tokens"], result.failed) == (12, 0)
    text = {"type": "text", "text": "1536x1024 'a fox'"}
    assert world.sent == [
        (
            {
                "model": "gpt-image-2-chat",
                "messages": [{"role": "user", "content": [text]}],
                "metadata": {"a": "b", "quality": "high"},
                "user": "u",
                "stream": False,
            },
            False,
        )
    ]


def test_an_image_that_stays_as_it_came_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[ImageInfo | None] = []

    def read_info(read_at: ReadAt) -> ImageInfo | None:
        measured.append(image_format.read_info(read_at))
        return measured[-1]

    monkeypatch.setattr(pipeline, "read_info", read_info)
    (image,) = result_of(request_for(), World([[image_reply(URL)]])).images
    assert measured == [image.info]


@dataclass(frozen=True)
class Case:
    """In which form one image is returned, by what was requested, found and configured."""

    name: str
    found: str
    fields: dict[str, Any]
    returned: str
    policy: dict[str, Any] = field(default_factory=dict)
    converted: bytes | None = None
    fetched: bool = False
    stored: bool = False


CASES = [
    Case("a link stays a link where a url is wanted", URL, {"response_format": "url"}, URL),
    Case("a link is downloaded where bytes are wanted", URL, {"response_format": "b64_json"}, "bytes", fetched=True),
    Case("a data URL is decoded where bytes are wanted", data_url(PNG), {}, "bytes"),
    Case("a data URL is stored where a url is wanted", data_url(PNG), {"response_format": "url"}, "stored", stored=True),
    Case("a data URL stays one where nothing is stored", data_url(PNG), {"response_format": "url"}, "data", {"rehost": "never"}),
    Case("a link is stored where everything is", URL, {"response_format": "url"}, "stored", {"rehost": "always"}, fetched=True, stored=True),
    Case("a link with the file extension of the requested format is trusted", URL, {"response_format": "url", "output_format": "png"}, URL),
    Case("a link with another file extension is measured, and returned if it has the format", URL, {"response_format": "url", "output_format": "webp"}, URL, fetched=True),
    Case("a link in another format is converted and stored", URL, {"response_format": "url", "output_format": "jpeg"}, "stored", {}, JPEG, fetched=True, stored=True),
    Case("a link with the file extension of the requested format is measured where it is to be compressed", JPEG_URL, {"response_format": "url", "output_format": "jpeg", "output_compression": 50}, "stored", {}, JPEG, fetched=True, stored=True),
    Case("a link that is to be compressed by nothing is trusted", JPEG_URL, {"response_format": "url", "output_format": "jpeg", "output_compression": 100}, JPEG_URL),
    Case("a compression that has no effect changes no link", URL, {"response_format": "url", "output_compression": 50}, URL),
    Case("a link stays a link where nothing is stored", URL, {"response_format": "url"}, URL, {"rehost": "never"}),
    Case("a link that has the format stays a link where nothing is stored", URL, {"response_format": "url", "output_format": "webp"}, URL, {"rehost": "never"}, fetched=True),
    Case("a link in another format is converted into a data URL where nothing is stored", URL, {"response_format": "url", "output_format": "jpeg"}, "converted data", {"rehost": "never"}, JPEG, fetched=True),
    Case("converted bytes are returned instead of the upstream's", URL, {"output_format": "jpeg"}, "converted", {}, JPEG, fetched=True),
    Case("a link is measured and stored where an exact size is wanted", URL, {"response_format": "url", "size_mode": SizeMode.COVER}, "stored", fetched=True, stored=True),
    Case("no model means a url", URL, {"model": None}, URL),
    Case("dall-e means a url", URL, {"model": "dall-e-3"}, URL),
    Case("another name means bytes", URL, {"model": "mine"}, "bytes", fetched=True),
    Case("the operator's default holds where the client wants nothing", URL, {}, URL, {"default_format": "url"}),
    Case("the client's response_format comes before the operator's default", URL, {"response_format": "b64_json"}, "bytes", {"default_format": "url"}, fetched=True),
    Case("a link of a private network is stored", URL, {"response_format": "url"}, "stored", {"private": True}, fetched=True, stored=True),
    Case("a link of a private network stays a link where nothing is stored", URL, {"response_format": "url"}, URL, {"private": True, "rehost": "never"}),
    Case("a link is stored for the scripts of a page", URL, {"response_format": "url", "from_page": True}, "stored", fetched=True, stored=True),
    Case("a link stays a link for a page where nothing is stored", URL, {"response_format": "url", "from_page": True}, URL, {"rehost": "never"}),
    Case("events carry bytes", URL, {"stream": True, "response_format": "url"}, "bytes", fetched=True),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_form_in_which_an_image_is_returned(case: Case) -> None:
    policy = {**case.policy}
    private = {URL} if policy.pop("private", False) else set[str]()
    world = World([[image_reply(case.found)]], converted=case.converted, private=private)
    (image,) = result_of(request_for(**case.fields), world, replace(POLICY, **policy)).images
    if image.source is not None:
        assert case.returned == ("bytes" if bytes_in(image) == PNG else "converted")
        assert image.info is not None
    elif isinstance(image.url, Base64String):
        form = "png" if case.returned == "data" else "jpeg"
        assert case.returned in {"data", "converted data"}
        assert image.url.prefix == f"data:image/{form};base64,"
    else:
        assert image.url == ("https://limner.example/stored/1.png" if case.returned == "stored" else case.returned)
    assert (bool(world.fetched), bool(world.stored)) == (case.fetched, case.stored)


SIGNED = signed_file(PNG)


@dataclass(frozen=True)
class Signing:
    """What becomes of a manifest: the upstream's `found` image, `converted` and `signed` where they are not None."""

    name: str
    policy: dict[str, Any]
    found: bytes
    converted: bytes | None
    signed: bytes | None
    returned: bytes
    credentials: str
    asked: bool = True
    ignored: tuple[str, ...] = ()


STRIPPED, CONVERTED, KEPT = {"sign": "stripped"}, {"sign": "converted"}, {"credentials": "keep"}
SIGNINGS = [
    Signing("nobody signs", {}, SIGNED, JPEG, WEBP, JPEG, "stripped", asked=False),
    Signing("nobody signs, and a manifest is kept", KEPT, SIGNED, JPEG, WEBP, SIGNED, "kept", asked=False, ignored=("output_format",)),
    Signing("a manifest would be lost", STRIPPED, SIGNED, JPEG, WEBP, WEBP, "signed"),
    Signing("a manifest would be lost, and nothing can be signed", STRIPPED, SIGNED, JPEG, None, JPEG, "stripped"),
    Signing("there is no manifest to lose", STRIPPED, PNG, JPEG, WEBP, JPEG, "none", asked=False),
    Signing("all that is converted is signed", CONVERTED, PNG, JPEG, WEBP, WEBP, "signed"),
    Signing("all that is converted is signed, with a manifest", CONVERTED, SIGNED, JPEG, WEBP, WEBP, "signed"),
    Signing("all that is converted is signed, but cannot be", CONVERTED, PNG, JPEG, None, JPEG, "none"),
    Signing("nothing is converted", CONVERTED, SIGNED, None, WEBP, SIGNED, "kept", asked=False),
    Signing("nothing is converted, and there is no manifest", CONVERTED, PNG, None, WEBP, PNG, "none", asked=False),
    Signing("a manifest is kept by signing", STRIPPED | KEPT, SIGNED, JPEG, WEBP, WEBP, "signed"),
    Signing("a manifest is kept where signing fails", STRIPPED | KEPT, SIGNED, JPEG, None, SIGNED, "kept", ignored=("output_format",)),
    Signing("a manifest is kept where nothing is converted", STRIPPED | KEPT, SIGNED, None, WEBP, SIGNED, "kept", asked=False, ignored=("output_format",)),
]  # fmt: skip


@pytest.mark.parametrize("case", SIGNINGS, ids=lambda case: case.name)
def test_what_becomes_of_a_manifest(case: Signing) -> None:
    world = World([[image_reply(URL)]], web={URL: case.found}, converted=case.converted, signed=case.signed)
    request = request_for(output_format="jpeg", response_format="b64_json")
    (image,) = result_of(request, world, replace(POLICY, **case.policy)).images
    assert (bytes_in(image), image.credentials, image.ignored) == (case.returned, case.credentials, case.ignored)
    assert image.info is not None
    assert image.info.format == ("jpeg" if case.returned is JPEG else "webp" if case.returned is WEBP else "png")
    assert world.signings == ([(case.converted, case.found, case.found is SIGNED, False)] if case.asked else [])


@pytest.mark.parametrize(("mode", "wanted", "stream"), [("auto", False, False), ("auto", True, True), ("always", False, True), ("never", True, False)])  # fmt: skip
def test_whether_a_stream_is_requested_from_the_upstream(mode: Any, wanted: bool, stream: bool) -> None:
    world = World([[image_reply(URL)]])
    run(request_for(stream=wanted), world, replace(POLICY, stream=mode))
    assert world.sent[0][1] is stream
    assert world.sent[0][0]["stream"] is stream


def test_n_upstream_requests_are_concurrent_with_results_in_order_of_arrival() -> None:
    urls = [f"https://cdn.example.com/gen/{number}.png" for number in range(3)]
    slow = text_reply("painting", complete=False)
    replies: list[list[ChatReply | Exception]] = [
        [slow, slow, image_reply(urls[0])],
        [slow, image_reply(urls[1])],
        [image_reply(urls[2])],
    ]
    result = result_of(request_for(n=3, response_format="url"), World(replies))
    assert [image.url for image in result.images] == [urls[2], urls[1], urls[0]]
    assert result.usage.as_images_api()["total_tokens"] == 36


def test_images_of_successful_upstream_requests_are_returned_and_failed_ones_counted() -> None:
    refused = UserError("no")
    result = result_of(request_for(n=3, response_format="url"), World([[refused], [image_reply(URL)], [refused]]))
    assert [image.url for image in result.images] == [URL]
    assert result.failed == 2


def test_the_first_error_is_raised_if_every_upstream_request_failed() -> None:
    with pytest.raises(UserError, match="first"):
        run(
            request_for(n=2),
            World([[UserError("first")], [text_reply("painting", complete=False), UserError("second")]]),
        )


def test_all_images_of_a_reply_count_and_at_most_n_are_returned() -> None:
    urls = [f"https://cdn.example.com/gen/{number}.png" for number in range(3)]
    assert len(result_of(request_for(n=2, response_format="url"), World([[image_reply(*urls)]])).images) == 2
    (last,) = result_of(request_for(response_format="url"), World([[image_reply(*urls)]])).images
    assert last.url == urls[2]


def test_an_image_that_cannot_be_downloaded_does_not_take_the_others_with_it() -> None:
    lost = "https://cdn.example.com/gen/lost.png"
    result = result_of(request_for(n=2), World([[image_reply(lost, URL)], [UserError("no")]]))
    assert [bytes_in(image) for image in result.images] == [PNG]


def test_the_error_of_a_failed_download_names_the_image() -> None:
    with pytest.raises(ImageUnavailable, match=URL):
        run(request_for(), World([[image_reply(URL)]], web={}))


def test_an_address_for_documentation_in_a_refusal_is_no_failed_download() -> None:
    with pytest.raises(NoImageInReply, match=r"example\.org"):
        run(request_for(), World([[text_reply("Sorry, I can only write: ![x](https://example.org/x.png)")]], web={}))


def test_a_link_to_something_else_is_not_an_image() -> None:
    with pytest.raises(NoImageInReply, match="not an image"):
        run(request_for(), World([[image_reply(URL)]], web={URL: b"<html>log in</html>"}))


LOST = "https://cdn.example.com/gen/lost.png"


@dataclass(frozen=True)
class Substitute:
    """`found`: the image that is returned although LOST cannot be had; None: the error stays."""

    name: str
    text: str
    found: str | None
    web: dict[str, bytes]


ELSEWHERE = "https://mirror.example.com/a/lost.png"
SUBSTITUTES = [
    Substitute("a link to another image", f"![x]({LOST})\n\nMirror: {URL}", URL, {URL: PNG}),
    Substitute("the same file elsewhere", f"A: {ELSEWHERE}\nB: {LOST}", ELSEWHERE, {ELSEWHERE: PNG}),
    Substitute("an earlier image of another name", f"![a]({URL})\n![b]({LOST})", None, {URL: PNG}),
    Substitute("an image before what is none", f"![a]({URL})\n![b]({LOST})", URL, {URL: PNG, LOST: b"<html>"}),
    Substitute("a preview of an image that cannot be had", f"![preview]({URL}) ![x]({LOST})", None, {URL: PNG}),
    Substitute("a preview of what is no image", f"![preview]({URL}) ![x]({LOST})", URL, {URL: PNG, LOST: b"<html>"}),
    Substitute("a small image whose link leads to none", f"[![x]({URL})]({LOST})", URL, {URL: PNG, LOST: b"<html>"}),
    Substitute(
        "a small copy, shown with a link to a large one", f"![x]({URL})\n\n[Full size]({LOST})", URL, {URL: PNG}
    ),
    Substitute("an image that cannot be had either", f"![x]({LOST})\n\nMirror: {URL}", None, {}),
]


@pytest.mark.parametrize("case", SUBSTITUTES, ids=lambda case: case.name)
def test_what_stands_for_an_image_that_cannot_be_had(case: Substitute) -> None:
    world = World([[text_reply(case.text)]], web=case.web)
    if case.found is None:
        with pytest.raises(ImageUnavailable, match=LOST):
            run(request_for(), world)
    else:
        assert [bytes_in(image) for image in result_of(request_for(), world).images] == [PNG]
        assert world.fetched[-1] == case.found


LARGE = saved(gradient(size=(120, 80)), "PNG")
ICONS = [
    ("a button behind the result", [(URL, LARGE), (LOST, PNG)], LARGE),
    ("nothing but icons", [(URL, PNG), (LOST, PNG)], PNG),
    ("an earlier image that cannot be had", [(URL, b""), (LOST, PNG)], PNG),
    ("an image behind an icon", [(URL, PNG), (LOST, LARGE)], LARGE),
    ("a version behind a version", [(URL, PNG), (JPEG_URL, LARGE), (LOST, LARGE + b"2")], LARGE + b"2"),
]


@pytest.mark.parametrize(("name", "images", "found"), ICONS, ids=[row[0] for row in ICONS])
def test_an_icon_is_the_result_only_if_there_is_nothing_else(
    name: str, images: list[tuple[str, bytes]], found: bytes
) -> None:
    world = World([[image_reply(*[url for url, _ in images])]], web={url: data for url, data in images if data})
    assert [bytes_in(image) for image in result_of(request_for(), world).images] == [found]


BUG = KeyError("a bug")
SLOWLY: list[ChatReply | Exception] = [*[text_reply("painting", complete=False)] * 9, image_reply(URL)]


class BuggyWorld(World):
    """One download meets a bug."""

    async def fetch(self, url: str, *, is_result: bool = True) -> Blob:
        if url == LOST:
            raise BUG
        return await super().fetch(url, is_result=is_result)


BUGS: list[tuple[str, list[list[ChatReply | Exception]], int]] = [
    ("with one image of a reply", [[image_reply(LOST, URL)], [UserError("no")]], 1),
    ("with the only image of a reply", [[image_reply(LOST)], SLOWLY], 1),
    ("while a reply is read", [[BUG], SLOWLY], 1),
    ("behind the image of a reply", [[image_reply(URL), BUG], [image_reply(URL)]], 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "replies", "count"), BUGS, ids=[row[0] for row in BUGS])
def test_a_bug_does_not_take_the_other_images_with_it(
    name: str, replies: list[list[ChatReply | Exception]], count: int
) -> None:
    world = BuggyWorld(replies)
    result = result_of(request_for(n=2), world)
    assert [bytes_in(image) for image in result.images] == [PNG] * count
    assert (world.bugs, world.open_requests) == ([BUG], 0)


def test_a_bug_with_all_images_is_an_error_that_a_repeat_may_mend() -> None:
    with pytest.raises(ApiError, match="The server had an error") as caught:
        run(request_for(n=2), BuggyWorld([[text_reply("No.")], [image_reply(LOST)]]))
    assert type(caught.value) is ApiError


@pytest.mark.parametrize("is_partial", [True, False], ids=["in a part of a reply", "in a whole reply"])
def test_a_bug_in_the_search_for_images(monkeypatch: pytest.MonkeyPatch, is_partial: bool) -> None:
    def find_with_bug(reply: ChatReply, sent: Any, **more: Any) -> Any:
        if reply.complete is not is_partial:
            raise BUG
        return find_images(reply, sent, **more)

    monkeypatch.setattr("app.jobs.pipeline.find_images", find_with_bug)
    world = World([[text_reply("No.")], GROWING], web=dict.fromkeys(URLS, PNG))
    request = request_for(n=2, stream=True, partial_images=3)
    if is_partial:
        (result,) = run(request, world)
        assert isinstance(result, GenerationResult)
    else:
        with pytest.raises(ApiError, match="The server had an error"):
            run(request, world)
    assert set(map(str, world.bugs)) == {str(BUG)}


NONE: list[tuple[str, ChatReply, type[ApiError], str]] = [
    ("a text", text_reply("I like foxes."), NoImageInReply, "no image. It said: I like foxes."),
    ("a long text is shortened", text_reply("word " * 500), NoImageInReply, "word…$|…"),
    ("nothing", text_reply(""), NoImageInReply, "It said nothing."),
    ("a refusal", text_reply("I can't create that: it violates our content policy."), ModerationBlocked, "safety system"),
    ("a filter", text_reply("", finish_reason="content_filter"), ModerationBlocked, "safety system of the upstream .finish_reason content_filter..$"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reply", "kind", "message"), NONE, ids=[row[0] for row in NONE])
def test_a_reply_without_an_image_is_a_4xx(name: str, reply: ChatReply, kind: type[ApiError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        run(request_for(), World([[reply]]))
    assert caught.value.status == 400
    assert caught.value.headers["x-should-retry"] == "false"
    assert caught.value.detail == reply.raw
    assert len(caught.value.message) < 450


def test_a_reply_that_ends_without_a_snapshot_is_invalid() -> None:
    with pytest.raises(UpstreamInvalidReply):
        run(request_for(), World([[]]))


def partial_reply(*urls: str) -> ChatReply:
    return replace(image_reply(*urls), complete=False)


URLS = [f"https://cdn.example.com/gen/{number}.png" for number in range(4)]
GROWING: list[ChatReply | Exception] = [text_reply("10 %", complete=False), partial_reply(URLS[0]), partial_reply(*URLS[:2]), partial_reply(*URLS[:2]), partial_reply(*URLS), image_reply(*URLS)]  # fmt: skip


@pytest.mark.parametrize(("wanted", "shown"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_partial_images_come_before_the_final_one(wanted: int, shown: int) -> None:
    world = World([GROWING], web=dict.fromkeys(URLS, LARGE))
    *partials, result = run(request_for(stream=True, partial_images=wanted), world)
    assert all(isinstance(partial, PartialImage) for partial in partials)
    assert world.fetched == [*URLS[:shown], URLS[3]]
    assert isinstance(result, GenerationResult)
    assert len(result.images) == 1


def test_a_partial_image_that_cannot_be_downloaded_is_left_out() -> None:
    *partials, result = run(
        request_for(stream=True, partial_images=3), World([GROWING], web={URLS[1]: PNG, URLS[3]: PNG})
    )
    assert (len(partials), isinstance(result, GenerationResult)) == (1, True)


def test_partial_images_are_for_streams() -> None:
    assert len(run(request_for(partial_images=3), World([GROWING], web=dict.fromkeys(URLS, PNG)))) == 1


def test_a_stream_that_breaks_off_after_its_image_is_a_success() -> None:
    world = World([[partial_reply(URL), UpstreamInvalidReply("cut")]])
    assert bytes_in(result_of(request_for(stream=True), world).images[0]) == PNG


def test_a_draft_of_a_stream_that_broke_off_is_not_the_image() -> None:
    draft = replace(text_reply(f"预览图:{URL}\n", complete=False))
    with pytest.raises(UpstreamInvalidReply, match="cut"):
        run(request_for(stream=True), World([[draft, UpstreamInvalidReply("cut")]]))


def test_a_stream_that_breaks_off_before_its_image_raises_its_error() -> None:
    with pytest.raises(UpstreamInvalidReply, match="cut"):
        run(request_for(stream=True), World([[text_reply("10 %", complete=False), UpstreamInvalidReply("cut")]]))


def edit_of(*images: InputImage, mask: InputImage | None = None, markup: InputImage | None = None) -> ImagesRequest:
    return request_for(operation=Operation.EDIT, images=images, mask=mask, markup=markup)


def sent_urls(world: World) -> list[str]:
    return [part["image_url"]["url"] for part in world.sent[0][0]["messages"][0]["content"][1:]]


def test_input_images_are_sent_as_data_urls_with_the_type_of_their_bytes() -> None:
    world = World([[image_reply(URL)]], web={URL: PNG, "https://h/cat.gif": JPEG})
    first = world.blob(PNG)
    run(
        edit_of(
            InputImage(source=first), InputImage(url=data_url(JPEG, "image/png")), InputImage(url="https://h/cat.gif")
        ),
        world,
    )
    assert sent_urls(world) == [data_url(PNG), data_url(JPEG, "image/jpeg"), data_url(JPEG, "image/jpeg")]


def test_the_mask_is_checked_and_goes_last() -> None:
    world = World([[image_reply(URL)]])
    run(edit_of(InputImage(source=world.blob(JPEG)), mask=InputImage(source=world.blob(PNG))), world)
    assert world.masks == [(PNG, JPEG)]
    assert world.prepared == [(JPEG, 0, None), (PNG, 1, JPEG)]
    assert sent_urls(world) == [data_url(JPEG, "image/jpeg"), data_url(PNG)]


def test_a_file_that_cannot_be_read_is_named_before_the_upstream_is_asked() -> None:
    world = World([[image_reply(URL)]])
    heic = b"\0\0\0\x18ftypheic\0\0\0\0"
    with pytest.raises(
        UserError, match=r"for image 2,.* It is HEIC, the format of iPhones: send PNG, JPEG or WebP\."
    ) as caught:
        run(edit_of(InputImage(source=world.blob(JPEG)), InputImage(source=world.blob(heic))), world)
    assert (caught.value.code, world.sent) == ("invalid_image_file", [])


def test_markup_goes_last_in_the_size_of_the_first_image() -> None:
    world = World([[image_reply(URL)]])
    run(edit_of(InputImage(source=world.blob(JPEG)), markup=InputImage(source=world.blob(PNG))), world)
    assert world.prepared == [(JPEG, 0, None), (PNG, 1, JPEG)]
    assert sent_urls(world) == [data_url(JPEG, "image/jpeg"), data_url(PNG)]
    assert MARKUP_INSTRUCTION in world.sent[0][0]["messages"][0]["content"][0]["text"]


def test_a_link_to_markup_is_passed_on_behind_the_links_to_images() -> None:
    world = World([[image_reply(URL)]])
    request = edit_of(InputImage(url="https://h/cat.gif"), markup=InputImage(url="https://h/marks.png"))
    run(request, world, replace(POLICY, pass_links=True))
    assert sent_urls(world) == ["https://h/cat.gif", "https://h/marks.png"]


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_an_exact_mask_restores_what_it_covers(form: str) -> None:
    world = World([[image_reply(URL)]])
    request = edit_of(InputImage(source=world.blob(JPEG)), mask=InputImage(source=world.blob(PNG)))
    (image,) = result_of(replace(request, response_format=form), world, replace(POLICY, mask="exact")).images
    assert world.masks == [(PNG, JPEG), (JPEG, PNG)]
    assert image.info == ImageInfo("image/webp", 8, 8, alpha=False)
    assert world.stored == ([(WEBP, "image/webp")] if form == "url" else [])


@pytest.mark.parametrize(("signs", "credentials"), [(True, "signed"), (False, "stripped")])
def test_what_a_mask_has_changed_is_signed_as_such_even_where_manifests_are_kept(signs: bool, credentials: str) -> None:
    world = World([[image_reply(URL)]], web={URL: SIGNED}, signed=JPEG if signs else None)
    request = edit_of(InputImage(source=world.blob(JPEG)), mask=InputImage(source=world.blob(PNG)))
    (image,) = result_of(request, world, replace(POLICY, mask="exact", sign="stripped", credentials="keep")).images
    assert (bytes_in(image), image.credentials) == (JPEG if signs else WEBP, credentials)
    assert world.signings == [(WEBP, SIGNED, True, True)]


PASSED_ON: list[tuple[str, dict[str, Any], bool]] = [
    ("all are links", {"images": (InputImage(url="https://h/1"), InputImage(url="https://h/2"))}, True),
    ("one is not", {"images": (InputImage(url="https://h/1"), InputImage(url=data_url(PNG)))}, False),
    (
        "a mask must be checked",
        {"images": (InputImage(url="https://h/1"),), "mask": InputImage(url=data_url(PNG))},
        False,
    ),
]


@pytest.mark.parametrize(("name", "fields", "passed"), PASSED_ON, ids=[row[0] for row in PASSED_ON])
def test_links_are_passed_on_where_the_operator_allows_it(name: str, fields: dict[str, Any], passed: bool) -> None:
    world = World([[image_reply(URL)]], web={URL: PNG, "https://h/1": JPEG})
    run(request_for(operation=Operation.EDIT, **fields), world, replace(POLICY, pass_links=True))
    assert (sent_urls(world) == ["https://h/1", "https://h/2"]) is passed
    assert ("https://h/1" in world.fetched) is not passed


def test_the_clients_own_link_does_not_come_back_as_a_result() -> None:
    world = World([[image_reply(URL)]])
    with pytest.raises(NoImageInReply):
        run(edit_of(InputImage(url=URL)), world)


@pytest.mark.parametrize(
    "more", [{"prompt": f"Give the cat of {URL} a hat"}, {"metadata": {"base": URL}}, {"unread": (URL,)}]
)
def test_a_link_in_the_clients_own_words_does_not_come_back_as_a_result(more: dict[str, Any]) -> None:
    world = World([[text_reply(f"I cannot open {URL}.")]])
    with pytest.raises(NoImageInReply):
        run(request_for(**more), world)
    assert world.fetched == []


def test_the_clients_own_bytes_do_not_come_back_as_a_result() -> None:
    world = World([[text_reply(f"![yours]({data_url(PNG)}) ![mine]({data_url(JPEG, 'image/jpeg')})")]])
    result = result_of(replace(edit_of(InputImage(source=world.blob(PNG))), n=2), world)
    assert [bytes_in(image) for image in result.images] == [JPEG, JPEG]
    world = World([[text_reply(f"![yours]({data_url(PNG)})")]])
    with pytest.raises(NoImageInReply):
        run(edit_of(InputImage(source=world.blob(PNG))), world)


def test_the_spooled_bytes_are_used_instead_of_their_placeholder() -> None:
    large = Blob()
    large.write(JPEG)
    reply = replace(text_reply(f"![image]({data_url(PNG)})"), spooled_images={data_url(PNG): large})
    result = result_of(request_for(), World([[reply]]))
    assert bytes_in(result.images[0]) == JPEG
    assert result.images[0].info == ImageInfo("image/jpeg", 8, 8, alpha=False)


BAD: list[tuple[str, Callable[[World], InputImage], str, str, str]] = [
    ("a link that leads nowhere", lambda _: InputImage(url="https://h/none.png"), "images[0]", "invalid_image_url", "could not be downloaded"),
    ("base64 that cannot be decoded", lambda _: InputImage(url="data:image/png;base64,%%%"), "images[0]", "invalid_base64", "Invalid base64 in 'images\\[0\\]'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "param", "code", "message"), BAD, ids=[row[0] for row in BAD])
def test_an_input_image_that_cannot_be_read_costs_nothing(
    name: str, make: Callable[[World], InputImage], param: str, code: str, message: str
) -> None:
    world = World([[image_reply(URL)]])
    with pytest.raises(UserError, match=message) as caught:
        run(edit_of(make(world)), world)
    assert (caught.value.param, caught.value.code, world.sent) == (param, code, [])


def test_bytes_of_an_unknown_type_are_labelled_as_such() -> None:
    """`prepare` refuses what it cannot open; what it returns is sent as it is."""
    world = World([[image_reply(URL)]])
    run(edit_of(InputImage(source=world.blob(b"heic?"))), world)
    assert sent_urls(world) == ["data:application/octet-stream;base64,aGVpYz8="]


@pytest.mark.parametrize(("length", "in_a_thread"), [(1_000, False), (100_000, True)])
@pytest.mark.parametrize("text", [f"![fox]({URL})", "https://h.example/guess", "I cannot do that."])
def test_a_long_reply_is_searched_in_a_thread(
    text: str, length: int, in_a_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    for name in ("find_images", "find_guesses", "is_refusal", "no_image_error"):
        original = getattr(pipeline, name)

        def observed(*args: Any, original: Callable[..., Any] = original, **more: Any) -> Any:
            threads.add(threading.current_thread() is not threading.main_thread())
            return original(*args, **more)

        monkeypatch.setattr(pipeline, name, observed)
    with suppress(ApiError):
        run(request_for(), World([[text_reply("fox " * (length // 4) + text)]]))
    assert threads == {in_a_thread}
