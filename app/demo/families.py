"""Read size and quality only where one family of upstreams reads them, and refuse what that family refuses.

`docs/upstreams.md` says what is known of each family.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.demo import reply_forms
from app.demo.chat_request import (
    DEFAULT_SIZE,
    QUALITIES,
    DemoApiError,
    Wish,
    parse_size,
    read_object,
    read_string,
    split_prefix,
)
from app.demo.reply_forms import ReplyBuilder

#: The sizes that Gemini makes, by the ratio that is asked for, at 1K.
RATIO_SIZES = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}
#: Ratios that only some models of OpenRouter have.
WIDE_RATIO_SIZES = {"1:4": (512, 2048), "4:1": (2048, 512), "1:8": (352, 2816), "8:1": (2816, 352)}

#: By what a size at 1K is multiplied.
TIERS = {"0.5K": 0.5, "1K": 1.0, "2K": 2.0, "4K": 4.0}

#: What gpt-4o-image makes at resellers.
FEW_SIZES = ((1024, 1024), (1024, 1792), (1792, 1024))

#: What models that read a size from words make of a square megapixel: reported for many.
WORD_PIXELS = 1254 * 1254

#: Top-level fields that are known to Poe and to Google.
_POE_FIELDS = {"model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p", "stop"}
_GOOGLE_FIELDS = {*_POE_FIELDS, "extra_body", "modalities", "n", "user", "reasoning_effort"}

_SIZE_IN_WORDS = re.compile(r"(?<![\d.])([1-9][0-9]{0,3}) ?[x×*:] ?([1-9][0-9]{0,3})(?![\d.]\d)")
_QUALITY_IN_WORDS = re.compile(r"quality\b[^.]{0,20}?\b(low|medium|high)\b", re.IGNORECASE)

Read = Callable[[Mapping[str, Any], str], Wish]


@dataclass(frozen=True, slots=True)
class Family:
    """How one family is asked and answers.

    Attributes:
        read: Returns what a body and the text of its prompt ask for. Raises `DemoApiError` for what it refuses.
        build_reply: The form of its replies.
        needs_modality: Without `image` among the modalities the reply is text.
        cost: What it says that a picture has cost, in USD; None: nothing.
    """

    name: str
    description: str
    read: Read
    build_reply: ReplyBuilder
    needs_modality: bool = False
    cost: float | None = None
    has_bare_links: bool = False


def read_prefix(body: Mapping[str, Any], text: str) -> Wish:
    """Read a size in front of the prompt, or else in metadata."""
    prefix, prompt = split_prefix(text)
    return _pixels(prefix or _metadata(body, "size"), _metadata(body, "quality"), prompt)


def read_metadata(body: Mapping[str, Any], text: str) -> Wish:
    return _pixels(_metadata(body, "size"), _metadata(body, "quality"), text)


def read_words(body: Mapping[str, Any], text: str) -> Wish:
    """Read the ratio of the last size in a text. The number of pixels is the model's own."""
    ratio = _ratio_in_words(text)
    edge = math.sqrt(WORD_PIXELS / (ratio[0] * ratio[1]))
    return Wish(round(ratio[0] * edge), round(ratio[1] * edge), _quality_in_words(text), text)


def read_top_level(body: Mapping[str, Any], text: str) -> Wish:
    """Take the nearest of few sizes for any size."""
    size = read_string(body, "size", "auto")
    wanted = DEFAULT_SIZE if size == "auto" else _numbers(size)
    width, height = min(FEW_SIZES, key=lambda each: _distance(each, wanted))
    return Wish(width, height, _quality(read_string(body, "quality", "auto"), (*QUALITIES, "standard", "hd")), text)


def read_buckets(body: Mapping[str, Any], text: str) -> Wish:
    """Refuse a size that is not on the list."""
    size = read_string(body, "size", "1024x1024")
    if size not in BUCKETS:
        message = f"Invalid size '{size:.64}'. Supported sizes are: {', '.join(BUCKETS)}."
        raise DemoApiError(message, param="size", code="invalid_value")
    return _pixels(size, read_string(body, "quality", "auto"), text)


def read_google(body: Mapping[str, Any], text: str) -> Wish:
    if unknown := [name for name in body if name not in _GOOGLE_FIELDS]:
        lines = (f'Invalid JSON payload received. Unknown name "{name:.64}": Cannot find field.' for name in unknown)
        raise DemoApiError("\n".join(lines), code="invalid_argument")
    config = read_object(read_object(read_object(body, "extra_body"), "google"), "image_config")
    return _from_config(config, RATIO_SIZES, ("1K", "2K", "4K"), "auto", text)


def read_openrouter(body: Mapping[str, Any], text: str) -> Wish:
    """Refuse modalities other than `image` alone, as OpenRouter does for models that only generate images."""
    modalities = body.get("modalities") or ["text"]
    if modalities != ["image"]:
        names = ", ".join(map(str, modalities))
        message = f"No endpoints found that support the requested output modalities: {names:.64}"
        raise DemoApiError(message, status=404, code="404")
    config = read_object(body, "image_config")
    quality = _quality(read_string(config, "quality", "auto"))
    return _from_config(config, RATIO_SIZES | WIDE_RATIO_SIZES, tuple(TIERS), quality, text)


