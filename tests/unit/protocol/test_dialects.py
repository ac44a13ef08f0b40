"""The chat body of each dialect, and every row of its tables."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import orjson
import pytest

from app.protocol import dialects
from app.protocol.dialects import DIALECTS, MARKUP_INSTRUCTION, MASK_INSTRUCTION, ChatQuestion, Dialect, to_image_url
from app.protocol.image_request import ImagesRequest, InputImage, Operation, read_json
from app.protocol.json_stream import Base64String
from app.protocol.sizes import Size

LINK = "https://example.com/source-image.png"


@dataclass(frozen=True)
class Case:
    name: str
    dialect: str
    parameters: dict[str, Any]
    body: dict[str, Any]
    urls: tuple[str, ...] = ()
    stream: bool = False
    mask: bool = False
    markup: bool = False


def messages(text: str, *urls: str) -> list[dict[str, Any]]:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *images]}]


def openrouter(**config: str) -> dict[str, Any]:
    body = {"model": "m", "messages": messages("a cat"), "modalities": ["image", "text"], "stream": False}
    return body | {"image_config": config} if config else body


CASES = [
    Case(
        "the size is put in front of the prompt",
        "gpt-image-2-chat",
        {"prompt": "a cat", "size": "1536x1024"},
        {"model": "m", "messages": messages("1536x1024 'a cat'"), "stream": False},
    ),
    Case(
        "auto is put there too",
        "gpt-image-2-chat",
        {"prompt": "a cat"},
        {"model": "m", "messages": messages("auto 'a cat'"), "stream": False},
    ),
    Case(
        "a larger size is requested in place of a legacy size",
        "gpt-image-2-chat",
        {"prompt": "a cat", "size": "512x512"},
        {"model": "m", "messages": messages("1024x1024 'a cat'"), "stream": False},
    ),
    Case(
        "a size in the prompt has no effect",
        "gpt-image-2-chat",
        {"prompt": "3840x2160 'a cat'"},
        {"model": "m", "messages": messages("auto '3840x2160 'a cat''"), "stream": False},
    ),
    Case(
        "quotes, line breaks and other scripts are not changed",
        "gpt-image-2-chat",
        {"prompt": "it's \"a\"\r\n' 猫 \\ \x00", "size": "1024x1024"},
        {"model": "m", "messages": messages("1024x1024 'it's \"a\"\r\n' 猫 \\ \x00'"), "stream": False},
    ),
    Case(
        "quality goes into metadata, beside the client's own",
        "gpt-image-2-chat",
        {"prompt": "a cat", "quality": "hd", "metadata": {"project": "spring", "size": "1x1"}},
        {
            "model": "m",
            "messages": messages("auto 'a cat'"),
            "metadata": {"project": "spring", "quality": "high"},
            "stream": False,
        },
    ),
    Case(
        "a user and a stream",
        "gpt-image-2-chat",
        {"prompt": "a cat", "user": "u"},
        {"model": "m", "messages": messages("auto 'a cat'"), "user": "u", "stream": True},
        stream=True,
    ),
    Case(
        "images follow the text, in order",
        "gpt-image-2-chat",
        {"prompt": "a cat"},
        {"model": "m", "messages": messages("auto 'a cat'", LINK, "data:image/png;base64,AAAA"), "stream": False},
        urls=(LINK, "data:image/png;base64,AAAA"),
    ),
    Case(
        "a mask is explained inside the quotes",
        "gpt-image-2-chat",
        {"prompt": "a cat"},
        {"model": "m", "messages": messages(f"auto 'a cat\n\n{MASK_INSTRUCTION}'", LINK, LINK), "stream": False},
        urls=(LINK, LINK),
        mask=True,
    ),
    Case(
        "markup is explained inside the quotes",
        "gpt-image-2-chat",
        {"prompt": "a cat"},
        {"model": "m", "messages": messages(f"auto 'a cat\n\n{MARKUP_INSTRUCTION}'", LINK, LINK), "stream": False},
        urls=(LINK, LINK),
        markup=True,
    ),
    Case(
        "other parameters of the client are not sent",
        "gpt-image-2-chat",
        {"prompt": "a cat", "messages": [], "tools": [], "api_base": "h", "style": "vivid", "output_format": "webp"},
        {"model": "m", "messages": messages("auto 'a cat'"), "stream": False},
    ),
    Case(
        "size and quality in metadata",
        "metadata",
        {"prompt": "1x1 'a cat'", "size": "512x512", "quality": "low", "metadata": {"a": "b"}},
        {
            "model": "m",
            "messages": messages("1x1 'a cat'"),
            "metadata": {"a": "b", "size": "1024x1024", "quality": "low"},
            "stream": False,
        },
    ),
    Case(
        "auto in metadata",
        "metadata",
        {"prompt": "a cat"},
        {"model": "m", "messages": messages("a cat"), "metadata": {"size": "auto"}, "stream": False},
    ),
    Case(
        "a mask is explained after the prompt",
        "metadata",
        {"prompt": "a cat"},
        {
            "model": "m",
            "messages": messages(f"a cat\n\n{MASK_INSTRUCTION}", LINK, LINK),
            "metadata": {"size": "auto"},
            "stream": False,
        },
        urls=(LINK, LINK),
        mask=True,
    ),
    Case("OpenRouter without a size", "openrouter", {"prompt": "a cat"}, openrouter()),
    Case(
        "OpenRouter with a ratio alone, whose tier is left to the model",
        "openrouter",
        {"prompt": "a cat", "aspect_ratio": "16:9"},
        openrouter(aspect_ratio="16:9"),
    ),
    Case(
        "OpenRouter with a ratio and a tier",
        "openrouter",
        {"prompt": "a cat", "aspect_ratio": "3:2", "resolution": "4K"},
        openrouter(aspect_ratio="3:2", image_size="4K"),
    ),
    Case(
        "OpenRouter with a tier that it does not have",
        "openrouter",
        {"prompt": "a cat", "aspect_ratio": "3:2", "image_size": "512"},
        openrouter(aspect_ratio="3:2", image_size="1K"),
    ),
    Case(
        "OpenRouter with a size and its ratio",
        "openrouter",
        {"prompt": "a cat", "aspect_ratio": "16:9", "size": "3840x2160"},
        openrouter(aspect_ratio="16:9", image_size="4K"),
    ),
    Case(
        "a ratio becomes a size in front of the prompt",
        "gpt-image-2-chat",
        {"prompt": "a cat", "aspect_ratio": "16:9"},
        {"model": "m", "messages": messages("2048x1152 'a cat'"), "stream": False},
    ),
    Case(
        "OpenRouter with a quality",
        "openrouter",
        {"prompt": "a cat", "quality": "high", "metadata": {"a": "b"}, "user": "u"},
        openrouter(quality="high") | {"metadata": {"a": "b"}, "user": "u"},
    ),
    *(
        Case(
            f"OpenRouter's ratio and tier for {size}",
            "openrouter",
            {"prompt": "a cat", "size": size},
            openrouter(aspect_ratio=ratio, image_size=tier),
        )
        for size, ratio, tier in [
            ("256x256", "1:1", "1K"),
            ("1024x1024", "1:1", "1K"),
            ("832x1248", "2:3", "1K"),
            ("1536x1024", "3:2", "1K"),
            ("1152x1536", "3:4", "1K"),
            ("1536x1152", "4:3", "1K"),
            ("1024x1280", "4:5", "1K"),
            ("1280x1024", "5:4", "1K"),
            ("1024x1792", "9:16", "1K"),
            ("1024x3072", "9:16", "2K"),
            ("2048x1152", "16:9", "2K"),
            ("2688x1152", "21:9", "2K"),
            ("3072x1024", "21:9", "2K"),
            ("2048x2048", "1:1", "2K"),
            ("3840x2160", "16:9", "4K"),
            ("2880x2880", "1:1", "4K"),
        ]
    ),
]


def body_of(case: Case) -> Any:
    request = read_json(Operation.GENERATION, case.parameters)
    if case.mask:
        request = replace(request, mask=InputImage(url=LINK))
    if case.markup:
        request = replace(request, markup=InputImage(url=LINK))
    return orjson.loads(sent(ChatQuestion(request, case.urls, case.stream), case.dialect))


def sent(question: ChatQuestion, dialect: str, model: str = "m") -> bytes:
    body = question.body(dialect, model)
    data = b"".join(body.chunks())
    assert len(data) == body.length
    return data


def fits(case: Case) -> bool:
    return bool(body_of(case) == case.body) and asks_for_images_alone()


def asks_for_images_alone() -> bool:
    """Check what is sent to a model that cannot answer with words, beside the body for other models."""
    question = ChatQuestion(ImagesRequest(operation=Operation.GENERATION, prompt="a cat"))
    bodies = [question.body("openrouter", "m", other_modalities=other) for other in (False, True)]
    wanted = [orjson.loads(b"".join(body.chunks())).get("modalities") for body in bodies]
    return wanted == [["image", "text"], ["image"]] and question.body("openrouter", "m") is bodies[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bodies(case: Case) -> None:
    assert body_of(case) == case.body


def test_a_model_that_cannot_answer_with_words_is_asked_for_images_alone() -> None:
    assert asks_for_images_alone()


def test_every_dialect_has_a_case() -> None:
    assert {case.dialect for case in CASES} == set(DIALECTS)


TRAITS = [
    (name, trait.name, trait.default)
    for name, dialect in DIALECTS.items()
    for trait in fields(Dialect)
    if trait.default is not MISSING and getattr(dialect, trait.name) != trait.default
]


@pytest.mark.parametrize(("name", "trait", "default"), TRAITS)
def test_every_trait_of_a_dialect_is_needed(
    name: str, trait: str, default: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DIALECTS, name, replace(DIALECTS[name], **{trait: default}))
    assert not all(map(fits, CASES))


@pytest.mark.parametrize("ratio", dialects.ASPECT_RATIOS)
def test_every_ratio_is_needed(ratio: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialects, "ASPECT_RATIOS", tuple(other for other in dialects.ASPECT_RATIOS if other != ratio))
    assert not all(map(fits, CASES))


@pytest.mark.parametrize("tier", dialects.RESOLUTION_TIERS, ids=str)
def test_every_tier_is_needed(tier: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        dialects, "RESOLUTION_TIERS", tuple(other for other in dialects.RESOLUTION_TIERS if other != tier)
    )
    assert not all(map(fits, CASES))


def test_the_documented_example_to_the_byte() -> None:
    prompt = "参考这张图片,生成一张产品海报。保留主体风格,背景换成明亮的摄影棚。"
    request = ImagesRequest(operation=Operation.EDIT, prompt=prompt, size=Size(3840, 2160))
    question = ChatQuestion(request, (LINK,))
    assert sent(question, "gpt-image-2-chat", "gpt-image-2-chat").decode() == (
        '{"model":"gpt-image-2-chat","messages":[{"role":"user","content":['
        f'{{"type":"text","text":"3840x2160 \'{prompt}\'"}},'
        f'{{"type":"image_url","image_url":{{"url":"{LINK}"}}}}]}}],"stream":false}}'
    )


def test_images_may_be_base64_strings() -> None:
    request = ImagesRequest(operation=Operation.EDIT, prompt="a cat")
    image = Base64String(Bytes(b"abc"), "data:image/png;base64,")
    body = orjson.loads(sent(ChatQuestion(request, (image,), stream=True), "metadata"))
    assert body["messages"] == messages("a cat", "data:image/png;base64,YWJj")


def test_a_body_is_built_once_for_each_dialect_and_model() -> None:
    question = ChatQuestion(ImagesRequest(operation=Operation.GENERATION, prompt="a cat"))
    body = question.body("metadata", "m")
    assert question.body("metadata", "m") is body
    assert question.body("openrouter", "m") is not body
    assert question.body("metadata", "other") is not body
    assert [orjson.loads(sent(question, "metadata", model))["model"] for model in ("m", "other")] == ["m", "other"]


def test_questions_are_compared_without_their_bodies() -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a cat")
    question = ChatQuestion(request)
    question.body("metadata", "m")
    assert question == ChatQuestion(request)


class Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def write(self, data: bytes) -> None: ...

    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def chunks(self, size: int) -> Iterator[bytes]:
        yield self._data


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "image/png"),
        (b"\xff\xd8\xff\xe0" + bytes(30), "image/jpeg"),
        (b"?", "application/octet-stream"),
    ],
)
def test_bytes_become_data_urls_with_the_type_that_they_have(data: bytes, media_type: str) -> None:
    source = Bytes(data)
    assert to_image_url(source) == Base64String(source, f"data:{media_type};base64,")


def test_links_are_not_changed() -> None:
    assert to_image_url("https://h/a.png") == "https://h/a.png"
