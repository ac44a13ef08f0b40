"""Token counts: as chat upstreams report them, as the Images API does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    input_image_tokens: int = 0
    input_text_tokens: int = 0
    output_image_tokens: int = 0
    output_text_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_image_tokens + other.input_image_tokens,
            self.input_text_tokens + other.input_text_tokens,
            self.output_image_tokens + other.output_image_tokens,
            self.output_text_tokens + other.output_text_tokens,
        )

    def as_images_api(self) -> dict[str, Any]:
        """Complete, always, and in the order of real answers: clients crash on a part that is missing."""
        input_tokens = self.input_image_tokens + self.input_text_tokens
        output_tokens = self.output_image_tokens + self.output_text_tokens
        return {
            "input_tokens": input_tokens,
            "input_tokens_details": {"image_tokens": self.input_image_tokens, "text_tokens": self.input_text_tokens},
            "output_tokens": output_tokens,
            "output_tokens_details": {"image_tokens": self.output_image_tokens, "text_tokens": self.output_text_tokens},
            "total_tokens": input_tokens + output_tokens,
        }


NO_USAGE = Usage()


def read_usage(value: object) -> Usage:
    """Chat's form, the Images API's own or Gemini's. Zeros where the upstream says nothing or nonsense.

    Input is text and output is image unless the details say otherwise.
    """
    if not isinstance(value, Mapping):
        return NO_USAGE
    if _GEMINI & value.keys():
        value = _like_chat(value)
    given, image = _side(value, ("prompt", "input"), "image_tokens", "text_tokens")
    made, text = _side(value, ("completion", "output"), "text_tokens", "image_tokens")
    return Usage(image, given - image, made - text, text)


_GEMINI = {"promptTokenCount", "candidatesTokenCount"}


def _like_chat(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Gemini counts by modality, and thoughts, which are text, apart from the answer."""
    thoughts = _count(usage.get("thoughtsTokenCount"))
    given, made = (_of_modalities(usage.get(f"{side}TokensDetails")) for side in ("prompt", "candidates"))
    return {
        "prompt_tokens": usage.get("promptTokenCount"),
        "prompt_tokens_details": given,
        "completion_tokens": _count(usage.get("candidatesTokenCount")) + thoughts,
        "completion_tokens_details": made | {"text_tokens": made.get("text_tokens", 0) + thoughts},
    }


def _of_modalities(details: object) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in details if isinstance(details, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("modality"), str):
            name = f"{entry['modality'].lower()}_tokens"
            counts[name] = counts.get(name, 0) + _count(entry.get("tokenCount"))
    return counts


def _side(usage: Mapping[str, Any], names: tuple[str, str], rare: str, usual: str) -> tuple[int, int]:
    """All tokens of one side, and how many of them are of the rare kind."""
    for name in names:
        details = usage.get(f"{name}_tokens_details")
        counts = details if isinstance(details, Mapping) else {}
        of_rare, of_usual = _count(counts.get(rare)), _count(counts.get(usual))
        total = _count(usage.get(f"{name}_tokens")) or of_rare + of_usual
        if total:
            return total, min(total, of_rare) if of_rare or not of_usual else max(0, total - of_usual)
    return 0, 0


def _count(value: object) -> int:
    """A bool is no number, a fraction or a negative number no count of tokens."""
    return value if type(value) is int and value > 0 else 0
