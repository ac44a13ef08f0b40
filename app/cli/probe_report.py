"""Write down what a probe has seen: the finished `[[upstreams]]` table with comments, or JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from app.config.upstreams import UpstreamEntry
from app.protocol.dialect_probe import Answer, DialectProbe, Finding
from app.protocol.usage import NO_USAGE, Usage

_UNREAD = "The size had no effect anywhere: images have the size that the model chooses."

#: Fields of an upstream that the printed table has.
_WRITTEN = {"name", "base_url", "api_key", "api_key_file", "model", "models", "dialect"}


@dataclass(frozen=True, slots=True)
class Sight:
    """An answer and what else was seen of it. `cost` is in USD; `message` is the error in words for the operator."""

    answer: Answer
    seconds: float = 0
    usage: Usage = NO_USAGE
    cost: float | None = None
    is_stream: bool = False
    message: str = ""


@dataclass(slots=True)
class ProbeRun:
    """All that a probe has seen, up to its end or to Ctrl-C.

    `stopped`: why the probe has ended early; `is_asking`: a question is on its way, which may be paid for.
    """

    entry: UpstreamEntry
    probe: DialectProbe = field(default_factory=DialectProbe)
    sights: list[Sight] = field(default_factory=list)
    stopped: str = ""
    is_asking: bool = False

    @property
    def images(self) -> int:
        """How many images may have been paid for."""
        return sum(sight.answer.may_have_cost for sight in self.sights) + self.is_asking

    @property
    def finding(self) -> Finding | None:
        """The dialect; None if no image has come."""
        return self.probe.finding() if any(sight.answer.size for sight in self.sights) else None


def as_document(run: ProbeRun) -> dict[str, Any]:
    """Return everything as JSON values."""
    finding = run.finding
    return {
        "upstream": {"name": run.entry.name, "base_url": run.entry.base_url, "model": run.entry.model},
        "dialect": None if finding is None else dict(finding.table),
        "size_read_at": None if finding is None else finding.place,
        "images": run.images,
        "stopped": run.stopped or None,
        "questions": [
            {
                "sizes": dict(sight.answer.question.sizes),
                "modalities": list(sight.answer.question.modalities),
                "size": None if sight.answer.size is None else str(sight.answer.size),
                "reply_form": sight.answer.form or None,
                "streamed": sight.is_stream,
                "usage": sight.usage.as_images_api(),
                "cost_usd": sight.cost,
                "seconds": round(sight.seconds, 3),
                "error": sight.message or None,
                "may_have_cost": sight.answer.may_have_cost,
            }
            for sight in run.sights
        ],
    }


def as_toml(run: ProbeRun, api_key_file: Path | None = None) -> list[str]:
    """Return the lines of the table, with what was seen as comments."""
    lines = [f"# {line}" for line in describe(run)]
    finding = run.finding
    if finding is None:
        return [*lines, "# No image has come, so there is no dialect to write."]
    if kept := sorted(name for name in run.entry.model_fields_set - _WRITTEN if getattr(run.entry, name)):
        lines.append(f"# Keep these lines of the upstream, too: {', '.join(kept)}.")
    lines += ["[[upstreams]]", f"name = {_toml(run.entry.name)}", f"base_url = {_toml(run.entry.base_url)}"]
    if api_key_file is None:
        lines.append('api_key = "put its key here"')
    else:
        lines.append(f"api_key_file = {_toml(str(api_key_file.absolute()))}")
    lines.append(f"model = {_toml(run.entry.model)}")
    if set(finding.table) == {"preset"}:
        return [*lines, f"dialect = {_toml(finding.preset)}"]
    return [*lines, "", "[upstreams.dialect]", *(f"{name} = {_toml(value)}" for name, value in finding.table.items())]


def describe(run: ProbeRun) -> list[str]:
    """Return what was seen, a line for each answer and each trait."""
    images = "1 image" if run.images == 1 else f"{run.images} images"
    lines = [f"limner probe asked for {images} that may have cost money."]
    if run.stopped:
        lines.append(f"Ended early: {run.stopped}")
    lines += [describe_sight(sight) for sight in run.sights]
    painted = [sight for sight in run.sights if sight.answer.size is not None]
    finding = run.finding
    if finding is None:
        return lines
    unread = "Where the size is read is not known yet." if run.stopped else _UNREAD
    lines.append(unread if finding.place is None else f"The size is read at: {finding.place}.")
    streams = [sight for sight in painted if sight.answer.question.stream]
    lines.append(
        f"Replies: {', '.join(dict.fromkeys(sight.answer.form for sight in painted))}; "
        + ("not streamed." if not any(sight.is_stream for sight in streams) else "streamed.")
    )
    tokens = painted[-1].usage.as_images_api()
    counted = f"{tokens['input_tokens']} tokens in, {tokens['output_tokens']} out" if tokens["total_tokens"] else "none"
    costs = [sight.cost for sight in painted if sight.cost is not None]
    lines.append(f"Usage of the last image: {counted}; cost: {f'{costs[-1]:g} USD' if costs else 'not reported'}.")
    return lines


def describe_sight(sight: Sight) -> str:
    """Return one line about an answer."""
    asked = ", ".join(f"{value} at {path}" for path, value in sight.answer.question.sizes.items())
    if sight.answer.size is not None:
        return f"Asked {asked}: got {sight.answer.size} in {sight.seconds:.1f} s."
    free = "" if sight.answer.may_have_cost else ", at no cost"
    return f"Asked {asked}: got no image{free}: {sight.message}"


def _toml(value: object) -> str:
    """Write a value as TOML: strings, lists and tables in one line. JSON's strings are TOML's, too."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_toml(key)} = {_toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return orjson.dumps(value).decode()
