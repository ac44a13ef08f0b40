"""Say where each family of upstreams reads size, quality and the rest: a table of presets, which operators may extend.

No family documents its form completely, and only `gpt-image-2-chat` was measured. docs/upstreams.md says which rows
rest on a vendor's page and which on reports.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.protocol.sizes import Size
from app.protocol.tiers import TIERS

#: Places of a value that are not paths in the body: in front of the prompt, and in a sentence after it.
PREFIX, WORDS = "prefix", "words"

#: Fields of a request that a dialect may leave out.
SENT = ("metadata", "user", "stream")

#: The sentence for the model about a mask, unless the dialect has another one. The mask is always the last image.
MASK_INSTRUCTION = (
    "The last picture is a mask for the first one: change only the area where the mask is transparent, "
    "and keep everything else exactly as it is."
)

#: The aspect ratios that all image models of OpenRouter and Google have in common, and those that some have.
COMMON_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
RARE_RATIOS = ("1:4", "4:1", "1:8", "8:1")

#: Sizes of upstreams that take only those of a list, ten ratios in three tiers.
BUCKETS = (
    *("1024x1024", "832x1248", "1248x832", "864x1184", "1184x864", "896x1152", "1152x896", "768x1344", "1344x768"),
    *("1536x672", "2048x2048", "1664x2496", "2496x1664", "1728x2368", "2368x1728", "1792x2304", "2304x1792"),
    *("1536x2688", "2688x1536", "3072x1344", "2880x2880", "2304x3456", "3456x2304", "2400x3200", "3200x2400"),
    *("2560x3200", "3200x2560", "2160x3840", "3840x2160", "3696x1584"),
)


@dataclass(frozen=True, slots=True)
class RequestedSize:
    """The size that a client wants.

    Attributes:
        size: The size to request upstream, in pixels.
        tier: The tier that the client named; empty if it named none.
        is_ratio_only: The client named nothing but a ratio, so the tier is left to the model.
    """

    size: Size
    tier: str = ""
    is_ratio_only: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """Where an upstream reads what, and how it is written there. Compared by identity.

    A place is `prefix` (in front of the prompt, which is put in quotes), `words` (a sentence after the prompt), or a
    path in the body like `metadata.size`.

    Attributes:
        size: The form of the size by its place: one of `SIZE_FORMS`.
        sizes: The sizes that the upstream takes, as `WxH`; the nearest is sent. Empty: all.
        ratios: The aspect ratios that it takes. Empty: the exact one is sent.
        tiers: The tiers that it takes, in ascending order.
        auto_size: Sent at paths if no size is requested. Empty: nothing is. A prefix is always there, so that a prompt
            that begins with a size of its own chooses nothing.
        model_suffixes: What is appended to the model's name, by size, ratio or tier; the nearest of each kind counts.
        quality: The places of the quality.
        qualities: The upstream's words for qualities; those that are missing are sent as they are.
        style: The places of the style.
        background: The places of the background, which is `transparent` or `opaque`.
        modalities: Sent as they are, if there are any.
        other_modalities: What is requested instead where a model cannot answer with these.
        extra_body: Constants of the body. The other fields win over them.
        send: Which of `SENT` are sent.
        mask: The sentence for the model about a mask; empty for none.
    """

    size: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[str, ...] = ()
    ratios: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ("1K", "2K", "4K")
    auto_size: str = ""
    model_suffixes: Mapping[str, str] = field(default_factory=dict)
    quality: tuple[str, ...] = ()
    qualities: Mapping[str, str] = field(default_factory=dict)
    style: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    other_modalities: tuple[str, ...] = ()
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    send: tuple[str, ...] = SENT
    mask: str = MASK_INSTRUCTION

    @property
    def fields(self) -> tuple[str, ...]:
        """The paths in the body that this dialect fills, besides those of `SENT`."""
        places = {*self.size, *self.quality, *self.style, *self.background} - {PREFIX, WORDS}
        modalities = ["modalities"] if self.modalities or self.other_modalities else []
        return tuple(dict.fromkeys((*sorted(places), *modalities, *_paths(self.extra_body))))

    def model(self, name: str, wish: RequestedSize | None) -> str:
        """Return the model's name with the suffixes for a size."""
        if wish is None or not self.model_suffixes:
            return name
        return name + "".join(self.model_suffixes[key] for key in _nearest_keys(self.model_suffixes, wish))

    def size_at(self, place: str, wish: RequestedSize | None) -> str:
        """Return the size as it is written at a place; empty if it is left out."""
        if wish is None:
            return "auto" if place == PREFIX else "" if place == WORDS else self.auto_size
        return SIZE_FORMS[self.size[place]](self, wish)


_SizeForm = Callable[[Dialect, RequestedSize], str]


def _pixels(between: str) -> _SizeForm:
    return lambda dialect, wish: between.join(_nearest_size(dialect.sizes, wish.size).split("x"))


def _ratio(dialect: Dialect, wish: RequestedSize) -> str:
    return nearest_ratio(dialect.ratios, wish.size) if dialect.ratios else _exact_ratio(wish.size)


#: How a size is written: a function of the dialect and the wish for each form.
SIZE_FORMS: Mapping[str, _SizeForm] = {
    "WxH": _pixels("x"),
    "W*H": _pixels("*"),
    "ratio": _ratio,
    "tier": lambda dialect, wish: nearest_tier(dialect.tiers, wish),
}

