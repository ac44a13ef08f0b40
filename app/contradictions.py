"""Settings that are right by themselves and wrong together: each with the sentence that says so."""

from collections.abc import Set as AbstractSet
from typing import Protocol

from app.formats import is_loopback, variable

#: Of one upstream; where several are listed, each has its own.
_OF_ONE = ("upstream_base_url", "upstream_api_key", "upstream_api_key_file", "upstream_model", "upstream_dialect")

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
    def has_keys(self) -> bool: ...
    @property
    def allow_anonymous(self) -> bool: ...
    @property
    def host(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def image_store(self) -> str: ...


def one_and_several(said: Said) -> str | None:
    given = [field for field in _OF_ONE if field in said.model_fields_set and getattr(said, field) is not None]
    if not said.upstreams or not given:
        return None
    return f"{variable(given[0])}: set together with LIMNER_UPSTREAMS, where each upstream has its own"


def two_sources(said: Said) -> str | None:
    """Which of the two would win is nothing to guess about keys."""
    both = [field for field in _KEYS if getattr(said, f"{field}_file") and field in said.model_fields_set]
    if not both:
        return None
    return f"{variable(both[0])}_FILE: set together with {variable(both[0])}; one of them is enough"


def open_to_all(said: Said) -> str | None:
    if said.pass_through or said.has_keys or said.allow_anonymous or is_loopback(said.host):
        return None
    return (
        f"LIMNER_API_KEYS: unset, while LIMNER_HOST={said.host} is reachable by others: anyone could spend the "
        "upstream key. Set LIMNER_API_KEYS, or LIMNER_ALLOW_ANONYMOUS=true if that is meant"
    )


def kept_by_one(said: Said) -> str | None:
    if said.workers == 1 or said.image_store != "memory:":
        return None
    return (
        f"LIMNER_IMAGE_STORE: memory: is seen by one process alone, and LIMNER_WORKERS={said.workers}: most links to "
        "kept images would lead nowhere. Keep them on disk or in a bucket"
    )


#: Each takes the settings, and gives the line that names the variable, or None.
CONTRADICTIONS = (one_and_several, two_sources, open_to_all, kept_by_one)
