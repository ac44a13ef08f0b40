"""What a model name makes the demo upstream do: one table, a row for each oddity that a gateway must bear."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from app.demo import interruptions as gates
from app.demo import reply_forms as tellings
from app.demo.chat_response import Wire
from app.demo.interruptions import Gate
from app.demo.reply_forms import Telling

MODEL = "gpt-image-2-chat"


@dataclass(frozen=True, slots=True)
class Sketch:
    """One picture to paint. `scale` of the size asked for; `link` is added to its URL; the rest as in Exhibit."""

    draft: bool = False
    scale: float = 1
    encoding: str = "PNG"
    extension: str | None = None
    media_type: str | None = None
    page: bool = False
    link: str = ""
    absent: int = 0
    cuts: int = 0
    hops: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How one question is answered: what stands before the answer, what is painted, told and how it is sent."""

    gates: tuple[Gate, ...] = ()
    sketches: tuple[Sketch, ...] = (Sketch(),)
    telling: Telling | None = None
    wire: Wire = field(default_factory=Wire)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`number` stands for N where the model name brings none, `least` to `most`; None: the name takes no number."""

    name: str
    says: str
    change: Callable[[Plan, float], Plan]
    number: float | None = None
    least: float = 0
    most: float = 3600

    @property
    def title(self) -> str:
        return self.name if self.number is None else f"{self.name}-N"


def _tells(telling: Telling) -> Callable[[Plan, float], Plan]:
    return lambda plan, _: replace(plan, telling=telling)


def _says(telling: Telling) -> Callable[[Plan, float], Plan]:
    """Nothing is painted."""
    return lambda plan, _: replace(plan, telling=telling, sketches=())


def _sends(**changes: Any) -> Callable[[Plan, float], Plan]:
    return lambda plan, _: replace(plan, wire=replace(plan.wire, **changes))


def _sketches(**changes: Any) -> Callable[[Plan, float], Plan]:
    """Changes every picture."""
    return lambda plan, _: replace(plan, sketches=tuple(replace(sketch, **changes) for sketch in plan.sketches))


def _spoils(field: str) -> Callable[[Plan, float], Plan]:
    """N goes into `field` of every picture."""
    return lambda plan, number: _sketches(**{field: int(number)})(plan, number)


def _waits(gate: Callable[[float], Gate]) -> Callable[[Plan, float], Plan]:
    return lambda plan, number: replace(plan, gates=(*plan.gates, gate(number)))


def _drafts(*scales: float) -> Callable[[Plan, float], Plan]:
    drafts = tuple(Sketch(draft=True, scale=scale) for scale in scales)
    return lambda plan, _: replace(plan, sketches=(*drafts, *plan.sketches))


def _paces(plan: Plan, number: float) -> Plan:
    return replace(plan, wire=replace(plan.wire, pace=number))


def _stalls(plan: Plan, number: float) -> Plan:
    return replace(plan, wire=replace(plan.wire, stalls=number))


def _thinks(plan: Plan, _: float) -> Plan:
    return replace(plan, telling=tellings.thinks, sketches=(Sketch(draft=True, scale=0.5), *plan.sketches))


BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour(MODEL, "the documented sentence with the picture's link", lambda plan, _: plan),
    # What is told.
    Behaviour("markdown", "a Markdown image", _tells(tellings.markdown)),
    Behaviour("data-url", "a Markdown image with a data URL", _tells(tellings.data_url)),
    Behaviour("content-parts", "a list of content parts with a data URL", _tells(tellings.content_parts)),
    Behaviour("images-field", "`message.images`, as OpenRouter does", _tells(tellings.images_field)),
    Behaviour("b64-json", "nothing but base64", _tells(tellings.b64_json)),
    Behaviour("json-text", "JSON of the Images API as text", _tells(tellings.json_text)),
    Behaviour("html", "an HTML image", _tells(tellings.html)),
    Behaviour("thinks", "a draft in `reasoning_content`, then the picture", _thinks),
    Behaviour("refuses", "a refusal in words, with a link to the rules", _says(tellings.refuses)),
    Behaviour("content-filter", "no content, finish_reason content_filter", _says(tellings.filtered)),
    Behaviour("text-only", "a friendly question instead of a picture", _says(tellings.text_only)),
    Behaviour("echoes-input", "the client's own pictures again", _says(tellings.echoes_input)),
    Behaviour("says-nothing", "empty content", _says(tellings.says_nothing)),
    # What is painted, and how its link behaves.
    Behaviour("previews", "two smaller pictures first, then the final one", _drafts(0.25, 0.5)),
    Behaviour("two-images", "two different pictures", lambda plan, _: replace(plan, sketches=plan.sketches * 2)),
    Behaviour("wrong-size", "half the size that was asked for", _sketches(scale=0.5)),
    Behaviour("jpeg", "a JPEG file", _sketches(encoding="JPEG")),
    Behaviour("webp", "a WebP file", _sketches(encoding="WEBP")),
    Behaviour(
        "octet-stream",
        "a link without extension or type",
        _sketches(extension="", media_type="application/octet-stream"),
    ),
    Behaviour("not-an-image", "a link to an HTML page", _sketches(page=True)),
    Behaviour("huge-url", "a link of 4,000 letters", _sketches(link="?signature=" + "a1" * 2000)),
    Behaviour("missing-image", "a link that is 404 N times, then works", _spoils("absent"), 2),
    Behaviour("redirects", "a link that redirects N times", _spoils("hops"), 1),
    Behaviour("cut-image", "a link whose download breaks off N times, then works", _spoils("cuts"), 1),
    # What comes instead of an answer, or before it.
    Behaviour("slow", "N seconds of silence before the answer", _waits(gates.slow), 1),
    Behaviour("holds", "no answer before a test releases it", _waits(lambda _: gates.hold)),
    Behaviour("refuses-400", "error 400 moderation_blocked", _waits(lambda _: gates.moderate)),
    Behaviour("flaky", "503 the first N times for a prompt", _waits(gates.flaky), 1),
    Behaviour("limited", "429 with retry-after N the first time for a prompt", _waits(gates.limited), 1),
    Behaviour("error", "status N with an error object", _waits(gates.fail), 500, 400, 599),
    Behaviour("html", "status N with a gateway's HTML page", _waits(gates.show_page), 502, 400, 599),
    Behaviour(
        "error-in-200", "the error object of status N, with status 200", _waits(gates.fail_in_200), 503, 400, 599
    ),
    # How it is sent.
    Behaviour("pace", "N seconds between the pieces of a stream", _paces, 0.05),
    Behaviour("stalls", "N seconds of silence in the middle of a stream", _stalls, 1),
    Behaviour("breaks-mid-stream", "the connection breaks off inside the link", _sends(breaks="inside the link")),
    Behaviour("breaks-after-url", "the connection breaks off after the link", _sends(breaks="after the link")),
    Behaviour("broken-json", "JSON that ends in the middle", _sends(breaks="inside the JSON")),
    Behaviour("never-done", "a stream without [DONE]", _sends(done=False)),
    Behaviour("no-usage", "no usage", _sends(usage=False)),
    Behaviour("empty-choices", "no choices", _sends(choices=False)),
    Behaviour("json-for-stream", "JSON also where a stream was asked for", _sends(form="json")),
    Behaviour("stream-for-json", "a stream also where JSON was asked for", _sends(form="stream")),
    Behaviour("repeats", "a last chunk with the whole message once more", _sends(repeats=True)),
    Behaviour("crlf", "lines that end with CR LF, comments between them", _sends(line_end="\r\n", comments=True)),
    Behaviour("bytewise", "a stream byte by byte, cut inside letters", _sends(bytewise=True)),
)

#: Names that can be tried without further ado: each row, and numbers that tell something of their own.
EXAMPLES = (
    *dict.fromkeys(behaviour.name for behaviour in BEHAVIOURS if behaviour.name != "holds"),
    *("error-401", "error-402", "error-429", "error-in-200-402", "html-504", "slow-30"),
)

_PLAIN = {behaviour.name: behaviour for behaviour in BEHAVIOURS if behaviour.number is None}
_NUMBERED = {behaviour.name: behaviour for behaviour in BEHAVIOURS if behaviour.number is not None}


def read_model(model: str) -> Plan | None:
    """Rows of BEHAVIOURS joined by `+`, a number after those that take one: `previews+slow-30`. None: no such model."""
    plan = Plan()
    for part in model.split("+"):
        stem, _, digits = part.rpartition("-")
        if part in _PLAIN:
            plan = _PLAIN[part].change(plan, 0)
        elif part in _NUMBERED:
            plan = _NUMBERED[part].change(plan, _NUMBERED[part].number or 0)
        elif stem in _NUMBERED and _is_number(digits, _NUMBERED[stem]):
            plan = _NUMBERED[stem].change(plan, float(digits))
        else:
            return None
    return plan


def _is_number(digits: str, row: Behaviour) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", digits)) and row.least <= float(digits) <= row.most
