"""Each family of the demo upstream: where it reads size and quality, what it makes of them, what it refuses, its reply."""

from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from app.demo.chat_request import DemoApiError, Wish, parse_chat_request
from app.demo.families import FAMILIES
from tests.support.servers import RunningDemo

BY_NAME = {family.name: family for family in FAMILIES}

#: Every place at once, each with a size of its own.
EVERYWHERE = {
    "metadata": {"size": "1024x1536", "quality": "low"},
    "size": "1344x768",
    "quality": "medium",
    "image_config": {"aspect_ratio": "3:4", "quality": "high"},
    "extra_body": {"google": {"image_config": {"aspect_ratio": "4:5"}}},
    "modalities": ["image"],
}


def image_config(**config: Any) -> dict[str, Any]:
    return {"image_config": config, "modalities": ["image"]}


def google(**config: Any) -> dict[str, Any]:
    return {"extra_body": {"google": {"image_config": config}}}


@dataclass(frozen=True)
class Case:
    name: str
    family: str
    text: str = "a fox"
    body: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (1024, 1024)
    quality: str = "auto"


CASES = (
    Case("a prefix wins over everything", "gpt-image-2-chat", "1536x1024 'a fox'", EVERYWHERE, (1536, 1024), "low"),
    Case("metadata counts without a prefix", "gpt-image-2-chat", "a fox", EVERYWHERE, (1024, 1536), "low"),
    Case("auto is no wish", "gpt-image-2-chat", "auto 'a fox'"),
    Case("a prefix is a part of the prompt", "metadata", "1536x1024 'a fox'"),
    Case("metadata alone counts", "metadata", "1536x1024 'a fox'", EVERYWHERE, (1024, 1536), "low"),
    Case("only words count", "words", "a fox", EVERYWHERE, (1254, 1254)),
    Case("the ratio of a size in words", "words", "a fox. Size of the image: 1536x1024 pixels.", {}, (1536, 1024)),
    Case("the last of two sizes", "words", "1024x1024 'a fox' in 9:16. Quality: High.", {}, (940, 1672), "high"),
    Case("a time of day is no ratio", "words", "a clock at 12:01", {}, (1254, 1254)),
    Case("quality in a sentence", "words", "a fox. Quality of the image: low.", {}, (1254, 1254), "low"),
    Case("the nearest of three sizes", "top-level", "a fox", EVERYWHERE, (1792, 1024), "medium"),
    Case("words of the older API", "top-level", "a fox", {"size": "auto", "quality": "hd"}, quality="hd"),
    Case("a size of the list", "buckets", "a fox", EVERYWHERE, (1344, 768), "medium"),
    Case("no size", "buckets"),
    Case("a ratio makes its own pixels", "google", "a fox", google(aspect_ratio="4:5"), (896, 1152)),
    Case("a tier multiplies them", "google", "a fox", google(aspect_ratio="21:9", image_size="2K"), (3072, 1344)),
    Case("neither", "google", "16:9 'a fox'"),
    Case("the ratio at its place, quality beside it", "openrouter", "a fox", EVERYWHERE, (864, 1184), "high"),
    Case("a rare ratio", "openrouter", "a fox", image_config(aspect_ratio="1:8"), (352, 2816)),
    Case("a small tier", "openrouter", "a fox", image_config(image_size="0.5K"), (512, 512)),
    Case("a ratio in words", "vercel", "a fox. Aspect ratio of the image: 16:9.", EVERYWHERE, (1344, 768)),
    Case("a ratio in words", "poe", "a fox. Aspect ratio of the image: 2:3.", {"stream": True}, (832, 1248)),
)


def ask(text: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]} | body


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}: {case.name}")
def test_a_family_reads_only_its_own_places(case: Case) -> None:
    request = parse_chat_request(ask(case.text, case.body), BY_NAME[case.family].read)
    assert ((request.width, request.height), request.quality) == (case.size, case.quality)


