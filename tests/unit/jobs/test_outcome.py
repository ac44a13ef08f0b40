"""An outcome that one replica writes and another reads loses nothing but the prompt."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.errors import ApiError, ImageUnavailable, ModerationBlocked, NotFound, RateLimited, UpstreamTimeout
from app.images.blob import Blob, Spool
from app.images.memory import MemoryStore
from app.images.store import StoreConfig
from app.jobs.job import Job, JobKey
from app.jobs.job_run import JobRun
from app.jobs.outcome import JobOutcome, dump_outcome, load_outcome
from app.jobs.pipeline_interface import Emit, GenerationResult, Item
from app.protocol.chat_reply import ChatReply
from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage
from app.protocol.json_stream import Base64String
from app.protocol.parameters import Operation
from app.protocol.reply_parser import read_reply
from app.protocol.size_fit import SizeMode
from app.protocol.sizes import Size
from app.protocol.usage import Usage
from tests.support.sample_images import as_blob, as_bytes, gradient, noise, saved

PNG = saved(gradient("RGB", (16, 16)), "PNG")
INFO = ImageInfo("image/png", 16, 16, alpha=False)
LARGE = ImageInfo("image/jpeg", 1024, 1024, alpha=False)
REQUEST = ImagesRequest(
    operation=Operation.EDIT,
    prompt="a secret fox",
    model="gpt-image-2",
    n=2,
    size=Size(1000, 700),
    size_mode=SizeMode.CONTAIN,
    quality="high",
    user="me",
    ignored=("style",),
)
REPLY = b'{"choices":[{"message":{"content":"![fox](https://h/fox.png)"},"finish_reason":"stop"}]}'


async def run_job(
    result: GenerationResult | None = None,
    error: ApiError | None = None,
    replies: tuple[ChatReply, ...] = (),
    *,
    submitted: bool = True,
) -> Job:
    """Return a job whose run has ended with this result or error; with neither, it has brought nothing at all."""

    async def work(emit: Emit) -> None:
        if error is not None:
            raise error
        if result is not None:
            emit(result)

    run = JobRun(readers=1)
    run.was_submitted = submitted
    run.start(work)
    await run.wait_done()
    return Job("req_1", JobKey("me", "fox"), REQUEST, Spool(), run, paid_replies=list(replies))


def share(*, lose_images: bool = False, is_only_here: bool = False, **ending: Any) -> tuple[JobOutcome, bytes, Spool]:
    """Write the outcome of a job and read it. Returns it with the bytes that were written and the reader's spool."""

    async def scene() -> tuple[JobOutcome, bytes, Spool]:
        store, spool = MemoryStore(StoreConfig("memory:", 60, max_bytes=100_000)), Spool()
        data, is_whole = await dump_outcome(await run_job(**ending), store)
        assert is_whole is not is_only_here
        if lose_images:
            store.close()
        return await load_outcome(data, store, spool), data, spool

    return asyncio.run(scene())


def paid_replies(outcome: JobOutcome) -> list[ChatReply]:
    return asyncio.run(outcome.load_paid_replies(MemoryStore(StoreConfig("memory:", 60)), Spool()))


@dataclass(frozen=True)
class Case:
    name: str
    image: OutputImage


CASES = [
    Case("bytes", OutputImage("b64", source=as_blob(PNG), info=INFO)),
    Case("a link that was not opened", OutputImage("markdown", url="https://h/a.png")),
    Case("a link to an image that was measured", OutputImage("markdown", url="https://h/a.png", info=INFO)),
    Case("an image that was fitted", OutputImage("b64", source=as_blob(PNG), info=INFO, received=LARGE, credentials="kept", ignored=("size",))),
    Case("a data URL", OutputImage("parts", url=Base64String(as_blob(PNG), "data:image/png;base64,"), info=INFO)),
]  # fmt: skip


def comparable(image: OutputImage) -> tuple[object, ...]:
    """Return all of an image, with bytes in place of the blobs that hold them."""
    url = (image.url.prefix, content(image.url.source)) if isinstance(image.url, Base64String) else image.url
    return (
        image.form,
        image.info,
        image.received,
        image.credentials,
        image.ignored,
        url,
        image.source and content(image.source),
    )


def content(source: object) -> bytes:
    assert isinstance(source, Blob)
    return as_bytes(source)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_image_arrives_unchanged(case: Case) -> None:
    sent = GenerationResult((case.image,), Usage(1, 2, 3, 4), failed=1, created=1_700_000_000)
    outcome, data, spool = share(result=sent)
    assert outcome.result is not None
    assert (outcome.result.usage, outcome.result.failed, outcome.result.created) == (sent.usage, 1, 1_700_000_000)
    assert [comparable(image) for image in outcome.result.images] == [comparable(case.image)]
    assert spool.size == (0 if isinstance(case.image.url, str) else len(PNG))
    assert b"secret" not in data


