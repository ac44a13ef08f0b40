"""The upstreams as an operator lists them: JSON in LIMNER_UPSTREAMS, or the `[[upstreams]]` tables of a TOML file."""

import tomllib
from pathlib import Path
from typing import Annotated, Self

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from app.config.field_types import BaseUrl, DialectName, HeaderSecret, HeaderSecretFile, PositiveInt
from app.upstream.spec import DEFAULT_MODEL, WILDCARD, ModelMap

#: What `GET /v1/models` lists: n8n's picker shows only ids that contain `gpt-image` or `dall-e`.
OFFICIAL_MODELS = ("gpt-image-2", "gpt-image-1.5", "gpt-image-1", "gpt-image-1-mini", "dall-e-3", "dall-e-2")


class UpstreamEntry(BaseModel):
    """One upstream. Without a key each caller's own is passed on. A lower `priority` is asked first, those of equal
    priority in proportion to their `weight`, none with more than `max_concurrency` questions at once.

    `model` is asked for whatever the client named. `models` maps what clients call a model to what the upstream calls
    it, `*` being the rest, for which `model` is another word; without either this upstream serves those names only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    base_url: BaseUrl
    api_key_file: HeaderSecretFile | None = None
    api_key: HeaderSecret | None = Field(default_factory=lambda given: given.get("api_key_file"))
    model: Annotated[str, Field(min_length=1)] | None = None
    models: dict[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]] = {}
    dialect: DialectName = DEFAULT_MODEL
    priority: Annotated[int, Field(ge=0, le=1000)] = 0
    weight: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] = 1.0
    max_concurrency: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_exclusive_fields(self) -> Self:
        if self.model is not None and WILDCARD in self.models:
            raise PydanticCustomError("two_models", "either `model` or `*` in `models`: they mean the same")
        if self.api_key_file is not None and "api_key" in self.model_fields_set:
            raise PydanticCustomError("two_keys", "either `api_key` or `api_key_file`")
        return self

    @property
    def model_map(self) -> ModelMap:
        """The upstream's names by those that clients use."""
        default = self.model or self.models.get(WILDCARD) or (None if self.models else DEFAULT_MODEL)
        return ModelMap(default, self.models)


def _parse_list(value: object) -> object:
    """JSON, or the file at a path."""
    if not isinstance(value, str | Path):
        return value
    try:
        entries = _read_tables(value) if isinstance(value, Path) else orjson.loads(value)
    except orjson.JSONDecodeError:
        entries = []
    if not entries or not isinstance(entries, list):
        raise PydanticCustomError("roster", 'a JSON list like [{"name": "main", "base_url": "https://…"}]')
    return entries


def _read_tables(path: Path) -> object:
    """Nothing else is read from the file, so nothing else may be there to be without effect."""
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise _file_error(path, f"cannot be read: {type(error).__name__}") from None
    except tomllib.TOMLDecodeError as error:
        # It tells a place, and quotes no values.
        raise _file_error(path, f"is no TOML: {error}") from None
    if document.keys() - {"upstreams"}:
        raise _file_error(path, "holds something besides [[upstreams]] tables")
    return document.get("upstreams")


def _file_error(path: Path, why: str) -> PydanticCustomError:
    return PydanticCustomError("file", "{path} {why}", {"path": str(path), "why": why})


def _check_list(entries: tuple[UpstreamEntry, ...]) -> tuple[UpstreamEntry, ...]:
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise PydanticCustomError("names", "names of which no two are equal")
    if len({entry.api_key is None for entry in entries}) > 1:
        # A caller's key is either ours to check or the upstream's: passed on to some, it would be shown to strangers.
        raise PydanticCustomError("keys", "a key for each, or for none (then each caller's own is passed on)")
    return entries


UpstreamList = Annotated[tuple[UpstreamEntry, ...], NoDecode, BeforeValidator(_parse_list), AfterValidator(_check_list)]
