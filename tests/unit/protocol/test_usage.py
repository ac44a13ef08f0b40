"""Token counts are read in the forms of several APIs; invalid ones are ignored."""

from dataclasses import dataclass

import pytest

from app.protocol.usage import NO_USAGE, Usage, read_usage


@dataclass(frozen=True)
class Case:
    name: str
    value: object
    usage: Usage


CASES = [
    Case("chat counts without details", {"prompt_tokens": 17, "completion_tokens": 343}, Usage(0, 17, 343, 0)),
    Case(
        "images in the prompt",
        {"prompt_tokens": 17, "completion_tokens": 5, "prompt_tokens_details": {"image_tokens": 10}},
        Usage(10, 7, 5, 0),
    ),
    Case(
        "only the text tokens of the prompt are known",
        {"prompt_tokens": 17, "prompt_tokens_details": {"text_tokens": 7}},
        Usage(10, 7, 0, 0),
    ),
    Case(
        "the image tokens of the reply are known",
        {"completion_tokens": 1300, "completion_tokens_details": {"image_tokens": 1290, "reasoning_tokens": 10}},
        Usage(0, 0, 1290, 10),
    ),
    Case(
        "details of zeros are ignored",
        {"completion_tokens": 9, "completion_tokens_details": {"text_tokens": 0, "image_tokens": 0}},
        Usage(0, 0, 9, 0),
    ),
    Case(
        "the form of the Images API",
        {
            "input_tokens": 17,
            "input_tokens_details": {"image_tokens": 3, "text_tokens": 14},
            "output_tokens": 343,
            "output_tokens_details": {"image_tokens": 340, "text_tokens": 3},
        },
        Usage(3, 14, 340, 3),
    ),
    Case("both forms, one of them zeros", {"prompt_tokens": 0, "input_tokens": 5}, Usage(0, 5, 0, 0)),
    Case(
        "details without a total", {"prompt_tokens_details": {"image_tokens": 3, "text_tokens": 4}}, Usage(3, 4, 0, 0)
    ),
    Case(
        "more in the details than in all", {"prompt_tokens": 2, "prompt_tokens_details": {"image_tokens": 9}}, Usage(2)
    ),
    Case("more usual tokens than all", {"prompt_tokens": 2, "prompt_tokens_details": {"text_tokens": 9}}, Usage(0, 2)),
    Case(
        "Gemini's form",
        {"promptTokenCount": 7, "candidatesTokenCount": 1290, "totalTokenCount": 1297},
        Usage(0, 7, 1290),
    ),
    Case(
        "Gemini's form with details",
        {
            "promptTokenCount": 265,
            "candidatesTokenCount": 1300,
            "thoughtsTokenCount": 50,
            "totalTokenCount": 1615,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 7}, {"modality": "IMAGE", "tokenCount": 258}],
            "candidatesTokensDetails": [
                {"modality": "TEXT", "tokenCount": 10},
                {"modality": "IMAGE", "tokenCount": 1290},
            ],
        },
        Usage(258, 7, 1290, 60),
    ),
    Case(
        "Gemini's images in two entries",
        {"promptTokenCount": 9, "promptTokensDetails": [{"modality": "IMAGE", "tokenCount": 4}] * 2},
        Usage(8, 1),
    ),
    Case(
        "Gemini's thoughts without details",
        {"candidatesTokenCount": 1290, "thoughtsTokenCount": 50},
        Usage(0, 0, 1290, 50),
    ),
    Case(
        "invalid details of Gemini",
        {
            "promptTokenCount": 7,
            "promptTokensDetails": [1, {"modality": 2}, {"modality": "IMAGE", "tokenCount": "x"}],
            "candidatesTokensDetails": {},
        },
        Usage(0, 7),
    ),
    Case("a total alone", {"total_tokens": 5}, NO_USAGE),
    Case("nothing", None, NO_USAGE),
    Case("a list", [1], NO_USAGE),
    Case("a boolean is no number", {"prompt_tokens": True, "completion_tokens": False}, NO_USAGE),
    Case("negative and broken numbers", {"prompt_tokens": -1, "completion_tokens": 1.5}, NO_USAGE),
    Case("text", {"prompt_tokens": "7", "prompt_tokens_details": "x"}, NO_USAGE),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_usage_is_mapped(case: Case) -> None:
    assert read_usage(case.value) == case.usage


def test_usage_adds_up() -> None:
    assert Usage(1, 2, 3, 4) + Usage(10, 20, 30, 40) == Usage(11, 22, 33, 44)


def test_the_usage_object_is_complete_and_in_order() -> None:
    usage = Usage(1, 2, 3, 4).as_images_api()
    assert list(usage) == [
        "input_tokens",
        "input_tokens_details",
        "output_tokens",
        "output_tokens_details",
        "total_tokens",
    ]
    assert usage == {
        "input_tokens": 3,
        "input_tokens_details": {"image_tokens": 1, "text_tokens": 2},
        "output_tokens": 7,
        "output_tokens_details": {"image_tokens": 3, "text_tokens": 4},
        "total_tokens": 10,
    }
