"""The official Python client works with a real server in front of the demo upstream."""

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from PIL import Image

from tests.support.sample_images import noise, saved
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with run_demo(api_key="sk-upstream") as running:
        yield running


@pytest.fixture(scope="module")
def limner(demo: RunningDemo) -> Iterator[RunningLimner]:
    with run_limner(demo.url, api_keys="sk-client") as running:
        yield running


@pytest.fixture
def client(limner: RunningLimner) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{limner.url}/v1", api_key="sk-client", max_retries=0) as client:
        yield client


def size_of(b64_json: str | None) -> tuple[int, int]:
    assert b64_json is not None
    with Image.open(io.BytesIO(base64.b64decode(b64_json, validate=True))) as image:
        image.load()
        return image.size


def png(size: tuple[int, int] = (64, 64), mode: str = "RGB", color: Any = "red") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, "PNG")
    return file.getvalue()


def test_generate_returns_base64_of_the_requested_size(client: OpenAI) -> None:
    answer = client.images.generate(model="gpt-image-2", prompt="a fox", size="1536x1024")
    assert answer.data is not None
    assert size_of(answer.data[0].b64_json) == (1536, 1024)
    assert (answer.data[0].url, answer.size, answer.output_format) == (None, "1536x1024", "png")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
    assert answer.usage.input_tokens_details.text_tokens > 0
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_generate_returns_a_url_if_one_is_requested(client: OpenAI) -> None:
    answer = client.images.generate(model="gpt-image-2", prompt="a fox", size="1536x1024", response_format="url")
    assert answer.data is not None
    assert answer.data[0].b64_json is None
    picture = httpx.get(str(answer.data[0].url), trust_env=False)
    with Image.open(io.BytesIO(picture.content)) as image:
        assert image.size == (1536, 1024)


@pytest.mark.parametrize(("model", "form"), [("dall-e-3", "url"), ("gpt-image-2-chat", "b64_json"), (None, "url"), ("mine", "b64_json")])  # fmt: skip
def test_the_default_response_format_is_that_of_openai_for_the_model(
    client: OpenAI, model: str | None, form: str
) -> None:
    answer = client.images.generate(prompt="a fox", **({"model": model} if model else {}))  # type: ignore[call-overload]
    assert [name for name in ("url", "b64_json") if getattr(answer.data[0], name)] == [form]


@pytest.mark.parametrize("key", [{"api_key": "sk-client"}, {"azure_ad_token": "sk-client"}], ids=str)
def test_the_azure_client_generates_and_edits(key: Any, limner: RunningLimner, demo: RunningDemo) -> None:
    demo.state.reset()
    with AzureOpenAI(azure_endpoint=limner.url, api_version="2025-04-01-preview", **key) as client:
        painted = client.images.generate(model="gpt-image-2", prompt="a fox", size="1024x1536")
        edited = client.images.edit(model="gpt-image-2", image=png(), prompt="a hat", size="1536x1024")
    pictures = [*(painted.data or ()), *(edited.data or ())]
    assert [size_of(picture.b64_json) for picture in pictures] == [(1024, 1536), (1536, 1024)]
    assert demo.state.calls == 2


def test_the_async_client_sends_several_requests(limner: RunningLimner, demo: RunningDemo) -> None:
    async def send() -> openai.types.ImagesResponse:
        async with AsyncOpenAI(base_url=f"{limner.url}/v1", api_key="sk-client", max_retries=0) as client:
            return await client.images.generate(model="gpt-image-2", prompt="three foxes", n=3)

    demo.state.reset()
    answer = asyncio.run(send())
    assert answer.data is not None
    assert len(answer.data) == 3
    assert demo.state.calls == 3


