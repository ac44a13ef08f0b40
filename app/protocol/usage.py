"""Convert token counts from the forms in which upstreams report them into that of the Images API."""

from collections.abc import Mapping
from typing import Any

from app.protocol.values import value_class


@value_class
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
        """Return the `usage` object, always complete and in OpenAI's order: clients crash if a member is missing."""
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
    """Read the `usage` of chat completions, of the Images API or of Gemini; missing or invalid counts are 0.

    Input counts as text and output as image tokens unless the details say otherwise.
    """
    if not isinstance(value, dict):
        return NO_USAGE
    if _GEMINI_KEYS & value.keys():
        value = _from_gemini(value)
    sent, image = _read_side(value, ("prompt", "input"), "image_tokens", "text_tokens")
    generated, text = _read_side(value, ("completion", "output"), "text_tokens", "image_tokens")
    return Usage(image, sent - image, generated - text, text)


_GEMINI_KEYS = {"promptTokenCount", "candidatesTokenCount"}


def _from_gemini(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Convert Gemini's counts, which are per modality, with thoughts (text) apart from the reply, to those of chat."""
    thoughts = _count(usage.get("thoughtsTokenCount"))
    sent, generated = (_by_modality(usage.get(f"{side}TokensDetails")) for side in ("prompt", "candidates"))
    return {
        "prompt_tokens": usage.get("promptTokenCount"),
        "prompt_tokens_details": sent,
        "completion_tokens": _count(usage.get("candidatesTokenCount")) + thoughts,
        "completion_tokens_details": generated | {"text_tokens": generated.get("text_tokens", 0) + thoughts},
    }


def _by_modality(details: object) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in details if isinstance(details, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("modality"), str):
            name = f"{entry['modality'].lower()}_tokens"
            counts[name] = counts.get(name, 0) + _count(entry.get("tokenCount"))
    return counts


def _read_side(usage: Mapping[str, Any], names: tuple[str, str], rare: str, usual: str) -> tuple[int, int]:
    """Return all tokens of one side (input or output), and how many of them are of the rare kind."""
    for name in names:
        details = usage.get(f"{name}_tokens_details")
        of_rare = of_usual = 0
        if isinstance(details, dict):
            of_rare, of_usual = _count(details.get(rare)), _count(details.get(usual))
        total = _count(usage.get(f"{name}_tokens")) or of_rare + of_usual
        if total:
            return total, min(total, of_rare) if of_rare or not of_usual else max(0, total - of_usual)
    return 0, 0


def _count(value: object) -> int:
    # Booleans, fractions and negative numbers are not counts of tokens.
    return value if type(value) is int and value > 0 else 0
