"""The OpenAPI document is valid and complete, and the server behaves as it says."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema_rs import Draft202012Validator
from jsonschema_rs import meta as metaschema
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.openapi import (
    ERROR,
    ERROR_EXAMPLES,
    EVENT,
    IMAGES,
    MODEL,
    MODELS,
    RECEIPT,
    STATUS,
    TASK,
    USAGE,
    error_responses,
    patch_schema,
)
from app.protocol.image_request import PARAMETERS, ImagesRequest
from app.protocol.image_response import images_json
from app.protocol.parameters import Destination, Operation, Parameter
from app.protocol.usage import Usage
from tests.support.servers import RunningLimner, run_demo, run_limner

KEY = {"Authorization": "Bearer sk-client"}
IMAGE_PATHS = {Operation.GENERATION: "/v1/images/generations", Operation.EDIT: "/v1/images/edits"}
MEDIA_TYPES = {False: "application/json", True: "multipart/form-data"}


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_demo() as demo, run_limner(demo.url, api_keys="sk-client") as running:
        yield running


@pytest.fixture(scope="module")
def document(limner: RunningLimner) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{limner.url}/openapi.json", trust_env=False).json()
    return answer


def test_every_endpoint_is_listed_with_its_statuses(document: dict[str, Any]) -> None:
    operations = {
        f"{method.upper()} {path}": {int(status) for status in operation["responses"]}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert {"POST /v1/images/generations", "POST /v1/images/edits"} <= set(operations)
    assert operations["GET /v1/models"] == {200, 401}
    assert operations["GET /v1/models/{name}"] == {200, 401, 404}
    assert operations["GET /healthz"] == {200}
    assert operations["GET /readyz"] == {200, 503}
    assert operations["GET /kept/{name}"] == {200, 404}
    for path in IMAGE_PATHS.values():
        assert operations[f"POST {path}"] == {200, 202, *ERROR_EXAMPLES}
        assert operations[f"POST {path}/async"] == {202, *ERROR_EXAMPLES}
    assert operations["GET /v1/images/tasks/{task_id}"] == {200, 401, 404, 500, 503}
    assert operations["DELETE /v1/images/tasks/{task_id}"] == {200, 401, 404, 409, 500, 503}
    assert operations["GET /v1/images/results/{result_id}"] == {200, 202, *ERROR_EXAMPLES}
    assert not [name for name in operations if "variations" in name]


def test_every_operation_has_a_unique_id(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)


def test_endpoints_that_need_a_key_are_marked(document: dict[str, Any]) -> None:
    assert document["components"] == {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation.get("security") == ([{"bearer": []}] if path.startswith("/v1/") else None)


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize("operation", Operation)
def test_every_parameter_is_listed_with_its_limits(document: dict[str, Any], operation: Operation, form: bool) -> None:
    post = document["paths"][IMAGE_PATHS[operation]]["post"]
    body = post["requestBody"]["content"][MEDIA_TYPES[form]]["schema"]
    rows = {row.names(form)[0]: row for row in PARAMETERS if operation in row.operations}
    assert set(body["properties"]) == set(rows)
    assert set(body["required"]) == {name for name, row in rows.items() if row.required}
    for name, row in rows.items():
        described = body["properties"][name]
        assert described["description"] == row.description
        assert tuple(described.get("examples", ())) == row.examples
        own = described if form or row.required else described["anyOf"][0]
        assert own.items() >= row.type.schema(form).items()
    Draft202012Validator(body)
    assert metaschema.is_valid({"$schema": "https://json-schema.org/draft/2020-12/schema", **body})


LIMITS: dict[str, dict[str, Any]] = {
    "n": {"minimum": 1, "maximum": 10},
    "prompt": {"minLength": 1, "maxLength": 32_000},
    "output_compression": {"minimum": 0, "maximum": 100},
    "partial_images": {"minimum": 0, "maximum": 3},
    "response_format": {"enum": ["url", "b64_json"]},
    "output_format": {"enum": ["png", "jpeg", "webp", "jpg"]},
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_of_the_contract(document: dict[str, Any], name: str) -> None:
    content = document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]
    assert content["multipart/form-data"]["schema"]["properties"][name].items() >= LIMITS[name].items()


def test_the_described_response_is_the_real_one() -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a fox", quality="high", safety_identifier="me")
    response = images_json(request, (), Usage(), 1)
    assert set(response) <= set(IMAGES["properties"])
    assert set(response["usage"]) == set(USAGE["properties"])


@pytest.mark.parametrize("schema", [IMAGES, EVENT, ERROR, MODEL, MODELS, STATUS, RECEIPT, TASK])
def test_each_response_schema_is_valid(schema: dict[str, Any]) -> None:
    Draft202012Validator(schema)
    assert not Draft202012Validator(schema).is_valid({})


def test_a_status_has_a_description_and_examples() -> None:
    (error,) = ERROR_EXAMPLES[401].examples
    content = {"schema": ERROR, "examples": {"invalid_api_key": {"value": error.body}}}
    assert error_responses(401) == {
        401: {"description": ERROR_EXAMPLES[401].meaning, "content": {"application/json": content}}
    }


@pytest.mark.parametrize("code", ["model_not_found", "result_not_found", "image_not_found"])
def test_a_404_shows_the_code_of_its_endpoint(code: str) -> None:
    assert list(error_responses(404, not_found_code=code)[404]["content"]["application/json"]["examples"]) == [code]


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]


def test_every_path_and_header_parameter_has_a_description_and_an_example(document: dict[str, Any]) -> None:
    described = [(path, parameter) for path, each in operations(document) for parameter in each.get("parameters", ())]
    assert len(described) == 17
    for path, parameter in described:
        assert parameter["description"], path
        schema = {name: value for name, value in parameter["schema"].items() if name != "title"}
        Draft202012Validator(schema).validate(parameter["example"])


def test_every_error_has_an_example(document: dict[str, Any]) -> None:
    for path, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                examples = response["content"]["application/json"]["examples"]
                assert examples, f"{path}: {status}"
                assert all(list(example["value"]) == ["error"] for example in examples.values())


#: Schemas with these keywords list all values, or have examples inside.
SHOWN = {"enum", "properties", "items"}


@pytest.mark.parametrize(
    "row", [row for row in PARAMETERS if row.destination is not Destination.NONE], ids=lambda row: row.name
)
def test_every_parameter_with_an_effect_has_a_valid_example(row: Parameter) -> None:
    own = row.type.schema(form=False)
    assert row.examples or own["type"] == "boolean" or own.keys() & SHOWN
    for example in row.examples:
        Draft202012Validator(row.schema(form=False)).validate(example)


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.name)
def test_every_parameter_has_a_limit(row: Parameter) -> None:
    """Except `svg`, which has no effect."""
    limits = {"enum", "maximum", "maxLength", "maxProperties", "pattern", "properties", "maxItems"}
    own = row.type.schema(form=False)
    assert row.name == "svg" or own["type"] == "boolean" or own.keys() & limits


def test_fastapi_s_own_422_is_removed_because_it_never_occurs() -> None:
    ours, theirs = error_responses(422)[422], {"description": "Validation Error"}
    paths: dict[str, Any] = {
        "/a": {"get": {"responses": {"200": {}, "422": theirs}}, "post": {"responses": {"422": ours}}}
    }
    patch_schema({"paths": paths})
    assert paths == {"/a": {"get": {"responses": {"200": {}}}, "post": {"responses": {"422": ours}}}}


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    ignored_auth,
]
OPERATIONS = [
    ("POST", "/v1/images/generations", GenerationMode.POSITIVE, 15),
    ("POST", "/v1/images/generations", GenerationMode.NEGATIVE, 15),
    ("POST", "/v1/images/edits", GenerationMode.POSITIVE, 15),
    ("POST", "/v1/images/edits", GenerationMode.NEGATIVE, 15),
    ("GET", "/v1/images/results/{result_id}", GenerationMode.POSITIVE, 10),
    ("GET", "/v1/models", GenerationMode.POSITIVE, 2),
    ("GET", "/v1/models/{name}", GenerationMode.POSITIVE, 20),
    ("GET", "/healthz", GenerationMode.POSITIVE, 2),
    ("GET", "/readyz", GenerationMode.POSITIVE, 2),
    ("GET", "/kept/{name}", GenerationMode.POSITIVE, 20),
]


@pytest.mark.parametrize(("method", "path", "mode", "examples"), OPERATIONS)
def test_generated_requests_get_the_responses_of_the_document(
    limner: RunningLimner, document: dict[str, Any], method: str, path: str, mode: GenerationMode, examples: int
) -> None:
    operation = schemathesis.openapi.from_dict(document)[path][method]

    @settings(max_examples=examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(base_url=limner.url, headers=KEY, checks=CHECKS)

    run()
