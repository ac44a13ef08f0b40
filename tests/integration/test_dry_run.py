"""`x-limner-dry-run: true` tells what a request would do: nobody is asked, nothing is charged, no secret is shown."""

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.jobs.dry_run import is_dry_run
from app.observability.metrics import REGISTRY
from tests.support.sample_images import noise, saved
from tests.support.servers import RunningDemo, run_limner

DRY = {"x-limner-dry-run": "true"}
GUEST = {**DRY, "authorization": "Bearer sk-guest"}
FOX = {"model": "gpt-image-2", "prompt": "a fox", "size": "1536x1024", "quality": "high"}
KEYS = f"""
[[keys]]
name = "guest"
sha256 = "{hashlib.sha256(b"sk-guest").hexdigest()}"
models = ["gpt-image-2"]
images = ["3/day"]
monthly_images = 3
max_size = "1024x1024"
max_quality = "medium"
"""


def ask(url: str, body: dict[str, Any], headers: dict[str, str] = DRY) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/generations", json=body, headers=headers, trust_env=False)


def requests_counted() -> float:
    return sum(sample.value for metric in REGISTRY.collect() for sample in metric.samples if sample.name == "limner_questions_total")  # fmt: skip


def test_the_chat_body_is_answered_and_nobody_is_asked(demo: RunningDemo, tmp_path: Path) -> None:
    ledger, before, calls = tmp_path / "ledger.jsonl", requests_counted(), demo.state.calls
    with run_limner(demo.url, upstream_model="painter", ledger=str(ledger)) as limner:
        response = ask(limner.url, {**FOX, "n": 2, "seed": 7, "stream": False})
        assert (limner.service.registry.by_id(response.headers["x-request-id"]), limner.service.tasks) == (None, set())
    assert (response.status_code, response.headers["x-limner-dry-run"]) == (200, "true")
    assert response.json() == {
        "object": "image.dry_run",
        "upstream": "default",
        "requests": 2,
        "price": None,
        "ignored": ["seed"],
        "body": {
            "model": "painter",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "1536x1024 'a fox'"}]}],
            "stream": False,
            "metadata": {"quality": "high"},
        },
    }
    assert (demo.state.calls, requests_counted()) == (calls, before)
    assert not ledger.exists()


def test_images_are_placeholders(demo: RunningDemo) -> None:
    image, mask = saved(noise((64, 48)), "PNG"), saved(noise((64, 48)).convert("RGBA"), "PNG")
    files = [("image[]", ("a.png", image)), ("image[]", ("b.png", image)), ("mask", ("m.png", mask))]
    with run_limner(demo.url) as limner:
        form = {"prompt": "a hat", "stream": "true"}
        response = httpx.post(f"{limner.url}/v1/images/edits", data=form, files=files, headers=DRY, trust_env=False)
    body = response.json()["body"]
    _, *parts = body["messages"][0]["content"]
    assert [part["image_url"]["url"] for part in parts] == [
        f"<images[0]: {len(image)} bytes>",
        f"<images[1]: {len(image)} bytes>",
        f"<mask: {len(mask)} bytes>",
    ]
    assert body["stream"] is True


@pytest.mark.parametrize(("passes", "text"), [(False, "<images[0]: a link, which is downloaded>"), (True, "http://127.0.0.1:9/a.png")])  # fmt: skip
def test_links_are_not_downloaded(demo: RunningDemo, passes: bool, text: str) -> None:
    body = {"prompt": "a hat", "images": [{"image_url": "http://127.0.0.1:9/a.png"}]}
    with run_limner(demo.url, pass_image_urls=passes) as limner:
        response = httpx.post(f"{limner.url}/v1/images/edits", json=body, headers=DRY, trust_env=False)
    assert response.json()["body"]["messages"][0]["content"][1]["image_url"]["url"] == text


def test_small_base64_is_a_placeholder(demo: RunningDemo) -> None:
    body = {"prompt": "a hat", "images": [{"image_url": "data:image/png;base64,iVBORw0KGgo="}]}
    with run_limner(demo.url) as limner:
        response = httpx.post(f"{limner.url}/v1/images/edits", json=body, headers=DRY, trust_env=False)
    assert "iVBORw0" not in response.text
    assert "<images[0]: " in response.text


