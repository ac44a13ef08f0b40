"""Timers and headers of one request; its signs of life over real sockets are in test_studio.py."""

import asyncio
from collections.abc import AsyncGenerator

import orjson
import pytest

from app.api.responses import Presence
from app.errors import ModerationBlocked
from app.jobs.job import Exchange, Item, Job, Stopwatch, answer_of
from app.jobs.pipeline import Answer, Partial
from app.protocol.image_request import ImagesRequest, Operation
from app.protocol.image_response import OutputImage
from app.protocol.usage import Usage

PAINTED = OutputImage("markdown-image", url="https://h/a.png")
ANSWER = Answer((PAINTED, OutputImage("address", url="https://h/b.png"), PAINTED), Usage(), failed=2)


def exchange(**more: object) -> Exchange:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a fox", ignored=("style", "seed"))
    return Exchange(request, silence=60, **more)  # type: ignore[arg-type]


def test_a_stopwatch_counts_overlapping_work_once() -> None:
    watch = Stopwatch()
    with watch, watch:
        pass
    first = watch.seconds
    with watch:
        pass
    assert 0 < first < watch.seconds < 1


def test_the_headers_of_an_answer() -> None:
    headers = exchange(shrunk=["image[0] 8x8->4x4"]).headers(ANSWER)
    assert headers.pop("x-limner-upstream-ms") == "0"
    assert float(headers.pop("x-limner-overhead-ms")) >= 0
    assert headers == {
        "x-limner-reply-form": "markdown-image, address",
        "x-limner-ignored": "style, seed",
        "x-limner-shrunk": "image[0] 8x8->4x4",
        "x-limner-failed": "2",
    }


def test_upstreams_are_named_in_the_order_of_their_first_words() -> None:
    assert exchange(answered_by=dict.fromkeys(["b", "a"])).headers(ANSWER)["x-limner-upstream"] == "b, a"


def test_before_the_answer_only_the_request_is_known() -> None:
    assert exchange().headers() == {"x-limner-ignored": "style, seed"}
    nothing_ignored = Exchange(ImagesRequest(operation=Operation.EDIT, prompt="a fox"), silence=60)
    assert nothing_ignored.headers() == {}


async def connected() -> dict[str, str]:
    await asyncio.Event().wait()
    return {}


async def items(*given: Item, fault: Exception | None = None) -> AsyncGenerator[Item, None]:
    for item in given:
        yield item
    if fault is not None:
        raise fault


@pytest.mark.parametrize("patient", [False, True])
def test_events_of_work_that_fails_after_a_picture_on_the_way(patient: bool) -> None:
    async def play() -> bytes:
        job = Job(items(Partial(PAINTED), fault=ModerationBlocked("no")), lambda: None)
        presence = Presence(connected)
        try:
            if patient:
                await job.end()
                return b"".join(piece for event in exchange().all_events(job) for piece in event.chunks())
            return b"".join([piece async for piece in exchange().events(job, presence)])
        finally:
            presence.stop()

    first, second = asyncio.run(play()).removesuffix(b"\n\n").split(b"\n\n")
    assert first.startswith(b"event: image_generation.partial_image\n")
    name, _, data = second.partition(b"\n")
    assert name == b"event: error"
    assert orjson.loads(data.removeprefix(b"data: "))["error"]["code"] == "moderation_blocked"


async def spoken(told: Exchange, work: AsyncGenerator[Item, None]) -> list[bytes]:
    presence = Presence(connected)
    try:
        return [piece async for piece in told.events(Job(work, lambda: None), presence)]
    finally:
        presence.stop()


def test_a_stream_tells_at_its_end_what_its_headers_could_not() -> None:
    told = exchange(limits={"x-ratelimit-remaining-images": "7"}, answered_by={"one": None})
    partial, answer = asyncio.run(spoken(told, items(Partial(PAINTED), ANSWER)))
    assert partial.startswith(b"event: image_generation.partial_image\n")
    *remarks, event = answer.removesuffix(b"\n\n").split(b"\n\n")
    assert event.startswith(b"event: image_generation.completed\n")
    names = [remark.partition(b": ")[2].partition(b": ")[0].decode() for remark in remarks]
    assert set(names) == told.headers(ANSWER).keys() - {"x-ratelimit-remaining-images"}
    assert remarks[0] == b": x-limner-reply-form: markdown-image, address"


def test_what_the_upstream_says_of_its_work_is_told_once_and_is_a_sign_of_life() -> None:
    told = Exchange(ImagesRequest(operation=Operation.GENERATION, prompt="a fox"), silence=0.001)

    async def play() -> list[bytes]:
        done = asyncio.Event()

        async def work() -> AsyncGenerator[Item, None]:
            await done.wait()
            yield ANSWER

        said = []
        presence, job = Presence(connected), Job(work(), lambda: None)
        async for piece in told.events(job, presence):
            said.append(piece)
            if len(said) in {1, 3}:
                told.progress = f"{len(said)}0 %"
                job.stir()
            if len(said) == 5:
                done.set()
        presence.stop()
        return said[:5]

    keep_alive = b": keep-alive\n\n"
    assert asyncio.run(play()) == [keep_alive, b": progress 10 %\n\n", keep_alive, b": progress 30 %\n\n", keep_alive]


def test_the_answer_is_known_when_it_is_there() -> None:
    async def play(*given: Item) -> Answer | None:
        job = Job(items(*given), lambda: None)
        await job.end()
        return answer_of(job)

    assert asyncio.run(play(Partial(PAINTED))) is None
    assert asyncio.run(play(Partial(PAINTED), ANSWER)) is ANSWER
