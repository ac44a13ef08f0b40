from dataclasses import dataclass

import pytest

from app.errors import InvalidRequest
from app.protocol import validation_errors as wording


@dataclass(frozen=True)
class Case:
    name: str
    error: InvalidRequest
    message: str
    param: str
    code: str


CASES = [
    Case(
        "a wrong type in JSON",
        wording.wrong_type("n", "an integer", "2"),
        "Invalid type for 'n': expected an integer, but got a string instead.",
        "n",
        "invalid_type",
    ),
    Case(
        "a wrong type in a form",
        wording.not_convertible("n", "an integer"),
        "Invalid type for 'n': expected an integer, "
        "but got a string value that could not be converted into an integer.",
        "n",
        "invalid_type",
    ),
    Case(
        "a missing parameter",
        wording.missing_parameter("prompt"),
        "Missing required parameter: 'prompt'.",
        "prompt",
        "missing_required_parameter",
    ),
    Case(
        "an empty text",
        wording.empty_text("prompt"),
        "Invalid 'prompt': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        "prompt",
        "empty_string",
    ),
    Case(
        "a long text",
        wording.too_long("prompt", 32000, 32001),
        "Invalid 'prompt': string too long. "
        "Expected a string with maximum length 32000, but got a string with length 32001 instead.",
        "prompt",
        "string_above_max_length",
    ),
    Case(
        "an empty list",
        wording.empty_list("images"),
        "Invalid 'images': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        "images",
        "empty_array",
    ),
    Case(
        "a long list",
        wording.too_many_items("images", 16, 17),
        "Invalid 'images': array too long. "
        "Expected an array with maximum length 16, but got an array with length 17 instead.",
        "images",
        "array_above_max_length",
    ),
    Case(
        "a large object",
        wording.too_many_properties("metadata", 16, 17),
        "Invalid 'metadata': too many properties. "
        "Expected an object with at most 16 properties, but got an object with 17 properties instead.",
        "metadata",
        "object_above_max_properties",
    ),
    Case(
        "two values for one parameter",
        wording.conflicting_values("mask"),
        "Invalid parameter: 'mask'. This parameter already has a different value in your parameters.",
        "mask",
        "invalid_value",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_errors(case: Case) -> None:
    error = case.error
    assert (error.status, error.type) == (400, "invalid_request_error")
    assert (error.message, error.param, error.code) == (case.message, case.param, case.code)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "a boolean"),
        (2, "an integer"),
        (2.0, "a decimal number"),
        ("2", "a string"),
        ([2], "an array"),
        ({"n": 2}, "an object"),
        (object(), "a file"),
    ],
)
def test_each_type_has_its_words(value: object, words: str) -> None:
    assert f"but got {words} instead." in wording.wrong_type("n", "…", value).message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("low",), "'low'"),
        (("auto", "low"), "'auto' and 'low'"),
        (("low", "medium", "high", "auto"), "'low', 'medium', 'high', and 'auto'"),
    ],
)
def test_lists_in_words(values: tuple[str, ...], words: str) -> None:
    assert wording.english_list(values) == words


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("image_size", "image_size"),
        ("tags[0].key-2", "tags[0].key-2"),
        ("a b\r\nx: y", "a_b__x__y"),
        ("名前", "__"),
        ("", "_"),
        ("n" * 100, "n" * 64),
    ],
)
def test_names_are_made_safe_for_a_header(name: str, clean: str) -> None:
    assert wording.header_safe_name(name) == clean


def test_only_the_beginning_of_a_long_value_is_quoted() -> None:
    assert wording.quote("x" * 40) == "x" * 40
    assert wording.quote("x" * 41) == "x" * 40 + "…"


def test_a_text_is_cut_with_its_mark() -> None:
    assert wording.truncate("a" * 300, 300) == "a" * 300
    assert wording.truncate("a" * 301, 300) == "a" * 299 + "…"
