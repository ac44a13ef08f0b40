"""The documents of a reply, in the forms of several APIs, combined into messages, errors, reasons and counts."""

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from app.protocol.reply_accumulator import ReplyAccumulator
from app.protocol.reply_errors import ReplyError, find_error
from app.protocol.usage import Usage


def accumulate(*documents: dict[str, Any]) -> ReplyAccumulator:
    result = ReplyAccumulator()
    for document in documents:
        result.add(document)
    return result


def chunk(delta: object, **choice: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, **choice}]}


@dataclass(frozen=True)
class Case:
    name: str
    documents: list[dict[str, Any]]
    content: str


CASES = [
    Case("deltas of text", [chunk({"content": "a"}), chunk({"content": "b"})], "ab"),
    Case("a role alone", [chunk({"role": "assistant"}), chunk({"content": "b"})], "b"),
    Case("null and other nonsense", [chunk(None), chunk({"content": 5}), chunk({"content": None})], ""),
    Case(
        "messages in pieces",
        [{"choices": [{"message": {"content": "a"}}]}, {"choices": [{"message": {"content": "b"}}]}],
        "ab",
    ),
    Case(
        "a message that repeats the deltas",
        [chunk({"content": "a"}), {"choices": [{"message": {"content": "ab"}}]}],
        "ab",
    ),
    Case(
        "parts of text", [chunk({"content": [{"type": "text", "text": "a"}, "b"]}), chunk({"content": ["c"]})], "a\nbc"
    ),
    Case("parts in a field of their own", [chunk({"parts": [{"type": "text", "text": "a"}]})], "a"),
    Case("parts that repeat the content", [chunk({"content": "a", "parts": [{"type": "text", "text": "a"}]})], "a"),
    Case("an old completion", [{"choices": [{"text": "a"}]}], "a"),
    Case("deltas that are text", [chunk("a"), chunk("b")], "ab"),
    Case("deltas with a text", [chunk({"text": "a"}), chunk({"text": "b"})], "ab"),
    Case("deltas with thoughts", [chunk({"type": "thinking", "text": "a"}), chunk({"text": "b"})], "b"),
    Case("deltas without choices", [{"delta": "a"}, {"delta": {"text": "b"}}, {"delta": {"content": "c"}}], "abc"),
    Case("items", [{"type": "item", "content": "a"}, {"type": "item", "content": "b"}, {"type": "end"}], "ab"),
    Case("tokens", [{"event": "token", "data": "a"}, {"event": "token", "data": "b"}], "ab"),
    Case("chunks in chunks", [{"data": {"chunk": {"text": "a"}}}, {"data": {"chunk": {"text": "b"}}}], "ab"),
    Case("chunks too deep", [{"data": {"chunk": {"delta": {"text": "a"}}}}], ""),
    Case("an error with words", [{"error": {"message": "no"}, "text": "a"}], ""),
    Case("events with thoughts", [{"type": "thinking", "content": "a"}, {"text": "b"}], "b"),
    Case("a message that is text", [{"choices": [{"message": "a"}]}], "a"),
    Case("Ollama", [{"message": {"content": "a"}}, {"message": {"content": "b"}, "done_reason": "stop"}], "ab"),
    Case("a Responses stream", [{"type": "response.output_text.delta", "delta": "a"}] * 2, "aa"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contents_are_concatenated(case: Case) -> None:
    assert "".join(message["content"] for message in accumulate(*case.documents).messages()) == case.content


def test_lists_of_several_chunks_are_one_list_and_snapshots_keep_theirs() -> None:
    result = accumulate(chunk({"images": [1]}))
    (before,) = result.messages()
    result.add(chunk({"images": [2], "image_url": "x", "nothing": None}))
    (after,) = result.messages()
    assert before["images"] == [1]
    assert after == {"content": "", "parts": [], "images": [1, 2], "image_url": "x"}


def test_refusals_are_joined_from_fields_and_parts() -> None:
    result = accumulate(
        chunk({"refusal": "a"}), chunk({"refusal": "b"}), chunk({"content": [{"type": "refusal", "refusal": "c"}]})
    )
    assert result.messages()[0]["refusal"] == "abc"


def test_parts_with_more_than_text_stay_parts() -> None:
    parts = [{"type": "image_url", "image_url": "x"}, {"text": 5}, {"type": ["text"], "text": "a"}, None]
    (message,) = accumulate(chunk({"content": parts}), {"choices": ["x", None]}).messages()
    assert message["parts"] == parts


def test_choices_stand_in_the_order_of_their_index() -> None:
    result = accumulate({"choices": [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]})
    assert [message["content"] for message in result.messages()] == ["a", "b"]


def test_only_32_choices_are_kept() -> None:
    result = accumulate(*({"choices": [{"index": index, "delta": {"content": "a"}}]} for index in range(1000)))
    assert len(result.messages()) == 32
    assert result.add({"choices": [{"index": 0, "delta": {"content": "b"}}]})
    assert result.messages()[0]["content"] == "ab"


def test_a_responses_stream_ends_with_the_whole_response() -> None:
    whole = {"output": [{"type": "image_generation_call", "result": "x"}], "usage": {"input_tokens": 3}}
    result = accumulate(
        {"type": "response.created", "response": {}},
        {"type": "response.image_generation_call.partial_image", "partial_image_b64": "x"},
        {"type": "response.output_item.done", "item": {"type": "message"}},
        {"type": "response.completed", "response": whole},
    )
    assert result.bodies == [{"output": [{"type": "message"}]}, {"output": whole["output"]}]
    assert (result.finish_reason, result.usage) == ("completed", Usage(0, 3))


def test_only_the_final_image_of_an_images_stream_is_kept() -> None:
    result = accumulate(
        {"type": "image_generation.partial_image", "b64_json": "x"},
        {"type": "image_edit.completed", "b64_json": "y", "usage": {"output_tokens": 4}},
    )
    assert [body["data"][0]["b64_json"] for body in result.bodies] == ["y"]
    assert (result.finish_reason, result.usage) == ("stop", Usage(0, 0, 4))


def test_each_image_of_a_stream_of_several_is_kept() -> None:
    error = {"code": "OutputImageSensitiveContentDetected", "message": "m"}
    made = {"type": "image_generation.partial_succeeded", "image_index": 0, "url": "u"}
    result = accumulate(
        made,
        {"type": "image_generation.partial_failed", "image_index": 1, "error": error},
        {"type": "image_generation.completed", "usage": {"output_tokens": 4}},
    )
    assert result.bodies[0] == {"data": [made]}
    assert (result.error, result.finish_reason, result.usage) == (error, "stop", Usage(0, 0, 4))


def test_usage_is_read_in_the_form_of_gemini() -> None:
    result = accumulate(
        {"candidates": [{"content": {}}], "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 9}}
    )
    assert result.usage == Usage(0, 7, 9)


def test_the_last_usage_with_counts_is_used() -> None:
    result = accumulate(
        {"usage": {"prompt_tokens": 1}}, {"usage": {"prompt_tokens": 2}}, {"usage": {}}, {"usage": None}
    )
    assert result.usage == Usage(0, 2)


def test_finish_reasons_are_read_in_the_forms_of_all_apis() -> None:
    assert accumulate(chunk({}, finish_reason="stop"), chunk({}, finish_reason=None)).finish_reason == "stop"
    assert accumulate({"candidates": [{"finishReason": "SAFETY"}, "x", {"finishReason": 5}]}).finish_reason == "SAFETY"


@pytest.mark.parametrize(
    ("document", "grew"),
    [
        (chunk({"content": "a"}), True),
        ({"choices": [], "usage": {"prompt_tokens": 1}}, False),
        ({"id": "x", "object": "chat.completion.chunk"}, False),
        ({"data": [1]}, True),
        ({"type": "response.created"}, False),
    ],
)
def test_add_returns_whether_the_document_has_content(document: dict[str, Any], grew: bool) -> None:
    assert ReplyAccumulator().add(document) is grew


@dataclass(frozen=True)
class ErrorCase:
    name: str
    document: dict[str, Any]
    error: ReplyError | None


OBJECT = {"message": "m", "type": "t", "code": "c", "innererror": {"code": "i"}}
ERRORS = [
    ErrorCase("an object, with all that it holds", {"error": OBJECT}, OBJECT),
    ErrorCase(
        "objects within each other, as deep as they make sense",
        {"error": orjson.loads('{"a":' * 400 + "1" + "}" * 400)},
        orjson.loads('{"a":' * 8 + "{}" + "}" * 8),
    ),
    ErrorCase(
        "lists within each other", {"error": {"a": orjson.loads("[" * 400 + "]" * 400)}}, {"a": [[[[[[[[]]]]]]]]}
    ),
    ErrorCase("nonsense inside", {"error": {"message": 1, "code": True}}, {"message": 1, "code": True}),
    ErrorCase("a list of objects", {"error": [OBJECT]}, OBJECT),
    ErrorCase("a list of objects under its plural", {"errors": [OBJECT, {}]}, OBJECT),
    ErrorCase("a list of texts", {"errors": ["m", "n"]}, {"message": "m"}),
    ErrorCase("a text", {"error": "m"}, {"message": "m", "error": "m"}),
    ErrorCase("a text, and a code beside it", {"error": "m", "code": 402}, {"message": "m", "error": "m", "code": 402}),
    ErrorCase("FastAPI's form", {"detail": "Not Found"}, {"message": "Not Found", "detail": "Not Found"}),
    ErrorCase("FastAPI's form for values", {"detail": [{"msg": "m"}]}, {"msg": "m"}),
    ErrorCase("a code and a message", {"code": 500, "message": "m", "id": 1}, {"code": 500, "message": "m"}),
    ErrorCase("a code and its message, shorter", {"code": 401, "msg": "m", "data": None}, {"code": 401, "msg": "m"}),
    ErrorCase("no success", {"success": False, "message": "m"}, {"message": "m"}),
    ErrorCase("an error that is only true", {"error": True, "message": "m"}, {"error": True, "message": "m"}),
    ErrorCase("a status as text", {"status": "error", "message": "m"}, {"status": "error", "message": "m"}),
    ErrorCase("a status", {"status": 402, "message": "m"}, {"status": 402, "message": "m"}),
    ErrorCase("a status of success", {"status": 200, "message": "m"}, None),
    ErrorCase("a status of success as text", {"status": "success", "message": "m"}, None),
    ErrorCase("a status that is a list", {"status": [402], "message": "m"}, None),
    ErrorCase("a code of success", {"code": 0, "message": "ok"}, None),
    ErrorCase("a code without a message", {"code": 500}, None),
    ErrorCase("an empty error", {"error": None, "choices": []}, None),
    ErrorCase("empty errors of all kinds", {"error": {}, "errors": [], "detail": ""}, None),
    ErrorCase("a list that holds no error", {"error": [1]}, None),
    ErrorCase(
        "a status of MiniMax",
        {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        {"code": 1008, "message": "insufficient balance"},
    ),
    ErrorCase("a head", {"header": {"code": 10013, "message": "m"}, "payload": None}, {"code": 10013, "message": "m"}),
    ErrorCase("capital letters", {"Response": {"Error": {"Code": "c", "Message": "m"}}}, {"code": "c", "message": "m"}),
    ErrorCase("names of its own", {"ErrCode": 500063, "ErrMsg": "m", "Resp": None}, {"code": 500063, "message": "m"}),
    ErrorCase("names of its own for success", {"ErrCode": 0, "ErrMsg": "success", "Resp": {"url": "u"}}, None),
    ErrorCase(
        "a description of a failure",
        {"code": 24, "description": "可能包含敏感词", "properties": {}},
        {"code": 24, "message": "可能包含敏感词"},
    ),
    ErrorCase("a message of a status", {"status_code": 50003, "status_message": "m"}, {"code": 50003, "message": "m"}),
    ErrorCase(
        "an error's message in one word", {"errorCode": "429", "errorMessage": "m"}, {"code": "429", "message": "m"}
    ),
    ErrorCase(
        "an object that is an error",
        {"object": "error", "message": "m", "param": None},
        {"message": "m", "param": None},
    ),
    ErrorCase("an event that is an error", {"type": "error", "message": "m"}, {"message": "m", "type": "error"}),
    ErrorCase("an object that is an error without words", {"object": "error"}, None),
    ErrorCase("a fault", {"fault": {"faultstring": "m"}}, {"faultstring": "m"}),
    ErrorCase("a success of zero", {"success": 0, "msg": "m"}, {"msg": "m"}),
    ErrorCase("a success of false, as text", {"success": "false", "message": "m"}, {"message": "m"}),
    ErrorCase("not ok", {"ok": False, "message": "m", "error_code": "c"}, {"message": "m", "error_code": "c"}),
    ErrorCase("ok", {"ok": True, "success": 1, "message": "m"}, None),
    ErrorCase("an error in words within", {"data": {"error": "m"}}, {"code": None, "message": "m"}),
    ErrorCase("an empty error in words within", {"data": {"error": "", "url": "u"}}, None),
    ErrorCase("a description of a success", {"code": 1, "description": "提交成功", "result": "7"}, None),
    ErrorCase("a head of success", {"base_resp": {"status_code": 0, "status_msg": "success"}}, None),
    ErrorCase("a head of success with an unknown code", {"status": {"code": 10000, "msg": "OK!"}}, None),
    ErrorCase("a head without words", {"header": {"code": 7}}, None),
    ErrorCase("a head without a code", {"header": {"message": "m"}}, None),
    ErrorCase("a head whose code is none", {"header": {"code": [7], "message": "m"}}, None),
    ErrorCase("an empty error within", {"response": {"error": {}}}, None),
    ErrorCase("a head beside choices", {"header": {"code": 7, "message": "m"}, "choices": []}, None),
]


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.name)
def test_errors_are_read_in_every_form(case: ErrorCase) -> None:
    assert find_error(case.document) == case.error
    assert accumulate(case.document).error == case.error


LONG_ERRORS = {
    "a long text": {"message": "m" * 10**6},
    "many texts": {str(number): "m" * 100 for number in range(10**4)},
    "many numbers": {str(number): number for number in range(10**5)},
    "a long list": {"loc": ["m"] * 10**5},
    "many lists": {"loc": [[]] * 10**5},
    "long names": {"m" * 10**5 + str(number): 1 for number in range(10)},
}


@pytest.mark.parametrize("error", LONG_ERRORS.values(), ids=LONG_ERRORS)
def test_of_an_error_no_more_is_read_than_can_be_one(error: dict[str, Any]) -> None:
    read = find_error({"error": error})
    assert read
    assert len(orjson.dumps(read)) < 40_000


def test_an_error_may_stand_in_a_choice_and_the_first_one_counts() -> None:
    assert accumulate(chunk({}, error={"message": "a"}), {"error": "b"}).error == {"message": "a"}


@dataclass(frozen=True)
class ContentCase:
    name: str
    documents: list[dict[str, Any]]
    has_content: bool


QUOTA = {"error": {"code": "insufficient_quota"}}
CONTENTS = [
    ContentCase("nothing", [], False),
    ContentCase("an error", [QUOTA], False),
    ContentCase("an error with what belongs to it", [{"code": 401, "message": "m", "request_id": "1", "choices": []}], False),
    ContentCase("a role, then an error", [chunk({"role": "assistant", "content": ""}), QUOTA], False),
    ContentCase("an error in a choice", [chunk({"content": None}, error={"message": "m"})], False),
    ContentCase("a failed response", [{"type": "response.failed", "response": QUOTA}], False),
    ContentCase("a word", [chunk({"content": "P"}), QUOTA], True),
    ContentCase("a thought", [chunk({"reasoning_content": "P"}), QUOTA], True),
    ContentCase("a part", [chunk({"content": [{"type": "image_url"}]}), QUOTA], True),
    ContentCase("tokens that were counted", [{**QUOTA, "usage": {"completion_tokens": 1}}], True),
    ContentCase("something beside the choices", [{"data": [{"url": "https://h/a.png"}]}, QUOTA], True),
    ContentCase("a partial image, which is ignored", [{"type": "image_generation.partial_image"}, QUOTA], True),
    ContentCase("a response in progress", [{"type": "response.in_progress"}, QUOTA], True),
]  # fmt: skip


@pytest.mark.parametrize("case", CONTENTS, ids=lambda case: case.name)
def test_content_beside_an_error_is_recognized(case: ContentCase) -> None:
    assert accumulate(*case.documents).has_content is case.has_content
