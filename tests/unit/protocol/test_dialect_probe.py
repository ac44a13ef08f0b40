"""Which questions are asked of an upstream, and what is concluded, for upstreams that read sizes here or there."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from app.protocol.chat_request import ChatRequest, chat_body
from app.protocol.dialect_probe import (
    FEW_SIZES,
    GOOGLE,
    METADATA,
    OLD_QUALITIES,
    OPENROUTER,
    PLACES,
    PROMPT,
    RATIO,
    SIZE,
    Answer,
    DialectProbe,
    Question,
    names_modalities,
)
from app.protocol.dialects import BUCKETS, COMMON_RATIOS, PREFIX, WORDS, Dialect
from app.protocol.parameters import Operation
from app.protocol.request_parser import read_json
from app.protocol.sizes import Size

Upstream = Callable[[Question], Answer]
Make = Callable[[str], Size]

SQUARE = Size(1024, 1024)


def pixels(value: str) -> Size:
    """Make exactly what is asked for; of a ratio, about a megapixel."""
    width, height = map(int, re.split("[x:]", value))
    return Size(width, height) if "x" in value else own_pixels(value)


def own_pixels(value: str) -> Size:
    """Make a size of its own with the ratio that is asked for."""
    width, height = map(int, re.split("[x:]", value))
    edge = (1254 * 1254 / (width * height)) ** 0.5
    return Size(round(width * edge / 16) * 16, round(height * edge / 16) * 16)


def nearest(sizes: tuple[str, ...]) -> Make:
    def make(value: str) -> Size:
        wanted = pixels(value)
        choice = min(
            sizes, key=lambda each: abs(pixels(each).width / pixels(each).height - wanted.width / wanted.height)
        )
        return pixels(choice)

    return make


def refused(question: Question, words: str, *, may_have_cost: bool = False) -> Answer:
    return Answer(question, words=words, may_have_cost=may_have_cost)


def silent(question: Question) -> Answer:
    return Answer(question, words="Which colors?", is_reply=True)


def reads(*places: str, make: Make = pixels, form: str = "link", otherwise: Size = SQUARE) -> Upstream:
    """Return an upstream that reads the first of these places that has a size."""

    def answer(question: Question) -> Answer:
        value = next((question.sizes[place] for place in places if place in question.sizes), None)
        return Answer(question, otherwise if value is None else make(value), form)

    return answer


def refusing(upstream: Upstream, words: str, is_refused: Callable[[Question], bool]) -> Upstream:
    return lambda question: refused(question, words) if is_refused(question) else upstream(question)


def having(*places: str) -> Callable[[Question], bool]:
    return lambda question: any(place in question.sizes for place in places)


def unknown_fields(upstream: Upstream, *known: str) -> Upstream:
    """Refuse the first place, or `modalities` or `stream`, that is not known, by its name."""

    def answer(question: Question) -> Answer:
        sent = ["modalities"] * bool(question.modalities) + ["stream"] * question.stream
        sent += [place for place in question.sizes if place not in {PREFIX, WORDS}]
        unknown = next((name for name in sent if name not in known), None)
        return upstream(question) if unknown is None else refused(question, f"Unknown parameter: '{unknown}'")

    return answer


def only_with(modalities: tuple[str, ...], upstream: Upstream) -> Upstream:
    words = "No endpoints found that support the requested output modalities"
    return refusing(upstream, words, lambda question: question.modalities != modalities)


def needing_modalities(upstream: Upstream) -> Upstream:
    return lambda question: upstream(question) if question.modalities else silent(question)


def taking(values: tuple[str, ...], place: str, upstream: Upstream) -> Upstream:
    """Refuse other values at a place, and quote them."""

    def answer(question: Question) -> Answer:
        value = question.sizes.get(place, values[0])
        return upstream(question) if value in values else refused(question, f"Invalid value '{value}'. Take 4:3.")

    return answer


@dataclass(frozen=True)
class Case:
    name: str
    upstream: Upstream
    table: Mapping[str, Any]
    place: str | None
    images: int
    requests: int = 0


def preset(name: str, **more: Any) -> dict[str, Any]:
    return {"preset": name, **more}


ALL = tuple(place.path for place in PLACES)
OWN_RATIO = {"size": {RATIO: "ratio"}, "ratios": list(COMMON_RATIOS), "send": ["user", "stream"]}

CASES = (
    Case("the prefix, and metadata without one", reads(PREFIX, METADATA), preset("gpt-image-2-chat"), PREFIX, 2),
    Case("the prefix alone", reads(PREFIX), preset("gpt-image-2-chat"), PREFIX, 2),
    Case("metadata", reads(METADATA), preset("metadata"), METADATA, 2),
    Case("metadata, with sizes of its own", reads(METADATA, make=own_pixels), preset("metadata"), METADATA, 2),
    Case("metadata, with other values", taking(("1536x1024",), METADATA, reads(METADATA)), preset("metadata"), METADATA, 2, 3),
    Case("metadata that wants a quality of other words", refusing(reads(METADATA), "Bad quality", lambda question: question.with_quality), preset("metadata", quality=[]), METADATA, 2, 3),
    Case("a shape like the one asked for in metadata, by chance", reads(WORDS, otherwise=Size(1344, 768)), preset("words"), WORDS, 3),
    Case("metadata, and then an error", refusing(reads(METADATA), "?", having(PREFIX)), preset("metadata"), METADATA, 1, 3),
    Case("metadata, and then another value is refused", refusing(reads(METADATA), "metadata is wrong", having(PREFIX)), preset("metadata"), METADATA, 1, 2),
    Case("metadata, with modalities only", needing_modalities(reads(METADATA)), preset("metadata", modalities=["image", "text"]), METADATA, 3),
    Case("words behind the prompt", reads(WORDS, make=own_pixels), preset("words"), WORDS, 2),
    Case("the first words of the prompt", reads(PREFIX, WORDS, make=own_pixels), preset("words"), WORDS, 3),
    Case("the size before the prompt as words, and no sentence", reads(PREFIX, make=own_pixels), preset("gpt-image-2-chat"), PREFIX, 3),
    Case("no size at all", reads(), preset("words"), None, 2),
    Case("words, but no field", unknown_fields(reads(WORDS, make=own_pixels), "stream"), preset("poe"), WORDS, 1, 7),
    Case("words, but no field and no stream", unknown_fields(reads(WORDS, make=own_pixels)), preset("poe", send=[]), WORDS, 1, 8),
    Case("words and modalities", reads(WORDS, make=own_pixels, form="field"), preset("vercel"), WORDS, 2),
    Case("words and one modality", only_with(("image",), reads(WORDS, form="field")), preset("vercel", modalities=["image"]), WORDS, 2, 3),
    Case("any top-level size", reads(SIZE), preset("top-level"), SIZE, 1),
    Case("three top-level sizes, refused otherwise", taking(FEW_SIZES, SIZE, reads(SIZE)), preset("top-level", sizes=list(FEW_SIZES)), SIZE, 1, 3),
    Case("three top-level sizes, the nearest", reads(SIZE, make=nearest(FEW_SIZES)), preset("top-level", sizes=list(FEW_SIZES)), SIZE, 2),
    Case("a list of sizes, refused otherwise", taking(BUCKETS, SIZE, reads(SIZE)), preset("buckets"), SIZE, 1, 2),
    Case("a list of sizes, the nearest", reads(SIZE, make=nearest(BUCKETS)), preset("buckets"), SIZE, 2),
    Case("a list of sizes that the refusal does not quote", refusing(reads(SIZE), "Size is not allowed", lambda question: question.sizes.get(SIZE) == "832x1456"), preset("buckets"), SIZE, 1, 2),
    Case("a top-level size, and the qualities of dall-e-3", refusing(reads(SIZE), "Invalid quality: take 'standard' or 'hd'", lambda question: question.with_quality), preset("top-level", qualities=OLD_QUALITIES), SIZE, 1, 2),
    Case("no value of a field that is named", refusing(reads(WORDS), "size is wrong", having(SIZE)), preset("words"), WORDS, 2, 6),
    Case("Google's field, and no other", unknown_fields(reads(GOOGLE), GOOGLE, "stream"), preset("google"), GOOGLE, 2, 7),
    Case("Google's field among others", reads(GOOGLE), preset("google"), GOOGLE, 2),
    Case("Google's field, with modalities only", needing_modalities(reads(GOOGLE)), preset("google", modalities=["image", "text"]), GOOGLE, 3),
    Case("Google's field, and a confirmation that fails", refusing(reads(GOOGLE), "?", lambda question: len(question.sizes) == 1), preset("google"), GOOGLE, 1, 3),
    Case("OpenRouter's field", reads(OPENROUTER), preset("openrouter"), OPENROUTER, 1),
    Case("OpenRouter's field, images alone", only_with(("image",), reads(OPENROUTER)), preset("openrouter", modalities=["image"]), OPENROUTER, 1, 2),
    Case("OpenRouter's field, no modalities", only_with((), reads(OPENROUTER)), preset("openrouter", modalities=[]), OPENROUTER, 1, 3),
    Case("OpenRouter's field, with common ratios", taking(("3:2",), OPENROUTER, reads(OPENROUTER)), preset("openrouter"), OPENROUTER, 1, 2),
    Case("OpenRouter's field, without metadata", refusing(reads(OPENROUTER), "metadata: Extra inputs are not permitted", having(METADATA)), preset("openrouter", send=["user", "stream"]), OPENROUTER, 1, 2),
    Case("a field that no preset has", reads(RATIO), OWN_RATIO, RATIO, 2),
    Case("a model that is tall by itself", reads(otherwise=Size(832, 1152)), preset("words"), None, 2),
    Case("a model that is wide by itself", reads(otherwise=Size(1536, 1024)), preset("words"), None, 2),
    Case("a model that is tall by itself and takes no field", unknown_fields(reads(otherwise=Size(832, 1152)), "stream"), preset("poe"), None, 2, 8),
    Case("a refusal of one field that names nothing", refusing(reads(OPENROUTER), "Bad request", having(METADATA)), preset("openrouter", send=["user", "stream"]), OPENROUTER, 3, 5),
    Case("a refusal of all fields that names nothing", refusing(reads(WORDS, make=own_pixels), "Bad request", having(*ALL)), preset("poe"), WORDS, 1, 7),
    Case("a refusal of modalities that names nothing", refusing(reads(WORDS, make=own_pixels), "Bad request", lambda question: bool(question.modalities)), preset("poe"), WORDS, 1, 9),
    Case("a refusal of streams that names nothing", refusing(reads(WORDS, make=own_pixels), "Bad request", lambda question: question.stream), preset("poe", send=[]), WORDS, 1, 10),
    Case("a refusal of everything", lambda question: refused(question, "Bad request"), preset("poe", send=[]), None, 0, 10),
    Case("replies in words only", silent, preset("words"), None, 2),
    Case("words that lead to no image the second time", lambda question: silent(question) if PREFIX not in question.sizes else Answer(question, Size(832, 1248)), preset("gpt-image-2-chat"), PREFIX, 3),
)  # fmt: skip


def probe(upstream: Upstream) -> DialectProbe:
    probe = DialectProbe()
    while (question := probe.next_question()) is not None:
        probe.note(upstream(question))
        assert len(probe.answers) < 20, "no end"
    return probe


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_dialect_is_found(case: Case) -> None:
    found = probe(case.upstream)
    finding = found.finding()
    assert (dict(finding.table), finding.place) == (case.table, case.place)
    assert sum(answer.may_have_cost for answer in found.answers) == case.images
    assert len(found.answers) == (case.requests or case.images)


def test_the_preset_of_a_finding() -> None:
    assert probe(reads(SIZE)).finding().preset == "top-level"
    assert probe(reads(RATIO)).finding().preset is None


def test_a_question_asks_for_a_different_size_at_each_place() -> None:
    question = DialectProbe().next_question()
    assert question is not None
    assert set(question.sizes) == set(ALL)
    assert len(set(question.sizes.values())) == len(ALL)


def test_the_body_of_a_question() -> None:
    question = Question({PREFIX: "832x1456", WORDS: "16:9", METADATA: "1x2", SIZE: "3x4", GOOGLE: "5:6"}, ("image",))
    request = read_json(Operation.GENERATION, {"prompt": question.prompt})
    body = chat_body(ChatRequest(request, stream=True), Dialect(**question.table), "m")
    text = f"832x1456 '{PROMPT}\n\nAspect ratio of the image: 16:9.'"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
        "modalities": ["image"],
        "metadata": {"size": "1x2", "quality": "low"},
        "size": "3x4",
        "quality": "low",
        "extra_body": {"google": {"image_config": {"aspect_ratio": "5:6"}}},
        "stream": True,
    }


def test_quality_stands_only_beside_a_size() -> None:
    assert Question({METADATA: "1x2"}).table["extra_body"] == {"metadata": {"size": "1x2", "quality": "low"}}
    assert Question({WORDS: "16:9"}).table["extra_body"] == {}


def test_a_question_without_quality_and_stream() -> None:
    question = Question({SIZE: "3x4"}, stream=False, with_quality=False)
    assert question.table == {"extra_body": {"size": "3x4"}, "modalities": (), "send": ()}


@pytest.mark.parametrize(("words", "is_named"), [("unsupported MODALITIES", True), ("a modal window", False)])
def test_words_about_modalities_are_recognized(words: str, is_named: bool) -> None:
    assert names_modalities(words) == is_named