def test_the_policy_of_a_key_holds_and_its_limits_are_not_used_up(demo: RunningDemo, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(KEYS)
    with run_limner(demo.url, keys_file=keys) as limner:
        small = {"model": "gpt-image-2", "prompt": "a fox"}
        answers = [ask(limner.url, {**small, "n": 3}, GUEST) for _ in range(3)]
        texts = {answer.json()["body"]["messages"][0]["content"][0]["text"] for answer in answers}
        assert texts == {"1024x1024 'a fox'"}
        assert answers[0].json()["body"]["metadata"] == {"quality": "medium"}
        refused = [
            ask(limner.url, body, GUEST)
            for body in ({**small, "model": "other"}, {**small, "size": "2048x2048"}, {**small, "n": 4})
        ]
        assert [answer.status_code for answer in refused] == [403, 400, 400]
        assert ask(limner.url, small).status_code == 401
        paid = ask(limner.url, {**small, "n": 3}, {"authorization": "Bearer sk-guest"})
    assert (paid.status_code, paid.headers["x-ratelimit-remaining-images"]) == (200, "0")


def test_no_secret_of_the_configuration_is_shown(demo: RunningDemo) -> None:
    secrets = {"api_key": "sk-upstream-key", "headers": {"x-relay": "secret-of-a-relay"}}
    dialect = {"extra_body": {"relay": {"token": "secret-of-a-relay", "tags": ["sk-upstream-key", 7]}}}
    entry = {"name": "main", "base_url": f"{demo.url}/v1", "dialect": dialect, **secrets}
    with run_limner(demo.url, upstream_base_url=None, upstream_api_key=None, upstreams=[entry]) as limner:
        response = ask(limner.url, FOX)
    assert response.json()["body"]["relay"] == {"token": "[key]", "tags": ["[key]", 7]}
    assert "secret" not in response.text


def test_the_upstream_is_the_one_that_would_be_asked(demo: RunningDemo) -> None:
    entry = {"base_url": f"{demo.url}/v1", "api_key": "sk-1"}
    upstreams = [
        entry | {"name": "small", "max_images_bytes": 1024, "model": "a"},
        entry | {"name": "spare", "priority": 1, "dialect": "openrouter", "model": "b", "stream": "never"},
    ]
    with run_limner(demo.url, upstream_base_url=None, upstream_api_key=None, upstreams=upstreams) as limner:
        first = ask(limner.url, FOX).json()
        files = {"image": ("a.png", saved(noise((64, 48)), "PNG"))}
        form = {"prompt": "a hat", "stream": "true"}
        edits = f"{limner.url}/v1/images/edits"
        second = httpx.post(edits, data=form, files=files, headers=DRY, trust_env=False).json()
        for member in limner.services.pool.members:
            object.__setattr__(member.spec, "max_concurrency", 1)
            member.in_flight = 1
        busy = ask(limner.url, FOX).json()
        for member in limner.services.pool.members:
            member.in_flight = 0
    assert [(each["upstream"], each["body"]["model"]) for each in (first, second, busy)] == [
        ("small", "a"),
        ("spare", "b"),
        ("small", "a"),
    ]
    assert (second["body"]["modalities"], second["body"]["stream"]) == (["image", "text"], False)


PRICES = [
    {"image": "0.04"},
    {"size": "1536x1024", "quality": "high", "image": "0.0625"},
    {"model": "counted", "image": "0.01", "tokens_out": "30"},
]
PRICED: list[tuple[str, str, dict[str, Any], dict[str, str] | None]] = [
    ("the row that fits", "m", FOX, {"amount": "0.125", "currency": "EUR"}),
    ("the row for all", "m", {**FOX, "quality": "low"}, {"amount": "0.08", "currency": "EUR"}),
    ("a size that the model chooses", "m", {**FOX, "size": "auto"}, None),
    ("a price of tokens, which are not known yet", "counted", FOX, None),
    ("only the row for all is possible", "m", {**FOX, "size": "auto", "quality": "low"}, {"amount": "0.08", "currency": "EUR"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "body", "price"), PRICED, ids=[row[0] for row in PRICED])
def test_a_price_that_is_known_is_answered(
    demo: RunningDemo, name: str, model: str, body: dict[str, Any], price: dict[str, str] | None
) -> None:
    prices = PRICES if model == "m" else PRICES[2:]
    entry = {"name": "a", "base_url": f"{demo.url}/v1", "api_key": "sk-1", "model": model, "prices": prices}
    options: dict[str, Any] = {"upstream_base_url": None, "upstream_api_key": None, "currency": "EUR"}
    with run_limner(demo.url, upstreams=[entry], **options) as limner:
        assert ask(limner.url, {**body, "n": 2}).json()["price"] == price


def test_callers_own_keys_are_not_checked_at_the_upstream(demo: RunningDemo) -> None:
    with run_limner("http://127.0.0.1:9", upstream_api_key=None) as limner:
        response = ask(limner.url, FOX, {**DRY, "authorization": "Bearer sk-mine"})
    assert response.status_code == 200


def test_a_wrong_request_is_refused_as_always(demo: RunningDemo) -> None:
    with run_limner(demo.url) as limner:
        assert ask(limner.url, {**FOX, "size": "100x100"}).json()["error"]["param"] == "size"
        unclear = ask(limner.url, FOX, {"x-limner-dry-run": "maybe"})
    assert (unclear.status_code, unclear.json()["error"]["param"]) == (400, "x-limner-dry-run")


@pytest.mark.parametrize(("value", "is_dry"), [("true", True), (" TRUE ", True), ("1", True), ("", False), ("false", False), ("0", False)])  # fmt: skip
def test_the_words_of_the_header(value: str, is_dry: bool) -> None:
    assert is_dry_run(value) is is_dry