#: The sentence for each form of a size, and for other values.
SENTENCES = {
    "WxH": "Size of the image: {} pixels.",
    "W*H": "Size of the image: {} pixels.",
    "ratio": "Aspect ratio of the image: {}.",
    "tier": "Resolution of the image: {}.",
    "quality": "Quality of the image: {}.",
    "style": "Style of the image: {}.",
    "background": "Background of the image: {}.",
}

_RATIO_AND_TIER = {"image_config.aspect_ratio": "ratio", "image_config.image_size": "tier"}

DIALECTS: dict[str, Dialect] = {
    "gpt-image-2-chat": Dialect(size={PREFIX: "WxH"}, quality=("metadata.quality",)),
    # `auto` too, because a prompt may begin with a size of its own.
    "metadata": Dialect(size={"metadata.size": "WxH"}, auto_size="auto", quality=("metadata.quality",)),
    # Resellers' models that read nothing but the conversation, like gpt-image-2-all and sora_image.
    "words": Dialect(size={WORDS: "WxH"}, quality=(WORDS,), style=(WORDS,), background=(WORDS,), send=("stream",)),
    # gpt-4o-image and others that take the fields of the Images API. Several chat requests make several images.
    "top-level": Dialect(
        size={"size": "WxH"},
        quality=("quality",),
        style=("style",),
        background=("background",),
        extra_body={"n": 1},
        send=("user", "stream"),
    ),
    # gpt-image-2-vip and others that answer with an Images body.
    "buckets": Dialect(size={"size": "WxH"}, sizes=BUCKETS, quality=("quality",), send=("user", "stream")),
    # https://ai.google.dev/gemini-api/docs/openai, and relays of Gemini.
    "google": Dialect(
        size={f"extra_body.google.{path}": form for path, form in _RATIO_AND_TIER.items()},
        ratios=COMMON_RATIOS,
        send=("user", "stream"),
    ),
    # https://openrouter.ai/docs/guides/overview/multimodal/image-generation
    # Models that only paint want `image` alone; for others OpenRouter documents both.
    "openrouter": Dialect(
        size=_RATIO_AND_TIER,
        ratios=COMMON_RATIOS + RARE_RATIOS,
        tiers=("0.5K", "1K", "2K", "4K"),
        quality=("image_config.quality",),
        modalities=("image", "text"),
        other_modalities=("image",),
    ),
    # https://vercel.com/docs/ai-gateway/modalities/image-generation/openai documents no field for the size.
    "vercel": Dialect(
        size={WORDS: "ratio"},
        ratios=COMMON_RATIOS,
        quality=(WORDS,),
        background=(WORDS,),
        modalities=("text", "image"),
        other_modalities=("image",),
        send=("user", "stream"),
    ),
    # https://creator.poe.com/api-reference/client-sdks: custom parameters are not supported.
    "poe": Dialect(
        size={WORDS: "ratio"}, ratios=COMMON_RATIOS, quality=(WORDS,), background=(WORDS,), send=("stream",)
    ),
}


def _paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the paths of all values except objects that have more inside."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{above}{key}.")
        else:
            yield above + key


def nearest_ratio(ratios: tuple[str, ...], size: Size) -> str:
    """Return the nearest aspect ratio on a logarithmic scale: twice as wide is as far away as half as wide."""
    return min(ratios, key=lambda ratio: _distance(ratio.split(":"), size))


def nearest_tier(tiers: tuple[str, ...], wish: RequestedSize) -> str:
    """Return the smallest tier that is as large as a wish, or the largest there is; empty where the model chooses."""
    if wish.is_ratio_only:
        return ""
    pixels = TIERS[wish.tier].max_pixels if wish.tier else wish.size.pixels
    return next((tier for tier in tiers if pixels <= TIERS[tier].max_pixels), tiers[-1])


def _nearest_size(sizes: tuple[str, ...], size: Size) -> str:
    """Return the size of the list with the nearest ratio and, among those, the nearest number of pixels."""
    if not sizes or str(size) in sizes:
        return str(size)
    return min(sizes, key=lambda text: (round(_distance(text.split("x"), size), 1), _pixel_distance(text, size)))


def _pixel_distance(text: str, size: Size) -> float:
    width, height = map(int, text.split("x"))
    return abs(math.log(width * height / size.pixels))


def _distance(shape: list[str], size: Size) -> float:
    width, height = map(int, shape)
    return abs(math.log(width * size.height / (height * size.width)))


def _exact_ratio(size: Size) -> str:
    divisor = math.gcd(size.width, size.height)
    return f"{size.width // divisor}:{size.height // divisor}"


def _nearest_keys(suffixes: Mapping[str, str], wish: RequestedSize) -> Iterator[str]:
    size = wish.size
    sizes = tuple(key for key in suffixes if "x" in key)
    ratios = tuple(key for key in suffixes if ":" in key)
    tiers = tuple(tier for tier in TIERS if tier in suffixes)
    if sizes:
        yield min(sizes, key=lambda text: (_distance(text.split("x"), size), _pixel_distance(text, size)))
    if ratios:
        yield nearest_ratio(ratios, size)
    if tiers and (tier := nearest_tier(tiers, wish)):
        yield tier
