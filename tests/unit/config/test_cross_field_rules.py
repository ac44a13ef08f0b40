"""Settings that are valid by themselves and contradict each other, and the same with one value changed."""

from dataclasses import dataclass
from typing import Any

import pytest

from app.config.contradictions import CROSS_FIELD_RULES
from app.config.settings import Settings

SINGLE = {"upstream_base_url": "http://h/v1"}
LISTED = {"upstreams": [{"name": "main", "base_url": "http://h/v1", "api_key": "sk-1"}]}
SHARED = SINGLE | {"shared_state": "redis://h"}
OPEN = SINGLE | {"upstream_api_key": "sk-1", "host": "0.0.0.0"}


@dataclass(frozen=True, slots=True)
class Case:
    """`error` is the start of the message; None means that the settings are accepted."""

    name: str
    settings: dict[str, Any]
    error: str | None = None


CASES = [
    Case("one upstream", SINGLE),
    Case("a list of upstreams", LISTED),
    Case("a list, and the address for a single upstream is unset", LISTED | {"upstream_base_url": None}),
    Case("a list, and an address for a single upstream", LISTED | SINGLE, "LIMNER_UPSTREAM_BASE_URL: set together with LIMNER_UPSTREAMS, where"),
    Case("a list, and a model for a single upstream", LISTED | {"upstream_model": "x"}, "LIMNER_UPSTREAM_MODEL: set together with LIMNER_UPSTREAMS, where"),
    Case("a list, and prices for a single upstream", LISTED | {"upstream_prices": "0.04"}, "LIMNER_UPSTREAM_PRICES: set together with LIMNER_UPSTREAMS, where"),
    Case("an upstream key, and anyone can connect", OPEN, "LIMNER_API_KEYS: unset, while LIMNER_HOST=0.0.0.0 is reachable by others"),
    Case("an upstream key, and only this machine can connect", OPEN | {"host": "::1"}),
    Case("an upstream key behind client keys", OPEN | {"api_keys": "a"}),
    Case("an upstream key that anyone may spend on purpose", OPEN | {"allow_anonymous": True}),
    Case("no upstream key, and anyone can connect", SINGLE | {"host": "0.0.0.0"}),
    Case("several workers, and images on disk", SHARED | {"workers": 2, "image_store": "disk:///tmp/x"}),
    Case("several workers, and images in the memory of one", SHARED | {"workers": 2, "image_store": "memory:"}, "LIMNER_IMAGE_STORE: memory: is visible to one process only, and LIMNER_WORKERS=2"),
    Case("several replicas, and images in the memory of one", SHARED | {"replicas": 3, "image_store": "memory:"}, "LIMNER_IMAGE_STORE: memory: is visible to one process only, and LIMNER_REPLICAS=3"),
    Case("several workers that share nothing", SINGLE | {"workers": 2}, "LIMNER_SHARED_STATE: unset, while LIMNER_WORKERS=2: a request that is repeated"),
    Case("several replicas that share nothing", SINGLE | {"replicas": 2}, "LIMNER_SHARED_STATE: unset, while LIMNER_REPLICAS=2: a request that is repeated"),
    Case("several workers and replicas that share nothing on purpose", SINGLE | {"workers": 2, "replicas": 2, "allow_unshared": True}),
    Case("several workers and replicas that share a Redis", SHARED | {"workers": 2, "replicas": 2}),
    Case("one worker, and images in its memory", SINGLE | {"image_store": "memory:"}),
    Case("webhooks of clients with keys", SINGLE | {"webhooks": True, "upstream_api_key": "sk-1", "api_keys": "a"}),
    Case("webhooks of clients without keys, and a secret", SINGLE | {"webhooks": True, "webhook_secret": "x" * 24}),
    Case("webhooks of clients without keys, and nothing secret", SINGLE | {"webhooks": True}, "LIMNER_WEBHOOK_SECRET: unset, while LIMNER_WEBHOOKS=true and no client has a key of this server"),
    Case("uploads of two of the largest requests", SINGLE | {"max_upload_bytes": "10MiB", "max_request_bytes": "5MiB"}),
    Case("certificates for signing, without a key", SINGLE | {"sign_certificates": __file__}, "LIMNER_SIGN_KEY: unset, while LIMNER_SIGN_CERTIFICATES is set"),
    Case("a key for signing, without certificates", SINGLE | {"sign_key": "k"}, "LIMNER_SIGN_KEY: has no effect without LIMNER_SIGN_CERTIFICATES"),
    Case("uploads of less than two of the largest requests", SINGLE | {"max_upload_bytes": "9MiB", "max_request_bytes": "5MiB"}, "LIMNER_MAX_UPLOAD_BYTES: 9437184 is less than twice LIMNER_MAX_REQUEST_BYTES"),
]  # fmt: skip


def is_accepted(case: Case) -> bool:
    try:
        Settings(**case.settings)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_settings_that_contradict_each_other_are_refused(case: Case) -> None:
    if case.error is None:
        assert is_accepted(case)
    else:
        with pytest.raises(ValueError, match=case.error):
            Settings(**case.settings)


@pytest.mark.parametrize("rule", CROSS_FIELD_RULES, ids=lambda rule: rule.__name__)
def test_every_rule_is_needed(rule: object, monkeypatch: pytest.MonkeyPatch) -> None:
    others = tuple(other for other in CROSS_FIELD_RULES if other is not rule)
    monkeypatch.setattr("app.config.settings.CROSS_FIELD_RULES", others)
    assert any(is_accepted(case) for case in CASES if case.error is not None)
