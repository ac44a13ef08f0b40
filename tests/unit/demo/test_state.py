"""What the demo upstream remembers stays bounded, and can be waited for."""

import asyncio
import threading

import pytest

from app.demo import state as states
from app.demo.image_host import Exhibit
from app.demo.state import DemoState, SeenRequest


def seen(size: int = 1) -> SeenRequest:
    return SeenRequest("/v1/chat/completions", {}, {}, size)


def test_old_requests_are_forgotten() -> None:
    state = DemoState()
    for _ in range(states.MAX_REQUESTS + 5):
        state.note(seen())
    assert len(state.requests) == states.MAX_REQUESTS
    assert state.calls == states.MAX_REQUESTS + 5


def test_large_requests_push_others_out() -> None:
    state = DemoState()
    for size in (1, states.MAX_BYTES, 2 * states.MAX_BYTES):
        state.note(seen(size))
    assert [request.size for request in state.requests] == [2 * states.MAX_BYTES]


def test_counting_by_model_and_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "MAX_PROMPTS", 2)
    state = DemoState()
    assert [state.count("m", "a"), state.count("m", "a"), state.count("n", "a")] == [0, 1, 0]
    state.count("m", "b")
    assert [state.count("n", "a"), state.count("m", "a")] == [1, 0]


def test_reset() -> None:
    state = DemoState()
    state.note(seen())
    state.count("m", "a")
    state.painted = 1
    state.gallery.keep(Exhibit(b"x", "image/png"), ".png")
    state.reset()
    assert (state.calls, state.painted, len(state.requests), len(state.gallery)) == (0, 0, 0, 0)
    assert state.count("m", "a") == 0


def test_waiting_for_calls() -> None:
    state = DemoState()
    assert not state.wait_for_calls(1, timeout=0)
    thread = threading.Thread(target=state.note, args=(seen(),))
    thread.start()
    assert state.wait_for_calls(1)
    thread.join()


def test_waiting_until_idle() -> None:
    state = DemoState()
    state.move(+1)
    assert not state.wait_until_idle(timeout=0)
    state.move(-1)
    assert state.wait_until_idle(timeout=0)


def test_what_is_held_goes_when_it_is_released() -> None:
    state = DemoState()

    async def hold() -> None:
        held = [asyncio.create_task(state.hold()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in held)
        state.release()
        await asyncio.gather(*held)
        await state.hold()

    asyncio.run(hold())
