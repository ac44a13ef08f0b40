"""The state of the demo upstream stays bounded, and tests can wait for its changes."""

import asyncio
import threading

import pytest

from app.demo import state as state_module
from app.demo.image_host import HostedImage
from app.demo.state import DemoState, SeenRequest


def seen(size: int = 1) -> SeenRequest:
    return SeenRequest("/v1/chat/completions", {}, {}, size)


def test_old_requests_are_dropped() -> None:
    state = DemoState()
    for _ in range(state_module.MAX_REQUESTS + 5):
        state.record_request(seen())
    assert len(state.requests) == state_module.MAX_REQUESTS
    assert state.calls == state_module.MAX_REQUESTS + 5


def test_large_requests_displace_others() -> None:
    state = DemoState()
    for size in (1, state_module.MAX_BYTES, 2 * state_module.MAX_BYTES):
        state.record_request(seen(size))
    assert [request.size for request in state.requests] == [2 * state_module.MAX_BYTES]


def test_counting_by_model_and_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MAX_PROMPTS", 2)
    state = DemoState()
    assert [state.count_repeat("m", "a"), state.count_repeat("m", "a"), state.count_repeat("n", "a")] == [0, 1, 0]
    state.count_repeat("m", "b")
    assert [state.count_repeat("n", "a"), state.count_repeat("m", "a")] == [1, 0]


def test_a_reset_forgets_everything() -> None:
    state = DemoState()
    state.record_request(seen())
    state.count_repeat("m", "a")
    state.images_drawn = 1
    state.image_host.add(HostedImage(b"x", "image/png"), ".png")
    state.reset()
    assert (state.calls, state.images_drawn, len(state.requests), len(state.image_host)) == (0, 0, 0, 0)
    assert state.count_repeat("m", "a") == 0


def test_a_test_can_wait_for_calls() -> None:
    state = DemoState()
    assert not state.wait_for_calls(1, timeout=0)
    thread = threading.Thread(target=state.record_request, args=(seen(),))
    thread.start()
    assert state.wait_for_calls(1)
    thread.join()


def test_a_test_can_wait_until_all_calls_have_ended() -> None:
    state = DemoState()
    state.change_in_flight(+1)
    assert not state.wait_until_idle(timeout=0)
    state.change_in_flight(-1)
    assert state.wait_until_idle(timeout=0)


def test_held_requests_continue_after_the_release() -> None:
    state = DemoState()

    async def hold() -> None:
        held = [asyncio.create_task(state.wait_for_release()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in held)
        state.release()
        await asyncio.gather(*held)
        await state.wait_for_release()

    asyncio.run(hold())
