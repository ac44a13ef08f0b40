"""Words and details of safety systems."""

import pytest

from app.protocol.moderation import MODERATION, read_moderation_details

REFUSALS = (
    "Your chosen model requires moderation and your input was flagged",
    "Generated image rejected by content moderation.",
    "Request Moderated",
    "data_inspection_failed",
    "DataInspectionFailed",
    "Output data may contain inappropriate content.",
    "OutputImageSensitiveContentDetected",
    "The request failed because the input text may contain sensitive information",
    "系统检测到输入或生成内容可能包含不安全或敏感内容",
    "input new_sensitive",
    "FailedOperation.ImageIllegalDetected",
    "NSFW content detected. Try running it again, or try a different prompt.",
    "The input or output was flagged as sensitive (E005)",
    "Prompt violates our usage policies",
    "Your request violated Google's Responsible AI practices",
    "PROHIBITED_CONTENT",
    "content_filter",
    "Banned prompt",
    "The prompt contains disallowed content",
    "This content is not allowed",
    "Content in the text prompt is blocked from AI filters.",
    "触发了安全系统",
    "Failure to pass the risk control system",
    "blocked by our content filters",
    "Blocked by a guardrail",
    "safety_violations=[sexual]",
    "コンテンツポリシーに違反しています",
    "El prompt infringe las políticas de uso",
    "Запрещённый запрос",
    "input content audit failed",
    "The image did not pass the review.",
    "Post Img Risk Not Pass",
    "提示词不符合平台安全规范",
    "The text is not compliant",
)
OTHERS = (
    "Unknown parameter: 'moderation'.",
    "The moderation service is not available",
    "No endpoints found matching your data policy",
    "Names are case-sensitive",
    "duplicate key value violates unique constraint",
    "Your account is not active, please check your billing details",
    "Invalid size",
    "尺寸不符合要求",
    "The server is overloaded",
    "Your request was blocked.",
    "The content type is not supported",
    "Missing 'safety_identifier'",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_words_of_safety_systems(text: str) -> None:
    assert MODERATION.search(text)


@pytest.mark.parametrize("text", OTHERS)
def test_other_words_are_no_moderation(text: str) -> None:
    assert not MODERATION.search(text)


STAGE = {"moderation_stage": "input"}


@pytest.mark.parametrize(
    ("details", "valid"),
    [
        ({"moderation_stage": "input", "categories": ["violence"]}, True),
        ({"moderation_stage": "output", "categories": ["sexual", "self-harm/intent"]}, True),
        ({"moderation_stage": "unknown", "categories": [], "more": 1}, True),
        ({"moderation_stage": "later", "categories": []}, False),
        ({"moderation_stage": [], "categories": []}, False),
        (STAGE, False),
        (STAGE | {"categories": ["x"] * 33}, False),
        (STAGE | {"categories": [7]}, False),
        (STAGE | {"categories": ["http://10.0.0.1"]}, False),
        ("sexual", False),
    ],
)
def test_moderation_details_are_as_documented_or_absent(details: object, valid: bool) -> None:
    found = read_moderation_details({"message": "m", "moderation_details": details})
    assert (found is not None) == valid
    assert found is None or set(found) == {"moderation_stage", "categories"}
