"""The examples are true: questions are read, answers and errors are what the server gives."""

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
from app.protocol.image_request import Operation, read_json
from tests.support.servers import RunningLimner, run_demo, run_limner

EXAMPLES = [(status, error) for status, each in ERROR_EXAMPLES.items() for error in each.examples]


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_demo() as demo, run_limner(demo.url, api_keys="sk-client") as running:
        yield running


@pytest.mark.parametrize(
    ("operation", "title"), [(each, title) for each, titles in REQUEST_EXAMPLES.items() for title in titles]
)
def test_a_question_is_read_and_nothing_of_it_is_without_effect(operation: Operation, title: str) -> None:
    assert read_json(operation, REQUEST_EXAMPLES[operation][title]["value"]).ignored == ()


def test_each_operation_has_a_question() -> None:
    assert set(REQUEST_EXAMPLES) == set(Operation)


def test_the_answers_are_as_the_schemas_and_the_official_sdk_say() -> None:
    Draft202012Validator(IMAGES).validate(RESPONSE_EXAMPLE)
    Draft202012Validator(ACCEPTED).validate(ACCEPTED_EXAMPLE)
    assert ImagesResponse.model_validate(RESPONSE_EXAMPLE, strict=True).usage


def test_names_have_the_form_of_real_ones() -> None:
    assert is_name(IMAGE_NAME_EXAMPLE)
    assert RESPONSE_EXAMPLE["data"][0]["url"].endswith(f"/kept/{IMAGE_NAME_EXAMPLE}")
    assert ACCEPTED_EXAMPLE["id"] == JOB_ID_EXAMPLE


@pytest.mark.parametrize(("status", "error"), EXAMPLES)
def test_an_error_has_its_status_and_its_form(status: int, error: ApiError) -> None:
    assert error.status == status
    Draft202012Validator(ERROR).validate(error.body)


GIVEN: list[tuple[int, str, str, dict[str, Any]]] = [
    (400, "POST", "/v1/images/generations", {"json": {"prompt": "a fox", "n": 11}}),
    (400, "POST", "/v1/images/generations", {"json": {"prompt": "a fox", "size": "100x100"}}),
    (401, "POST", "/v1/images/generations", {"headers": {"authorization": "Bearer wrong"}}),
    (404, "GET", "/v1/models/dall-e-9", {}),
    (404, "GET", f"/v1/images/results/{JOB_ID_EXAMPLE}", {}),
    (404, "GET", f"/kept/{IMAGE_NAME_EXAMPLE}", {}),
]


@pytest.mark.parametrize(("status", "method", "path", "how"), GIVEN)
def test_an_error_is_given_word_for_word(
    limner: RunningLimner, status: int, method: str, path: str, how: dict[str, Any]
) -> None:
    headers = {"authorization": "Bearer sk-client"} | how.get("headers", {})
    answer = httpx.request(method, f"{limner.url}{path}", trust_env=False, **how | {"headers": headers})
    assert answer.status_code == status
    assert answer.json() in [error.body for error in ERROR_EXAMPLES[status].examples]