def test_the_request_arrives_without_its_prompt() -> None:
    outcome, _, _ = share(result=GenerationResult((), Usage()))
    assert outcome.request == replace(REQUEST, prompt="", user=None)
    assert outcome.error is None


ERRORS: list[tuple[str, ApiError]] = [
    ("a refusal, with more in its body", ModerationBlocked("no", extra={"moderation_details": {"stage": "output"}})),
    ("one whose constructor is its own", RateLimited("wait", retry_after=7)),
    ("one with a parameter", NotFound("gone", param="model", code="model_not_found")),
    ("a timeout", UpstreamTimeout("late")),
    ("one of no kind", ApiError()),
]


@pytest.mark.parametrize(("name", "error"), ERRORS, ids=[row[0] for row in ERRORS])
def test_an_error_arrives_unchanged(name: str, error: ApiError) -> None:
    outcome, _, _ = share(error=error)
    received = outcome.error
    assert type(received) is type(error)
    assert received is not None
    assert (received.status, received.body, received.headers) == (error.status, error.body, error.headers)
    assert not outcome.can_retry_free


def test_a_run_that_brought_nothing_at_all_is_an_error() -> None:
    outcome, _, _ = share()
    assert outcome.error is not None
    assert outcome.error.status == 500


def test_a_job_that_needs_redelivery_arrives_with_its_paid_replies() -> None:
    reply = read_reply(REPLY)
    outcome, _, _ = share(error=ImageUnavailable("404"), replies=(reply,))
    assert outcome.can_retry_free
    assert paid_replies(outcome) == [reply]


def test_a_job_that_cost_nothing_can_be_run_again() -> None:
    outcome, _, _ = share(error=RateLimited("the queue is full"), submitted=False)
    assert outcome.can_retry_free
    assert paid_replies(outcome) == []


def test_an_image_that_came_with_a_paid_reply_arrives_with_it() -> None:
    reply = replace(read_reply(REPLY), spooled_images={"data:1": as_blob(PNG)})

    async def scene() -> None:
        store, spool = MemoryStore(StoreConfig("memory:", 60)), Spool()
        job = await run_job(error=ImageUnavailable("404"), replies=(read_reply(REPLY), reply))
        data, _ = await dump_outcome(job, store)
        outcome = await load_outcome(data, store, spool)
        assert outcome.can_retry_free
        # Whoever only looks at the failure does not read the image.
        assert (spool.size, len(data) < 2000) == (0, True)
        _, second = await outcome.load_paid_replies(store, spool)
        assert content(second.spooled_images["data:1"]) == PNG
        assert spool.size == len(PNG)
        store.close()
        with pytest.raises(ImageUnavailable, match="cannot find it"):
            await outcome.load_paid_replies(store, spool)

    asyncio.run(scene())


UNWRITABLE = [
    ("longer than what is shared", replace(read_reply(REPLY), size=2**21)),
    ("with base64 that is no image", replace(read_reply(REPLY), spooled_images={"data:1": as_blob(b"no image")})),
    ("with an image that does not fit into the store", replace(read_reply(REPLY), spooled_images={"data:1": as_blob(saved(noise((300, 300)), "PNG"))})),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reply"), UNWRITABLE, ids=[row[0] for row in UNWRITABLE])
def test_a_job_whose_reply_cannot_be_written_is_not_run_by_another_replica(name: str, reply: ChatReply) -> None:
    outcome, _, _ = share(error=ImageUnavailable("404"), replies=(read_reply(REPLY), reply), is_only_here=True)
    assert (outcome.can_retry_free, outcome.stored_replies) == (False, ())


def test_an_image_that_is_not_in_the_readers_store_is_an_error() -> None:
    with pytest.raises(ImageUnavailable, match="cannot find it"):
        share(result=GenerationResult((CASES[0].image,), Usage()), lose_images=True)


def test_an_image_that_was_not_measured_is_a_bug() -> None:
    with pytest.raises(TypeError):
        share(result=GenerationResult((OutputImage("form", source=as_blob(PNG)),), Usage()))


@pytest.mark.parametrize("ending", [{"result": GenerationResult((), Usage())}, {"error": ModerationBlocked("no")}])
def test_an_outcome_brings_the_items_of_a_run(ending: dict[str, Any]) -> None:
    async def items() -> list[Item]:
        outcome, _, _ = await asyncio.to_thread(share, **ending)
        brought: list[Item] = []
        await outcome.emit(brought.append)
        return brought

    if "error" in ending:
        with pytest.raises(ModerationBlocked):
            asyncio.run(items())
    else:
        assert asyncio.run(items()) == [ending["result"]]
