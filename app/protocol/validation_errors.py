"""Build errors about parameters in OpenAI's wording, quoting no more than is safe of a client's text."""

import re
from collections.abc import Sequence

from app.errors import InvalidRequest

#: Characters of a value that a message may quote.
MAX_QUOTED = 40


def quote(text: str) -> str:
    """Return a value as a message may quote it: its first 40 characters."""
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…"


def truncate(text: str, max_length: int) -> str:
    """Shorten a text to at most `max_length` characters, including the `…` that marks the cut."""
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


def header_safe_name(name: str) -> str:
    """Return a parameter's name in at most 64 characters, all of them safe in a message and in a header."""
    return re.sub(r"[^A-Za-z0-9_.\[\]-]", "_", name[:64]) or "_"


def english_list(values: Sequence[str]) -> str:
    *others, last = (f"'{value}'" for value in values)
    return f"{', '.join(others)}, and {last}" if len(others) > 1 else " and ".join([*others, last])


def wrong_type(name: str, expected: str, value: object) -> InvalidRequest:
    got = _TYPES.get(type(value), "a file")
    message = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return InvalidRequest(message, param=name, code="invalid_type")


_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def not_convertible(name: str, expected: str) -> InvalidRequest:
    message = (
        f"Invalid type for '{name}': expected {expected}, "
        f"but got a string value that could not be converted into {expected}."
    )
    return InvalidRequest(message, param=name, code="invalid_type")


def too_long(name: str, maximum: int, length: int) -> InvalidRequest:
    message = (
        f"Invalid '{name}': string too long. "
        f"Expected a string with maximum length {maximum}, but got a string with length {length} instead."
    )
    return InvalidRequest(message, param=name, code="string_above_max_length")


def empty_text(name: str) -> InvalidRequest:
    message = (
        f"Invalid '{name}': empty string. Expected a string with minimum length 1, but got an empty string instead."
    )
    return InvalidRequest(message, param=name, code="empty_string")


def blank_text(name: str) -> InvalidRequest:
    message = f"Invalid '{name}': a string of white space only. Expected at least one visible character."
    return InvalidRequest(message, param=name, code="empty_string")


def empty_list(name: str) -> InvalidRequest:
    message = f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    return InvalidRequest(message, param=name, code="empty_array")


def too_many_items(name: str, maximum: int, length: int) -> InvalidRequest:
    message = (
        f"Invalid '{name}': array too long. "
        f"Expected an array with maximum length {maximum}, but got an array with length {length} instead."
    )
    return InvalidRequest(message, param=name, code="array_above_max_length")


def too_many_properties(name: str, maximum: int, length: int) -> InvalidRequest:
    message = (
        f"Invalid '{name}': too many properties. "
        f"Expected an object with at most {maximum} properties, but got an object with {length} properties instead."
    )
    return InvalidRequest(message, param=name, code="object_above_max_properties")


def missing_parameter(name: str, *, is_empty_file: bool = False) -> InvalidRequest:
    """Return the error for a parameter that is not there. `is_empty_file`: a file without bytes stands in its place."""
    empty = " The file under this name is empty." if is_empty_file else ""
    message = f"Missing required parameter: '{name}'.{empty}"
    return InvalidRequest(message, param=name, code="missing_required_parameter")


def conflicting_values(name: str) -> InvalidRequest:
    message = f"Invalid parameter: '{name}'. This parameter already has a different value in your parameters."
    return InvalidRequest(message, param=name, code="invalid_value")
