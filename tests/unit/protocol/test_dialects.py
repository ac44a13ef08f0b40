"""The chat body of each dialect: a golden body for each row of the table, and how operators may change it."""

from dataclasses import dataclass, fields, replace
from typing import Any

import orjson
import pytest

from app.protocol.chat_request import MARKUP_INSTRUCTION, ChatRequest
from app.protocol.dialects import BUCKETS, DIALECTS, MASK_INSTRUCTION, Dialect, RequestedSize, nearest_tier
from app.protocol.input_images import InputImage
from app.protocol.parameters import Operation
from app.protocol.request_parser import read_json
from app.protocol.sizes import Size, parse_size
from app.protocol.tiers import TIERS
from tests.support.chat_messages import LINK, messages, sent


@dataclass(frozen=True)
class Case:
    name: str
    dialect: str
    parameters: dict[str, Any]
    body: dict[str, Any]
    urls: tuple[str, ...] = ()
    stream: bool = False
    other_modalities: bool = False
    mask: bool = False
    markup: bool = False


def openrouter(**config: str) -> dict[str, Any]:
    body = {"model": "m", "messages": messages("a cat"), "modalities": ["image", "text"], "stream": False}
    return body | {"image_config": config} if config else body


#: Every wish that a dialect may carry, besides the size.
EVERYTHING = {
    "prompt": "a cat",
    "quality": "high",
    "style": "vivid",
    "background": "transparent",
    "user": "u",
    "metadata": {"a": "b"},
}

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
        "OpenRouter with the smallest tier",
        "openrouter",
        {"prompt": "a cat", "aspect_ratio": "3:2", "image_size": "512"},
        openrouter(aspect_ratio="3:2", image_size="0.5K"),
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
            ("1024x3072", "1:4", "2K"),
            ("2048x1152", "16:9", "2K"),
            ("2688x1152", "21:9", "2K"),
            ("3072x1024", "21:9", "2K"),
            ("2048x2048", "1:1", "2K"),
            ("3840x2160", "16:9", "4K"),
            ("2880x2880", "1:1", "4K"),
        ]
    ),
    Case(
        "words tell size, quality, style and background after the prompt, and nothing else is sent",
        "words",
        {**EVERYTHING, "size": "1536x1024"},
        {
            "model": "m",
            "messages": messages(
                "a cat\n\nSize of the image: 1536x1024 pixels. Quality of the image: high. Style of the image: vivid. "
                "Background of the image: transparent."
            ),
            "stream": False,
        },
    ),
    Case(
        "words about a mask come before those about the size",
        "words",
        {"prompt": "a cat", "size": "1536x1024"},
        {
            "model": "m",
            "messages": messages(f"a cat\n\n{MASK_INSTRUCTION}\n\nSize of the image: 1536x1024 pixels.", LINK, LINK),
            "stream": False,
        },
        urls=(LINK, LINK),
        mask=True,
    ),
    Case(
        "no words without a wish",
        "words",
        {"prompt": "a cat"},
        {"model": "m", "messages": messages("a cat"), "stream": False},
    ),
    Case(
        "the fields of the Images API at the top",
        "top-level",
        {**EVERYTHING, "size": "512x512"},
        {
            "model": "m",
            "messages": messages("a cat"),
            "n": 1,
            "user": "u",
            "stream": False,
            "size": "1024x1024",
            "quality": "high",
            "style": "vivid",
            "background": "transparent",
        },
    ),
    *(
        Case(
            f"the nearest of the allowed sizes for {size}",
            "buckets",
            {**EVERYTHING, "size": size},
            {
                "model": "m",
                "messages": messages("a cat"),
                "user": "u",
                "stream": False,
                "size": bucket,
                "quality": "high",
            },
        )
        for size, bucket in [
            ("1024x1024", "1024x1024"),
            ("1536x1024", "1248x832"),
            ("1024x1536", "832x1248"),
            ("1792x1024", "1344x768"),
            ("2048x1152", "2688x1536"),
            ("3840x2160", "3840x2160"),
            ("2448x1632", "2496x1664"),
            ("3072x1024", "3072x1344"),
        ]
    ),
    Case(
        "ratio and tier where Google reads them",
        "google",
        {**EVERYTHING, "size": "2064x1152"},
        {
            "model": "m",
            "messages": messages("a cat"),
            "user": "u",
            "stream": False,
            "extra_body": {"google": {"image_config": {"aspect_ratio": "16:9", "image_size": "2K"}}},
        },
    ),
    Case(
        "Google without a size",
        "google",
        {"prompt": "a cat"},
        {"model": "m", "messages": messages("a cat"), "stream": False},
    ),
    Case(
        "Vercel's modalities, with the ratio in words",
        "vercel",
        {**EVERYTHING, "size": "1824x1024"},
        {
            "model": "m",
            "messages": messages(
                "a cat\n\nAspect ratio of the image: 16:9. Quality of the image: high. Background of the image: transparent."
            ),
            "modalities": ["text", "image"],
            "user": "u",
            "stream": False,
        },
    ),
    Case(
        "Vercel's models that only paint",
        "vercel",
        {"prompt": "a cat"},
        {"model": "m", "messages": messages("a cat"), "modalities": ["image"], "stream": False},
        other_modalities=True,
    ),
    Case(
        "OpenRouter's models that only paint",
        "openrouter",
        {"prompt": "a cat"},
        openrouter() | {"modalities": ["image"]},
        other_modalities=True,
    ),
    Case(
        "nothing but words and the stream for Poe",
        "poe",
        {**EVERYTHING, "size": "1824x1024"},
        {
            "model": "m",
            "messages": messages(
                "a cat\n\nAspect ratio of the image: 16:9. Quality of the image: high. Background of the image: transparent."
            ),
            "stream": True,
        },
        stream=True,
    ),
]


