"""The setting that a pasted error is about."""

from dataclasses import dataclass

import pytest

from app.upstream.mending import place_of_error


@dataclass(frozen=True)
class Case:
    name: str
    pasted: bytes
    setting: str | None
    is_error: bool = True


CASES = [
    Case("a body", b'{"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}', "API_KEY"),
    Case("a line of the log", b"detail: upstream answered 404: nothing here", "BASE_URL", is_error=False),
    Case("a complaint about the prompt", b'{"error": {"code": "content_policy_violation"}}', None),
    Case("what is no error", b"Your API key is invalid, said the fox.", None, is_error=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_setting_is_named(case: Case) -> None:
    place = place_of_error(case.pasted, is_error=case.is_error)
    assert (place is None) is (case.setting is None)
    assert place is None or place.startswith(f"LIMNER_UPSTREAM_{case.setting}, or ")
