"""JSON replies and streams as bytes: complete, odd and broken off."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from starlette.responses import Response

from app.demo.chat_request import DemoChatRequest
from app.demo.chat_response import INPUT_IMAGE_TOKENS, TransportOptions, respond
from app.demo.reply_forms import Reply, merge

TEXT = "已生成图片:http://127.0.0.1:8000/images/abcdefghijkl.png"
REPLY = Reply([{"content": TEXT}])


@dataclass(frozen=True)
class Answer:
    """A received reply. `ended`: the body was complete."""

    parts: list[bytes]
    ended: bool
    slept: list[float]
    headers: dict[str, str]

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def events(self) -> list[bytes]:
        lines = self.body.replace(b"\r\n", b"\n").split(b"\n\n")
        assert lines[-1] == b"" or not self.ended
        return [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [orjson.loads(event) for event in self.events if event != b"[DONE]"]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [choice["delta"] for chunk in self.chunks for choice in chunk["choices"]]


def send(
    transport: TransportOptions, *, stream: bool = False, reply: Reply = REPLY, image_urls: Sequence[str] = ()
) -> Answer:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    request = DemoChatRequest(
        "markdown", "a fox", 1024, 1024, "auto", tuple(image_urls), stream=stream, has_image_modality=False
    )
    messages = asyncio.run(run(respond(request, reply, transport, 7, sleep)))
    headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    bodies = [message for message in messages if message["type"] == "http.response.body"]
    return Answer([body["body"] for body in bodies], not bodies[-1].get("more_body"), slept, headers)


async def run(response: Response) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def keep(message: Any) -> None:
        sent.append(message)

    await response({"type": "http"}, receive, keep)
    return sent


def test_a_json_reply_in_full() -> None:
    answer = send(TransportOptions())
    document = orjson.loads(answer.body)
    assert list(document) == ["id", "object", "created", "model", "choices", "usage"]
    assert (document["id"], document["object"], document["model"]) == ("chatcmpl-000007", "chat.completion", "markdown")
    message = {"role": "assistant", "content": TEXT}
    assert document["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))


def test_usage_adds_up() -> None:
    few, many = (orjson.loads(send(TransportOptions(), image_urls=["x"] * count).body)["usage"] for count in (0, 2))
    assert many["prompt_tokens"] - few["prompt_tokens"] == 2 * INPUT_IMAGE_TOKENS
    for usage in (few, many):
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_in_full() -> None:
    answer = send(TransportOptions(with_progress=True), stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.ended
    assert answer.events[-1] == b"[DONE]"
    assert {chunk["object"] for chunk in answer.chunks} == {"chat.completion.chunk"}
    assert answer.chunks[-1]["choices"] == []
    assert answer.chunks[-1]["usage"]["total_tokens"] > 0
    assert answer.chunks[-2]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert answer.deltas[0] == {"role": "assistant"}
    assert [delta["content"] for delta in answer.deltas[1:4]] == [f"> 进度 **{n}%**\n" for n in (13, 55, 88)]
    parts = [delta["content"] for delta in answer.deltas[4:-1]]
    assert "".join(parts) == TEXT
    assert len([chunk for chunk in parts if "http" not in chunk]) > 2, "cut inside the link"


def test_progress_is_spread_between_several_images() -> None:
    reply = Reply([{"content": "one"}, {"content": "\ntwo"}, {"content": "\nthree"}])
    text = "".join(
        delta.get("content", "")
        for delta in send(TransportOptions(with_progress=True), stream=True, reply=reply).deltas
    )
    assert text == "> 进度 **13%**\none\n> 进度 **55%**\n\ntwo\n> 进度 **88%**\n\nthree"


@pytest.mark.parametrize(
    "reply",
    [
        Reply([{"reasoning_content": "so"}, {"content": "x" * 5000}]),
        Reply([{"content": "a"}, {"images": [{"n": 1}]}, {"images": [{"n": 2}]}]),
        Reply([{"content": [{"type": "text"}, {"type": "image_url"}]}]),
        Reply([{"content": ""}]),
        Reply([], "content_filter"),
    ],
)
def test_a_stream_has_the_content_of_the_json_reply(reply: Reply) -> None:
    answer = send(TransportOptions(), stream=True, reply=reply)
    streamed = merge(delta | {"role": ""} for delta in answer.deltas)
    assert (streamed.get("content") or None) == (merge(reply.deltas).get("content") or None)
    assert streamed.get("images") == merge(reply.deltas).get("images")
    assert answer.chunks[-2]["choices"][0]["finish_reason"] == reply.finish_reason
    assert len(answer.events) < 80


def test_a_stream_pauses_between_chunks_or_stalls_once() -> None:
    assert send(TransportOptions(), stream=True).slept == []
    answer = send(TransportOptions(chunk_pause=0.25), stream=True)
    assert answer.slept == [0.25] * (len(answer.events) - 1)
    assert send(TransportOptions(stall_seconds=30), stream=True).slept == [30]
    assert send(TransportOptions(chunk_pause=1, stall_seconds=30)).slept == []


def test_parts_that_can_be_left_out() -> None:
    assert send(TransportOptions(with_done=False), stream=True).events[-1] != b"[DONE]"
    assert "usage" not in send(TransportOptions(with_usage=False), stream=True).chunks[-1]
    assert send(TransportOptions(cost=0.04), stream=True).chunks[-1]["usage"]["cost"] == 0.04
    assert "usage" not in orjson.loads(send(TransportOptions(with_usage=False)).body)
    assert orjson.loads(send(TransportOptions(with_choices=False)).body)["choices"] == []
    assert send(TransportOptions(with_choices=False), stream=True).deltas == []


def test_json_instead_of_a_stream_and_the_reverse() -> None:
    assert orjson.loads(send(TransportOptions(body_type="json"), stream=True).body)["object"] == "chat.completion"
    assert send(TransportOptions(body_type="stream")).events[-1] == b"[DONE]"


def test_the_whole_message_in_the_last_chunk() -> None:
    last = send(TransportOptions(repeat_message=True), stream=True).chunks[-2]["choices"][0]
    assert last["message"] == {"role": "assistant", "content": TEXT}


def test_other_line_ends_and_comments() -> None:
    answer = send(TransportOptions(line_end="\r\n", with_comments=True), stream=True)
    assert b"\n" not in answer.body.replace(b"\r\n", b"")
    assert answer.body.startswith(b": keep-alive\r\n\r\ndata: ")
    assert "".join(delta.get("content", "") for delta in answer.deltas) == TEXT


def test_a_stream_may_be_sent_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both replies name the second in which they were made.
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    answer = send(TransportOptions(bytewise=True), stream=True)
    assert {len(chunk) for chunk in answer.parts[:-1]} == {1}
    assert answer.body == send(TransportOptions(), stream=True).body


def test_breaking_off_inside_the_link() -> None:
    answer = send(TransportOptions(breaks="inside the link"), stream=True)
    text = "".join(delta.get("content", "") for delta in answer.deltas)
    assert not answer.ended
    assert TEXT.startswith(text)
    assert "http" in text
    assert len(text) < len(TEXT)
    plain = send(TransportOptions(breaks="inside the link"))
    assert not plain.ended
    assert len(plain.body) < int(plain.headers["content-length"])


def test_breaking_off_after_the_link() -> None:
    answer = send(TransportOptions(breaks="after the link"), stream=True)
    assert not answer.ended
    assert "".join(delta.get("content", "") for delta in answer.deltas) == TEXT + "\n"


def test_json_may_be_cut_off() -> None:
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(send(TransportOptions(breaks="inside the JSON")).body)
    answer = send(TransportOptions(breaks="inside the JSON"), stream=True)
    assert answer.ended
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(answer.events[-1])
