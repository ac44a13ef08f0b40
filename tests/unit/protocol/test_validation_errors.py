"""The wording, parameter and code of each error about a parameter."""

from dataclasses import dataclass

import pytest

from app.errors import InvalidRequest
from app.protocol import validation_errors


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
        validation_errors.wrong_type("n", "an integer", "2"),
        "Invalid type for 'n': expected an integer, but got a string instead.",
        "n",
        "invalid_type",
    ),
    Case(
        "a wrong type in a form",
        validation_errors.not_convertible("n", "an integer"),
        "Invalid type for 'n': expected an integer, "
        "but got a string value that could not be converted into an integer.",
        "n",
        "invalid_type",
    ),
    Case(
        "a missing parameter",
        validation_errors.missing_parameter("prompt"),
        "Missing required parameter: 'prompt'.",
        "prompt",
        "missing_required_parameter",
    ),
    Case(
        "an empty text",
        validation_errors.empty_text("prompt"),
        "Invalid 'prompt': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        "prompt",
        "empty_string",
    ),
    Case(
        "a long text",
        validation_errors.too_long("prompt", 32000, 32001),
        "Invalid 'prompt': string too long. "
        "Expected a string with maximum length 32000, but got a string with length 32001 instead.",
        "prompt",
        "string_above_max_length",
    ),
    Case(
        "an empty list",
        validation_errors.empty_list("images"),
        "Invalid 'images': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        "images",
        "empty_array",
    ),
    Case(
        "a long list",
        validation_errors.too_many_items("images", 16, 17),
        "Invalid 'images': array too long. "
        "Expected an array with maximum length 16, but got an array with length 17 instead.",
        "images",
        "array_above_max_length",
    ),
    Case(
        "a large object",
        validation_errors.too_many_properties("metadata", 16, 17),
        "Invalid 'metadata': too many properties. "
        "Expected an object with at most 16 properties, but got an object with 17 properties instead.",
        "metadata",
        "object_above_max_properties",
    ),
    Case(
        "two values for one parameter",
        validation_errors.conflicting_values("mask"),
        "Invalid parameter: 'mask'. This parameter already has a different value in your parameters.",
        "mask",
        "invalid_value",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_error_has_the_official_message_parameter_and_code(case: Case) -> None:
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
def test_each_type_is_named(value: object, words: str) -> None:
    assert f"but got {words} instead." in validation_errors.wrong_type("n", "…", value).message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("low",), "'low'"),
        (("auto", "low"), "'auto' and 'low'"),
        (("low", "medium", "high", "auto"), "'low', 'medium', 'high', and 'auto'"),
    ],
)
def test_lists_are_written_in_english(values: tuple[str, ...], words: str) -> None:
    assert validation_errors.english_list(values) == words


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
    assert validation_errors.header_safe_name(name) == clean


def test_only_the_beginning_of_a_long_value_is_quoted() -> None:
    assert validation_errors.quote("x" * 40) == "x" * 40
    assert validation_errors.quote("x" * 41) == "x" * 40 + "…"


def test_a_cut_text_ends_with_a_mark_and_is_no_longer_than_allowed() -> None:
    assert validation_errors.truncate("a" * 300, 300) == "a" * 300
    assert validation_errors.truncate("a" * 301, 300) == "a" * 299 + "…"
