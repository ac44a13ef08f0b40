"""Readable errors: one line for each wrong setting, with where it is written, its value and the expected format.

A value is left out where it could be a secret or contain one.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from app.config.sources import Origin, origin_of

#: The page that explains every setting.
SETTINGS_PAGE = "docs/settings.md"


def with_locations(error: ValidationError, origins: Mapping[str, Origin]) -> ValidationError:
    """Return the same error with a readable place in front of the location of each problem."""
    details = []
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "default_factory_not_called":
            # The default depends on a value that is wrong itself and has its own line.
            continue
        kind = PydanticCustomError(problem["type"], problem["msg"])
        # What is wrong is the name of a key, which is in the place already.
        loc = tuple(step for step in problem["loc"] if step != "[key]")
        details.append(InitErrorDetails(type=kind, loc=_with_place(loc, origins), input=problem["input"]))
    return ValidationError.from_exception_data(error.title, details, hide_input=True)


def _with_place(location: tuple[int | str, ...], origins: Mapping[str, Origin]) -> tuple[int | str, ...]:
    field = str(location[0])
    # Parts of a list of upstreams are named as one would write them in code.
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location[1:] if field == "upstreams")
    return (origin_of(field, origins).locate("".join(steps)), *location)


def describe_errors(error: ValidationError) -> list[str]:
    """Return one line for each problem of an error that building `Settings` has raised."""
    problems = error.errors(include_url=False, include_context=False)
    return [f"{_describe(problem)}. See {SETTINGS_PAGE}" for problem in problems]


def _describe(problem: Mapping[str, Any]) -> str:
    if not problem["loc"]:
        return str(problem["msg"])
    place = problem["loc"][0]
    if problem["type"] == "missing":
        return f"{place}: required but not set"
    shown = "" if _may_be_secret(problem) else f" {problem['input']!r}"
    return f"{place}: invalid value{shown} (format: {problem['msg']})"


def _may_be_secret(problem: Mapping[str, Any]) -> bool:
    """Return whether the value is a key, a header, an address with a password, or a table that may contain either.

    The value of a misspelled name is left out too, since the name may be meant for a key.
    """
    _, *location = problem["loc"]
    value = problem["input"]
    is_upstream = location[:1] == ["upstreams"] and (len(location) < 3 or isinstance(value, dict | list))
    is_key = any(word in str(step).lower() for step in problem["loc"] for word in ("key", "header", "proxy"))
    is_address = any(sign in repr(value) for sign in ("@", "password"))
    return is_key or is_upstream or is_address or problem["type"] == "extra_forbidden"
