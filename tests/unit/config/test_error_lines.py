"""Error lines of upstreams and addresses: where, what, and never a secret. Other variables are in test_settings.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from app.config.settings import Settings
from app.config.validation import FORMATS, describe_errors, names_of

GOOD = {"name": "main", "base_url": "https://main.example/v1", "api_key": "sk-main"}
SPARE = {"name": "spare", "base_url": "https://spare.example/v1", "api_key": "sk-spare"}
ONE = {"upstream_base_url": "http://h"}
LIST = 'LIMNER_UPSTREAMS: invalid value (format: [[upstreams]] tables in TOML, or a JSON list like [{"name": "main", "base_url": "https://…"}])'


def listed(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"upstreams": orjson.dumps(entries).decode()}


@dataclass(frozen=True, slots=True)
class Case:
    """HERE in a value is a folder with `FILES`. `lines` are the starts of the error lines."""

    name: str
    settings: dict[str, Any]
    lines: tuple[str, ...]


CASES = [
    Case("a password of Redis", {"shared_state": "redis://:hunter2@h/main", **ONE}, ("LIMNER_SHARED_STATE: invalid value (format: memory:, or the address of one server like redis://user:password@host:6379/0",)),
    Case("a password of Redis as an option", {"shared_state": "redis://h?password=hunter2", **ONE}, ("LIMNER_SHARED_STATE: invalid value (format: after ? only db; files must exist)",)),
    Case("no upstream at all", {}, ("LIMNER_UPSTREAM_BASE_URL: required but not set",)),
    Case("invalid JSON", {"upstreams": "[{sk-1"}, (LIST,)),
    Case("an object instead of a list", {"upstreams": '{"name": "main", "api_key": "sk-1"}'}, (LIST,)),
    Case("an empty list", {"upstreams": "[]"}, (LIST,)),
    Case("a list of something else", {"upstreams": '["sk-1"]'}, (LIST,)),
    Case("a name is missing, and an address", listed(GOOD, {"api_key": "sk-1"}), ("LIMNER_UPSTREAMS[1].name: required but not set", "LIMNER_UPSTREAMS[1].base_url: required but not set")),
    Case("a name with spaces", listed(GOOD | {"name": "the main one"}), ("LIMNER_UPSTREAMS[0].name: invalid value 'the main one' (format: 1 to 63 small letters, digits and . _ -)",)),
    Case("two upstreams with one name", listed(GOOD, SPARE | {"name": "main"}), ("LIMNER_UPSTREAMS: invalid value (format: a different name for each upstream)",)),
    Case("an invalid address", listed(GOOD | {"base_url": "main.example"}), ("LIMNER_UPSTREAMS[0].base_url: invalid value 'main.example' (format: an http(s) address",)),
    Case("a key in the address", listed(GOOD | {"base_url": "https://u:sk-1@h/v1"}), ("LIMNER_UPSTREAMS[0].base_url: invalid value (format: an http(s) address",)),
    Case("a key with a line break", listed(GOOD | {"api_key": "sk-1\r\nx: y"}), ("LIMNER_UPSTREAMS[0].api_key: invalid value (format: visible ASCII characters without spaces)",)),
    Case("a misspelled field, which may be a key", listed(GOOD | {"apikee": "sk-1"}), ("LIMNER_UPSTREAMS[0].apikee: there is no such setting",)),
    Case("a file with a key that does not exist", listed({"name": "main", "base_url": "http://h", "api_key_file": "/no/sk-1"}), ("LIMNER_UPSTREAMS[0].api_key_file: invalid value (format: a text file that can be read and is not empty)",)),
    Case("two sources of one key", listed(GOOD | {"api_key_file": "HERE/key"}), ("LIMNER_UPSTREAMS[0]: invalid value (format: either `api_key` or `api_key_file`)",)),
    Case("a file without a key", listed({"name": "main", "base_url": "http://h", "api_key_file": "HERE/empty.toml"}), ("LIMNER_UPSTREAMS[0].api_key_file: invalid value (format: a text file that can be read and is not empty)",)),
    Case("a key for only one of two upstreams", listed(GOOD, {"name": "spare", "base_url": "http://h"}), ("LIMNER_UPSTREAMS: invalid value (format: a key for each upstream, or for none (then each caller's own is passed on))",)),
    Case("two default models", listed(GOOD | {"model": "a", "models": {"*": "b"}}), ("LIMNER_UPSTREAMS[0]: invalid value (format: either `model` or `*` in `models`: they mean the same)",)),
    Case("a model without a name", listed(GOOD | {"models": {"a": ""}}), ("LIMNER_UPSTREAMS[0].models.a: invalid value '' (format: a name in one line)",)),
    Case("an unknown dialect", listed(GOOD | {"dialect": "klingon"}), ("LIMNER_UPSTREAMS[0].dialect: invalid value 'klingon' (format: one of gpt-image-2-chat, metadata, words, top-level, buckets, google, openrouter, vercel, poe)",)),
    Case("a dialect that is no JSON", {"upstream_dialect": '{"preset"'} | ONE, ("LIMNER_UPSTREAM_DIALECT: invalid value '{\"preset\"' (format: the name of a dialect, or JSON like",)),
    Case("a dialect that extends an unknown one", listed(GOOD | {"dialect": {"preset": "klingon"}}), ("LIMNER_UPSTREAMS[0].dialect.preset: invalid value 'klingon' (format: one of gpt-image-2-chat, ",)),
    Case("a size over the conversation", listed(GOOD | {"dialect": {"size": {"messages.size": "WxH"}}}), ("LIMNER_UPSTREAMS[0].dialect.size.messages.size: invalid value 'messages.size' (format: no place in messages, model, stream: Limner writes these itself)",)),
    Case("a size at a place that is no path", listed(GOOD | {"dialect": {"size": {"a..b": "WxH"}}}), ("LIMNER_UPSTREAMS[0].dialect.size.a..b: invalid value 'a..b' (format: a path in the body, like image_config.aspect_ratio)",)),
    Case("an unknown form of the size", listed(GOOD | {"dialect": {"size": {"size": "pixels"}}}), ("LIMNER_UPSTREAMS[0].dialect.size.size: invalid value 'pixels' (format: one of WxH, W*H, ratio, tier)",)),
    Case("an unknown tier", listed(GOOD | {"dialect": {"tiers": ["8K"]}}), ("LIMNER_UPSTREAMS[0].dialect.tiers[0]: invalid value '8K' (format: one of 0.5K, 1K, 2K, 4K)",)),
    Case("no tier at all", listed(GOOD | {"dialect": {"tiers": []}}), ("LIMNER_UPSTREAMS[0].dialect.tiers: invalid value (format: at least one of 0.5K, 1K, 2K, 4K)",)),
    Case("a size in words where a ratio belongs", listed(GOOD | {"dialect": {"ratios": ["wide"]}}), ("LIMNER_UPSTREAMS[0].dialect.ratios[0]: invalid value 'wide' (format: a ratio like 16:9)",)),
    Case("constants over the conversation", listed(GOOD | {"dialect": {"extra_body": {"messages": []}}}), ("LIMNER_UPSTREAMS[0].dialect.extra_body: invalid value (format: not messages, model, stream: Limner writes these itself)",)),
    Case("a misspelled key of a dialect", listed(GOOD | {"dialect": {"qualty": "hd"}}), ("LIMNER_UPSTREAMS[0].dialect.qualty: there is no such setting",)),
    Case("a dialect that is a number", listed(GOOD | {"dialect": 7}), ("LIMNER_UPSTREAMS[0].dialect: invalid value 7 (format: a table)",)),
    Case("a weight of zero", listed(GOOD | {"weight": 0}), ("LIMNER_UPSTREAMS[0].weight: invalid value 0 (format: greater than 0)",)),
    Case("an infinite weight", {"upstreams": [GOOD | {"weight": float("inf")}]}, ("LIMNER_UPSTREAMS[0].weight: invalid value inf",)),
    Case("a negative priority", listed(GOOD | {"priority": -1}), ("LIMNER_UPSTREAMS[0].priority: invalid value -1 (format: greater than or equal to 0)",)),
    Case("no request at once", listed(GOOD | {"max_concurrency": 0}), ("LIMNER_UPSTREAMS[0].max_concurrency: invalid value 0",)),
    Case("a list and a single upstream", listed(GOOD) | {"upstream_base_url": "https://h/v1"}, ("LIMNER_UPSTREAM_BASE_URL: set together with LIMNER_UPSTREAMS, where each upstream has its own",)),
    Case("a list and a key for a single upstream", listed(GOOD) | {"upstream_api_key": "sk-1"}, ("LIMNER_UPSTREAM_API_KEY: set together with LIMNER_UPSTREAMS",)),
    Case("a list and a model for a single upstream", listed(GOOD) | {"upstream_model": "x"}, ("LIMNER_UPSTREAM_MODEL: set together with LIMNER_UPSTREAMS",)),
    Case("a list and a dialect for a single upstream", listed(GOOD) | {"upstream_dialect": "metadata"}, ("LIMNER_UPSTREAM_DIALECT: set together with LIMNER_UPSTREAMS",)),
    Case("listening to others with upstream keys", listed(GOOD) | {"host": "0.0.0.0"}, ("LIMNER_API_KEYS: unset, while LIMNER_HOST=0.0.0.0",)),
    Case("a list in a file, and a single upstream", {"config": "HERE/good.toml", "upstream_base_url": "http://h"}, ("LIMNER_UPSTREAM_BASE_URL: set together with upstreams in HERE/good.toml, where each upstream has its own",)),
    Case("a file without upstreams", {"config": "HERE/empty.toml"}, ("LIMNER_UPSTREAM_BASE_URL: required but not set",)),
    Case("a file with an empty list", {"config": "HERE/list.toml"}, (LIST.replace("LIMNER_UPSTREAMS", "upstreams in HERE/list.toml"),)),
    Case("a file with one table instead of a list", {"config": "HERE/table.toml"}, (LIST.replace("LIMNER_UPSTREAMS", "upstreams in HERE/table.toml"),)),
    Case("a file with a wrong value", {"config": "HERE/wrong.toml"}, ("upstreams[0].weight in HERE/wrong.toml: invalid value 'much' (format: a number",)),
]  # fmt: skip

#: A wrong value for each kind of mistake that has words of ours.
EXPECTED: dict[str, tuple[dict[str, Any], str]] = {
    "int_parsing": (ONE | {"port": "eighty"}, "a whole number"),
    "int_type": (ONE | {"port": []}, "a whole number"),
    "int_from_float": (ONE | {"port": 80.5}, "a whole number"),
    "float_parsing": (ONE | {"keepalive_after": "soon"}, "a number"),
    "float_type": (ONE | {"keepalive_after": []}, "a number"),
    "bool_parsing": (ONE | {"page": "perhaps"}, "true or false"),
    "bool_type": (ONE | {"page": []}, "true or false"),
    "dict_type": ({"upstreams": [GOOD | {"models": "a"}]}, "a table"),
    "model_type": ({"upstreams": [GOOD | {"dialect": 7}]}, "a table"),
    "byte_size": (ONE | {"max_image_bytes": "much"}, "a number of bytes, like 64MiB"),
    "byte_size_unit": (ONE | {"max_image_bytes": "5 apples"}, "a number of bytes, like 64MiB"),
    "string_type": (ONE | {"host": 7}, "a text"),
    "string_too_short": (ONE | {"upstream_model": ""}, "a text that is not empty"),
    "tuple_type": (ONE | {"models": 7}, "a list"),
    "path_not_file": (ONE | {"keys_file": "/none"}, "a file that exists"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_expected_stands_there_in_plain_words(kind: str) -> None:
    settings, words = EXPECTED[kind]
    with pytest.raises(ValidationError) as caught:
        Settings(**settings)
    assert [problem["type"] for problem in caught.value.errors()] == [kind]
    (line,) = describe_errors(caught.value)
    assert f" (format: {words})" in line


WORDS: list[tuple[str, dict[str, Any], str]] = [
    ("a currency in small letters", ONE | {"currency": "eur"}, "three capital letters, like EUR"),
    ("a size with a unit", {"upstreams": [GOOD | {"dialect": {"sizes": ["10cm"]}}]}, "a size like 1536x1024"),
    ("a suffix for nothing", {"upstreams": [GOOD | {"dialect": {"model_suffixes": {"big": "-b"}}}]}, "a size like 1536x1024, a ratio like 16:9, or a tier: 2K"),
    ("a suffix with a space", {"upstreams": [GOOD | {"dialect": {"model_suffixes": {"2K": "- b"}}}]}, "up to 64 letters, digits and . _ : / @ -"),
    ("a price of a size in words", {"upstreams": [GOOD | {"prices": [{"size": "big", "image": "1"}]}]}, "a size like 1536x1024"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "words"), [case[1:] for case in WORDS], ids=[case[0] for case in WORDS])
def test_a_pattern_is_put_into_words(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**settings)
    (line,) = describe_errors(caught.value)
    assert f" (format: {words})" in line


ENTRY = '[[upstreams]]\nname = "main"\nbase_url = "https://main.example/v1"\n'
FILES = {
    "key": b"sk-file\n",
    "good.toml": ENTRY.encode(),
    "list.toml": b"upstreams = []",
    "table.toml": ENTRY.replace("[[upstreams]]", "[upstreams]").encode(),
    "empty.toml": b"",
    "wrong.toml": f'{ENTRY}weight = "much"\n'.encode(),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_problem_is_described_in_one_line(case: Case, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    here = str(tmp_path)
    given: dict[str, Any] = {
        name: value.replace("HERE", here) if isinstance(value, str) else value for name, value in case.settings.items()
    }
    with pytest.raises(ValidationError) as caught:
        Settings(**given)
    lines = describe_errors(caught.value)
    assert len(lines) == len(case.lines)
    for line, expected in zip(lines, case.lines, strict=True):
        assert line.startswith(expected.replace("HERE", here))
        assert line.endswith("See docs/settings.md")
        assert "\n" not in line
        assert "sk-" not in line


BAD = {"name": "main", "base_url": "http://h/v1", "weight": 0}
NAMED: list[tuple[str, dict[str, Any], str]] = [
    ("by its name in JSON", listed(SPARE, BAD), "LIMNER_UPSTREAMS[1].weight: invalid value 0 (format: greater than 0), for the upstream 'main'. See docs/settings.md"),
    ("by its name in a list", {"upstreams": [BAD]}, "LIMNER_UPSTREAMS[0].weight: invalid value 0 (format: greater than 0), for the upstream 'main'. See docs/settings.md"),
    ("without a name", listed({"base_url": "http://h/v1"}), "LIMNER_UPSTREAMS[0].name: required but not set. See docs/settings.md"),
    ("with an invalid name", listed(BAD | {"name": "The Main", "weight": 1}), "LIMNER_UPSTREAMS[0].name: invalid value 'The Main' (format: 1 to 63 small letters, digits and . _ -). See docs/settings.md"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "line"), NAMED, ids=[row[0] for row in NAMED])
def test_an_upstream_is_named(name: str, given: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**given)
    assert line in describe_errors(caught.value)


def test_names_are_read_from_a_list_that_may_be_anything() -> None:
    assert names_of(None) == names_of("{") == names_of(7) == names_of("{}") == []
    assert names_of('[{"name": 7}, "main", {"name": "main"}]') == [None, None, "main"]
