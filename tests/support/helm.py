"""Render deploy/chart as Helm does, for the few keywords of its language that the chart uses; others are an error."""

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


def merge(into: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Merge values as Helm does: mappings are merged, lists replaced."""
    both = {
        key: merge(into[key], overrides[key])
        for key in into.keys() & overrides.keys()
        if isinstance(overrides[key], dict)
    }
    return into | overrides | both


def values(**overrides: Any) -> dict[str, Any]:
    """Return the values of the chart, overridden by those of ci/values.yaml and by `overrides`."""
    own, example = (yaml.safe_load((CHART / name).read_text()) for name in ("values.yaml", "ci/values.yaml"))
    return merge(merge(own, example), overrides)


class Chart:
    """The templates of the chart, rendered for a release named `limner`."""

    def __init__(self, chart_values: dict[str, Any]) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self._scope = {
            "Values": chart_values,
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
        parts = re.split(r"\{\{ ?(.+?) ?\}\}", trimmed)
        text, end = self._block(parts, 0)
        assert end == len(parts), "more ends than blocks"
        return text

    def _block(self, parts: list[str], index: int) -> tuple[str, int]:
        """Return the rendered text from part `index` to its `end`, and the index after it. Texts have even indexes."""
        text = parts[index]
        while index + 1 < len(parts) and parts[index + 1] != "end":
            keyword, _, rest = parts[index + 1].partition(" ")
            if keyword in {"if", "define"}:
                inner, index = self._block(parts, index + 2)
                text += self._statement(keyword, rest, inner)
            else:
                text, index = text + str(self._pipe(parts[index + 1])), index + 2
            text += parts[index]
        return text, index + 2 if index + 1 < len(parts) else len(parts)

    def _statement(self, keyword: str, rest: str, inner: str) -> str:
        if keyword == "define":
            self._defined[rest.strip('"')] = inner
            return ""
        expected = not rest.startswith("not ")
        return inner if bool(self._value(rest.removeprefix("not "))) == expected else ""

    def _pipe(self, text: str) -> Any:
        first, *filters = text.split(" | ")
        keyword, *words = first.split(" ")
        arguments = [self._value(word) for word in words]
        value = self._call(keyword, arguments) if arguments else self._value(keyword)
        for keyword, *options in (each.split(" ") for each in filters):
            value = FILTERS[keyword](value, *options)
        return value

    def _call(self, keyword: str, arguments: list[Any]) -> Any:
        if keyword == "include":
            return self._defined[arguments[0]]
        if keyword == "add":
            return sum(arguments)
        if keyword == "default":
            return arguments[1] or arguments[0]
        return FILTERS[keyword](*arguments)

    def _value(self, keyword: str) -> Any:
        if not keyword.startswith("."):
            return orjson.loads(keyword)
        found: Any = self._scope
        for name in filter(None, keyword.split(".")):
            found = found[name]
        return found
