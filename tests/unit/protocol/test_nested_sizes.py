"""Sizes in objects such as `image_config` count as the parameters of the same meaning."""

from dataclasses import dataclass
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.protocol.nested_sizes import lift_form_sizes, lift_sizes
from app.protocol.parameters import FormPart
from tests.support.memory_sink import MemorySink

WIDE = {"aspect_ratio": "16:9"}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    given: dict[str, Any]
    lifted: dict[str, Any]


CASES = [
    Case("OpenRouter's object", {"image_config": {"aspect_ratio": "16:9", "image_size": "2K"}}, WIDE | {"image_size": "2K"}),
    Case("Google's object in the middle of others", {"generationConfig": {"imageConfig": {"aspectRatio": "16:9"}}}, WIDE),
    Case("Google's object for OpenAI's clients", {"extra_body": {"google": {"image_config": WIDE}}}, WIDE),
    Case("what else is there stays", {"generationConfig": {"seed": 1, "imageConfig": WIDE | {"output": "png"}}}, WIDE | {"generationConfig": {"seed": 1, "imageConfig": {"output": "png"}}}),
    Case("the same, said twice", {"aspectRatio": "16:9", "image_config": WIDE}, {"aspectRatio": "16:9"}),
    Case("a value that is no text stays", {"image_config": {"aspect_ratio": 1}}, {"image_config": {"aspect_ratio": 1}}),
    Case("an object of another name stays", {"config": WIDE}, {"config": WIDE}),
    Case("a ratio under its short name", {"ratio": "16:9"}, WIDE),
    Case("something else under this name", {"ratio": "0.5"}, {"ratio": "0.5"}),
    Case("null stays", {"image_config": None}, {"image_config": None}),
    Case("objects that are too deep stay", {"google": {"google": {"google": {"google": {"google": {"image_config": WIDE}}}}}}, {"google": {"google": {"google": {"google": {"google": {"image_config": WIDE}}}}}}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sizes_in_json(case: Case) -> None:
    assert lift_sizes(case.given) == case.lifted


def test_a_size_that_contradicts_the_parameter_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="already has a different value"):
        lift_sizes({"aspect_ratio": "1:1", "image_config": WIDE})


FILE = MemorySink(b"abc")
FORMS: list[tuple[str, tuple[str, Any], list[tuple[str, Any]]]] = [
    ("brackets", ("image_config[aspect_ratio]", "16:9"), [("aspect_ratio", "16:9")]),
    ("more brackets", ("extra_body[google][imageConfig][imageSize]", "2K"), [("image_size", "2K")]),
    ("JSON", ("image_config", '{"aspect_ratio": "16:9"}'), [("aspect_ratio", "16:9")]),
    ("JSON with more in it", ("image_config", '{"aspectRatio": "16:9", "a": 1}'), [("aspect_ratio", "16:9"), ("image_config", '{"aspectRatio": "16:9", "a": 1}')]),
    ("a ratio under its short name", ("ratio", "16:9"), [("aspect_ratio", "16:9")]),
    ("text that only begins like JSON", ("image_config", "{a"), [("image_config", "{a")]),
    ("text that is no JSON", ("image_config", "wide"), [("image_config", "wide")]),
    ("other brackets", ("metadata[ratio]", "16:9"), [("metadata[ratio]", "16:9")]),
    ("a prompt that looks like JSON", ("prompt", '{"aspect_ratio": "16:9"}'), [("prompt", '{"aspect_ratio": "16:9"}')]),
    ("a file", ("image", FILE), [("image", FILE)]),
    ("a part without a name", ("", "x"), [("", "x")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "part", "lifted"), FORMS, ids=[row[0] for row in FORMS])
def test_sizes_in_a_form(name: str, part: tuple[str, Any], lifted: list[tuple[str, Any]]) -> None:
    assert list(lift_form_sizes([FormPart(*part)])) == [FormPart(*each) for each in lifted]
