"""Where the operator is sent to mend something."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.config.settings import Settings

LISTED = {"name": "main", "base_url": "https://h/v1", "api_key": "sk-1"}
TABLE = '[[upstreams]]\nname = "main"\nbase_url = "https://h/v1"\n'


@dataclass(frozen=True, slots=True)
class Case:
    """HERE in a value is a folder with a `key` and the `file`, which is named `list.toml`."""

    name: str
    settings: dict[str, Any]
    base_url: str
    api_key: str
    model: str
    file: str = field(default=TABLE)


ONE = {"upstream_base_url": "https://h/v1"}
CASES = [
    Case("one upstream", ONE, "LIMNER_UPSTREAM_BASE_URL", "LIMNER_UPSTREAM_API_KEY", "LIMNER_UPSTREAM_MODEL"),
    Case(
        "one upstream, its key in a file",
        ONE | {"upstream_api_key_file": "HERE/key"},
        "LIMNER_UPSTREAM_BASE_URL",
        "LIMNER_UPSTREAM_API_KEY_FILE",
        "LIMNER_UPSTREAM_MODEL",
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
def test_where_it_is_written(case: Case, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1")
    (tmp_path / "list.toml").write_text(case.file.replace("HERE", str(tmp_path)))
    settings = Settings(**{name: value.replace("HERE", str(tmp_path)) for name, value in case.settings.items()})
    expected = {"base_url": case.base_url, "api_key": case.api_key, "model": case.model}
    (entry,) = settings.effective_upstreams
    found = {field: settings.location_of(entry, field) for field in expected}
    assert found == {name: place.replace("HERE", str(tmp_path)) for name, place in expected.items()}


def test_the_file_that_is_there_without_being_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("limner.toml").write_text(TABLE)
    settings = Settings()
    (entry,) = settings.effective_upstreams
    assert settings.location_of(entry, "api_key") == "api_key of the upstream 'main' in limner.toml"