def read_ratio_in_words(body: Mapping[str, Any], text: str) -> Wish:
    """Make one of Gemini's sizes of the last ratio in a text."""
    wanted = _ratio_in_words(text)
    width, height = min(RATIO_SIZES.values(), key=lambda each: _distance(each, wanted))
    return Wish(width, height, _quality_in_words(text), text)


def read_poe(body: Mapping[str, Any], text: str) -> Wish:
    for name in body:
        if name not in _POE_FIELDS:
            raise DemoApiError(f"Unsupported parameter: '{name:.64}'.", param=name, code="unsupported_parameter")
    return read_ratio_in_words(body, text)


#: Ten ratios in three tiers.
BUCKETS = tuple(
    f"{width}x{height}"
    for sizes in (
        ((1024, 1024), (832, 1248), (1248, 832), (864, 1184), (1184, 864), (896, 1152), (1152, 896)),
        ((768, 1344), (1344, 768), (1536, 672), (2048, 2048), (1664, 2496), (2496, 1664), (1728, 2368)),
        ((2368, 1728), (1792, 2304), (2304, 1792), (1536, 2688), (2688, 1536), (3072, 1344), (2880, 2880)),
        ((2304, 3456), (3456, 2304), (2400, 3200), (3200, 2400), (2560, 3200), (3200, 2560), (2160, 3840)),
        ((3840, 2160), (3696, 1584)),
    )
    for width, height in sizes
)

FAMILIES = (
    Family("gpt-image-2-chat", "size before the prompt, a sentence with a link", read_prefix, reply_forms.documented),
    Family("metadata", "size in `metadata`, a Markdown link", read_metadata, reply_forms.markdown),
    Family("words", "nothing but words, sizes of its own, a Markdown link", read_words, reply_forms.markdown),
    Family("top-level", "`size` at the top, three sizes", read_top_level, reply_forms.markdown),
    Family("buckets", "`size` of a list, a body of the Images API", read_buckets, reply_forms.images_body),
    Family("google", "`extra_body.google.image_config`, a data URL", read_google, reply_forms.data_url),
    Family(
        "openrouter",
        "`image_config`, images alone, `message.images`",
        read_openrouter,
        reply_forms.images_field,
        cost=0.04,
    ),
    Family(
        "vercel",
        "`modalities`, words, `message.images`",
        read_ratio_in_words,
        reply_forms.images_field,
        needs_modality=True,
    ),
    Family(
        "poe",
        "words, no other parameters, links without an ending",
        read_poe,
        reply_forms.bare_links,
        has_bare_links=True,
    ),
)


def _pixels(size: str | None, quality: str | None, prompt: str) -> Wish:
    width, height = DEFAULT_SIZE if size in {None, "auto"} else parse_size(str(size))
    return Wish(width, height, _quality(quality or "auto"), prompt)


def _metadata(body: Mapping[str, Any], name: str) -> str | None:
    return read_string(read_object(body, "metadata"), name, "") or None


def _from_config(
    config: Mapping[str, Any], sizes: Mapping[str, tuple[int, int]], tiers: tuple[str, ...], quality: str, prompt: str
) -> Wish:
    ratio, tier = read_string(config, "aspect_ratio", "1:1"), read_string(config, "image_size", "1K")
    for name, value, known in (("aspect_ratio", ratio, tuple(sizes)), ("image_size", tier, tiers)):
        if value not in known:
            message = f"Invalid value for image_config.{name}: '{value:.64}'. It must be one of: {', '.join(known)}."
            raise DemoApiError(message, param=f"image_config.{name}", code="invalid_value")
    width, height = (int(edge * TIERS[tier]) for edge in sizes[ratio])
    return Wish(width, height, quality, prompt)


def _quality(value: str, known: tuple[str, ...] = QUALITIES) -> str:
    if value not in known:
        message = f"Invalid value: '{value:.64}'. Supported values are: {', '.join(known)}."
        raise DemoApiError(message, param="quality", code="invalid_value")
    return value


def _numbers(size: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", size)
    if not found:
        raise DemoApiError(f"Invalid size '{size:.64}'.", param="size", code="invalid_value")
    return int(found[1]), int(found[2])


def _ratio_in_words(text: str) -> tuple[int, int]:
    """Return the last ratio or size, but none beyond 4:1; a square if there is none."""
    found = [(int(match[1]), int(match[2])) for match in _SIZE_IN_WORDS.finditer(text)]
    return next((each for each in reversed(found) if _distance(each, (1, 1)) <= math.log(4)), (1, 1))


def _quality_in_words(text: str) -> str:
    found = _QUALITY_IN_WORDS.search(text)
    return found[1].lower() if found else "auto"


def _distance(one: tuple[int, int], other: tuple[int, int]) -> float:
    return abs(math.log(one[0] * other[1] / (one[1] * other[0])))
