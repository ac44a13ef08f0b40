"""`GET /v1/images/models` describes what a caller may ask: by the parameters, the dialects and the caller's key."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema_rs import Draft202012Validator

from app.api.planning_schemas import IMAGE_MODEL_EXAMPLE, IMAGE_MODELS
from app.protocol.image_request import PARAMETERS
from tests.support.servers import RunningLimner, run_limner

KEYS = f"""
[[keys]]
name = "guest"
sha256 = "{hashlib.sha256(b"sk-guest").hexdigest()}"
models = ["gpt-image-2", "dall-e-3"]
requests = ["30/minute"]
images = ["3/minute", "20/day"]
monthly_images = 500
monthly_cost = "50.00"
concurrency = 2
max_size = "1024x1024"
max_quality = "low"
upstream = "words"

[[keys]]
name = "free"
sha256 = "{hashlib.sha256(b"sk-free").hexdigest()}"

[[keys]]
name = "exact"
sha256 = "{hashlib.sha256(b"sk-exact").hexdigest()}"
size = "exact; fit=contain"
"""
UPSTREAM = {"base_url": "http://127.0.0.1:9/v1", "api_key": "sk-1"}
PRICES = [
    {"size": ["1024x1024"], "quality": "low", "image": "0.040"},
    {"model": "gpt-image-2-chat", "tokens_in": "5", "tokens_out": "30"},
    {"model": "other", "image": "9"},
]
UPSTREAMS = [
    UPSTREAM | {"name": "words", "dialect": "words", "prices": PRICES},
    UPSTREAM | {"name": "buckets", "models": {"boxed": "b"}, "dialect": {"sizes": ["1024x1024"], "size": {"s": "WxH"}}},
    UPSTREAM | {"name": "mute", "models": {"mute": "m"}, "dialect": {"mask": ""}},
    UPSTREAM | {"name": "ratios", "models": {"shaped": "r"}, "dialect": "poe", "priority": 1},
]


@pytest.fixture(scope="module")
def limner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLimner]:
    keys: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(KEYS)
    options: dict[str, Any] = {"upstream_base_url": None, "upstream_api_key": None, "upstreams": UPSTREAMS}
    with run_limner("http://127.0.0.1:9", keys_file=keys, **options) as running:
        yield running


def described(limner: RunningLimner, key: str = "sk-free") -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"}
    response = httpx.get(f"{limner.url}/v1/images/models", headers=headers, trust_env=False)
    document: dict[str, Any] = response.json()
    assert response.status_code == 200
    Draft202012Validator(IMAGE_MODELS).validate(document)
    return document


def test_all_models_that_are_listed_are_described(limner: RunningLimner) -> None:
    document = described(limner)
    headers = {"authorization": "Bearer sk-free"}
    listed = httpx.get(f"{limner.url}/v1/models", headers=headers, trust_env=False).json()
    assert [model["id"] for model in document["data"]] == [model["id"] for model in listed["data"]]
    assert {"boxed", "mute", "shaped", "gpt-image-2.6-flare"} <= {model["id"] for model in document["data"]}
    limits = document["limits"]
    assert limits == {
        "requests": [],
        "images": [],
        "monthly_images": None,
        "monthly_cost": None,
        "concurrency": None,
        "max_size": None,
        "max_quality": None,
    }


def test_the_parameters_are_those_of_the_table_with_their_schemas(limner: RunningLimner) -> None:
    parameters = described(limner)["data"][0]["parameters"]
    assert list(parameters) == [parameter.names(form=False)[0] for parameter in PARAMETERS]
    assert parameters["quality"] == {
        "operations": ["image_edit", "image_generation"],
        "required": False,
        "effect": "upstream",
        "schema": {
            "type": "string",
            "enum": ["low", "medium", "high", "auto"],
            "description": "How much effort goes into the image.",
        },
    }
    assert parameters["prompt"]["required"] is True
    assert parameters["images"]["operations"] == ["image_edit"]
    assert (parameters["n"]["schema"]["minimum"], parameters["n"]["schema"]["maximum"]) == (1, 10)


EFFECTS = [
    ("gpt-image-2", {"size": "upstream", "style": "upstream", "user": "none", "n": "here", "moderation": "none"}),
    ("boxed", {"size": "upstream", "width": "upstream", "quality": "upstream", "user": "upstream"}),
    ("shaped", {"size": "upstream", "background": "upstream", "safety_identifier": "none"}),
]


@pytest.mark.parametrize(("name", "effects"), EFFECTS, ids=[row[0] for row in EFFECTS])
def test_an_effect_is_that_of_the_dialects(limner: RunningLimner, name: str, effects: dict[str, str]) -> None:
    (model,) = [model for model in described(limner)["data"] if model["id"] == name]
    assert {each: model["parameters"][each]["effect"] for each in effects} == effects


def test_sizes_are_those_of_the_upstreams_and_of_the_rules(limner: RunningLimner) -> None:
    models = {model["id"]: model for model in described(limner)["data"]}
    assert models["gpt-image-2"]["sizes"] == {
        "mode": "native",
        "multiple_of": 16,
        "min_pixels": 655_360,
        "max_pixels": 3840 * 2160,
        "min_edge": 16,
        "max_edge": 3840,
        "max_aspect_ratio": 3,
        "upstream_sizes": None,
        "upstream_ratios": None,
    }


EXACT_SIZES = {
    "multiple_of": 1,
    "min_pixels": 16 * 16,
    "max_pixels": 3840 * 3840,
    "min_edge": 16,
    "max_edge": 3840,
    "max_aspect_ratio": 240,
    "upstream_sizes": None,
    "upstream_ratios": None,
}


def test_sizes_of_a_key_with_exact_sizes_are_what_it_may_ask_for(limner: RunningLimner) -> None:
    model = described(limner, "sk-exact")["data"][0]
    assert model["sizes"] == {"mode": "exact; fit=contain", **EXACT_SIZES}


def test_sizes_of_a_server_with_exact_sizes_are_what_any_client_may_ask_for() -> None:
    with run_limner("http://127.0.0.1:9", size="exact", api_keys="sk-one") as limner:
        model = described(limner, "sk-one")["data"][0]
    assert model["sizes"] == {"mode": "exact", **EXACT_SIZES}


def test_prices_are_those_of_the_upstreams_that_have_the_model(limner: RunningLimner) -> None:
    common = {"image": None, "million_tokens_in": None, "million_tokens_out": None, "currency": "USD"}
    assert described(limner)["data"][0]["prices"] == [
        {**common, "image": "0.04", "sizes": ["1024x1024"], "qualities": ["low"]},
        {**common, "million_tokens_in": "5", "million_tokens_out": "30", "sizes": [], "qualities": []},
    ]


def test_a_key_sees_its_own_models_and_limits(limner: RunningLimner) -> None:
    document = described(limner, "sk-guest")
    assert [model["id"] for model in document["data"]] == ["gpt-image-2", "dall-e-3"]
    first, second = document["data"]
    assert (first["default_response_format"], second["default_response_format"]) == ("b64_json", "url")
    assert first["parameters"]["quality"]["schema"]["enum"] == ["low", "auto"]
    assert first["parameters"]["n"]["schema"]["maximum"] == 3
    assert first["sizes"]["max_pixels"] == 1024 * 1024
    assert document["limits"] == {
        "requests": [{"amount": 30, "period": "minute"}],
        "images": [{"amount": 3, "period": "minute"}, {"amount": 20, "period": "day"}],
        "monthly_images": 500,
        "monthly_cost": {"amount": "50", "currency": "USD"},
        "concurrency": 2,
        "max_size": "1024x1024",
        "max_quality": "low",
    }


def test_upstreams_with_lists_alone_limit_the_sizes() -> None:
    dialect = {"size": {"size": "WxH"}, "sizes": ["1024x1024", "1024x1536"], "ratios": ["1:1"]}
    with run_limner("http://127.0.0.1:9", upstream_dialect=dialect, api_keys="sk-one") as limner:
        document = described(limner, "sk-one")
    assert document["limits"] is None
    sizes = document["data"][0]["sizes"]
    assert (sizes["upstream_sizes"], sizes["upstream_ratios"]) == (["1024x1024", "1024x1536"], ["1:1"])


def test_a_key_is_needed(limner: RunningLimner) -> None:
    response = httpx.get(f"{limner.url}/v1/images/models", trust_env=False)
    assert response.status_code == 401


def test_models_that_are_shut_down_are_not_listed_but_accepted() -> None:
    with run_limner("http://127.0.0.1:9") as limner:
        names = {model["id"] for model in httpx.get(f"{limner.url}/v1/models", trust_env=False).json()["data"]}
        assert {"gpt-image-2-2026-04-21", "gpt-image-2.5-flare", "gpt-image-2.6-sunburst"} <= names
        assert not names & {"gpt-image-1", "dall-e-2", "dall-e-3"}
        statuses = [
            httpx.get(f"{limner.url}/v1/models/{name}", trust_env=False).status_code for name in ("dall-e-3", "other")
        ]
    assert statuses == [200, 404]


def test_the_example_is_valid() -> None:
    Draft202012Validator(IMAGE_MODELS).validate(IMAGE_MODEL_EXAMPLE)
