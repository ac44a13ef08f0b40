"""Describe one parameter of the Images API: its type, where its value goes, which operations have it."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import orjson

from app.errors import InvalidRequest
from app.protocol.byte_sink import ByteSink
from app.protocol.validation_errors import (
    MAX_QUOTED,
    blank_text,
    conflicting_values,
    empty_text,
    english_list,
    header_safe_name,
    not_convertible,
    quote,
    too_long,
    too_many_properties,
    wrong_type,
)

Schema = dict[str, Any]

_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*")


@dataclass(frozen=True, slots=True)
class FormPart:
    """One part of a multipart form: a text or a file. `name` is as the client sent it, brackets included."""

    name: str
    value: str | ByteSink


def single_text(name: str, parts: Sequence[FormPart], expected: str = "a string") -> str:
    """Return the text that all parts have in common.

    Raises:
        InvalidRequest: The parts differ, or one is a file or has brackets behind its name.
    """
    texts = set()
    for part in parts:
        if not isinstance(part.value, str):
            raise wrong_type(name, expected, part.value)
        if part.name != name:
            raise wrong_type(name, expected, [] if part.name.endswith("[]") else {})
        texts.add(part.value)
    if len(texts) > 1:
        raise conflicting_values(name)
    return texts.pop()


#: Categories of characters that leave no ink: spaces, line ends, controls, and formats such as a zero-width space.
_INVISIBLE = {"Zs", "Zl", "Zp", "Cc", "Cf"}


def has_visible_character(text: str) -> bool:
    # Most texts begin with a letter.
    return text[:1].isalnum() or any(unicodedata.category(character) not in _INVISIBLE for character in text)


@dataclass(frozen=True, slots=True)
class TextParam:
    """A text of limited length. `one_line` forbids control characters, for values that are written to logs."""

    holds_image: ClassVar[bool] = False

    maximum: int
    minimum: int = 0
    one_line: bool = False

    def describe(self) -> str:
        length = f"{self.minimum} to {self.maximum} characters" if self.minimum else f"up to {self.maximum} characters"
        return f"{length}, no control characters" if self.one_line else length

    def from_json(self, name: str, value: object) -> str | None:
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        if self.minimum and not has_visible_character(value):
            raise empty_text(name) if not value else blank_text(name)
        if len(value) > self.maximum:
            raise too_long(name, self.maximum, len(value))
        if self.one_line and not _ONE_LINE.fullmatch(value):
            message = f"Invalid '{name}': control characters are not allowed."
            raise InvalidRequest(message, param=name, code="invalid_value")
        return value or None

    def from_form(self, name: str, parts: Sequence[FormPart]) -> str | None:
        return self.from_json(name, single_text(name, parts))

    def schema(self, form: bool) -> Schema:
        schema: Schema = {"type": "string", "minLength": self.minimum, "maxLength": self.maximum}
        return schema | {"pattern": f"^{_ONE_LINE.pattern}$"} if self.one_line else schema


@dataclass(frozen=True, slots=True)
class IntegerParam:
    """A whole number. `unset` is what some clients write into a form for a number that was not set."""

    holds_image: ClassVar[bool] = False

    minimum: int
    maximum: int
    unset: str = ""

    def describe(self) -> str:
        return f"{self.minimum} to {self.maximum}"

    def from_json(self, name: str, value: object) -> int:
        # orjson parses an integer of more than 64 bits as a float. Gson and Lua write every number with a point:
        # 1.0 is an integer in JSON Schema, too.
        if type(value) is int or (type(value) is float and value.is_integer()):
            return self._check(name, value, str(int(value)) if abs(value) < 2**53 else str(value))
        raise wrong_type(name, "an integer", value)

    def from_form(self, name: str, parts: Sequence[FormPart]) -> int | None:
        text = single_text(name, parts, "an integer")
        if text == self.unset:
            return None
        if not re.fullmatch(r"-?[0-9]+(?:\.0+)?", text):
            raise not_convertible(name, "an integer")
        text = text.partition(".")[0]
        # Python refuses to convert thousands of digits to an integer.
        if len(text) > MAX_QUOTED:
            return self._check(name, float(text), quote(text))
        return self._check(name, int(text), str(int(text)))

    def _check(self, name: str, value: float, shown: str) -> int:
        if value < self.minimum:
            message = f"integer below minimum value. Expected a value >= {self.minimum}, but got {shown} instead."
            raise InvalidRequest(f"Invalid '{name}': {message}", param=name, code="integer_below_min_value")
        if value > self.maximum:
            message = f"integer above maximum value. Expected a value <= {self.maximum}, but got {shown} instead."
            raise InvalidRequest(f"Invalid '{name}': {message}", param=name, code="integer_above_max_value")
        return int(value)

    def schema(self, form: bool) -> Schema:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class BooleanParam:
    holds_image: ClassVar[bool] = False

    def describe(self) -> str:
        return "`true`, `false`"

    def from_json(self, name: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise wrong_type(name, "a boolean", value)
        return value

    def from_form(self, name: str, parts: Sequence[FormPart]) -> bool:
        # The `requests` of Python writes `True`.
        text = single_text(name, parts, "a boolean").lower()
        if text not in {"true", "false"}:
            raise not_convertible(name, "a boolean")
        return text == "true"

    def schema(self, form: bool) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class ChoiceParam:
    """One of several words, also in capitals: C#, Java and Kotlin write the names of their constants.

    Attributes:
        default: The value that means the same as a missing parameter.
        aliases: Further accepted words, and the value that each stands for.
        lowered: Those of them that ask for more than their value gives.
    """

    holds_image: ClassVar[bool] = False

    values: tuple[str, ...]
    default: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    lowered: frozenset[str] = frozenset()

    def describe(self) -> str:
        aliases = "; ".join(f"`{name}` means `{value}`" for name, value in self.aliases.items())
        return ", ".join(f"`{value}`" for value in self.values) + (f"; {aliases}" if aliases else "")

    def from_json(self, name: str, value: object) -> str | None:
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        chosen = self.aliases.get(value, value)
        if chosen not in self.values:
            lower = value.lower()
            chosen = self.aliases.get(lower, lower)
        if chosen not in self.values:
            message = f"Invalid value: '{quote(value)}'. Supported values are: {english_list(self.values)}."
            raise InvalidRequest(message, param=name, code="invalid_value")
        return None if chosen == self.default else chosen

    def from_form(self, name: str, parts: Sequence[FormPart]) -> str | None:
        return self.from_json(name, single_text(name, parts))

    def schema(self, form: bool) -> Schema:
        return {"type": "string", "enum": [*self.values, *self.aliases]}


@dataclass(frozen=True, slots=True)
class ObjectParam:
    holds_image: ClassVar[bool] = False

    def describe(self) -> str:
        return "any object"

    def from_json(self, name: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong_type(name, "an object", value)
        try:
            # orjson reads deeper nesting than it writes, and the value must be writable within other values when two
            # requests are compared.
            orjson.dumps([[[[value]]]], default=str)
        except orjson.JSONEncodeError:
            message = f"Invalid '{name}': an object that nests too deeply."
            raise InvalidRequest(message, param=name, code="invalid_value") from None
        return value

    def from_form(self, name: str, parts: Sequence[FormPart]) -> dict[str, Any]:
        return self.from_json(name, _gather(name, parts))

    def schema(self, form: bool) -> Schema:
        return {"type": "object"}


@dataclass(frozen=True, slots=True)
class StringMapParam:
    """Keys with short texts, within the limits of OpenAI's `metadata`. Numbers and booleans become their JSON text.

    `max_key` and `max_value` are lengths in characters, `maximum` the number of entries.
    """

    holds_image: ClassVar[bool] = False

    maximum: int = 16
    max_key: int = 64
    max_value: int = 512

    def describe(self) -> str:
        return f"up to {self.maximum} pairs, keys ≤ {self.max_key}, values ≤ {self.max_value} characters"

    def from_json(self, name: str, value: object) -> dict[str, str] | None:
        entries = ObjectParam().from_json(name, value)
        if len(entries) > self.maximum:
            raise too_many_properties(name, self.maximum, len(entries))
        texts = {key: self._text(name, key, entry) for key, entry in entries.items() if entry is not None}
        return texts or None

    def _text(self, name: str, key: str, value: object) -> str:
        path = f"{name}.{header_safe_name(key)}"
        if len(key) > self.max_key:
            raise too_long(path, self.max_key, len(key))
        if not isinstance(value, str | bool | int | float):
            raise wrong_type(path, "a string", value)
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        if len(text) > self.max_value:
            raise too_long(path, self.max_value, len(text))
        return text

    def from_form(self, name: str, parts: Sequence[FormPart]) -> dict[str, str] | None:
        return self.from_json(name, _gather(name, parts))

    def schema(self, form: bool) -> Schema:
        values = {"type": ["string", "number", "boolean", "null"], "maxLength": self.max_value}
        keys = {"maxLength": self.max_key}
        return {
            "type": "object",
            "maxProperties": self.maximum,
            "propertyNames": keys,
            "additionalProperties": values,
        }


def _gather(name: str, parts: Sequence[FormPart]) -> dict[str, object]:
    """Build an object from `name[key]` parts, as SDKs write it, and from JSON text under the bare name."""
    gathered: dict[str, object] = {}
    for part in parts:
        for key, value in _entries(name, part).items():
            if gathered.setdefault(key, value) != value:
                raise conflicting_values(f"{name}.{header_safe_name(key)}")
    return gathered


def _entries(name: str, part: FormPart) -> dict[str, object]:
    if part.name != name:
        # The caller has grouped the parts by the name before the first bracket.
        key, _, deeper = part.name[len(name) + 1 :].partition("]")
        return {key: {deeper: part.value} if deeper else part.value}
    if not isinstance(part.value, str):
        raise wrong_type(name, "an object", part.value)
    try:
        entries = orjson.loads(part.value)
    except orjson.JSONDecodeError:
        raise wrong_type(name, "an object", part.value) from None
    return ObjectParam().from_json(name, entries)


def is_lowered(lowered: Collection[str], given: object) -> bool:
    """Return whether a value of a JSON body, or parts of a form, are among the choices that mean less than they say.

    `lowered`: these choices, in lower case.
    """
    parts = given if isinstance(given, list) else [given]
    values = [part.value if isinstance(part, FormPart) else part for part in parts]
    return any(isinstance(value, str) and value.lower() in lowered for value in values)


class Operation(StrEnum):
    GENERATION = "image_generation"
    EDIT = "image_edit"


class Destination(StrEnum):
    """Where the value of a parameter goes, in the words of the documentation."""

    MESSAGE = "upstream, in the message"
    PREFIX = "upstream, in front of the prompt"
    METADATA = "upstream, in `metadata`"
    TOP_LEVEL = "upstream, top level"
    DIALECT = "upstream, if its dialect has a place for it"
    LOCAL = "handled here"
    NONE = "no effect"


BOTH = frozenset(Operation)
ONLY_GENERATION = frozenset({Operation.GENERATION})
ONLY_EDIT = frozenset({Operation.EDIT})


class ParameterType(Protocol):
    """How the values of a parameter are read and described.

    Implemented by the `…Param` classes of this file, `sizes` and `input_images`. `holds_image`: the value is one or
    more images.
    """

    holds_image: ClassVar[bool]

    def describe(self) -> str:
        """Return the allowed values in words, for the documentation."""

    def from_json(self, name: str, value: object) -> object:
        """Return the checked value of a JSON body. Raises `InvalidRequest` if it is not allowed."""

    def from_form(self, name: str, parts: Sequence[FormPart]) -> object:
        """Return the checked value of all parts with this name. Raises `InvalidRequest` if it is not allowed."""

    def schema(self, form: bool) -> Schema:
        """Return the JSON schema of the values, for the OpenAPI document."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: its type, its destination, and what the documentation says about it.

    Attributes:
        name: The name of the field of `ImagesRequest`.
        json_names: Names under which clients send it in JSON; `name` if empty. The first one present is read.
        form_names: The same for multipart forms.
    """

    type: ParameterType
    destination: Destination
    description: str
    operations: frozenset[Operation] = BOTH
    required: bool = False
    examples: tuple[Any, ...] = ()
    json_names: tuple[str, ...] = ()
    form_names: tuple[str, ...] = ()
    name: str = ""

    @property
    def holds_image(self) -> bool:
        return self.type.holds_image

    def names(self, form: bool) -> tuple[str, ...]:
        return (self.form_names if form else self.json_names) or (self.name,)

    def schema(self, form: bool) -> Schema:
        """Return the JSON schema of the parameter. In JSON, null means the same as a missing optional parameter."""
        values = self.type.schema(form)
        nullable: Schema = values if form or self.required else {"anyOf": [values, {"type": "null"}]}
        examples = {"examples": list(self.examples)} if self.examples else {}
        return nullable | {"description": self.description} | examples
