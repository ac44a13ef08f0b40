"""Where messages say that a setting is written."""

from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from app.config.field_types import variable
from app.config.settings import Settings

LISTED = {"name": "main", "base_url": "https://h/v1", "api_key": "sk-1"}
TABLE = '[[upstreams]]\nname = "main"\nbase_url = "https://h/v1"\n'


@dataclass(frozen=True, slots=True)
class Case:
    """HERE in a value is a folder with a `key` and a configuration file `list.toml`, whose content is `file`."""

    name: str
    settings: dict[str, str]
    base_url: str
    api_key: str
    model: str
    file: str = field(default=TABLE)


SINGLE = {"upstream_base_url": "https://h/v1"}
CASES = [
    Case("one upstream", SINGLE, "LIMNER_UPSTREAM_BASE_URL", "LIMNER_UPSTREAM_API_KEY", "LIMNER_UPSTREAM_MODEL"),
    Case(
        "one upstream, its key in a file",
        SINGLE | {"upstream_api_key_file": "HERE/key"},
        "LIMNER_UPSTREAM_BASE_URL",
        "LIMNER_UPSTREAM_API_KEY_FILE",
        "LIMNER_UPSTREAM_MODEL",
    ),
    Case(
        "one upstream, in a file",
        {"config": "HERE/list.toml"},
        "upstream_base_url in HERE/list.toml",
        "upstream_api_key_file in HERE/list.toml",
        "LIMNER_UPSTREAM_MODEL",
        file='upstream_base_url = "https://h/v1"\nupstream_api_key_file = "HERE/key"\n',
    ),
    Case(
        "one upstream, its key in a file and its address in a variable",
        SINGLE | {"config": "HERE/list.toml"},
        "LIMNER_UPSTREAM_BASE_URL",
        "upstream_api_key in HERE/list.toml",
        "LIMNER_UPSTREAM_MODEL",
        file='upstream_base_url = "https://other/v1"\nupstream_api_key = "sk-1"\n',
    ),
    Case(
        "listed in the variable",
        {"upstreams": orjson.dumps([LISTED]).decode()},
        "base_url of the upstream 'main' in LIMNER_UPSTREAMS",
        "api_key of the upstream 'main' in LIMNER_UPSTREAMS",
        "model of the upstream 'main' in LIMNER_UPSTREAMS",
    ),
    Case(
        "listed in the variable, which wins over a file",
        {"upstreams": orjson.dumps([LISTED | {"models": {"a": "b"}}]).decode(), "config": "HERE/list.toml"},
        "base_url of the upstream 'main' in LIMNER_UPSTREAMS",
        "api_key of the upstream 'main' in LIMNER_UPSTREAMS",
        "models of the upstream 'main' in LIMNER_UPSTREAMS",
    ),
    Case(
        "listed in a file",
        {"config": "HERE/list.toml"},
        "base_url of the upstream 'main' in HERE/list.toml",
        "api_key_file of the upstream 'main' in HERE/list.toml",
        "model of the upstream 'main' in HERE/list.toml",
        file=f'{TABLE}api_key_file = "HERE/key"\n',
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_message_names_where_a_value_is_written(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("sk-1")
    (tmp_path / "list.toml").write_text(case.file.replace("HERE", str(tmp_path)))
    for name, value in case.settings.items():
        monkeypatch.setenv(variable(name), value.replace("HERE", str(tmp_path)))
    settings = Settings()
    expected = {"base_url": case.base_url, "api_key": case.api_key, "model": case.model}
    (entry,) = settings.effective_upstreams
    found = {field: settings.location_of(entry, field) for field in expected}
    assert found == {name: place.replace("HERE", str(tmp_path)) for name, place in expected.items()}


def test_a_message_names_the_file_that_is_read_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("limner.toml").write_text(TABLE)
    settings = Settings()
    (entry,) = settings.effective_upstreams
    assert settings.location_of(entry, "api_key") == "api_key of the upstream 'main' in limner.toml"
