"""Every parameter type reads JSON and forms, and refuses wrong values with a name and a reason."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.protocol.parameters import (
    BooleanParam,
    ChoiceParam,
    FormPart,
    IntegerParam,
    ObjectParam,
    ParameterType,
    StringMapParam,
    TextParam,
)
from tests.support.refusals import assert_invalid

QUALITY = ChoiceParam(("low", "high", "auto"), default="auto", aliases={"hd": "high"})


class File:
    size = 3

    def chunks(self, size: int) -> Iterator[bytes]:
        yield b"abc"


@dataclass(frozen=True)
class Json:
    name: str
    type: ParameterType
    value: object
    read: Any


JSON = [
    Json("a text", TextParam(9), "hello", "hello"),
    Json("an empty text that may be absent", TextParam(9), "", None),
    Json("white space is a text that may be absent", TextParam(9), " \n", " \n"),
    Json("exactly as long as allowed", TextParam(3), "abc", "abc"),
    Json("length counts characters, not bytes", TextParam(3), "猫猫🐈", "猫猫🐈"),
    Json("one line", TextParam(9, one_line=True), "gpt-é", "gpt-é"),
    Json("the smallest number", IntegerParam(1, 10), 1, 1),
    Json("the largest number", IntegerParam(1, 10), 10, 10),
    Json("true", BooleanParam(), True, True),
    Json("false", BooleanParam(), False, False),
    Json("a choice", QUALITY, "low", "low"),
    Json("another name for a choice", QUALITY, "hd", "high"),
    Json("the default choice", QUALITY, "auto", None),
    Json("a choice in capitals, as C# writes it", QUALITY, "High", "high"),
    Json("another name for a choice, in capitals", QUALITY, "HD", "high"),
    Json("the default choice in capitals", QUALITY, "AUTO", None),
    Json("an object", ObjectParam(), {"a": [1]}, {"a": [1]}),
    Json("pairs", StringMapParam(), {"a": "b"}, {"a": "b"}),
    Json("no pairs", StringMapParam(), {}, None),
    Json("only null pairs are no pairs", StringMapParam(), {"a": None}, None),
    Json(
        "numbers and booleans become text",
        StringMapParam(),
        {"i": 1, "f": 1.5, "t": True, "f2": False},
        {"i": "1", "f": "1.5", "t": "true", "f2": "false"},
    ),
    Json("sixteen pairs", StringMapParam(), {str(i): "" for i in range(16)}, {str(i): "" for i in range(16)}),
    Json("the longest key and value", StringMapParam(), {"k" * 64: "v" * 512}, {"k" * 64: "v" * 512}),
]


@pytest.mark.parametrize("case", JSON, ids=lambda case: case.name)
def test_json_is_read(case: Json) -> None:
    read = case.type.from_json("x", case.value)
    assert read == case.read
    assert type(read) is type(case.read)


@dataclass(frozen=True)
class Wrong:
    name: str
    type: ParameterType
    value: Any
    message: str
    code: str
    param: str = "x"


NOT_A_STRING = "Invalid type for 'x': expected a string, but got {} instead."
ABOVE = "Invalid 'x': integer above maximum value. Expected a value <= 10, but got {} instead."
BELOW = "Invalid 'x': integer below minimum value. Expected a value >= 1, but got {} instead."
NOT_AN_INTEGER = "Invalid type for 'x': expected an integer, but got {} instead."
NOT_AN_OBJECT = "Invalid type for 'x': expected an object, but got {} instead."

WRONG_JSON = [
    Wrong("a number is no text", TextParam(9), 5, NOT_A_STRING.format("an integer"), "invalid_type"),
    Wrong("null is no text", TextParam(9), None, NOT_A_STRING.format("null"), "invalid_type"),
    Wrong("an empty text that is needed", TextParam(9, minimum=1), "", "Invalid 'x': empty string. …", "empty_string"),
    Wrong("a long text", TextParam(3), "abcd", "Invalid 'x': string too long. …", "string_above_max_length"),
    Wrong(
        "a second line",
        TextParam(9, one_line=True),
        "a\nb",
        "Invalid 'x': control characters are not allowed.",
        "invalid_value",
    ),
    Wrong(
        "a line break at the end",
        TextParam(9, one_line=True),
        "a\n",
        "Invalid 'x': control characters are not allowed.",
        "invalid_value",
    ),
    Wrong("a text is no number", IntegerParam(1, 10), "2", NOT_AN_INTEGER.format("a string"), "invalid_type"),
    Wrong("true is no number", IntegerParam(1, 10), True, NOT_AN_INTEGER.format("a boolean"), "invalid_type"),
    Wrong("2.5 is no integer", IntegerParam(1, 10), 2.5, NOT_AN_INTEGER.format("a decimal number"), "invalid_type"),
    Wrong(
        "a small number",
        IntegerParam(1, 10),
        0,
        "Invalid 'x': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        "integer_below_min_value",
    ),
    Wrong(
        "a large number",
        IntegerParam(1, 10),
        11,
        "Invalid 'x': integer above maximum value. Expected a value <= 10, but got 11 instead.",
        "integer_above_max_value",
    ),
    Wrong(
        "a huge number",
        IntegerParam(1, 10),
        2**64 - 1,
        "Invalid 'x': integer above maximum value. Expected a value <= 10, but got 18446744073709551615 instead.",
        "integer_above_max_value",
    ),
    Wrong(
        "a number beyond 64 bits",
        IntegerParam(1, 10),
        orjson.loads(str(10**30)),
        ABOVE.format("1e+30"),
        "integer_above_max_value",
    ),
    Wrong(
        "a number beyond 64 bits, below zero",
        IntegerParam(1, 10),
        orjson.loads(str(-(10**30))),
        BELOW.format("-1e+30"),
        "integer_below_min_value",
    ),
    Wrong(
        "a number is no boolean",
        BooleanParam(),
        1,
        "Invalid type for 'x': expected a boolean, but got an integer instead.",
        "invalid_type",
    ),
    Wrong("a number is no choice", QUALITY, 5, NOT_A_STRING.format("an integer"), "invalid_type"),
    Wrong(
        "an unknown choice",
        QUALITY,
        "ultra",
        "Invalid value: 'ultra'. Supported values are: 'low', 'high', and 'auto'.",
        "invalid_value",
    ),
    Wrong(
        "an empty choice",
        QUALITY,
        "",
        "Invalid value: ''. Supported values are: 'low', 'high', and 'auto'.",
        "invalid_value",
    ),
    Wrong(
        "a long choice is quoted in part",
        QUALITY,
        "u" * 99,
        f"Invalid value: '{'u' * 40}…'. Supported values are: 'low', 'high', and 'auto'.",
        "invalid_value",
    ),
    Wrong("a list is no object", ObjectParam(), [], NOT_AN_OBJECT.format("an array"), "invalid_type"),
    Wrong(
        "an object that nests too deeply",
        ObjectParam(),
        orjson.loads('{"a":' * 400 + "1" + "}" * 400),
        "Invalid 'x': an object that nests too deeply.",
        "invalid_value",
    ),
    Wrong("a text is no pairs", StringMapParam(), "a=b", NOT_AN_OBJECT.format("a string"), "invalid_type"),
    Wrong(
        "seventeen pairs, null counted",
        StringMapParam(),
        {str(i): None for i in range(17)},
        "Invalid 'x': too many properties. …",
        "object_above_max_properties",
    ),
    Wrong(
        "an object among the pairs",
        StringMapParam(),
        {"a": {}},
        "Invalid type for 'x.a': expected a string, but got an object instead.",
        "invalid_type",
        "x.a",
    ),
    Wrong(
        "a list among the pairs",
        StringMapParam(),
        {"a": []},
        "Invalid type for 'x.a': expected a string, but got an array instead.",
        "invalid_type",
        "x.a",
    ),
    Wrong(
        "a long key is quoted in part",
        StringMapParam(),
        {"k" * 65: ""},
        f"Invalid 'x.{'k' * 64}': string too long. …",
        "string_above_max_length",
        f"x.{'k' * 64}",
    ),
    Wrong(
        "a long value",
        StringMapParam(),
        {"a": "v" * 513},
        "Invalid 'x.a': string too long. …",
        "string_above_max_length",
        "x.a",
    ),
]


@pytest.mark.parametrize("case", WRONG_JSON, ids=lambda case: case.name)
def test_wrong_json_is_refused(case: Wrong) -> None:
    with pytest.raises(InvalidRequest) as caught:
        case.type.from_json("x", case.value)
    assert_invalid(caught.value, case.message, case.param, case.code)


def parts(*given: tuple[str, Any]) -> list[FormPart]:
    return [FormPart(name, value) for name, value in given]


@dataclass(frozen=True)
class Form:
    name: str
    type: ParameterType
    parts: list[FormPart]
    read: Any


FORM = [
    Form("a text", TextParam(9), parts(("x", "hello")), "hello"),
    Form("the same text twice", TextParam(9), parts(("x", "hello"), ("x", "hello")), "hello"),
    Form("a number", IntegerParam(1, 10), parts(("x", "2")), 2),
    Form("a number with zeros in front", IntegerParam(1, 10), parts(("x", "002")), 2),
    Form("a number with ten thousand zeros in front", IntegerParam(1, 10), parts(("x", "0" * 10_000 + "2")), 2),
    Form("what a client writes for an unset number", IntegerParam(1, 10, unset="0"), parts(("x", "0")), None),
    Form("true", BooleanParam(), parts(("x", "true")), True),
    Form("false", BooleanParam(), parts(("x", "false")), False),
    Form("true, as Python writes it", BooleanParam(), parts(("x", "True")), True),
    Form("false, as Python writes it", BooleanParam(), parts(("x", "False")), False),
    Form("a choice", QUALITY, parts(("x", "hd")), "high"),
    Form("an object as JSON text", ObjectParam(), parts(("x", '{"a": [1]}')), {"a": [1]}),
    Form("an object in brackets", ObjectParam(), parts(("x[a]", "1"), ("x[b][c]", "2")), {"a": "1", "b": {"[c]": "2"}}),
    Form("pairs in brackets", StringMapParam(), parts(("x[a]", "1"), ("x[b]", "2")), {"a": "1", "b": "2"}),
    Form("pairs as JSON text", StringMapParam(), parts(("x", '{"a": 1, "b": null}')), {"a": "1"}),
    Form("pairs in both ways", StringMapParam(), parts(("x", '{"a": "1"}'), ("x[b]", "2")), {"a": "1", "b": "2"}),
    Form("the same pair twice", StringMapParam(), parts(("x[a]", "1"), ("x[a]", "1")), {"a": "1"}),
    Form("brackets that are not closed", StringMapParam(), parts(("x[a", "1")), {"a": "1"}),
]


@pytest.mark.parametrize("case", FORM, ids=lambda case: case.name)
def test_forms_are_read(case: Form) -> None:
    read = case.type.from_form("x", case.parts)
    assert read == case.read
    assert type(read) is type(case.read)


TWICE = "Invalid parameter: 'x'. This parameter already has a different value in your parameters."
NOT_INT = (
    "Invalid type for 'x': expected an integer, but got a string value that could not be converted into an integer."
)

WRONG_FORM = [
    Wrong("a file is no text", TextParam(9), parts(("x", File())), NOT_A_STRING.format("a file"), "invalid_type"),
    Wrong("brackets are no text", TextParam(9), parts(("x[a]", "b")), NOT_A_STRING.format("an object"), "invalid_type"),
    Wrong(
        "empty brackets are no text", TextParam(9), parts(("x[]", "b")), NOT_A_STRING.format("an array"), "invalid_type"
    ),
    Wrong("two different texts", TextParam(9), parts(("x", "a"), ("x", "b")), TWICE, "invalid_value"),
    Wrong(
        "a file is no number",
        IntegerParam(1, 10),
        parts(("x", File())),
        NOT_AN_INTEGER.format("a file"),
        "invalid_type",
    ),
    Wrong("a fraction is no integer", IntegerParam(1, 10), parts(("x", "2.5")), NOT_INT, "invalid_type"),
    Wrong("a word is no number", IntegerParam(1, 10), parts(("x", "abc")), NOT_INT, "invalid_type"),
    Wrong("full-width digits are no number", IntegerParam(1, 10), parts(("x", "２")), NOT_INT, "invalid_type"),
    Wrong("a line break behind a number", IntegerParam(1, 10), parts(("x", "2\n")), NOT_INT, "invalid_type"),
    Wrong("an underscore in a number", IntegerParam(1, 10), parts(("x", "1_0")), NOT_INT, "invalid_type"),
    Wrong(
        "ten thousand digits",
        IntegerParam(1, 10),
        parts(("x", "9" * 10_000)),
        ABOVE.format("9" * 40 + "…"),
        "integer_above_max_value",
    ),
    Wrong(
        "a number beyond 64 bits",
        IntegerParam(1, 10),
        parts(("x", "1" + "0" * 30)),
        ABOVE.format(10**30),
        "integer_above_max_value",
    ),
    Wrong(
        "ten thousand digits below zero",
        IntegerParam(1, 10),
        parts(("x", "-" + "9" * 10_000)),
        BELOW.format("-" + "9" * 39 + "…"),
        "integer_below_min_value",
    ),
    Wrong(
        "a negative number is below the smallest",
        IntegerParam(1, 10),
        parts(("x", "-1")),
        "Invalid 'x': integer below minimum value. Expected a value >= 1, but got -1 instead.",
        "integer_below_min_value",
    ),
    Wrong(
        "two zeros are not what clients write for an unset number",
        IntegerParam(1, 10, unset="0"),
        parts(("x", "00")),
        "Invalid 'x': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        "integer_below_min_value",
    ),
    Wrong(
        "a word of another language is no boolean",
        BooleanParam(),
        parts(("x", "ja")),
        "Invalid type for 'x': expected a boolean, but got a string value that could not be converted into a boolean.",
        "invalid_type",
    ),
    Wrong(
        "a file is no boolean",
        BooleanParam(),
        parts(("x", File())),
        "Invalid type for 'x': expected a boolean, but got a file instead.",
        "invalid_type",
    ),
    Wrong("a file is no object", ObjectParam(), parts(("x", File())), NOT_AN_OBJECT.format("a file"), "invalid_type"),
    Wrong(
        "what JavaScript writes for an object",
        ObjectParam(),
        parts(("x", "[object Object]")),
        NOT_AN_OBJECT.format("a string"),
        "invalid_type",
    ),
    Wrong(
        "JSON that is no object", ObjectParam(), parts(("x", "[1]")), NOT_AN_OBJECT.format("an array"), "invalid_type"
    ),
    Wrong(
        "a file among the pairs",
        StringMapParam(),
        parts(("x[a]", File())),
        "Invalid type for 'x.a': expected a string, but got a file instead.",
        "invalid_type",
        "x.a",
    ),
    Wrong(
        "deeper brackets",
        StringMapParam(),
        parts(("x[a][b]", "1")),
        "Invalid type for 'x.a': expected a string, but got an object instead.",
        "invalid_type",
        "x.a",
    ),
    Wrong(
        "one pair with two values",
        StringMapParam(),
        parts(("x[a]", "1"), ("x", '{"a": "2"}')),
        TWICE.replace("'x'", "'x.a'"),
        "invalid_value",
        "x.a",
    ),
]


@pytest.mark.parametrize("case", WRONG_FORM, ids=lambda case: case.name)
def test_wrong_forms_are_refused(case: Wrong) -> None:
    with pytest.raises(InvalidRequest) as caught:
        case.type.from_form("x", case.value)
    assert_invalid(caught.value, case.message, case.param, case.code)


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (TextParam(256), "up to 256 characters"),
        (TextParam(32000, minimum=1), "1 to 32000 characters"),
        (TextParam(256, one_line=True), "up to 256 characters, no control characters"),
        (IntegerParam(1, 10), "1 to 10"),
        (BooleanParam(), "`true`, `false`"),
        (ChoiceParam(("url", "b64_json")), "`url`, `b64_json`"),
        (QUALITY, "`low`, `high`, `auto`; `hd` means `high`"),
        (ObjectParam(), "any object"),
        (StringMapParam(), "up to 16 pairs, keys ≤ 64, values ≤ 512 characters"),
    ],
)
def test_a_type_states_its_limits_in_words(type_: ParameterType, words: str) -> None:
    assert type_.describe() == words


@pytest.mark.parametrize(
    ("type_", "schema"),
    [
        (TextParam(9, minimum=1), {"type": "string", "minLength": 1, "maxLength": 9}),
        (IntegerParam(1, 10), {"type": "integer", "minimum": 1, "maximum": 10}),
        (BooleanParam(), {"type": "boolean"}),
        (QUALITY, {"type": "string", "enum": ["low", "high", "auto", "hd"]}),
        (ObjectParam(), {"type": "object"}),
    ],
)
def test_limits_as_json_schema(type_: ParameterType, schema: dict[str, object]) -> None:
    assert type_.schema(form=False) == type_.schema(form=True) == schema


def test_a_schema_says_where_control_characters_and_long_pairs_are_refused() -> None:
    assert "pattern" in TextParam(9, one_line=True).schema(form=False)
    assert StringMapParam().schema(form=False)["maxProperties"] == 16
