"""Readable errors: one line for each wrong setting, with where it is written, its value and the expected format.

A value is left out where it could be a secret or contain one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from app.config.sources import Origin, origin_of
from app.config.spellings import find_copied_mark

#: The page that explains every setting.
SETTINGS_PAGE = "docs/settings.md"


#: The key of a problem's context that holds the name of an upstream.
_UPSTREAM = "upstream_name"
#: Names of upstreams that are shown: those that are valid.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


#: What is expected, by pydantic's name of the mistake, where its own words would be of Python or say more than that.
FORMATS = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("dict_type", "model_type"), "a table"),
    **dict.fromkeys(("byte_size", "byte_size_unit"), "a number of bytes, like 64MiB"),
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "tuple_type": "a list",
    "path_not_file": "a file that exists",
}


#: Mistakes that are not about a value. That of a misspelled name is not shown: the name may be meant for a key.
_WHOLE_LINES = {"missing": "required but not set", "extra_forbidden": "there is no such setting"}


def names_of(upstreams: object) -> list[str | None]:
    """Return the names in a list of upstreams that has not been checked, JSON or a list; None where there is none."""
    try:
        entries = orjson.loads(upstreams) if isinstance(upstreams, str) else upstreams
    except orjson.JSONDecodeError:
        entries = None
    names = (
        [each.get("name") if isinstance(each, dict) else None for each in entries] if isinstance(entries, list) else []
    )
    return [name if isinstance(name, str) and _NAME.fullmatch(name) else None for name in names]


def with_locations(
    error: ValidationError, origins: Mapping[str, Origin], upstreams: Sequence[str | None] = ()
) -> ValidationError:
    """Return the same error with where the setting is written in front of the location of each problem.

    `upstreams`: the names in the list of upstreams, as far as they are known.
    """
    details = []
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "default_factory_not_called":
            # The default depends on a value that is wrong itself and has its own line.
            continue
        name = _name_of_upstream(problem["loc"], upstreams)
        kind = PydanticCustomError(problem["type"], problem["msg"], {_UPSTREAM: name} if name else None)
        # What is wrong is the name of a key, which is in front already.
        loc = tuple(step for step in problem["loc"] if step != "[key]")
        details.append(InitErrorDetails(type=kind, loc=_with_origin(loc, origins), input=problem["input"]))
    return ValidationError.from_exception_data(error.title, details, hide_input=True)


def _name_of_upstream(location: Sequence[int | str], upstreams: Sequence[str | None]) -> str | None:
    index = location[1] if location[0] == "upstreams" and len(location) > 1 else None
    return upstreams[index] if isinstance(index, int) and index < len(upstreams) else None


def _with_origin(location: tuple[int | str, ...], origins: Mapping[str, Origin]) -> tuple[int | str, ...]:
    field = str(location[0])
    # Parts of a list of upstreams are named as one would write them in code.
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location[1:] if field == "upstreams")
    return (origin_of(field, origins).locate("".join(steps)), *location)


def describe_errors(error: ValidationError) -> list[str]:
    """Return one line for each problem of an error that building `Settings` has raised."""
    problems = error.errors(include_url=False)
    return [f"{_describe(problem)}{_describe_upstream(problem)}. See {SETTINGS_PAGE}" for problem in problems]


def _describe_upstream(problem: Mapping[str, Any]) -> str:
    name = problem.get("ctx", {}).get(_UPSTREAM)
    return f", for the upstream '{name}'" if name else ""


def _describe(problem: Mapping[str, Any]) -> str:
    if not problem["loc"]:
        return str(problem["msg"])
    origin = problem["loc"][0]
    if problem["type"] in _WHOLE_LINES:
        return f"{origin}: {_WHOLE_LINES[problem['type']]}"
    shown = "" if _may_be_secret(problem) else f" {problem['input']!r}"
    form = FORMATS.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
    mark = find_copied_mark(problem["input"])
    return f"{origin}: invalid value{shown} (format: {form}{f'; {mark}' if mark else ''})"


def _may_be_secret(problem: Mapping[str, Any]) -> bool:
    """Return whether the value is a key, a header, an address with a password, or a table that may contain either."""
    _, *location = problem["loc"]
    value = problem["input"]
    is_upstream = location[:1] == ["upstreams"] and (len(location) < 3 or isinstance(value, dict | list))
    is_key = any(word in str(step).lower() for step in problem["loc"] for word in ("key", "header", "proxy", "secret"))
    is_address = any(sign in repr(value) for sign in ("@", "password"))
    return is_key or is_upstream or is_address
