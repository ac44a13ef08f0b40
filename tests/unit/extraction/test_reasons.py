"""Why a reply has no image, where that stands beside its words."""

from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ModerationBlocked, NoImageInReply
from app.extraction.reasons import find_reasons
from app.extraction.refusal import no_image_error
from app.protocol.chat_reply import ChatReply
from app.protocol.reply_parser import read_reply

DETAILS = {"moderation_stage": "output", "categories": ["violence"]}
NO_IMAGE = "The upstream's reply contains no image"
REJECTED = "Your request was rejected by the safety system of the upstream"


def chat(content: object = "", **choice: object) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}


def call(**more: object) -> dict[str, Any]:
    return {"status": "completed", "output": [{"type": "image_generation_call", "status": "failed", **more}]}


def stream(*documents: object) -> bytes:
    return b"".join(b"data: %s\n\n" % orjson.dumps(document) for document in documents) + b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    body: dict[str, Any] | bytes
    message: str
    refused: bool = False


CASES = (
    Case("OpenAI's filter", chat(finish_reason="content_filter"), f"{REJECTED} (finish_reason content_filter).", True),
    Case("Gemini through a relay", chat(finish_reason="PROHIBITED_CONTENT"), f"{REJECTED} (finish_reason PROHIBITED_CONTENT).", True),
    Case("Google's own words", chat(finish_reason="content_filter: PROHIBITED_CONTENT"), f"{REJECTED} (finish_reason content_filter: PROHIBITED_CONTENT).", True),
    Case("a recitation", chat(finish_reason="IMAGE_RECITATION"), f"{REJECTED} (finish_reason IMAGE_RECITATION).", True),
    Case("personal data", chat(finish_reason="IMAGE_SPII"), f"{REJECTED} (finish_reason IMAGE_SPII).", True),
    Case("OpenRouter's native reason", chat(native_finish_reason="IMAGE_SAFETY"), f"{REJECTED} (native_finish_reason IMAGE_SAFETY).", True),
    Case("Anthropic's reason", {"content": [], "stop_reason": "refusal"}, f"{REJECTED} (stop_reason refusal).", True),
    Case("Gemini's feedback", {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, f"{REJECTED} (blockReason PROHIBITED_CONTENT).", True),
    Case("Gemini's feedback, for any reason", {"promptFeedback": {"blockReason": "OTHER"}}, f"{REJECTED} (blockReason OTHER).", True),
    Case("Gemini's candidate", {"candidates": [{"finishReason": "IMAGE_SAFETY", "finishMessage": "The image was filtered out."}]}, f"{REJECTED} (finish_reason IMAGE_SAFETY, finishReason IMAGE_SAFETY). It said: The image was filtered out.", True),
    Case("Gemini's candidate, in a sentence only", {"candidates": [{"finishReason": "OTHER", "finishMessage": "It violates our policies."}]}, f"{REJECTED} (finish_reason OTHER, finishReason OTHER). It said: It violates our policies.", True),
    Case("a list of reasons, as Bedrock has it", {"images": [None], "finish_reasons": ["Filter reason: prompt"]}, f"{REJECTED} (finish_reasons Filter reason: prompt).", True),
    Case("a list of reasons that are none", {"images": [None], "finish_reasons": [None, "SUCCESS", ""]}, f"{NO_IMAGE}. It said nothing."),
    Case("Vertex's filter", {"predictions": [{"raiFilteredReason": "58061214"}]}, f"{REJECTED} (raiFilteredReason 58061214).", True),
    Case("a failed call", call(error={"code": "moderation_blocked", "message": "No.", "moderation_details": DETAILS}), f"{REJECTED} (image_generation_call moderation_blocked: No.).", True),
    Case("a failed call with its details outside", call(moderation_details=DETAILS), f"{REJECTED} (image_generation_call failed).", True),
    Case("a failed call for another reason", call(error={"code": "server_error"}), f"{NO_IMAGE} (image_generation_call server_error). It said nothing."),
    Case("a failed call in words", call(error="boom"), f"{NO_IMAGE} (image_generation_call boom). It said nothing."),
    Case("a failed call without a reason", call(), f"{NO_IMAGE} (image_generation_call failed). It said nothing."),
    Case("a failed task of Midjourney, in the text", chat('{"status": "FAILURE", "failReason": "Banned prompt detected"}'), f'{REJECTED} (status Banned prompt detected). It said: {{"status": "FAILURE", "failReason": "Banned prompt detected"}}', True),
    Case("a failed task with a code and a message", {"x": {"x": {"task_status": "FAILED", "code": "Busy", "msg": "m"}, "y": {"status": "failed", "msg": ""}}}, f"{NO_IMAGE} (status Busy: m). It said: m"),
    Case("Kling", {"code": 0, "message": "SUCCEED", "data": {"task_id": "1", "task_status": "failed", "task_status_msg": "Failure to pass the risk control system"}}, f"{REJECTED} (status Failure to pass the risk control system). It said: SUCCEED", True),
    Case("Runway", {"id": "1", "status": "FAILED", "failure": "Sorry", "failureCode": "SAFETY.INPUT.TEXT"}, f"{REJECTED} (status Sorry: SAFETY.INPUT.TEXT).", True),
    Case("Luma", {"id": "1", "state": "failed", "failure_reason": "advanced moderation failed"}, f"{REJECTED} (status advanced moderation failed).", True),
    Case("Vidu", {"state": "failed", "err_code": "AuditSubmitIllegal"}, f"{REJECTED} (status AuditSubmitIllegal).", True),
    Case("Ideogram's mark", {"data": [{"is_image_safe": False, "url": None}]}, f"{REJECTED} (is_image_safe false).", True),
    Case("a status that names the safety system", {"status": "Content Moderated", "result": None}, f"{REJECTED} (status Content Moderated).", True),
    Case("each image failed", {"data": [{"error": {"code": "OutputImageSensitiveContentDetected", "message": "m"}}]}, f"{REJECTED} (error OutputImageSensitiveContentDetected: m).", True),
    Case("each image failed, for another reason", {"data": [{"error": {"message": "m"}}, {"error": {}}]}, f"{NO_IMAGE} (error m). It said nothing."),
    Case("each image failed, in words", {"images": [{"url": None, "error": "blocked by moderation"}]}, f"{REJECTED} (error blocked by moderation).", True),
    Case("xAI's mark", {"data": [{"url": None, "respect_moderation": False}]}, f"{REJECTED} (respect_moderation false).", True),
    Case("marks of fal", {"images": [], "has_nsfw_concepts": [True]}, f"{REJECTED} (has_nsfw_concepts [true]).", True),
    Case("Azure's filter", {"content_filter_results": {"sexual": {"filtered": True}, "hate": {"filtered": False}}}, f"{REJECTED} (filtered true).", True),
    Case("marks of what is harmless", {"nsfw": False, "flagged": [False], "is_safe": True}, f"{NO_IMAGE}. It said nothing."),
    Case("an incomplete response", {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []}, f"{NO_IMAGE} (incomplete_details max_output_tokens). It said nothing."),
    Case("an incomplete response of a filter", {"incomplete_details": {"reason": "content_filter"}, "output": [1]}, f"{REJECTED} (incomplete_details content_filter).", True),
    Case("details that are none", {"incomplete_details": {"why": 1}}, f"{NO_IMAGE}. It said nothing."),
    Case("Gemini has made none", chat(finish_reason="NO_IMAGE"), f"{NO_IMAGE} (finish_reason NO_IMAGE). It said nothing."),
    Case("too long", chat("One, two,", finish_reason="length"), f"{NO_IMAGE} (finish_reason length). It said: One, two,"),
    Case("as it should be", chat("Hello", native_finish_reason="STOP"), f"{NO_IMAGE}. It said: Hello"),
    Case("the refusal of a language that nobody listed", chat("Hindi ko kayang gawin ang larawang iyan."), f"{NO_IMAGE}. It said: Hindi ko kayang gawin ang larawang iyan."),
    Case("a refusal in its own field", {"choices": [{"message": {"content": None, "refusal": "Nein."}, "finish_reason": "stop"}]}, f"{REJECTED}. It said: Nein.", True),
    Case("a task", {"code": 200, "data": [{"status": "submitted", "task_id": "t-1"}]}, f"{NO_IMAGE} (task t-1). It has begun a task, which this server does not wait for. It said nothing."),
    Case("a task by its kind", {"id": "t-2", "object": "generation.task", "status": "queued"}, f"{NO_IMAGE} (task t-2). It has begun a task, which this server does not wait for. It said nothing."),
    Case("a task in the words of the reply", chat('{"taskId": 7}'), f'{NO_IMAGE} (task 7). It has begun a task, which this server does not wait for. It said: {{"taskId": 7}}'),
    Case("a task that has failed", {"output": {"task_id": "t-3", "task_status": "FAILED", "code": "DataInspectionFailed", "message": "Output data may contain inappropriate content."}}, f"{REJECTED} (status DataInspectionFailed: Output data may contain inappropriate content.). It said: Output data may contain inappropriate content.", True),
    Case("a relay's complaint", {"base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}, f"{REJECTED}. It said: input new_sensitive", True),
    Case("a relay's complaint of another kind", {"base_resp": {"status_code": 1000, "status_msg": "odd"}}, f"{NO_IMAGE}. It said: odd"),
    Case("a status without a reason", {"data": {"status": "failed"}}, f"{NO_IMAGE}. It said nothing."),
    Case("a stream", stream({"choices": [{"delta": {"content": "Hm."}}]}, {"choices": [{"delta": {}, "finish_reason": "stop", "native_finish_reason": "SAFETY"}]}), f"{REJECTED} (native_finish_reason SAFETY). It said: Hm.", True),
    Case("a reason with a key and an address", chat(finish_reason="see 10.0.0.7 with sk-abc"), f"{NO_IMAGE} (finish_reason see [address] with [key]). It said nothing."),
)  # fmt: skip


def reply_of(body: dict[str, Any] | bytes) -> ChatReply:
    return read_reply(body if isinstance(body, bytes) else orjson.dumps(body))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_error_names_the_reason(case: Case) -> None:
    error = no_image_error(reply_of(case.body))
    assert error.message == case.message
    assert type(error) is (ModerationBlocked if case.refused else NoImageInReply)


def test_the_details_of_a_refusal_are_passed_on() -> None:
    for body in (call(error={"message": "No.", "moderation_details": DETAILS}), call(moderation_details=DETAILS)):
        assert no_image_error(reply_of(body)).body["error"]["moderation_details"] == DETAILS
    assert "moderation_details" not in no_image_error(reply_of(chat(finish_reason="SAFETY"))).extra


def test_reasons_are_few_and_short() -> None:
    body = {"output": [{"type": f"call_{number}", "status": "failed", "error": "x" * 999} for number in range(9)]}
    found = find_reasons(reply_of(body))
    assert [reason.name for reason in found.reasons] == ["call_0", "call_1", "call_2", "call_3"]
    assert len(no_image_error(reply_of(body)).message) < 800


def test_a_reply_that_was_not_kept_whole_still_has_the_reason_of_its_end() -> None:
    reply = replace(reply_of(chat("x", finish_reason="NO_IMAGE")), raw='{"choices": [{"mess')
    assert [reason.value for reason in find_reasons(reply).reasons] == ["NO_IMAGE"]


def test_a_deep_reply_is_read_in_part() -> None:
    deep: dict[str, Any] = {"finishReason": "SAFETY"}
    for _ in range(30):
        deep = {"a": deep}
    assert find_reasons(reply_of(deep)).reasons == ()
    wide = {"a": [{"b": 1}] * 500 + [{"finishReason": "SAFETY"}]}
    assert find_reasons(reply_of(wide)).reasons == ()


@given(
    st.recursive(
        st.none() | st.integers(0, 9) | st.sampled_from(["failed", "x"]),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["finishReason", "incomplete_details", "status", "type", "error", "task_id", "object"]),
                inner,
            )
        ),
    )
)
def test_no_reply_makes_it_fail(document: object) -> None:
    reply = replace(reply_of(chat()), raw=orjson.dumps(document).decode())
    assert no_image_error(reply).status == 400
