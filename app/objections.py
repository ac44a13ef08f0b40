"""What is wrong with the settings, in one readable line for each variable."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from app.formats import variable


def complaints(error: ValidationError) -> list[str]:
    """One readable line per bad variable: its name, its value where that cannot be a secret, the format."""
    problems = error.errors(include_url=False, include_context=False)
    # A default that hangs on a value that is wrong itself has nothing to add.
    return [_complaint(problem) for problem in problems if problem["type"] != "default_factory_not_called"]


def _complaint(problem: Mapping[str, Any]) -> str:
    if not problem["loc"]:
        return f"{problem['msg']}. See README.md#settings"
    name = _name(*problem["loc"])
    if problem["type"] == "missing":
        return f"{name}: required but not set. See README.md#settings"
    shown = "" if _may_be_secret(problem) else f" {problem['input']!r}"
    return f"{name}: invalid value{shown} (format: {problem['msg']}). See README.md#settings"


def _name(field: str, *inside: str | int) -> str:
    """Of an upstream in the list as one would write it in code."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in inside if field == "upstreams")
    return variable(field) + "".join(steps)


def _may_be_secret(problem: Mapping[str, Any]) -> bool:
    """Keys, addresses with one in them, and what may hold either: a whole upstream, or what has a misspelt name."""
    place, value = problem["loc"], problem["input"]
    is_upstream = place[0] == "upstreams" and (len(place) < 3 or isinstance(value, dict | list))
    is_key = any("key" in str(step) for step in place)
    is_address = any(sign in repr(value) for sign in ("@", "password"))
    return is_key or is_upstream or is_address or problem["type"] == "extra_forbidden"
