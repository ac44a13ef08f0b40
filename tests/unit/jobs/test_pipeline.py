"""The straight line with plain fakes at the edge of the world."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pybase64
import pytest

from app.errors import ApiError, ImageUnavailable, ModerationBlocked, NoImageInReply, UpstreamInvalidReply, UserError
from app.images.blob import Blob, Spool
from app.jobs.pipeline import Answer, Edge, Partial, Policy, Put, paint
from app.protocol.chat_reply import ChatReply, read_reply
from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest, InputImage, Operation
from app.protocol.image_response import OutputImage
from app.protocol.json_stream import Base64String
from app.protocol.sizes import Size
from tests.support.sample_images import gradient, saved

PNG = saved(gradient(size=(8, 8)), "PNG")
JPEG = saved(gradient(size=(8, 8)), "JPEG")
WEBP = saved(gradient(size=(8, 8)), "WEBP")
URL = "https://cdn.example.com/gen/1.png"
JPEG_URL = "https://cdn.example.com/gen/1.jpg"


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{pybase64.b64encode(data).decode()}"


def says(text: str, complete: bool = True, **more: Any) -> ChatReply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return replace(read_reply(orjson.dumps({"choices": [choice], "usage": usage})), complete=complete)


def shows(*urls: str) -> ChatReply:
    return says("\n".join(f"![image]({url})" for url in urls))


@dataclass
class World:
    """`replies`: for each question the snapshots of its reply, or an error at their end. `web`: what can be fetched."""

    replies: list[list[ChatReply | ApiError]]
    web: dict[str, bytes] = field(default_factory=lambda: {URL: PNG, JPEG_URL: PNG})
    asked: list[tuple[dict[str, Any], bool]] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    kept: list[tuple[bytes, str]] = field(default_factory=list)
    converted: bytes | None = None
    spool: Spool = field(default_factory=Spool)
    masks: list[tuple[bytes, bytes]] = field(default_factory=list)
    open_questions: int = 0

    async def ask(self, put: Put, *, stream: bool) -> AsyncGenerator[ChatReply, None]:
        body = put("gpt-image-2-chat", "gpt-image-2-chat")
        self.asked.append((orjson.loads(b"".join(body.chunks())), stream))
        self.open_questions += 1
        try:
            for item in self.replies[min(len(self.asked), len(self.replies)) - 1]:
                await asyncio.sleep(0)
                if isinstance(item, ApiError):
                    raise item
                yield item
        finally:
            self.open_questions -= 1

    def blob(self, data: bytes = b"") -> Blob:
        blob = self.spool.new_blob()
        blob.write(data)
        return blob

    async def fetch(self, url: str) -> Blob:
        self.fetched.append(url)
        if url not in self.web:
            raise ImageUnavailable(f"The image at {url} could not be downloaded: status 404.")
        return self.blob(self.web[url])

    async def prepare(self, blob: Blob, index: int, like: Blob | None) -> Blob:
        return blob

    async def check_mask(self, mask: Blob, image: Blob) -> None:
        self.masks.append((mask.read_at(0, mask.size), image.read_at(0, image.size)))

    async def restore(self, result: Blob, original: Blob, mask: Blob) -> Blob:
        self.masks.append((original.read_at(0, original.size), mask.read_at(0, mask.size)))
        return self.blob(WEBP)

    async def convert(self, blob: Blob, request: ImagesRequest) -> Blob:
        return blob if self.converted is None else self.blob(self.converted)

    async def keep(self, blob: Blob, info: ImageInfo) -> str:
        self.kept.append((blob.read_at(0, blob.size), info.media_type))
        return f"https://limner.example/kept/{len(self.kept)}.png"

    def edge(self) -> Edge[Blob]:
        return Edge(
            self.ask, self.fetch, self.blob, self.prepare, self.check_mask, self.restore, self.convert, self.keep
        )


def asks(**more: Any) -> ImagesRequest:
    fields = {"operation": Operation.GENERATION, "prompt": "a fox", "model": "gpt-image-2", **more}
    return ImagesRequest(**fields)


POLICY = Policy()


def run(request: ImagesRequest, world: World, policy: Policy = POLICY) -> list[Partial | Answer]:
    async def collect() -> list[Partial | Answer]:
        async with aclosing(paint(request, world.edge(), policy)) as items:
            return [item async for item in items]

    return asyncio.run(collect())


def answer_to(request: ImagesRequest, world: World, policy: Policy = POLICY) -> Answer:
    *partials, answer = run(request, world, policy)
    assert isinstance(answer, Answer)
    assert partials == []
    return answer


def bytes_in(painted: OutputImage) -> bytes:
    assert painted.source is not None
    return b"".join(painted.source.chunks(1000))


def test_a_link_becomes_the_very_bytes_measured() -> None:
    world = World([[shows(URL)]])
    answer = answer_to(asks(size=Size(1536, 1024), quality="high", metadata={"a": "b"}, user="u"), world)
    (painted,) = answer.painted
    assert bytes_in(painted) == PNG
    assert painted.info == ImageInfo("image/png", 8, 8, alpha=False)
    assert (answer.usage.as_images_api()["total_tokens"], answer.failed) == (12, 0)
    text = {"type": "text", "text": "1536x1024 'a fox'"}
    assert world.asked == [
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


@dataclass(frozen=True)
class Way:
    """How one picture leaves, by what was asked, found and decided."""

    name: str
    found: str
    asked: dict[str, Any]
    leaves: str
    policy: dict[str, Any] = field(default_factory=dict)
    converted: bytes | None = None
    fetched: bool = False
    kept: bool = False


WAYS = [
    Way("a link stays a link where a url is wanted", URL, {"response_format": "url"}, URL),
    Way("a link is downloaded where bytes are wanted", URL, {"response_format": "b64_json"}, "bytes", fetched=True),
    Way("a data URL is decoded where bytes are wanted", data_url(PNG), {}, "bytes"),
    Way("a data URL is kept where a url is wanted", data_url(PNG), {"response_format": "url"}, "kept", kept=True),
    Way("a data URL stays one where nothing is kept", data_url(PNG), {"response_format": "url"}, "data", {"rehost": "never"}),
    Way("a link is kept where everything is", URL, {"response_format": "url"}, "kept", {"rehost": "always"}, fetched=True, kept=True),
    Way("a link with the ending of the asked format is believed", URL, {"response_format": "url", "output_format": "png"}, URL),
    Way("a link with another ending is looked at, and left alone if it has the format", URL, {"response_format": "url", "output_format": "webp"}, URL, fetched=True),
    Way("a link in another format is converted and kept", URL, {"response_format": "url", "output_format": "jpeg"}, "kept", {}, JPEG, fetched=True, kept=True),
    Way("a link with the ending of the asked format is looked at where it is to be compressed", JPEG_URL, {"response_format": "url", "output_format": "jpeg", "output_compression": 50}, "kept", {}, JPEG, fetched=True, kept=True),
    Way("a link that may be compressed by nothing is believed", JPEG_URL, {"response_format": "url", "output_format": "jpeg", "output_compression": 100}, JPEG_URL),
    Way("a compression that has no effect changes no link", URL, {"response_format": "url", "output_compression": 50}, URL),
    Way("a link stays a link where nothing is kept", URL, {"response_format": "url"}, URL, {"rehost": "never"}),
    Way("a link that has the format stays a link where nothing is kept", URL, {"response_format": "url", "output_format": "webp"}, URL, {"rehost": "never"}, fetched=True),
    Way("a link in another format is converted into a data URL where nothing is kept", URL, {"response_format": "url", "output_format": "jpeg"}, "converted data", {"rehost": "never"}, JPEG, fetched=True),
    Way("converted bytes leave instead of the upstream's", URL, {"output_format": "jpeg"}, "converted", {}, JPEG, fetched=True),
    Way("no model means a url", URL, {"model": None}, URL),
    Way("dall-e means a url", URL, {"model": "dall-e-3"}, URL),
    Way("another name means bytes", URL, {"model": "mine"}, "bytes", fetched=True),
    Way("the operator decides for who does not ask", URL, {}, URL, {"default_format": "url"}),
    Way("who asks is obeyed", URL, {"response_format": "b64_json"}, "bytes", {"default_format": "url"}, fetched=True),
    Way("events carry bytes", URL, {"stream": True, "response_format": "url"}, "bytes", fetched=True),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_how_a_picture_leaves(way: Way) -> None:
    world = World([[shows(way.found)]], converted=way.converted)
    (painted,) = answer_to(asks(**way.asked), world, replace(POLICY, **way.policy)).painted
    if painted.source is not None:
        assert way.leaves == ("bytes" if bytes_in(painted) == PNG else "converted")
        assert painted.info is not None
    elif isinstance(painted.url, Base64String):
        form = "png" if way.leaves == "data" else "jpeg"
        assert way.leaves in {"data", "converted data"}
        assert painted.url.prefix == f"data:image/{form};base64,"
    else:
        assert painted.url == ("https://limner.example/kept/1.png" if way.leaves == "kept" else way.leaves)
    assert (bool(world.fetched), bool(world.kept)) == (way.fetched, way.kept)


@pytest.mark.parametrize(("mode", "asked", "stream"), [("auto", False, False), ("auto", True, True), ("always", False, True), ("never", True, False)])  # fmt: skip
def test_whether_the_upstream_is_asked_for_a_stream(mode: Any, asked: bool, stream: bool) -> None:
    world = World([[shows(URL)]])
    run(asks(stream=asked), world, replace(POLICY, stream=mode))
    assert world.asked[0][1] is stream
    assert world.asked[0][0]["stream"] is stream


def test_n_questions_side_by_side_in_order_of_arrival() -> None:
    urls = [f"https://cdn.example.com/gen/{number}.png" for number in range(3)]
    slow = says("painting", complete=False)
    replies: list[list[ChatReply | ApiError]] = [[slow, slow, shows(urls[0])], [slow, shows(urls[1])], [shows(urls[2])]]
    answer = answer_to(asks(n=3, response_format="url"), World(replies))
    assert [painted.url for painted in answer.painted] == [urls[2], urls[1], urls[0]]
    assert answer.usage.as_images_api()["total_tokens"] == 36


def test_what_worked_is_given_and_the_rest_is_counted() -> None:
    refused = UserError("no")
    answer = answer_to(asks(n=3, response_format="url"), World([[refused], [shows(URL)], [refused]]))
    assert [painted.url for painted in answer.painted] == [URL]
    assert answer.failed == 2


def test_the_first_error_where_nothing_worked() -> None:
    with pytest.raises(UserError, match="first"):
        run(asks(n=2), World([[UserError("first")], [says("painting", complete=False), UserError("second")]]))


def test_all_pictures_of_a_reply_count_and_at_most_n_are_given() -> None:
    urls = [f"https://cdn.example.com/gen/{number}.png" for number in range(3)]
    assert len(answer_to(asks(n=2, response_format="url"), World([[shows(*urls)]])).painted) == 2
    (last,) = answer_to(asks(response_format="url"), World([[shows(*urls)]])).painted
    assert last.url == urls[2]


def test_a_picture_that_cannot_be_had_does_not_take_the_others_with_it() -> None:
    lost = "https://cdn.example.com/gen/lost.png"
    answer = answer_to(asks(n=2), World([[shows(lost, URL)], [UserError("no")]]))
    assert [bytes_in(painted) for painted in answer.painted] == [PNG]


def test_a_download_that_fails_names_the_picture() -> None:
    with pytest.raises(ImageUnavailable, match=URL):
        run(asks(), World([[shows(URL)]], web={}))


def test_a_link_to_something_else_is_no_picture() -> None:
    with pytest.raises(NoImageInReply, match="not an image"):
        run(asks(), World([[shows(URL)]], web={URL: b"<html>log in</html>"}))


@pytest.mark.parametrize("urls", [[URL], [URL, f"{URL}?2"]], ids=["one picture", "two"])
def test_a_bug_is_not_swallowed_and_no_question_stays_open(urls: list[str]) -> None:
    class Clumsy(World):
        async def fetch(self, url: str) -> Blob:
            raise KeyError(url)

    world = Clumsy([[shows(*urls)], [says("painting", complete=False)] * 50])
    with pytest.raises((KeyError, BaseExceptionGroup)) as caught:
        run(asks(n=2), world)
    assert isinstance(caught.value, KeyError) or caught.group_contains(KeyError)
    assert world.open_questions == 0


NONE: list[tuple[str, ChatReply, type[ApiError], str]] = [
    ("a text", says("I like foxes."), NoImageInReply, "no image. It said: I like foxes."),
    ("a long text is shortened", says("word " * 500), NoImageInReply, "word…$|…"),
    ("nothing", says(""), NoImageInReply, "It said nothing."),
    ("a refusal", says("I can't create that: it violates our content policy."), ModerationBlocked, "safety system"),
    ("a filter", says("", finish_reason="content_filter"), ModerationBlocked, "safety system of the upstream.$"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reply", "kind", "message"), NONE, ids=[row[0] for row in NONE])
def test_a_reply_without_an_image_is_a_4xx(name: str, reply: ChatReply, kind: type[ApiError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        run(asks(), World([[reply]]))
    assert caught.value.status == 400
    assert caught.value.headers["x-should-retry"] == "false"
    assert caught.value.detail == reply.raw
    assert len(caught.value.message) < 450


def test_an_upstream_that_ends_without_a_word() -> None:
    with pytest.raises(UpstreamInvalidReply):
        run(asks(), World([[]]))


def preview(*urls: str) -> ChatReply:
    return replace(shows(*urls), complete=False)


URLS = [f"https://cdn.example.com/gen/{number}.png" for number in range(4)]
GROWING: list[ChatReply | ApiError] = [says("10 %", complete=False), preview(URLS[0]), preview(*URLS[:2]), preview(*URLS[:2]), preview(*URLS), shows(*URLS)]  # fmt: skip


@pytest.mark.parametrize(("wanted", "shown"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_pictures_on_the_way_come_before_the_final_one(wanted: int, shown: int) -> None:
    world = World([GROWING], web=dict.fromkeys(URLS, PNG))
    *partials, answer = run(asks(stream=True, partial_images=wanted), world)
    assert all(isinstance(partial, Partial) for partial in partials)
    assert world.fetched == [*URLS[:shown], URLS[3]]
    assert isinstance(answer, Answer)
    assert len(answer.painted) == 1


def test_a_picture_on_the_way_that_cannot_be_had_is_left_out() -> None:
    *partials, answer = run(asks(stream=True, partial_images=3), World([GROWING], web={URLS[1]: PNG, URLS[3]: PNG}))
    assert (len(partials), isinstance(answer, Answer)) == (1, True)


def test_partials_are_for_streams() -> None:
    assert len(run(asks(partial_images=3), World([GROWING], web=dict.fromkeys(URLS, PNG)))) == 1


def test_a_stream_that_breaks_off_after_its_picture_is_a_success() -> None:
    world = World([[preview(URL), UpstreamInvalidReply("cut")]])
    assert bytes_in(answer_to(asks(stream=True), world).painted[0]) == PNG


def test_a_draft_of_a_stream_that_broke_off_is_not_the_picture() -> None:
    draft = replace(says(f"预览图:{URL}\n", complete=False))
    with pytest.raises(UpstreamInvalidReply, match="cut"):
        run(asks(stream=True), World([[draft, UpstreamInvalidReply("cut")]]))


def test_a_stream_that_breaks_off_before_its_picture_is_the_error_it_is() -> None:
    with pytest.raises(UpstreamInvalidReply, match="cut"):
        run(asks(stream=True), World([[says("10 %", complete=False), UpstreamInvalidReply("cut")]]))


def edits(*pictures: InputImage, mask: InputImage | None = None) -> ImagesRequest:
    return asks(operation=Operation.EDIT, images=pictures, mask=mask)


def sent(world: World) -> list[str]:
    return [part["image_url"]["url"] for part in world.asked[0][0]["messages"][0]["content"][1:]]


def test_pictures_go_as_data_urls_with_the_type_of_their_bytes() -> None:
    world = World([[shows(URL)]], web={URL: PNG, "https://h/cat.gif": JPEG})
    first = world.blob(PNG)
    run(
        edits(
            InputImage(source=first), InputImage(url=data_url(JPEG, "image/png")), InputImage(url="https://h/cat.gif")
        ),
        world,
    )
    assert sent(world) == [data_url(PNG), data_url(JPEG, "image/jpeg"), data_url(JPEG, "image/jpeg")]


def test_the_mask_is_checked_and_goes_last() -> None:
    world = World([[shows(URL)]])
    run(edits(InputImage(source=world.blob(JPEG)), mask=InputImage(source=world.blob(PNG))), world)
    assert world.masks == [(PNG, JPEG)]
    assert sent(world) == [data_url(JPEG, "image/jpeg"), data_url(PNG)]


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_an_exact_mask_puts_back_what_it_covers(form: str) -> None:
    world = World([[shows(URL)]])
    request = edits(InputImage(source=world.blob(JPEG)), mask=InputImage(source=world.blob(PNG)))
    (painted,) = answer_to(replace(request, response_format=form), world, replace(POLICY, mask="exact")).painted
    assert world.masks == [(PNG, JPEG), (JPEG, PNG)]
    assert painted.info == ImageInfo("image/webp", 8, 8, alpha=False)
    assert world.kept == ([(WEBP, "image/webp")] if form == "url" else [])


LET_PASS: list[tuple[str, dict[str, Any], bool]] = [
    ("all are links", {"images": (InputImage(url="https://h/1"), InputImage(url="https://h/2"))}, True),
    ("one is not", {"images": (InputImage(url="https://h/1"), InputImage(url=data_url(PNG)))}, False),
    (
        "a mask must be checked",
        {"images": (InputImage(url="https://h/1"),), "mask": InputImage(url=data_url(PNG))},
        False,
    ),
]


@pytest.mark.parametrize(("name", "asked", "passed"), LET_PASS, ids=[row[0] for row in LET_PASS])
def test_links_pass_where_the_operator_lets_them(name: str, asked: dict[str, Any], passed: bool) -> None:
    world = World([[shows(URL)]], web={URL: PNG, "https://h/1": JPEG})
    run(asks(operation=Operation.EDIT, **asked), world, replace(POLICY, pass_links=True))
    assert (sent(world) == ["https://h/1", "https://h/2"]) is passed
    assert ("https://h/1" in world.fetched) is not passed


def test_the_clients_own_picture_does_not_come_back_as_a_result() -> None:
    world = World([[shows(URL)]])
    with pytest.raises(NoImageInReply):
        run(edits(InputImage(url=URL)), world)


def test_the_clients_own_bytes_do_not_come_back_as_a_result() -> None:
    world = World([[says(f"![yours]({data_url(PNG)}) ![mine]({data_url(JPEG, 'image/jpeg')})")]])
    answer = answer_to(replace(edits(InputImage(source=world.blob(PNG))), n=2), world)
    assert [bytes_in(painted) for painted in answer.painted] == [JPEG, JPEG]
    world = World([[says(f"![yours]({data_url(PNG)})")]])
    with pytest.raises(NoImageInReply):
        run(edits(InputImage(source=world.blob(PNG))), world)


def test_a_picture_that_was_lifted_out_of_the_reply_is_the_one_that_counts() -> None:
    large = Blob()
    large.write(JPEG)
    reply = replace(says(f"![image]({data_url(PNG)})"), spooled_images={data_url(PNG): large})
    answer = answer_to(asks(), World([[reply]]))
    assert bytes_in(answer.painted[0]) == JPEG
    assert answer.painted[0].info == ImageInfo("image/jpeg", 8, 8, alpha=False)


BAD: list[tuple[str, Callable[[World], InputImage], str, str, str]] = [
    ("a link that leads nowhere", lambda _: InputImage(url="https://h/none.png"), "images[0]", "invalid_image_url", "could not be downloaded"),
    ("base64 that is none", lambda _: InputImage(url="data:image/png;base64,%%%"), "images[0]", "invalid_base64", "Invalid base64 in 'images\\[0\\]'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "param", "code", "message"), BAD, ids=[row[0] for row in BAD])
def test_a_picture_that_is_none_costs_nothing(
    name: str, make: Callable[[World], InputImage], param: str, code: str, message: str
) -> None:
    world = World([[shows(URL)]])
    with pytest.raises(UserError, match=message) as caught:
        run(edits(make(world)), world)
    assert (caught.value.param, caught.value.code, world.asked) == (param, code, [])


def test_bytes_nobody_knows_are_labelled_as_such() -> None:
    """The edge refuses what it cannot open; what it lets pass goes as it is."""
    world = World([[shows(URL)]])
    run(edits(InputImage(source=world.blob(b"heic?"))), world)
    assert sent(world) == ["data:application/octet-stream;base64,aGVpYz8="]
