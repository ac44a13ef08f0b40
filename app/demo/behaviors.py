"""Map model names to behaviors of the demo upstream: one table row for each oddity that a gateway must handle."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from app.demo import interruptions, reply_forms
from app.demo.chat_response import TransportOptions
from app.demo.families import FAMILIES, Family
from app.demo.interruptions import Interruption
from app.demo.reply_forms import ReplyBuilder

MODEL = "gpt-image-2-chat"


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image to draw, at `scale` times the requested size.

    `url_suffix` is appended to the image's URL, with `{width}` and `{height}` replaced. The three counts are those of
    `HostedImage`.
    """

    is_draft: bool = False
    scale: float = 1
    encoding: str = "PNG"
    extension: str | None = None
    media_type: str | None = None
    is_html_page: bool = False
    url_suffix: str = ""
    not_found_count: int = 0
    truncated_count: int = 0
    redirect_count: int = 0


@dataclass(frozen=True, slots=True)
class ReplyPlan:
    """How to answer one request: first the interruptions, then draw the images, build the reply and send it.

    Without `build_reply` the request decides: OpenRouter's form or the documented one. `family` reads the request and
    may refuse it; without one, size and quality are read wherever they are.
    """

    family: Family | None = None

    interruptions: tuple[Interruption, ...] = ()
    images: tuple[ImageSpec, ...] = (ImageSpec(),)
    build_reply: ReplyBuilder | None = None
    transport: TransportOptions = field(default_factory=TransportOptions)


#: Changes a plan; the second argument is the number N of the model name, 0 where the name takes none.
Change = Callable[[ReplyPlan, float], ReplyPlan]


@dataclass(frozen=True, slots=True)
class Behavior:
    """One word of a model name and the change that it makes to the plan.

    `default` is used for N when the name has no number; None means that the name takes no number. N must lie between
    `minimum` and `maximum`.
    """

    name: str
    description: str
    apply: Change
    default: float | None = None
    minimum: float = 0
    maximum: float = 3600

    @property
    def title(self) -> str:
        return self.name if self.default is None else f"{self.name}-N"


def _reply_with(build_reply: ReplyBuilder) -> Change:
    return lambda plan, _: replace(plan, build_reply=build_reply)


def _reply_without_image(build_reply: ReplyBuilder) -> Change:
    return lambda plan, _: replace(plan, build_reply=build_reply, images=())


def _send_with(**changes: Any) -> Change:
    return lambda plan, _: replace(plan, transport=replace(plan.transport, **changes))


def _send_with_number(field: str) -> Change:
    return lambda plan, number: _send_with(**{field: number})(plan, number)


def _each_image(**changes: Any) -> Change:
    return lambda plan, _: replace(plan, images=tuple(replace(image, **changes) for image in plan.images))


def _each_image_with_number(field: str) -> Change:
    return lambda plan, number: _each_image(**{field: int(number)})(plan, number)


def _interrupt_with(make_interruption: Callable[[float], Interruption]) -> Change:
    return lambda plan, number: replace(plan, interruptions=(*plan.interruptions, make_interruption(number)))


def _drafts_first(*scales: float) -> Change:
    drafts = tuple(ImageSpec(is_draft=True, scale=scale) for scale in scales)
    return lambda plan, _: replace(plan, images=(*drafts, *plan.images))


def _think(plan: ReplyPlan, number: float) -> ReplyPlan:
    return replace(_drafts_first(0.5)(plan, number), build_reply=reply_forms.thinks)


def _answer_as(family: Family) -> Change:
    """Ask and answer as a family does."""

    def change(plan: ReplyPlan, _: float) -> ReplyPlan:
        plan = replace(plan, family=family, build_reply=family.build_reply)
        plan = _send_with(cost=family.cost)(plan, 0)
        return _each_image(extension="", url_suffix="?w={width}&h={height}")(plan, 0) if family.has_bare_links else plan

    return change


