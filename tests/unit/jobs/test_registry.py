"""Nothing is paid for twice: joining, keeping, keys, results to come back for."""

import asyncio
import base64
import math
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from starlette.datastructures import Headers

from app.access.auth import Caller
from app.errors import (
    ApiError,
    IdempotencyKeyReused,
    ImageUnavailable,
    InvalidRequest,
    ModerationBlocked,
    NoImageInReply,
    RateLimited,
    ServiceUnavailable,
    UpstreamTimeout,
    UpstreamUnreachable,
    UserError,
)
from app.images.blob import Blob, Spool
from app.jobs.job import Errand, Exchange, Identity, Item, Job
from app.jobs.pipeline import Answer
from app.jobs.registry import Once, identify
from app.protocol.chat_reply import read_reply
from app.protocol.image_request import ImagesRequest, InputImage, Operation
from app.protocol.image_response import OutputImage
from app.protocol.usage import Usage
from tests.support.raw_http_lines import GENERATION, ListeningClient, limner_with_model, wait_for_jobs
from tests.support.servers import RunningDemo, RunningLimner, run_demo

ANSWER = Answer((OutputImage("form", url="https://h/a.png"),), Usage())
REQUEST = ImagesRequest(operation=Operation.GENERATION, prompt="a fox")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Errands without a server: each ends as told."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        defaults = {"ttl": 600, "key_ttl": 86_400, "most": 100, "most_bytes": 1_000_000}
        self.once = Once(**{**defaults, **limits}, now=self.clock)
        self.count = 0

    async def run(
        self,
        identity: Identity,
        fault: ApiError | None = None,
        *,
        size: int = 0,
        is_async: bool = False,
        delivered: bool = False,
    ) -> Errand:
        """An errand whose work has ended and whose reader has left."""
        errand = self.start(identity, fault, size=size, is_async=is_async)
        await errand.job.end()
        errand.delivered = delivered
        errand.job.leave()
        await asyncio.sleep(0)
        return errand

    def start(
        self, identity: Identity, fault: ApiError | None = None, *, size: int = 0, is_async: bool = False
    ) -> Errand:
        async def work() -> AsyncGenerator[Item, None]:
            if fault is not None:
                raise fault
            yield ANSWER

        self.count += 1
        spool = Spool()
        spool.new_blob().write(bytes(size))
        errand = Errand(f"req_{self.count}", identity, Exchange(REQUEST, 60), spool, is_async)
        errand.job = Job(work(), lambda: self.once.settle(errand))
        self.once.add(errand)
        return errand


ME = Identity("me", "fox")
KEYED = Identity("me", "fox", "key-1")


@dataclass(frozen=True)
class Case:
    """A first question that has ended, and one that comes after it."""

    name: str
    joins: bool
    first: Identity = ME
    then: Identity = ME
    fault: ApiError | None = None
    delivered: bool = False
    is_async: bool = False
    later: float = 0


