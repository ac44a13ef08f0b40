"""The dialect of an upstream as an operator writes it: the name of a preset, or a table that may extend one."""

from dataclasses import fields, replace
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from app.config.field_types import written_as
from app.protocol.dialects import DIALECTS, SIZE_FORMS, Dialect
from app.protocol.tiers import TIERS

#: Fields of the body that Limner writes itself.
_OURS = ("messages", "model", "stream")

_PATH = r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*){0,7}"
_SIZE, _RATIO = r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}", r"[1-9][0-9]{0,2}:[1-9][0-9]{0,2}"


def _check_preset(value: str) -> str:
    if value not in DIALECTS:
        raise PydanticCustomError("dialect", "one of {names}", {"names": ", ".join(DIALECTS)})
    return value


def _check_place(value: str) -> str:
    if value.partition(".")[0] in _OURS:
        raise PydanticCustomError("place", "no place in {ours}: Limner writes these itself", {"ours": ", ".join(_OURS)})
    return value


def _check_form(value: str) -> str:
    if value not in SIZE_FORMS:
        raise PydanticCustomError("form", "one of {names}", {"names": ", ".join(SIZE_FORMS)})
    return value


def _check_tier(value: str) -> str:
    if value not in TIERS:
        raise PydanticCustomError("tier", "one of {names}", {"names": ", ".join(TIERS)})
    return value


def _check_not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise PydanticCustomError("tiers", "at least one of {names}", {"names": ", ".join(TIERS)})
    return value


def _check_constants(value: dict[str, Any]) -> dict[str, Any]:
    if any(key in _OURS for key in value):
        raise PydanticCustomError("constants", "not {ours}: Limner writes these itself", {"ours": ", ".join(_OURS)})
    return value


PresetName = Annotated[str, AfterValidator(_check_preset)]
#: A path, or one of the words `prefix` and `words`, which look like paths of one step.
_BodyPath = Annotated[
    str, written_as(_PATH, "a path in the body, like image_config.aspect_ratio"), AfterValidator(_check_place)
]
_SizeText = Annotated[str, written_as(_SIZE, "a size like 1536x1024")]
_RatioText = Annotated[str, written_as(_RATIO, "a ratio like 16:9")]
_SizeOrTier = Annotated[
    str,
    written_as(f"{_SIZE}|{_RATIO}|{'|'.join(TIERS)}", "a size like 1536x1024, a ratio like 16:9, or a tier: 2K"),
]
_Suffix = Annotated[str, written_as(r"[A-Za-z0-9._:/@-]{0,64}", "up to 64 letters, digits and . _ : / @ -")]


class DialectTable(BaseModel):
    """A dialect in a configuration file. What is left out is as in the preset, or as in a dialect that tells nothing.

    The fields are those of `Dialect`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: PresetName | None = None
    size: dict[_BodyPath, Annotated[str, AfterValidator(_check_form)]] = {}
    sizes: tuple[_SizeText, ...] = ()
    ratios: tuple[_RatioText, ...] = ()
    tiers: Annotated[tuple[Annotated[str, AfterValidator(_check_tier)], ...], AfterValidator(_check_not_empty)] = (
        "1K",
    )
    auto_size: str = ""
    model_suffixes: dict[_SizeOrTier, _Suffix] = {}
    quality: tuple[_BodyPath, ...] = ()
    qualities: dict[Literal["low", "medium", "high"], str] = {}
    style: tuple[_BodyPath, ...] = ()
    background: tuple[_BodyPath, ...] = ()
    modalities: tuple[str, ...] = ()
    other_modalities: tuple[str, ...] = ()
    extra_body: Annotated[dict[str, Any], AfterValidator(_check_constants)] = {}
    send: tuple[Literal["metadata", "user", "stream"], ...] = ()
    mask: str = ""

    def build(self) -> Dialect:
        """Return the dialect; that of a preset itself if nothing is changed."""
        if self.model_fields_set == {"preset"} and self.preset is not None:
            return DIALECTS[self.preset]
        base = Dialect() if self.preset is None else DIALECTS[self.preset]
        given = {
            field.name: getattr(self, field.name) for field in fields(Dialect) if field.name in self.model_fields_set
        }
        if "tiers" in given:
            given["tiers"] = tuple(tier for tier in TIERS if tier in self.tiers)
        return replace(base, **given)


def _parse(value: object) -> object:
    """Parse JSON, as variables have it. The name of a preset is a table that changes nothing."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("{"):
        return {"preset": _check_preset(value)}
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise PydanticCustomError("dialect", 'the name of a dialect, or JSON like {"preset": "words"}') from None


DialectSetting = Annotated[DialectTable, NoDecode, BeforeValidator(_parse)]
