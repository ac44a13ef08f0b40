"""Settings that are right by themselves and wrong together: each with the sentence that says so."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from pydantic import ValidationError

from app.config.field_types import is_loopback, variable

#: Of one upstream; where several are listed, each has its own.
_SINGLE_UPSTREAM_FIELDS = (
    "upstream_base_url",
    "upstream_api_key",
    "upstream_api_key_file",
    "upstream_model",
    "upstream_dialect",
)

#: Which may be told in a file too.
_KEYS = ("upstream_api_key", "api_keys", "image_store_key")


class Said(Protocol):
    """What is looked at of the settings."""

    @property
    def model_fields_set(self) -> AbstractSet[str]: ...
    @property
    def upstreams(self) -> tuple[object, ...]: ...
    @property
    def pass_through(self) -> bool: ...
    @property
    def has_client_keys(self) -> bool: ...
    @property
    def allow_anonymous(self) -> bool: ...
    @property
    def host(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def image_store(self) -> str: ...


def single_and_list(said: Said) -> str | None:
    given = [
        field
        for field in _SINGLE_UPSTREAM_FIELDS
        if field in said.model_fields_set and getattr(said, field) is not None
    ]
    if not said.upstreams or not given:
        return None
    return f"{variable(given[0])}: set together with LIMNER_UPSTREAMS, where each upstream has its own"


def two_sources(said: Said) -> str | None:
    """Which of the two would win is nothing to guess about keys."""
    both = [field for field in _KEYS if getattr(said, f"{field}_file") and field in said.model_fields_set]
    if not both:
        return None
    return f"{variable(both[0])}_FILE: set together with {variable(both[0])}; one of them is enough"


def unprotected_bind(said: Said) -> str | None:
    if said.pass_through or said.has_client_keys or said.allow_anonymous or is_loopback(said.host):
        return None
    return (
        f"LIMNER_API_KEYS: unset, while LIMNER_HOST={said.host} is reachable by others: anyone could spend the "
        "upstream key. Set LIMNER_API_KEYS, or LIMNER_ALLOW_ANONYMOUS=true if that is meant"
    )


def memory_store_with_workers(said: Said) -> str | None:
    if said.workers == 1 or said.image_store != "memory:":
        return None
    return (
        f"LIMNER_IMAGE_STORE: memory: is seen by one process alone, and LIMNER_WORKERS={said.workers}: most links to "
        "kept images would lead nowhere. Keep them on disk or in a bucket"
    )


#: Each takes the settings, and gives the line that names the variable, or None.
CROSS_FIELD_RULES = (single_and_list, two_sources, unprotected_bind, memory_store_with_workers)


def describe_errors(error: ValidationError) -> list[str]:
    """One readable line per bad variable: its name, its value where that cannot be a secret, the format."""
    problems = error.errors(include_url=False, include_context=False)
    # A default that hangs on a value that is wrong itself has nothing to add.
    return [_describe_error(problem) for problem in problems if problem["type"] != "default_factory_not_called"]


def _describe_error(problem: Mapping[str, Any]) -> str:
    if not problem["loc"]:
        return f"{problem['msg']}. See README.md#settings"
    name = _variable_path(*problem["loc"])
    if problem["type"] == "missing":
        return f"{name}: required but not set. See README.md#settings"
    shown = "" if _may_be_secret(problem) else f" {problem['input']!r}"
    return f"{name}: invalid value{shown} (format: {problem['msg']}). See README.md#settings"


def _variable_path(field: str, *inside: str | int) -> str:
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
