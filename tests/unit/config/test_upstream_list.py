"""The list of upstreams: where it is read from, and which model of an upstream a client's name stands for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from app.config.settings import Settings
from app.config.upstreams import OFFICIAL_MODELS, UpstreamEntry

TABLES = """
[[upstreams]]
name = "main"
base_url = "https://main.example/v1/"
api_key = "sk-main"
weight = 3
max_concurrency = 8

[upstreams.models]
gpt-image-2 = "gpt-image-2-chat"
"*" = "cheap-chat"

[[upstreams]]
name = "spare"
base_url = "https://spare.example/v1"
api_key_file = "KEY"
model = "google/gemini-3-pro-image"
dialect = "openrouter"
priority = 1
"""

MAIN = UpstreamEntry(
    name="main",
    base_url="https://main.example/v1",
    api_key=SecretStr("sk-main"),
    weight=3,
    max_concurrency=8,
    models={"gpt-image-2": "gpt-image-2-chat", "*": "cheap-chat"},
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which Limner is started, with the key of the spare upstream in a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("sk-spare\n")
    return tmp_path


def write(path: Path, tables: str = TABLES) -> None:
    path.write_text(tables.replace("KEY", "key"))


def assert_both(settings: Settings) -> None:
    main, spare = settings.effective_upstreams
    assert main == MAIN
    assert spare.api_key is not None
    assert spare.api_key.get_secret_value() == "sk-spare"
    assert (spare.name, spare.dialect.preset, spare.priority, spare.model) == (
        "spare",
        "openrouter",
        1,
        "google/gemini-3-pro-image",
    )
    assert (spare.weight, spare.max_concurrency, spare.models) == (1, None, {})
    assert "sk-" not in repr(settings) + str(settings.model_dump())


def test_the_list_is_in_limner_toml(here: Path) -> None:
    write(here / "limner.toml")
    assert_both(Settings())


def test_the_list_is_in_a_named_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here / "ours.toml")
    monkeypatch.setenv("LIMNER_CONFIG", "ours.toml")
    assert_both(Settings())


def test_the_list_is_in_a_variable_which_wins_over_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [entry.model_dump(exclude_unset=True, exclude={"api_key"}) for entry in (MAIN,)]
    spare = {
        "name": "spare",
        "base_url": "https://spare.example/v1",
        "api_key_file": "key",
        "model": "google/gemini-3-pro-image",
        "dialect": "openrouter",
        "priority": 1,
    }
    written = orjson.dumps([entries[0] | {"api_key": "sk-main"}, spare]).decode()
    monkeypatch.setenv("LIMNER_UPSTREAMS", written)
    write(here / "limner.toml", TABLES.replace("example", "elsewhere"))
    assert_both(Settings())


@pytest.mark.parametrize("given", [{"upstream_base_url": "http://one/v1"}, {"upstream_base_url": "http://one/v1", "upstreams": ()}])  # fmt: skip
def test_variables_for_a_single_upstream_win_over_limner_toml(here: Path, given: dict[str, Any]) -> None:
    write(here / "limner.toml")
    (entry,) = Settings(**given).effective_upstreams
    assert (entry.name, entry.base_url) == ("default", "http://one/v1")


def test_variables_for_a_single_upstream_make_a_list_of_one() -> None:
    given: dict[str, Any] = {
        "upstream_base_url": "http://one/v1",
        "upstream_api_key": "sk-1",
        "upstream_model": "m",
        "upstream_dialect": "metadata",
    }
    one = UpstreamEntry(
        name="default", base_url="http://one/v1", api_key=SecretStr("sk-1"), model="m", dialect="metadata"
    )
    assert Settings(**given).effective_upstreams == (one,)


@dataclass(frozen=True, slots=True)
class Case:
    """`requests`: the names of clients, and the model that is requested from the upstream for each."""

    name: str
    entry: dict[str, Any]
    requests: dict[str | None, str | None]
    listed: tuple[str, ...] = field(default=OFFICIAL_MODELS)


CASES = [
    Case("neither model nor map: the default model for all names", {}, {"x": "gpt-image-2-chat", None: "gpt-image-2-chat"}, (*OFFICIAL_MODELS, "gpt-image-2-chat")),
    Case("a model for all names", {"model": "m"}, {"x": "m", None: "m", "*": "m"}, (*OFFICIAL_MODELS, "m")),
    Case("a map with a wildcard", {"models": {"a": "b", "*": "m"}}, {"a": "b", "x": "m", None: "m", "*": "m"}, (*OFFICIAL_MODELS, "m", "a")),
    Case("a model does the same as a wildcard", {"models": {"a": "b"}, "model": "m"}, {"a": "b", "x": "m", None: "m"}, (*OFFICIAL_MODELS, "m", "a")),
    Case("a map alone: no other names", {"models": {"a": "b"}}, {"a": "b", "b": None, "x": None, None: None, "*": None}, ("a",)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_name_stands_for_one_of_the_upstreams_models(case: Case) -> None:
    entry = {"name": "main", "base_url": "http://h/v1", **case.entry}
    settings = Settings(upstreams=orjson.dumps([entry]).decode())
    (read,) = settings.effective_upstreams
    assert {name: read.model_map.resolve(name) for name in case.requests} == case.requests
    assert settings.list_models() == case.listed
    assert settings.pass_through


def test_an_upstream_with_a_key_is_not_pass_through() -> None:
    assert not Settings(upstreams='[{"name":"a","base_url":"http://h","api_key":"sk-1"}]').pass_through
