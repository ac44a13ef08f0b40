"""The examples of the OpenAPI document are true: requests are accepted, responses and errors are those of the server."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema_rs import Draft202012Validator
from openai.types.images_response import ImagesResponse

from app.api.openapi import (
    ACCEPTED,
    ACCEPTED_EXAMPLE,
    ERROR,
    ERROR_EXAMPLES,
    IMAGE_NAME_EXAMPLE,
    IMAGES,
    JOB_ID_EXAMPLE,
    REQUEST_EXAMPLES,
    RESPONSE_EXAMPLE,
)
from app.errors import ApiError
from app.images.store import is_name
from app.protocol.parameters import Operation
from app.protocol.request_parser import read_json
from tests.support.servers import RunningLimner, run_demo, run_limner

EXAMPLES = [(status, error) for status, each in ERROR_EXAMPLES.items() for error in each.examples]


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_demo() as demo, run_limner(demo.url, api_keys="sk-client") as running:
        yield running


@pytest.mark.parametrize(
    ("operation", "title"), [(each, title) for each, titles in REQUEST_EXAMPLES.items() for title in titles]
)
def test_an_example_request_is_accepted_and_all_of_it_has_an_effect(operation: Operation, title: str) -> None:
    assert read_json(operation, REQUEST_EXAMPLES[operation][title]["value"]).ignored == ()


def test_each_operation_has_an_example_request() -> None:
    assert set(REQUEST_EXAMPLES) == set(Operation)


def test_example_responses_match_the_schemas_and_the_official_sdk() -> None:
    Draft202012Validator(IMAGES).validate(RESPONSE_EXAMPLE)
    Draft202012Validator(ACCEPTED).validate(ACCEPTED_EXAMPLE)
    assert ImagesResponse.model_validate(RESPONSE_EXAMPLE, strict=True).usage


def test_example_names_have_the_form_of_real_ones() -> None:
    assert is_name(IMAGE_NAME_EXAMPLE)
    assert RESPONSE_EXAMPLE["data"][0]["url"].endswith(f"/kept/{IMAGE_NAME_EXAMPLE}")
    assert ACCEPTED_EXAMPLE["id"] == JOB_ID_EXAMPLE


@pytest.mark.parametrize(("status", "error"), EXAMPLES)
def test_an_example_error_has_its_status_and_schema(status: int, error: ApiError) -> None:
    assert error.status == status
    Draft202012Validator(ERROR).validate(error.body)


REAL_ERRORS: list[tuple[int, str, str, dict[str, Any]]] = [
    (400, "POST", "/v1/images/generations", {"json": {"prompt": "a fox", "n": 11}}),
    (400, "POST", "/v1/images/generations", {"json": {"prompt": "a fox", "size": "100x100"}}),
    (401, "POST", "/v1/images/generations", {"headers": {"authorization": "Bearer wrong"}}),
    (404, "GET", "/v1/models/dall-e-9", {}),
    (404, "GET", f"/v1/images/results/{JOB_ID_EXAMPLE}", {}),
    (404, "GET", f"/kept/{IMAGE_NAME_EXAMPLE}", {}),
]


@pytest.mark.parametrize(("status", "method", "path", "options"), REAL_ERRORS)
def test_an_example_error_is_word_for_word_a_real_one(
    limner: RunningLimner, status: int, method: str, path: str, options: dict[str, Any]
) -> None:
    headers = {"authorization": "Bearer sk-client"} | options.get("headers", {})
    answer = httpx.request(method, f"{limner.url}{path}", trust_env=False, **options | {"headers": headers})
    assert answer.status_code == status
    assert answer.json() in [error.body for error in ERROR_EXAMPLES[status].examples]