def test_a_prefix_is_taken_off_the_prompt_only_where_it_is_read() -> None:
    body = {"openrouter": {"modalities": ["image"]}}
    wishes = {family.name: family.read(body.get(family.name, {}), "1536x1024 'a fox'").prompt for family in FAMILIES}
    assert wishes.pop("gpt-image-2-chat") == "a fox"
    assert set(wishes.values()) == {"1536x1024 'a fox'"}


@dataclass(frozen=True)
class Refusal:
    name: str
    family: str
    body: dict[str, Any]
    words: str
    status: int = 400


REFUSALS = (
    Refusal("a size against the rules", "metadata", {"metadata": {"size": "17x17"}}, "Invalid size '17x17'."),
    Refusal("an unknown quality", "metadata", {"metadata": {"quality": "hd"}}, "Invalid value: 'hd'."),
    Refusal("a size that is none", "top-level", {"size": "16:9"}, "Invalid size '16:9'."),
    Refusal("a size that is not on the list", "buckets", {"size": "1536x1024"}, "Supported sizes are: 1024x1024, "),
    Refusal("a field that Google lacks", "google", {"metadata": {}, "size": "1x1"}, 'name "size": Cannot find field.'),
    Refusal("a ratio that Google lacks", "google", google(aspect_ratio="1:8"), "image_config.aspect_ratio: '1:8'"),
    Refusal("a tier that Google lacks", "google", google(image_size="0.5K"), "must be one of: 1K, 2K, 4K."),
    Refusal("words, too", "openrouter", {"modalities": ["image", "text"]}, "output modalities: image, text", 404),
    Refusal("no modalities", "openrouter", {}, "output modalities: text", 404),
    Refusal("a custom parameter", "poe", {"metadata": {}}, "Unsupported parameter: 'metadata'."),
)


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case.family}: {case.name}")
def test_a_family_refuses(case: Refusal) -> None:
    with pytest.raises(DemoApiError) as caught:
        parse_chat_request(ask("a fox", case.body), BY_NAME[case.family].read)
    assert caught.value.status == case.status
    assert case.words in caught.value.body["error"]["message"]


def test_a_wish_has_pixels() -> None:
    assert BY_NAME["words"].read({}, "a fox") == Wish(1254, 1254, "auto", "a fox")


def answer(demo: RunningDemo, family: str, **body: Any) -> Any:
    request = ask("a fox", {"model": f"as-{family}"} | body)
    return httpx.post(f"{demo.url}/v1/chat/completions", json=request, trust_env=False, timeout=20).json()


@pytest.mark.parametrize("family", sorted(set(BY_NAME) - {"buckets", "google", "openrouter", "vercel"}))
def test_a_family_answers_with_a_link(demo: RunningDemo, family: str) -> None:
    text = answer(demo, family)["choices"][0]["message"]["content"]
    start = {"gpt-image-2-chat": "已生成图片:http", "poe": "http"}.get(family, "![image](http")
    assert text.startswith(start)
    assert text.endswith("?w=1024&h=1024") == (family == "poe")


def test_a_family_answers_with_a_body_of_the_images_api_to_a_stream_too(demo: RunningDemo) -> None:
    body = answer(demo, "buckets", stream=True)
    assert set(body) == {"created", "data", "usage"}
    assert body["data"][0]["url"].startswith("http")


def test_a_family_answers_with_a_data_url(demo: RunningDemo) -> None:
    assert answer(demo, "google")["choices"][0]["message"]["content"].startswith("![image](data:image/png;base64,")


def test_a_family_answers_with_images_beside_the_text_and_says_the_cost(demo: RunningDemo) -> None:
    body = answer(demo, "openrouter", modalities=["image"])
    assert body["choices"][0]["message"]["images"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert body["usage"]["cost"] == 0.04


def test_a_family_answers_in_words_without_the_modality(demo: RunningDemo) -> None:
    assert "images" not in answer(demo, "vercel")["choices"][0]["message"]
    assert answer(demo, "vercel", modalities=["text", "image"])["choices"][0]["message"]["images"]
