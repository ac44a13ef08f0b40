"""Settings that are right by themselves and wrong together; and the same with one word changed, which are not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.config.settings import Settings
from app.config.validation import CROSS_FIELD_RULES

ONE = {"upstream_base_url": "http://h/v1"}
LISTED = {"upstreams": [{"name": "main", "base_url": "http://h/v1", "api_key": "sk-1"}]}
KEY = {"upstream_api_key": "sk-1"}
OPEN = ONE | KEY | {"host": "0.0.0.0"}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    settings: dict[str, Any]
    says: str | None = None


CASES = [
    Case("one upstream", ONE),
    Case("a list of them", LISTED),
    Case("a list, and nothing where one could be", LISTED | {"upstream_base_url": None}),
    Case("a list, and the address of one", LISTED | ONE, "LIMNER_UPSTREAM_BASE_URL: set together with LIMNER_UPSTREAMS, where"),
    Case("a list, and a model for one", LISTED | {"upstream_model": "x"}, "LIMNER_UPSTREAM_MODEL: set together with LIMNER_UPSTREAMS, where"),
    Case("a key", ONE | KEY),
    Case("a file with a key", ONE | {"upstream_api_key_file": "HERE/key"}),
    Case("a key and a file with a key", ONE | KEY | {"upstream_api_key_file": "HERE/key"}, "LIMNER_UPSTREAM_API_KEY_FILE: set together with LIMNER_UPSTREAM_API_KEY; one"),
    Case("clients' keys from two places", ONE | {"api_keys": "a", "api_keys_file": "HERE/key"}, "LIMNER_API_KEYS_FILE: set together with LIMNER_API_KEYS; one"),
    Case("a bucket's key from two places", ONE | {"image_store_key": "a:b", "image_store_key_file": "HERE/key"}, "LIMNER_IMAGE_STORE_KEY_FILE: set together with LIMNER_IMAGE_STORE_KEY; one"),
    Case("our key, for whoever reaches the server", OPEN, "LIMNER_API_KEYS: unset, while LIMNER_HOST=0.0.0.0 is reachable by others"),
    Case("our key, for whoever is on this machine", OPEN | {"host": "::1"}),
    Case("our key, for whoever has one of ours", OPEN | {"api_keys": "a"}),
    Case("our key, for everybody, and that is meant", OPEN | {"allow_anonymous": True}),
    Case("several workers, and pictures on disk", ONE | {"workers": 2, "image_store": "disk:///tmp/x"}),
    Case("several workers, and pictures in the memory of one", ONE | {"workers": 2, "image_store": "memory:"}, "LIMNER_IMAGE_STORE: memory: is seen by one process alone, and LIMNER_WORKERS=2"),
    Case("one worker, and pictures in its memory", ONE | {"image_store": "memory:"}),
    Case("everybody's own key", ONE | {"host": "0.0.0.0"}),
]  # fmt: skip


def given(case: Case, folder: Path) -> dict[str, Any]:
    (folder / "key").write_text("sk-1\n")
    return {name: str(folder / "key") if value == "HERE/key" else value for name, value in case.settings.items()}


def is_let_through(case: Case, folder: Path) -> bool:
    try:
        Settings(**given(case, folder))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_settings_that_contradict_each_other(case: Case, tmp_path: Path) -> None:
    if case.says is None:
        assert is_let_through(case, tmp_path)
    else:
        with pytest.raises(ValueError, match=case.says):
            Settings(**given(case, tmp_path))


@pytest.mark.parametrize("row", CROSS_FIELD_RULES, ids=lambda row: row.__name__)
def test_every_row_is_needed(row: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "app.config.settings.CROSS_FIELD_RULES", tuple(each for each in CROSS_FIELD_RULES if each is not row)
    )
    assert any(is_let_through(case, tmp_path) for case in CASES if case.says is not None)