CASES = [
    Case("an answer that nobody took", True),
    Case("an answer that was taken", False, delivered=True),
    Case("an answer that was taken, and the client says it repeats", False, delivered=True, then=Identity("me", "fox", again=True)),
    Case("another question", False, then=Identity("me", "cat")),
    Case("another caller", False, then=Identity("you", "fox")),
    Case("ten minutes later", False, later=600),
    Case("nearly ten minutes later", True, later=599),
    Case("a failure that cost nothing", False, fault=UpstreamUnreachable()),
    Case("a refusal is asked again", False, fault=ModerationBlocked("no")),
    Case("a picture that could not be fetched", True, fault=ImageUnavailable("404"), delivered=True),
    Case("a result to come back for is somebody's own", False, is_async=True),
    Case("a result that could not be fetched", True, is_async=True, fault=ImageUnavailable("404")),
    Case("the same key after delivery", True, KEYED, KEYED, delivered=True),
    Case("the same key within its day", True, KEYED, KEYED, delivered=True, later=86_399),
    Case("the same key after its day", False, KEYED, KEYED, delivered=True, later=86_400),
    Case("the same key after a refusal, which may have cost money", True, KEYED, KEYED, fault=ModerationBlocked("no"), delivered=True),
    Case("the same key after a timeout, which may have cost money", True, KEYED, KEYED, fault=UpstreamTimeout("late"), delivered=True),
    Case("the same key after bad input", False, KEYED, KEYED, fault=UserError("size"), delivered=True),
    Case("the same key after an overload", False, KEYED, KEYED, fault=RateLimited("wait"), delivered=True),
    Case("the same key of another caller", False, KEYED, Identity("you", "fox", "key-1")),
    Case("a key does not join what had none", False, ME, KEYED),
    Case("what has no key does not join what has one", False, KEYED, ME),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_who_gets_what_was_paid_for(case: Case) -> None:
    async def play() -> bool:
        desk = Desk()
        first = await desk.run(case.first, case.fault, delivered=case.delivered, is_async=case.is_async)
        desk.clock.now = case.later
        found = desk.once.find(case.then)
        desk.once.close()
        assert found in {None, first}
        return found is not None

    assert asyncio.run(play()) is case.joins


RUNNING = [
    Case("a client that is still there", False),
    Case("a client that is still there, and another that says it repeats", True, then=Identity("me", "fox", again=True)),
    Case("the same key", True, KEYED, KEYED),
]  # fmt: skip


@pytest.mark.parametrize("case", RUNNING, ids=lambda case: case.name)
def test_who_joins_what_is_under_way(case: Case) -> None:
    async def play() -> bool:
        desk = Desk()
        errand = desk.start(case.first)
        found = desk.once.find(case.then)
        await errand.job.end()
        desk.once.close()
        return found is not None

    assert asyncio.run(play()) is case.joins


def test_a_key_with_another_body_is_refused() -> None:
    async def play() -> None:
        desk = Desk()
        await desk.run(KEYED)
        desk.clock.now = 10
        await desk.run(Identity("me", "cat"))
        desk.clock.now = 620
        with pytest.raises(IdempotencyKeyReused) as caught:
            desk.once.find(Identity("me", "cat", "key-1"))
        assert (caught.value.status, caught.value.code) == (422, "idempotency_key_reused")
        desk.once.close()

    asyncio.run(play())


@pytest.mark.parametrize(("limits", "kept"), [({"most": 2}, [False, True, True]), ({"most_bytes": 25}, [False, True, True]), ({"most": 0}, [False] * 3)])  # fmt: skip
def test_what_is_kept_is_bounded_and_the_oldest_goes_first(limits: dict[str, int], kept: list[bool]) -> None:
    async def play() -> list[bool]:
        desk = Desk(**limits)
        errands = []
        for number in range(3):
            desk.clock.now = number
            errands.append(await desk.run(Identity("me", str(number)), size=10))
        found = [desk.once.find(errand.identity) is errand for errand in errands]
        assert [errand.spool.size for errand in errands] == [10 if one else 0 for one in kept]
        desk.once.close()
        assert sum(errand.spool.size for errand in errands) == 0
        return found

    assert asyncio.run(play()) == kept


def test_what_is_read_at_the_moment_is_not_swept() -> None:
    async def play() -> None:
        desk = Desk()
        errand = await desk.run(ME, size=10)
        errand.job.readers += 1
        desk.clock.now = 1000
        assert desk.once.find(Identity("me", "cat")) is None
        assert errand.spool.size == 10
        errand.job.leave()
        desk.clock.now = 2000
        assert desk.once.find(Identity("me", "cat")) is None
        assert errand.spool.size == 0

    asyncio.run(play())


PAID: list[tuple[str, ApiError, bool, bool]] = [
    ("there was no room to wait in line", RateLimited("crowded"), False, True),
    ("the server ended", ServiceUnavailable("shutting down"), False, True),
    ("there is no picture behind its link any more", NoImageInReply("a page"), False, False),
    ("it could not be fetched", ImageUnavailable("404"), False, True),
    ("it could not be fetched from another replica, which has paid", ImageUnavailable("404"), True, False),
]


@pytest.mark.parametrize(("name", "fault", "follows", "kept"), PAID, ids=[row[0] for row in PAID])
def test_a_reply_that_was_paid_for_before_is_kept_whatever_comes_between(
    name: str, fault: ApiError, follows: bool, kept: bool
) -> None:
    async def play() -> bool:
        desk = Desk()
        errand = desk.start(ME, fault)
        errand.follows = follows
        if not follows:
            errand.replies.append(read_reply(b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'))
        await errand.job.end()
        errand.delivered = True
        errand.job.leave()
        assert desk.once.known(None) is None
        is_kept = desk.once.known(errand.id) is errand
        assert errand.failed_to_deliver is is_kept
        desk.once.close()
        return is_kept

    assert asyncio.run(play()) is kept


def test_a_result_is_its_callers_own() -> None:
    async def play() -> None:
        desk = Desk()
        errand = await desk.run(ME, is_async=True)
        assert desk.once.get(Caller("me", None), errand.id) is errand
        assert desk.once.get(Caller("you", None), errand.id) is None
        assert desk.once.get(Caller("me", None), "req_9") is None
        desk.clock.now = 600
        assert desk.once.get(Caller("me", None), errand.id) is None

    asyncio.run(play())


def test_an_errand_that_starts_once_more_is_as_new() -> None:
    async def play() -> None:
        desk = Desk()
        errand = await desk.run(ME, ImageUnavailable("404"), size=10, delivered=True)
        more = Spool()
        more.new_blob().write(b"12345")
        errand.reopen(more, Exchange(REQUEST, 60))
        assert (errand.delivered, errand.until, errand.spool.size, more.size) == (False, math.inf, 15, 0)
        desk.once.close()

    asyncio.run(play())


def blob_of(data: bytes) -> Blob:
    blob = Blob()
    blob.write(data)
    return blob


ASKED_DIFFERENTLY: list[tuple[str, dict[str, Any]]] = [
    ("another prompt", {"prompt": "a cat"}),
    ("another number", {"n": 2}),
    ("another format of the answer", {"response_format": "url"}),
    ("a stream", {"stream": True}),
    ("other metadata", {"metadata": {"a": "b"}}),
    ("another picture of the same size", {"images": (InputImage(source=blob_of(b"abd")),)}),
    ("a link", {"images": (InputImage(url="https://h/a.png"),)}),
    ("a mask", {"images": (InputImage(source=blob_of(b"abc")),), "mask": InputImage(source=blob_of(b"abc"))}),
    ("a picture more", {"images": (InputImage(source=blob_of(b"abc")),) * 2}),
]


def fingerprint(**fields: Any) -> str:
    request = ImagesRequest(**{"operation": Operation.EDIT, "prompt": "a fox", **fields})
    return asyncio.run(identify(request, Caller("me", None), Headers({}))).fingerprint


def test_the_same_question_has_the_same_fingerprint() -> None:
    one, two = ((InputImage(source=blob_of(b"abc")),) for _ in range(2))
    assert fingerprint(images=one, metadata={"a": "1", "b": "2"}) == fingerprint(
        images=two, metadata={"b": "2", "a": "1"}
    )


@pytest.mark.parametrize(("name", "fields"), ASKED_DIFFERENTLY, ids=[row[0] for row in ASKED_DIFFERENTLY])
def test_another_question_has_another_fingerprint(name: str, fields: dict[str, Any]) -> None:
    assert fingerprint(**fields) != fingerprint(images=(InputImage(source=blob_of(b"abc")),))
    assert fingerprint(**fields) != fingerprint()


@pytest.mark.parametrize(("headers", "key", "again"), [({}, None, False), ({"x-stainless-retry-count": "0"}, None, False), ({"x-stainless-retry-count": "1"}, None, True), ({"idempotency-key": "a-1"}, "a-1", False)])  # fmt: skip
def test_what_headers_say(headers: dict[str, str], key: str | None, again: bool) -> None:
    identity = asyncio.run(identify(REQUEST, Caller("me", None), Headers(headers)))
    assert (identity.caller, identity.key, identity.again) == ("me", key, again)


@pytest.mark.parametrize("key", ["", "a b", "schl\u00fcssel", "a" * 256])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        asyncio.run(identify(REQUEST, Caller("me", None), Headers({"idempotency-key": key})))


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with run_demo() as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(demo: RunningDemo) -> Iterator[None]:
    demo.state.reset()
    yield
    demo.state.release()


def ask(limner: RunningLimner, asked: dict[str, Any] = GENERATION, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{limner.url}/v1/images/generations", json=asked, headers=names, timeout=20)


def test_a_repeat_joins_the_question_whose_client_has_gone(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds", keepalive_after=0) as limner:
        line = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        line.disconnect()
        threading.Timer(0.2, demo.state.release).start()
        answer = ask(limner)
        assert answer.status_code == 200
        assert answer.headers["x-limner-joined"].startswith("req_")
        assert answer.headers["x-limner-joined"] != answer.headers["x-request-id"]
    assert demo.state.calls == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_gets_the_answer_that_nobody_took(demo: RunningDemo, stream: bool) -> None:
    asked = {**GENERATION, "stream": stream}
    with limner_with_model(demo, "holds+data-url", keepalive_after=0) as limner:
        limner.studio.silence = 60
        line = ListeningClient(limner, asked)
        demo.state.wait_for_calls(1)
        line.disconnect()
        demo.state.release()
        wait_for_jobs(limner, 0)
        answers = [ask(limner, asked) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert ["x-limner-joined" in answer.headers for answer in answers] == [True, False]
    assert demo.state.calls == 2


def test_the_official_client_that_loses_patience_pays_once(demo: RunningDemo) -> None:
    with (
        limner_with_model(demo, "holds", keepalive_after=0) as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any", timeout=0.3, max_retries=5) as client,
    ):
        threading.Timer(0.6, demo.state.release).start()
        answer = client.images.generate(**GENERATION)
        assert answer.data is not None
    assert demo.state.calls == 1


def test_two_clients_that_are_both_there_have_two_questions(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds") as limner:
        lines = [ListeningClient(limner, GENERATION) for _ in range(2)]
        assert demo.state.wait_for_calls(2)
        demo.state.release()
        for line in lines:
            line.read_until(b"b64_json")
            line.disconnect()
    assert demo.state.calls == 2


def test_a_key_joins_clients_that_are_both_there(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds") as limner:
        lines = [ListeningClient(limner, GENERATION, idempotency_key="k") for _ in range(2)]
        assert demo.state.wait_for_calls(1)
        demo.state.release()
        for line in lines:
            line.read_until(b"b64_json")
            line.disconnect()
        again = ask(limner, idempotency_key="k")
        other = ask(limner, {**GENERATION, "prompt": "a cat"}, idempotency_key="k")
    assert again.status_code == 200
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert demo.state.calls == 1


def test_a_picture_that_could_not_be_fetched_is_fetched_for_the_repeat(demo: RunningDemo) -> None:
    with limner_with_model(demo, "missing-image-3", fetch_timeout=0.3) as limner:
        first = ask(limner)
        assert (first.status_code, first.json()["error"]["code"]) == (500, "image_download_failed")
        assert demo.url in first.json()["error"]["message"] or "The image" in first.json()["error"]["message"]
        limner.studio.parts.fetcher._timeout = 20
        second = ask(limner)
    assert second.status_code == 200
    assert base64.b64decode(second.json()["data"][0]["b64_json"]).startswith(b"\x89PNG")
    assert demo.state.calls == 1


def wait_for_readers(limner: RunningLimner, number: int) -> None:
    done = threading.Event()
    for _ in range(2000):
        if sum(errand.job.readers for errand in limner.studio.once._by_id.values()) == number:
            return
        done.wait(0.005)
    raise AssertionError("somebody still reads")


def test_a_repeat_that_leaves_while_the_picture_is_fetched_again_loses_nothing(demo: RunningDemo) -> None:
    with limner_with_model(demo, "missing-image-3", fetch_timeout=0.3, keepalive_after=0) as limner:
        assert ask(limner).json()["error"]["code"] == "image_download_failed"
        fetcher = limner.studio.parts.fetcher
        fetcher._timeout = 20
        held, left, fetch = threading.Event(), threading.Event(), fetcher.fetch

        async def wait(url: str) -> Blob:
            held.set()
            await asyncio.to_thread(left.wait, 10)
            return await fetch(url)

        fetcher.fetch = wait  # type: ignore[method-assign]
        line = ListeningClient(limner, GENERATION)
        assert held.wait(10)
        line.disconnect()
        wait_for_readers(limner, 0)
        left.set()
        wait_for_jobs(limner, 0)
        answer = ask(limner)
    assert answer.status_code == 200
    assert demo.state.calls == 1


def test_a_result_is_fetched_later(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds+data-url") as limner, httpx.Client(base_url=limner.url) as http:
        accepted = http.post("/v1/images/generations", json=GENERATION, headers={"prefer": "respond-async"})
        place = accepted.headers["location"]
        assert accepted.status_code == 202
        assert accepted.json() == {
            "id": accepted.headers["x-request-id"],
            "object": "image.result",
            "status": "in_progress",
        }
        assert place == f"/v1/images/results/{accepted.headers['x-request-id']}"
        assert accepted.headers["preference-applied"] == "respond-async"
        waiting = http.get(place)
        assert (waiting.status_code, waiting.headers["retry-after"]) == (202, "5")
        assert http.get(place, headers={"authorization": "Bearer other"}).status_code == 404
        demo.state.release()
        wait_for_jobs(limner, 0)
        answers = [http.get(place) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json()["data"][0]["b64_json"].startswith("iVBOR")
        assert answers[0].headers["x-limner-joined"] == accepted.headers["x-request-id"]
        assert http.get("/v1/images/results/req_0").status_code == 404
    assert demo.state.calls == 1


def test_a_failure_is_fetched_later_too(demo: RunningDemo) -> None:
    with limner_with_model(demo, "refuses") as limner, httpx.Client(base_url=limner.url) as http:
        asked = http.post("/images/generations", json=GENERATION, headers={"prefer": "wait=1, respond-async"})
        assert asked.headers["location"].startswith("/images/results/")
        wait_for_jobs(limner, 0)
        answer = http.get(asked.headers["location"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "moderation_blocked")


def test_a_key_and_a_preference_go_together(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds+data-url") as limner:
        first, second = (ask(limner, prefer="respond-async", idempotency_key="k") for _ in range(2))
        assert (first.status_code, second.status_code) == (202, 202)
        assert first.json()["id"] == second.json()["id"]
        demo.state.release()
        wait_for_jobs(limner, 0)
        assert ask(limner, idempotency_key="k").status_code == 200
    assert demo.state.calls == 1


def test_a_stream_is_not_put_off(demo: RunningDemo) -> None:
    with limner_with_model(demo, "data-url") as limner:
        answer = ask(limner, {**GENERATION, "stream": True}, prefer="respond-async")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_nothing_is_started_while_the_server_closes_but_what_is_there_is_handed_out(demo: RunningDemo) -> None:
    with limner_with_model(demo, "data-url") as limner:
        ask(limner, idempotency_key="k")
        limner.studio.closing = True
        assert ask(limner, idempotency_key="k").status_code == 200
        assert ask(limner).status_code == 503


def test_a_bad_key_is_the_clients_mistake(demo: RunningDemo) -> None:
    with (
        limner_with_model(demo, "data-url") as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any") as client,
        suppress(KeyError),
        pytest.raises(openai.BadRequestError, match="Idempotency-Key"),
    ):
        client.images.generate(**GENERATION, extra_headers={"Idempotency-Key": "a b"})
