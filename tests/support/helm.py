"""What Helm makes of deploy/chart, by the few words of its language that the chart uses; any other is an error."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import yaml  # type: ignore[import-untyped]

CHART = Path(__file__).parents[2] / "deploy" / "chart"

FILTERS: dict[str, Callable[..., str]] = {
    "quote": lambda text: orjson.dumps(str(text)).decode(),
    "nindent": lambda text, by: "\n" + "\n".join(" " * int(by) + line if line else "" for line in text.split("\n")),
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "toYaml": lambda value: yaml.safe_dump(value, default_flow_style=False).removesuffix("\n"),
}


def merge(into: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Lists are replaced, tables merged: as Helm does with values."""
    both = {key: merge(into[key], more[key]) for key in into.keys() & more.keys() if isinstance(more[key], dict)}
    return into | more | both


def values(**more: Any) -> dict[str, Any]:
    """Those of the chart, with those of ci/values.yaml and `more` over them."""
    own, example = (yaml.safe_load((CHART / name).read_text()) for name in ("values.yaml", "ci/values.yaml"))
    return merge(merge(own, example), more)


class Chart:
    """Its templates with values put in, for a release `limner`."""

    def __init__(self, given: dict[str, Any]) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self._scope = {
            "Values": given,
            "Release": {"Name": "limner", "Service": "Helm"},
            "Chart": {"AppVersion": str(chart["appVersion"])},
        }
        self._defined: dict[str, str] = {}
        for path in sorted(CHART.glob("templates/*.tpl")):
            self._render(path.read_text())

    def objects(self) -> Iterator[dict[str, Any]]:
        for path in sorted(CHART.glob("templates/*.yaml")):
            yield from filter(None, yaml.safe_load_all(self._render(path.read_text())))

    def _render(self, template: str) -> str:
        trimmed = re.sub(r"-\}\}\s+", "}}", re.sub(r"\s+\{\{-", "{{", template)).replace("{{-", "{{")
        pieces = re.split(r"\{\{ ?(.+?) ?\}\}", trimmed)
        text, end = self._block(pieces, 0)
        assert end == len(pieces), "an end too many"
        return text

    def _block(self, pieces: list[str], at: int) -> tuple[str, int]:
        """The text from piece `at` to its `end`, and the place after it; texts have even places."""
        said = pieces[at]
        while at + 1 < len(pieces) and pieces[at + 1] != "end":
            word, _, rest = pieces[at + 1].partition(" ")
            if word in {"if", "define"}:
                inner, at = self._block(pieces, at + 2)
                said += self._statement(word, rest, inner)
            else:
                said, at = said + str(self._pipe(pieces[at + 1])), at + 2
            said += pieces[at]
        return said, at + 2 if at + 1 < len(pieces) else len(pieces)

    def _statement(self, word: str, rest: str, inner: str) -> str:
        if word == "define":
            self._defined[rest.strip('"')] = inner
            return ""
        wanted = not rest.startswith("not ")
        return inner if bool(self._value(rest.removeprefix("not "))) == wanted else ""

    def _pipe(self, text: str) -> Any:
        first, *filters = text.split(" | ")
        word, *arguments = first.split(" ")
        given = [self._value(argument) for argument in arguments]
        value = self._call(word, given) if given else self._value(word)
        for word, *more in (each.split(" ") for each in filters):
            value = FILTERS[word](value, *more)
        return value

    def _call(self, word: str, given: list[Any]) -> Any:
        if word == "include":
            return self._defined[given[0]]
        if word == "add":
            return sum(given)
        if word == "default":
            return given[1] or given[0]
        return FILTERS[word](*given)

    def _value(self, word: str) -> Any:
        if not word.startswith("."):
            return orjson.loads(word)
        found: Any = self._scope
        for name in filter(None, word.split(".")):
            found = found[name]
        return found