def test_an_edit_with_one_image(client: OpenAI, demo: RunningDemo, tmp_path: Path) -> None:
    path = tmp_path / "猫.png"
    path.write_bytes(png())
    demo.state.reset()
    with path.open("rb") as file:
        answer = client.images.edit(model="gpt-image-2", image=file, prompt="a hat", size="1024x1536", quality="hd")  # type: ignore[call-overload]
    assert size_of(answer.data[0].b64_json) == (1024, 1536)
    body = demo.state.requests[-1].body
    text, picture = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "1024x1536 'a hat'"}
    assert picture["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(png()).decode()
    assert body["metadata"] == {"quality": "high"}


def test_an_edit_with_three_images_and_a_mask(client: OpenAI, demo: RunningDemo) -> None:
    pictures = [png(color=color) for color in ("red", "green", "blue")]
    mask = png(mode="RGBA", color=(0, 0, 0, 0))
    demo.state.reset()
    answer = client.images.edit(model="gpt-image-2", image=pictures, mask=mask, prompt="a hat")
    assert answer.data is not None
    assert size_of(answer.data[0].b64_json) == (1024, 1024)
    sent = [part["image_url"]["url"] for part in demo.state.requests[-1].body["messages"][0]["content"][1:]]
    assert [base64.b64decode(url.partition(",")[2]) for url in sent] == [*pictures, mask]


def test_an_edit_from_bytes_without_a_name_or_type(client: OpenAI) -> None:
    answer = client.images.edit(model="gpt-image-2", image=png(), prompt="a hat", size="1024x1024")
    assert answer.data is not None
    assert answer.data[0].b64_json


def test_a_json_edit_with_a_data_url(client: OpenAI) -> None:
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    body = {"model": "gpt-image-2", "prompt": "a hat", "images": [{"image_url": url}]}
    answer = client.post("/images/edits", body=body, cast_to=openai.types.ImagesResponse)
    assert answer.data is not None
    assert size_of(answer.data[0].b64_json) == (1024, 1024)


def test_a_json_edit_with_large_images_keeps_every_byte(client: OpenAI, demo: RunningDemo) -> None:
    large = saved(noise((300, 300)), "PNG")
    small = png()
    mask = saved(Image.effect_noise((300, 300), 200).convert("RGBA"), "PNG")
    urls = [f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in (large, small, large, mask)]
    body = {"prompt": "a hat", "images": [{"image_url": url} for url in urls[:3]], "mask": urls[3]}
    demo.state.reset()
    answer = client.post("/images/edits", body=body, cast_to=openai.types.ImagesResponse)
    assert answer.data
    sent = [part["image_url"]["url"] for part in demo.state.requests[-1].body["messages"][0]["content"][1:]]
    assert [base64.b64decode(url.partition(",")[2]) for url in sent] == [large, small, large, mask]


def test_a_large_image_in_the_prompt_is_rejected(client: OpenAI, demo: RunningDemo) -> None:
    demo.state.reset()
    prompt = f"data:image/png;base64,{base64.b64encode(saved(noise((300, 300)), 'PNG')).decode()}"
    with pytest.raises(openai.BadRequestError, match="where no image belongs"):
        client.images.generate(prompt=prompt)
    assert demo.state.calls == 0


@pytest.mark.parametrize("where", ["prompt", "images"])
def test_a_large_incomplete_image_is_rejected(client: OpenAI, demo: RunningDemo, where: str) -> None:
    demo.state.reset()
    url = f"data:image/png;base64,{base64.b64encode(saved(noise((300, 300)), 'PNG')[:-100]).decode()}"
    body = {"prompt": url} if where == "prompt" else {"prompt": "a hat", "images": [{"image_url": url}]}
    with pytest.raises(openai.BadRequestError, match="cut off"):
        client.post("/images/edits" if where == "images" else "/images/generations", body=body, cast_to=object)
    assert demo.state.calls == 0


@pytest.mark.parametrize("edit", [False, True])
def test_a_stream_ends_in_one_completed_event(client: OpenAI, edit: bool) -> None:
    if edit:
        events = list(client.images.edit(model="gpt-image-2", image=png(), prompt="a hat", stream=True))
    else:
        events = list(client.images.generate(model="gpt-image-2", prompt="a fox", stream=True))  # type: ignore[arg-type]
    (event,) = events
    assert event.type == ("image_edit.completed" if edit else "image_generation.completed")
    assert size_of(event.b64_json) == (1024, 1024)
    assert event.usage.total_tokens > 0


def test_models_are_listed(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"gpt-image-2", "gpt-image-2-chat", "chatgpt-image-latest"} <= set(names)
    assert client.models.retrieve("gpt-image-2").id == "gpt-image-2"
    assert client.models.retrieve("dall-e-3").id == "dall-e-3"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_variations_are_retired(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="retired") as caught, pytest.deprecated_call():
        client.images.create_variation(image=png())
    assert caught.value.code == "endpoint_retired"


ERRORS: list[tuple[str, dict[str, Any], type[openai.APIStatusError], str | None, str]] = [
    ("a size that is none", {"size": "1000x1000"}, openai.BadRequestError, "invalid_value", "divisible by 16"),
    ("too many", {"n": 11}, openai.BadRequestError, "integer_above_max_value", "Expected a value <= 10, but got 11"),
    ("an unknown quality", {"quality": "ultra"}, openai.BadRequestError, "invalid_value", "Supported values are"),
    ("an empty prompt", {"prompt": ""}, openai.BadRequestError, "empty_string", "prompt"),
]


@pytest.mark.parametrize(("name", "wrong", "kind", "code", "says"), ERRORS, ids=[row[0] for row in ERRORS])
def test_invalid_input_is_a_typed_exception_and_costs_nothing(
    client: OpenAI,
    demo: RunningDemo,
    name: str,
    wrong: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str | None,
    says: str,
) -> None:
    demo.state.reset()
    with pytest.raises(kind, match=says) as caught:
        client.images.generate(**{"model": "gpt-image-2", "prompt": "a fox", **wrong})
    assert caught.value.code == code
    assert demo.state.calls == 0


def test_a_wrong_key_is_an_authentication_error(limner: RunningLimner) -> None:
    with OpenAI(base_url=f"{limner.url}/v1", api_key="sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.images.generate(prompt="a fox")
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


UPSTREAM: list[tuple[str, type[openai.APIStatusError], str | None]] = [
    ("refuses", openai.BadRequestError, "moderation_blocked"),
    ("refuses-400", openai.BadRequestError, "moderation_blocked"),
    ("content-filter", openai.BadRequestError, "moderation_blocked"),
    ("text-only", openai.BadRequestError, "no_image_in_reply"),
    ("echoes-input", openai.BadRequestError, "no_image_in_reply"),
    ("not-an-image", openai.BadRequestError, "no_image_in_reply"),
    ("empty-choices", openai.BadRequestError, "no_image_in_reply"),
    ("error-401", openai.InternalServerError, "upstream_auth"),
    ("error-500", openai.InternalServerError, "upstream_error"),
    ("html-502", openai.InternalServerError, "upstream_error"),
    ("html-504", openai.InternalServerError, "upstream_timeout"),
    ("broken-json", openai.InternalServerError, "upstream_broken"),
    ("error-429", openai.RateLimitError, "rate_limit_exceeded"),
]


@pytest.mark.parametrize(("model", "kind", "code"), UPSTREAM, ids=[row[0] for row in UPSTREAM])
def test_a_failure_of_the_upstream_is_a_typed_exception(
    demo: RunningDemo, model: str, kind: type[openai.APIStatusError], code: str
) -> None:
    with (
        run_limner(demo.url, upstream_model=model, upstream_attempts=1) as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any", max_retries=0) as client,
        pytest.raises(kind) as caught,
    ):
        client.images.generate(model="gpt-image-2", prompt="a fox")
    assert caught.value.code == code
    again = caught.value.response.headers.get("x-should-retry")
    assert again == (None if kind is openai.RateLimitError else "false")


FORMS = ["gpt-image-2-chat", "markdown", "data-url", "content-parts", "images-field", "b64-json", "json-text", "html", "thinks", "flaky-2", "stream-for-json", "missing-image", "jpeg", "webp", "redirects-3"]  # fmt: skip


@pytest.mark.parametrize("model", FORMS)
@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_every_reply_form_of_the_upstream_is_delivered(demo: RunningDemo, model: str, form: str) -> None:
    with (
        run_limner(demo.url, upstream_model=model) as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any", max_retries=0) as client,
    ):
        answer = client.images.generate(model="gpt-image-2", prompt="a fox", response_format=form)  # type: ignore[call-overload]
        picture = answer.data[0]
        data = (
            httpx.get(picture.url, follow_redirects=True).content
            if form == "url"
            else base64.b64decode(picture.b64_json)
        )
        if form == "url" and model == "missing-image":
            return
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (1024, 1024)