BEHAVIORS: tuple[Behavior, ...] = (
    Behavior(MODEL, "the documented sentence with the image's link", lambda plan, _: plan),
    # One family of upstreams each: where it reads size and quality, what it refuses, and how it answers.
    *(Behavior(f"as-{family.name}", family.description, _answer_as(family)) for family in FAMILIES),
    # The form of the reply.
    Behavior("markdown", "a Markdown image", _reply_with(reply_forms.markdown)),
    Behavior("data-url", "a Markdown image with a data URL", _reply_with(reply_forms.data_url)),
    Behavior("content-parts", "a list of content parts with a data URL", _reply_with(reply_forms.content_parts)),
    Behavior("images-field", "`message.images`, as OpenRouter sends it", _reply_with(reply_forms.images_field)),
    Behavior("b64-json", "nothing but base64", _reply_with(reply_forms.b64_json)),
    Behavior("json-text", "JSON of the Images API as text", _reply_with(reply_forms.json_text)),
    Behavior("html", "an HTML image", _reply_with(reply_forms.html)),
    Behavior("thinks", "a draft in `reasoning_content`, then the image", _think),
    Behavior("refuses", "a refusal in words, with a link to the rules", _reply_without_image(reply_forms.refuses)),
    Behavior("content-filter", "no content, finish_reason content_filter", _reply_without_image(reply_forms.filtered)),
    Behavior("text-only", "a friendly question instead of an image", _reply_without_image(reply_forms.text_only)),
    Behavior("echoes-input", "the client's own images again", _reply_without_image(reply_forms.echoes_input)),
    Behavior("says-nothing", "empty content", _reply_without_image(reply_forms.says_nothing)),
    # The image, and how its link behaves.
    Behavior("previews", "two smaller images first, then the final one", _drafts_first(0.25, 0.5)),
    Behavior("two-images", "two different images", lambda plan, _: replace(plan, images=plan.images * 2)),
    Behavior("wrong-size", "half the requested size", _each_image(scale=0.5)),
    Behavior("jpeg", "a JPEG file", _each_image(encoding="JPEG")),
    Behavior("webp", "a WebP file", _each_image(encoding="WEBP")),
    Behavior(
        "octet-stream",
        "a link without extension or type",
        _each_image(extension="", media_type="application/octet-stream"),
    ),
    Behavior("not-an-image", "a link to an HTML page", _each_image(is_html_page=True)),
    Behavior("huge-url", "a link of 4,000 characters", _each_image(url_suffix="?signature=" + "a1" * 2000)),
    Behavior("missing-image", "a link that is 404 N times, then works", _each_image_with_number("not_found_count"), 2),
    Behavior("redirects", "a link that redirects N times", _each_image_with_number("redirect_count"), 1),
    Behavior(
        "cut-image",
        "a link whose download breaks off N times, then works",
        _each_image_with_number("truncated_count"),
        1,
    ),
    # What replaces the reply, or comes before it.
    Behavior("slow", "N seconds of silence before the reply", _interrupt_with(interruptions.delay), 1),
    Behavior("holds", "no reply before a test releases it", _interrupt_with(lambda _: interruptions.wait_for_release)),
    Behavior(
        "refuses-400",
        "error 400 moderation_blocked",
        _interrupt_with(lambda _: interruptions.reject_as_unsafe),
    ),
    Behavior("flaky", "503 the first N times for a prompt", _interrupt_with(interruptions.fail_first_calls), 1),
    Behavior(
        "limited",
        "429 with retry-after N the first time for a prompt",
        _interrupt_with(interruptions.rate_limit_once),
        1,
    ),
    Behavior("error", "status N with an error object", _interrupt_with(interruptions.return_error), 500, 400, 599),
    Behavior(
        "html",
        "status N with a gateway's HTML page",
        _interrupt_with(interruptions.return_html_error),
        502,
        400,
        599,
    ),
    Behavior(
        "error-in-200",
        "the error object of status N, with status 200",
        _interrupt_with(interruptions.return_error_as_200),
        503,
        400,
        599,
    ),
    # How the reply is sent.
    Behavior("pace", "N seconds between the chunks of a stream", _send_with_number("chunk_pause"), 0.05),
    Behavior("stalls", "N seconds of silence in the middle of a stream", _send_with_number("stall_seconds"), 1),
    Behavior("breaks-mid-stream", "the connection breaks off inside the link", _send_with(breaks="inside the link")),
    Behavior("breaks-after-url", "the connection breaks off after the link", _send_with(breaks="after the link")),
    Behavior("broken-json", "JSON that ends in the middle", _send_with(breaks="inside the JSON")),
    Behavior("never-done", "a stream without [DONE]", _send_with(with_done=False)),
    Behavior("no-usage", "no usage", _send_with(with_usage=False)),
    Behavior("costs", "`usage.cost` of N dollars", _send_with_number("cost"), 0.04),
    Behavior("empty-choices", "no choices", _send_with(with_choices=False)),
    Behavior("json-for-stream", "JSON also where a stream was requested", _send_with(body_type="json")),
    Behavior("stream-for-json", "a stream also where JSON was requested", _send_with(body_type="stream")),
    Behavior("repeats", "a last chunk with the whole message once more", _send_with(repeat_message=True)),
    Behavior(
        "crlf",
        "lines that end with CR LF, comments between them",
        _send_with(line_end="\r\n", with_comments=True),
    ),
    Behavior("bytewise", "a stream byte by byte, cut inside characters", _send_with(bytewise=True)),
)

#: Model names that can be tried without a test that releases them: each row, and numbers with a special meaning.
EXAMPLES = (
    *dict.fromkeys(behavior.name for behavior in BEHAVIORS if behavior.name != "holds"),
    *("error-401", "error-402", "error-429", "error-in-200-402", "html-504", "slow-30"),
)

_PLAIN = {behavior.name: behavior for behavior in BEHAVIORS if behavior.default is None}
_NUMBERED = {behavior.name: behavior for behavior in BEHAVIORS if behavior.default is not None}


def parse_model(model: str) -> ReplyPlan | None:
    """Parse names of BEHAVIORS joined by `+`, with numbers where they take one: `previews+slow-30`.

    Returns None for an unknown model.
    """
    plan = ReplyPlan()
    for part in model.split("+"):
        stem, _, digits = part.rpartition("-")
        if part in _PLAIN:
            plan = _PLAIN[part].apply(plan, 0)
        elif part in _NUMBERED:
            plan = _NUMBERED[part].apply(plan, _NUMBERED[part].default or 0)
        elif stem in _NUMBERED and _is_number(digits, _NUMBERED[stem]):
            plan = _NUMBERED[stem].apply(plan, float(digits))
        else:
            return None
    return plan


def _is_number(digits: str, row: Behavior) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", digits)) and row.minimum <= float(digits) <= row.maximum
