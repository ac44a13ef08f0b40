"""Draw the table of bench/README.md in which Limner stands beside other programs: `python -m bench.chart`.

The chart is made from the page, so both have the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.peers import COLUMNS

_ROOT = Path(__file__).parents[1]
PAGE, CHART = _ROOT / "bench" / "README.md", _ROOT / "docs" / "images" / "peers.svg"

#: Servers that are drawn, with the class of their bars. nginx and the minimal servers are in the table only.
_DRAWN = {"limner": "ours", "LiteLLM": "other", "Portkey": "other"}

_WIDTH, _LABELS, _FIGURES = 760, 90, 250
_BAR, _LINE, _HEADING, _MARGIN = 14, 22, 34, 16

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.heading { font-weight: 600 }
.ours { fill: #0969da }
.other { fill: #8c959f }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ours { fill: #4493f8 } .other { fill: #7d8590 } }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """What one server needs for one workload: CPU time in ms, and memory in MiB above the idle server, as printed."""

    server: str
    does: str
    cpu: str
    memory: str


def read_table(page: str) -> dict[tuple[str, str], list[Bar]]:
    """Return the bars by workload and connections: of each workload, those with the most connections.

    Raises:
        ValueError: The page has no such table.
    """
    lines = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in page.splitlines()]
    if list(COLUMNS) not in lines:
        raise ValueError("the page has no table with the columns of bench.peers")
    start = lines.index(list(COLUMNS)) + 2
    rows: dict[str, list[dict[str, str]]] = {}
    for cells in lines[start:]:
        if len(cells) != len(COLUMNS):
            break
        row = dict(zip(COLUMNS, cells, strict=True))
        if row["server"] in _DRAWN and row["failed"] == "0":
            rows.setdefault(row["workload"], []).append(row)
    return {
        (workload, most): [
            Bar(row["server"], row["does"], row["CPU ms"], row["MiB over idle"])
            for row in of_one
            if row["connections"] == most
        ]
        for workload, of_one in rows.items()
        for most in [max((row["connections"] for row in of_one), key=int)]
    }


def draw(groups: dict[tuple[str, str], list[Bar]]) -> str:
    """Return the chart as SVG. The bars of each workload have a scale of their own."""
    shapes: list[str] = []
    top = _MARGIN
    for (workload, connections), bars in groups.items():
        unit = "connection" if connections == "1" else "connections"
        shapes.append(_text(_MARGIN, top + _BAR, f"{workload}, {connections} {unit}", "heading"))
        top += _HEADING - (_LINE - _BAR)
        longest = max(float(bar.cpu) for bar in bars)
        for bar in bars:
            shapes += _bar(bar, top, longest)
            top += _LINE
        top += _LINE - _BAR
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + _MARGIN}" role="img">'
    title = "<title>CPU time of a request, and memory above the idle server: Limner, LiteLLM and Portkey</title>"
    return "\n".join([head, title, f"<style>{_STYLE}</style>", *shapes, "</svg>", ""])


def _bar(bar: Bar, top: int, longest: float) -> Sequence[str]:
    left = _MARGIN + _LABELS
    width = max(1, round(float(bar.cpu) / longest * (_WIDTH - left - _FIGURES)))
    figures = f"{bar.cpu} ms, {bar.memory} MiB" + (", forwards only" if bar.does == "forwards" else "")
    return [
        _text(_MARGIN, top + _BAR - 2, bar.server.replace("limner", "Limner")),
        f'<rect class="{_DRAWN[bar.server]}" x="{left}" y="{top}" width="{width}" height="{_BAR}" rx="2"/>',
        _text(left + width + 8, top + _BAR - 2, figures),
    ]


def _text(x: int, y: int, text: str, name: str = "") -> str:
    style = f' class="{name}"' if name else ""
    return f'<text{style} x="{x}" y="{y}">{escape(text)}</text>'


if __name__ == "__main__":
    CHART.write_text(draw(read_table(PAGE.read_text())))
