"""What came of a question, written by one replica and read by another: nothing is lost on the way but the prompt."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.errors import ApiError, ImageUnavailable, ModerationBlocked, NotFound, RateLimited, UpstreamTimeout
from app.images.blob import Blob, Spool
from app.images.memory import MemoryStore
from app.images.store import StoreConfig
from app.jobs.job import Errand, Exchange, Identity, Item, Job
from app.jobs.pipeline import Answer
from app.jobs.sharing import Letter, read_letter, write_letter
from app.protocol.chat_reply import ChatReply, read_reply
from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest, Operation
from app.protocol.image_response import OutputImage
from app.protocol.json_stream import Base64String
from app.protocol.sizes import Size
from app.protocol.usage import Usage
from tests.support.sample_images import as_blob, as_bytes, gradient, saved

PNG = saved(gradient("RGB", (16, 16)), "PNG")
INFO = ImageInfo("image/png", 16, 16, alpha=False)
REQUEST = ImagesRequest(
    operation=Operation.EDIT,
    prompt="a secret fox",
    model="gpt-image-2",
    n=2,
    size=Size(1024, 1024),
    quality="high",
    user="me",
    ignored=("style",),
)
REPLY = b'{"choices":[{"message":{"content":"![fox](https://h/fox.png)"},"finish_reason":"stop"}]}'


def ended(
    answer: Answer | None = None,
    fault: ApiError | None = None,
    replies: tuple[ChatReply, ...] = (),
    *,
    asked: bool = True,
) -> Errand:
    async def work() -> AsyncGenerator[Item, None]:
        if fault is not None:
            raise fault
        if answer is not None:
            yield answer

    exchange = Exchange(REQUEST, 60)
    exchange.was_submitted = asked
    errand = Errand("req_1", Identity("me", "fox"), exchange, Spool(), replies=list(replies))
    errand.job = Job(work(), lambda: None)
    return errand


def pass_on(*, lose: bool = False, **brought: Any) -> tuple[Letter, bytes, Spool]:
    """The letter as it is read, as it was written, and the spool of the one who has read it."""

    async def scene() -> tuple[Letter, bytes, Spool]:
        store, spool = MemoryStore(StoreConfig("memory:", 60)), Spool()
        errand = ended(**brought)
        await errand.job.end()
        written = await write_letter(errand, store)
        if lose:
            store.close()
        return await read_letter(written, store, spool), written, spool

    return asyncio.run(scene())


@dataclass(frozen=True)
class Case:
    name: str
    painted: OutputImage


CASES = [
    Case("bytes", OutputImage("b64", source=as_blob(PNG), info=INFO)),
    Case("a link that was not looked at", OutputImage("markdown", url="https://h/a.png")),
    Case("a link to a picture that was measured", OutputImage("markdown", url="https://h/a.png", info=INFO)),
    Case("a data URL", OutputImage("parts", url=Base64String(as_blob(PNG), "data:image/png;base64,"), info=INFO)),
]  # fmt: skip


def told(picture: OutputImage) -> tuple[object, ...]:
    """All of it, with bytes in place of what holds them."""
    url = (picture.url.prefix, content(picture.url.source)) if isinstance(picture.url, Base64String) else picture.url
    return picture.form, picture.info, url, picture.source and content(picture.source)


def content(source: object) -> bytes:
    assert isinstance(source, Blob)
    return as_bytes(source)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_picture_arrives_as_it_was(case: Case) -> None:
    sent = Answer((case.painted,), Usage(1, 2, 3, 4), failed=1)
    letter, written, spool = pass_on(answer=sent)
    assert letter.answer is not None
    assert (letter.answer.usage, letter.answer.failed) == (sent.usage, sent.failed)
    assert [told(picture) for picture in letter.answer.painted] == [told(case.painted)]
    assert spool.size == (0 if isinstance(case.painted.url, str) else len(PNG))
    assert b"secret" not in written


def test_the_request_arrives_but_for_what_it_says() -> None:
    letter, _, _ = pass_on(answer=Answer((), Usage()))
    assert letter.request == replace(REQUEST, prompt="", user=None)
    assert letter.fault is None


FAULTS: list[tuple[str, ApiError]] = [
    ("a refusal, with more in its body", ModerationBlocked("no", extra={"moderation_details": {"stage": "output"}})),
    ("one whose constructor is its own", RateLimited("wait", retry_after=7)),
    ("one with a parameter", NotFound("gone", param="model", code="model_not_found")),
    ("a late one", UpstreamTimeout("late")),
    ("one of no kind", ApiError()),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[row[0] for row in FAULTS])
def test_a_fault_arrives_as_it_was(name: str, fault: ApiError) -> None:
    letter, _, _ = pass_on(fault=fault)
    got = letter.fault
    assert type(got) is type(fault)
    assert got is not None
    assert (got.status, got.body, got.headers) == (fault.status, fault.body, fault.headers)
    assert not letter.may_be_tried_again


def test_work_that_brought_nothing_at_all_is_a_fault() -> None:
    letter, _, _ = pass_on()
    assert letter.fault is not None
    assert letter.fault.status == 500


def test_what_is_paid_for_and_was_not_delivered_arrives_to_be_tried_again() -> None:
    reply = read_reply(REPLY)
    letter, _, _ = pass_on(fault=ImageUnavailable("404"), replies=(reply,))
    assert letter.may_be_tried_again
    assert letter.replies == (reply,)


def test_what_cost_nothing_may_be_tried_again() -> None:
    letter, _, _ = pass_on(fault=RateLimited("the queue is full"), asked=False)
    assert letter.may_be_tried_again
    assert letter.replies == ()


@pytest.mark.parametrize("reply", [replace(read_reply(REPLY), raw="x" * 16 * 1024), replace(read_reply(REPLY), complete=False), replace(read_reply(REPLY), spooled_images={"data:": as_blob(PNG)})], ids=["longer than what is kept", "cut", "with pictures of its own"])  # fmt: skip
def test_a_reply_that_cannot_be_told_again_is_not_paid_for_again(reply: ChatReply) -> None:
    letter, _, _ = pass_on(fault=ImageUnavailable("404"), replies=(read_reply(REPLY), reply))
    assert (letter.may_be_tried_again, letter.replies) == (False, ())


def test_a_picture_that_the_reader_has_not_in_its_store() -> None:
    with pytest.raises(ImageUnavailable, match="cannot find it"):
        pass_on(answer=Answer((CASES[0].painted,), Usage()), lose=True)


def test_a_picture_that_is_no_measured_blob_is_a_bug() -> None:
    with pytest.raises(TypeError):
        pass_on(answer=Answer((OutputImage("form", source=as_blob(PNG)),), Usage()))


@pytest.mark.parametrize("brought", [{"answer": Answer((), Usage())}, {"fault": ModerationBlocked("no")}])
def test_a_letter_is_read_as_a_job_brings_it(brought: dict[str, Any]) -> None:
    async def items() -> list[Answer]:
        letter, _, _ = await asyncio.to_thread(pass_on, **brought)
        return [item async for item in letter.items()]

    if "fault" in brought:
        with pytest.raises(ModerationBlocked):
            asyncio.run(items())
    else:
        assert len(asyncio.run(items())) == 1