def body_of(case: Case) -> Any:
    request = read_json(Operation.GENERATION, case.parameters)
    if case.mask:
        request = replace(request, mask=InputImage(url=LINK))
    if case.markup:
        request = replace(request, markup=InputImage(url=LINK))
    chat = ChatRequest(request, case.urls, case.stream)
    return orjson.loads(sent(chat, DIALECTS[case.dialect], other_modalities=case.other_modalities))


def fits(case: Case) -> bool:
    return bool(body_of(case) == case.body)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_body_is_written_in_its_dialect(case: Case) -> None:
    assert body_of(case) == case.body


def test_every_dialect_has_a_case() -> None:
    assert {case.dialect for case in CASES} == set(DIALECTS)


TRAITS = [
    (name, trait.name)
    for name, dialect in DIALECTS.items()
    for trait in fields(Dialect)
    if getattr(dialect, trait.name) != getattr(Dialect(), trait.name)
]


@pytest.mark.parametrize(("name", "trait"), TRAITS)
def test_every_trait_of_a_dialect_is_needed(name: str, trait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIALECTS, name, replace(DIALECTS[name], **{trait: getattr(Dialect(), trait)}))
    assert not all(map(fits, CASES))


@pytest.mark.parametrize("ratio", DIALECTS["google"].ratios)
def test_every_common_ratio_is_needed(ratio: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, dialect in DIALECTS.items():
        fewer = tuple(other for other in dialect.ratios if other != ratio)
        monkeypatch.setitem(DIALECTS, name, replace(dialect, ratios=fewer))
    assert not all(map(fits, CASES))


@dataclass(frozen=True, slots=True)
class Written:
    """How a dialect of a test writes a size at the path `size`."""

    name: str
    size: str
    written: str
    form: str = "WxH"
    sizes: tuple[str, ...] = ()
    ratios: tuple[str, ...] = ()
    tiers: tuple[str, ...] = tuple(TIERS)


WRITTEN = [
    Written("a star between width and height", "1536x1024", "1536*1024", form="W*H"),
    Written("a star in a size of a list", "1792x1008", "1792*1024", form="W*H", sizes=("1024x1024", "1792x1024")),
    Written("the ratio as it is", "1824x1024", "57:32", form="ratio"),
    Written("the ratio in its smallest numbers", "1536x1024", "3:2", form="ratio"),
    Written("the nearest ratio, for one that is as far from the next as that is from it", "1536x1152", "4:3", form="ratio", ratios=("1:1", "4:3", "16:9")),
    Written("a wide ratio of some models", "3072x1024", "4:1", form="ratio", ratios=("16:9", "4:1")),
    Written("a small tier", "704x704", "0.5K", form="tier"),
    Written("a tier at its limit", "2048x1024", "1K", form="tier"),
    Written("a tier above its limit", "2064x1024", "2K", form="tier"),
    Written("the largest tier there is", "3840x2160", "1K", form="tier", tiers=("0.5K", "1K")),
    Written("no tier below the smallest there is", "1024x1024", "2K", form="tier", tiers=("2K", "4K")),
    Written("the size of a list with the nearest ratio, though another has more of its pixels", "1536x1024", "750x500", sizes=("750x500", "1254x1254")),
    Written("of two sizes of a list with one ratio, the one with the nearest pixels", "1536x1024", "1200x800", sizes=("600x400", "1200x800", "6000x4000")),
]  # fmt: skip


@pytest.mark.parametrize("case", WRITTEN, ids=lambda case: case.name)
def test_sizes_are_written(case: Written) -> None:
    limits = {"0.5K": 512 * 1024, "1K": 2**21} | {tier: TIERS[tier].max_pixels for tier in ("2K", "4K")}
    assert limits == {name: tier.max_pixels for name, tier in TIERS.items()}
    dialect = Dialect(size={"size": case.form}, sizes=case.sizes, ratios=case.ratios, tiers=case.tiers)
    width, height = map(int, case.size.split("x"))
    assert dialect.size_at("size", RequestedSize(Size(width, height))) == case.written


@pytest.mark.parametrize("ratio", DIALECTS["openrouter"].ratios)
def test_every_ratio_of_openrouter_is_written(ratio: str) -> None:
    width, height = (100 * int(part) for part in ratio.split(":"))
    assert DIALECTS["openrouter"].size_at("image_config.aspect_ratio", RequestedSize(Size(width, height))) == ratio


SUFFIXES = {"1:1": "", "16:9": "-16x9", "1K": "", "4K": "-4k", "1024x1024": ":small", "3840x2160": ":large"}


@pytest.mark.parametrize(
    ("size", "model"),
    [
        ({}, "m"),
        ({"size": "1024x1024"}, "m:small"),
        ({"size": "1824x1024"}, "m:large-16x9"),
        ({"size": "3840x2160"}, "m:large-16x9-4k"),
        ({"size": "2880x2880"}, "m:small-4k"),
        ({"aspect_ratio": "1:1", "resolution": "4K"}, "m:small-4k"),
        ({"aspect_ratio": "1:1"}, "m:small"),
    ],
)
def test_a_model_has_suffixes_for_sizes_ratios_and_tiers(size: dict[str, str], model: str) -> None:
    dialect = Dialect(model_suffixes=SUFFIXES)
    request = read_json(Operation.GENERATION, {"prompt": "a cat", **size})
    assert orjson.loads(sent(ChatRequest(request), dialect))["model"] == model


@pytest.mark.parametrize(
    ("suffixes", "model"),
    [
        pytest.param({"1:1": "", "16:9": "-wide"}, "m-wide", id="the family has ratios alone"),
        pytest.param({"1K": "", "4K": "-4k"}, "m-4k", id="the family has tiers alone"),
        pytest.param({"1024x1024": "-small", "3840x2160": "-large"}, "m-large", id="the family has sizes alone"),
    ],
)
def test_a_model_has_suffixes_of_one_kind(suffixes: dict[str, str], model: str) -> None:
    request = read_json(Operation.GENERATION, {"prompt": "a cat", "size": "3840x2160"})
    assert orjson.loads(sent(ChatRequest(request), Dialect(model_suffixes=suffixes)))["model"] == model


def test_a_small_size_has_the_smallest_tier() -> None:
    # No size that clients may request is so small.
    assert nearest_tier(DIALECTS["openrouter"].tiers, RequestedSize(Size(704, 704))) == "0.5K"


def test_qualities_are_translated() -> None:
    dialect = Dialect(quality=("quality", "style.quality"), qualities={"high": "hd"})
    for quality, written in (("high", "hd"), ("low", "low")):
        body = orjson.loads(
            sent(ChatRequest(read_json(Operation.GENERATION, {"prompt": "a", "quality": quality})), dialect)
        )
        assert (body["quality"], body["style"]) == (written, {"quality": written})


def test_constants_are_merged_below_what_is_asked_for() -> None:
    constants = {"image": {"size": "1x1", "seed": 7}, "metadata": {"a": "ours", "team": "x"}, "user": "nobody"}
    dialect = Dialect(size={"image.size": "WxH", "image.format.size": "WxH"}, extra_body=constants)
    wishes = {"prompt": "a", "size": "1024x1024", "metadata": {"a": "theirs"}}
    body = orjson.loads(sent(ChatRequest(read_json(Operation.GENERATION, wishes)), dialect))
    assert body["image"] == {"size": "1024x1024", "seed": 7, "format": {"size": "1024x1024"}}
    assert (body["metadata"], body["user"]) == ({"a": "theirs", "team": "x"}, "nobody")
    assert constants["image"] == {"size": "1x1", "seed": 7}


def test_a_path_through_a_constant_replaces_it() -> None:
    dialect = Dialect(size={"image.size": "WxH"}, extra_body={"image": "auto"})
    request = read_json(Operation.GENERATION, {"prompt": "a", "size": "1024x1024"})
    assert orjson.loads(sent(ChatRequest(request), dialect))["image"] == {"size": "1024x1024"}


def test_a_dialect_may_say_nothing_or_something_else_about_a_mask() -> None:
    request = replace(read_json(Operation.GENERATION, {"prompt": "a"}), mask=InputImage(url=LINK))
    for mask, text in (("", "a"), ("Edit there.", "a\n\nEdit there.")):
        body = orjson.loads(sent(ChatRequest(request), Dialect(mask=mask)))
        assert body["messages"] == messages(text)


def test_the_sizes_of_the_list_are_legal() -> None:
    assert [str(parse_size(size)) for size in BUCKETS] == list(BUCKETS)


def test_a_dialect_names_the_fields_that_it_fills() -> None:
    dialect = Dialect(
        size={"prefix": "WxH", "options.size": "WxH"},
        quality=("words", "quality"),
        style=("options.style",),
        background=("options.back",),
        other_modalities=("image",),
        extra_body={"n": 1, "options": {"seed": 7, "extra": {}}, "quality": "low"},
    )
    assert dialect.fields == (
        *(
            "options.back",
            "options.size",
            "options.style",
            "quality",
            "modalities",
            "n",
            "options.seed",
            "options.extra",
        ),
    )
    assert DIALECTS["openrouter"].fields[-1] == "modalities"
    assert DIALECTS["words"].fields == ()
