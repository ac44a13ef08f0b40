"""Draws docs/images/dashboard.png: what the queries of deploy/dashboard.json return, asked of a real Prometheus.

`python -m bench.dashboard [SECONDS]` needs Prometheus and Chromium. Two servers before the demo upstream are scraped
under load; Grafana itself is not there, so the panels are drawn here, with its titles, units and legends.
"""

import asyncio
import html
import io
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson
from PIL import Image

from tests.support.browser import run_browser
from tests.support.ports import free_ports
from tests.support.prometheus import Prometheus, run_prometheus
from tests.support.servers import run_demo

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "dashboard.png"

#: The name of a series, and its points: seconds since 1970, and values.
Line = tuple[str, list[tuple[float, float]]]

#: Pixels: of a column of the grid, a row of it, and of the frame around a plot (left, top, right, bottom).
COLUMN, ROW, FRAME = 50, 27, (58, 30, 28, 26)
COLOURS = (
    *("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9"),
    *("#37872d", "#8ab8ff", "#c4162a", "#fa6400", "#a352cc"),
)
STYLE = """
body { margin: 0; background: #111217; color: #ccccdc; font: 12px 'DejaVu Sans', sans-serif; width: 1200px }
svg { position: absolute; background: #181b1f; outline: 1px solid #2a2d33 }
p { position: absolute; margin: 6px 10px; color: #8e8e99 }
text { fill: #8e8e99; font-size: 10.5px } .title { fill: #ccccdc; font-size: 12.5px; font-weight: bold }
line { stroke: #2a2d33 } polyline { fill: none; stroke-width: 1.5 }
"""
NOTE = "The panels of deploy/dashboard.json with what its queries returned in a run under load. Drawn without Grafana."

#: What clients name, how often, and what the demo upstream does then: at `main`, and at `spare`.
MODELS = (
    ("quick", 30, "slow-2", "slow-2"),
    ("gpt-image-2", 40, "slow-6", "slow-7"),
    ("large", 14, "data-url+slow-11", "data-url+slow-12"),
    ("refused", 5, "refuses-400", "refuses-400"),
    ("talkative", 2, "text-only", "text-only"),
    ("busy", 3, "limited-2", "limited-2"),
    ("broken", 2, "error-500", "error-500"),
)


def upstreams(url: str) -> str:
    """`storm` fails at the first and goes to the second, until the first is left alone."""
    names = ["main", "spare"]
    return orjson.dumps(
        [
            {
                "name": name,
                "base_url": f"{url}/v1",
                "api_key": "sk-demo",
                "priority": index,
                "max_concurrency": 14,
                "models": {row[0]: row[2 + index] for row in MODELS} | {"storm": ("error-503", "slow-5")[index]},
            }
            for index, name in enumerate(names)
        ]
    ).decode()


@contextmanager
def run_servers(demo: str, folder: str, count: int) -> Iterator[list[int]]:
    """Yields their ports."""
    ports = free_ports(count)
    with ExitStack() as stack:
        for port in ports:
            environment = {
                "LIMNER_PORT": str(port),
                "LIMNER_UPSTREAMS": upstreams(demo),
                "LIMNER_FETCH_ALLOW": demo.removeprefix("http://"),
                "LIMNER_IMAGE_STORE": f"disk://{folder}",
                "LIMNER_LOG_LEVEL": "error",
            }
            command = [sys.executable, "-m", "app", "serve"]
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, env=os.environ | environment))
            stack.callback(process.terminate)
            wait(port)
        yield ports


def wait(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(port)


async def load(ports: Sequence[int], seconds: float) -> None:
    """Two requests a second, twice as many in a rush; in a storm one of the upstreams fails."""
    chance, began = random.Random(6), time.monotonic()
    unbounded = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(timeout=120, trust_env=False, limits=unbounded) as http,
        asyncio.TaskGroup() as group,
    ):
        while (passed := (time.monotonic() - began) / seconds) < 1:
            rush, storm = 0.2 < passed < 0.45, 0.6 < passed < 0.75
            group.create_task(ask(http, chance, ports, storm=storm))
            await asyncio.sleep(chance.expovariate(6.0 if rush else 2.5))


async def ask(http: httpx.AsyncClient, chance: random.Random, ports: Sequence[int], *, storm: bool) -> None:
    (model,) = chance.choices([row[0] for row in MODELS], [row[1] for row in MODELS])
    order = {"model": "storm" if storm else model, "prompt": f"a fox {chance.random()}"}
    order["response_format"] = chance.choice(["url", "b64_json"])
    url = f"http://127.0.0.1:{chance.choice(ports)}/v1/images"
    with suppress(httpx.HTTPError):
        if chance.random() < 0.2:
            await http.post(f"{url}/edits", data=order, files={"image": ("a.png", photo(), "image/png")})
        else:
            await http.post(f"{url}/generations", json=order)


def photo() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((512, 512), 60).save(file, "PNG")
    return file.getvalue()


def number(value: float, unit: str) -> str:
    """As Grafana writes it on an axis."""
    if unit == "s":
        return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"
    steps = ("", " kB", " MB", " GB") if unit in {"bytes", "Bps"} else ("", " K", " Mil", " Bil")
    index = 0
    while value >= 1000 and index < len(steps) - 1:
        value, index = value / 1000, index + 1
    return f"{value:g}{steps[index]}" + ("/s" if unit == "Bps" else "")


def ticks(most: float) -> list[float]:
    """Four or five round numbers from 0."""
    rough = most / 4 or 0.25
    power = 10 ** (len(f"{rough:.0f}") - 1) if rough >= 1 else 10 ** -len(f"{1 / rough:.0f}")
    step = next(power * times for times in (1, 2, 2.5, 5, 10, 20, 50, 100) if power * times >= rough)
    return [index * step for index in range(int(most / step) + 2)]


def lines(panel: dict[str, Any], prometheus: Prometheus, span: tuple[float, float]) -> Iterator[Line]:
    """Name and points of each series; what is no number leaves a gap, as in Grafana, and only gaps leave no line."""
    for target in panel["targets"]:
        for series in prometheus.range(target["expr"], *span, step=max(2.0, (span[1] - span[0]) / 250)):
            name = target["legendFormat"]
            for label, value in series["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            points = [(at, float(value)) for at, value in series["values"] if value not in {"NaN", "+Inf"}]
            if points:
                yield name, points


def legend(names: Sequence[str], width: int) -> list[tuple[float, int]]:
    """Where each name goes: its left edge, and its row."""
    places, at, row = [], 10.0, 0
    for name in names:
        needed = 24 + 6.3 * len(name)
        if at + needed > width and at > 10:
            at, row = 10.0, row + 1
        places.append((at, row))
        at += needed
    return places


@dataclass(frozen=True, slots=True)
class Plot:
    """Where things are in a panel: pixels for seconds between those of `span`, and for values between 0 and `most`."""

    width: int
    height: int
    bottom: int
    span: tuple[float, float]
    most: float

    def x(self, at: float) -> float:
        left, _, right, _ = FRAME
        return left + (at - self.span[0]) / (self.span[1] - self.span[0]) * (self.width - left - right)

    def y(self, value: float) -> float:
        return self.height - self.bottom - value / self.most * (self.height - FRAME[1] - self.bottom)


def draw(panel: dict[str, Any], prometheus: Prometheus, span: tuple[float, float]) -> str:
    place, unit = panel["gridPos"], panel["fieldConfig"]["defaults"]["unit"]
    width, height = int(place["w"] * COLUMN - 8), int(place["h"] * ROW - 8)
    series = list(lines(panel, prometheus, span))
    named = legend([name for name, _ in series], width)
    marks = ticks(max(value for _, points in series for _, value in points))
    plot = Plot(width, height, FRAME[3] + 16 * (1 + named[-1][1]), span, marks[-1])
    drawn = [f'<text class="title" x="10" y="18">{html.escape(panel["title"])}</text>', *axes(plot, marks, unit)]
    for (name, points), (edge, row), colour in zip(series, named, cycle(COLOURS), strict=False):
        path = " ".join(f"{plot.x(at):.1f},{plot.y(value):.1f}" for at, value in points)
        line = height - plot.bottom + 38 + 16 * row
        drawn.append(f'<polyline points="{path}" stroke="{colour}"/>')
        drawn.append(f'<rect x="{edge:.0f}" y="{line - 5}" width="10" height="3" fill="{colour}"/>')
        drawn.append(f'<text x="{edge + 14:.0f}" y="{line}">{html.escape(name)}</text>')
    where = f"left:{place['x'] * COLUMN + 4}px;top:{place['y'] * ROW + 30}px"
    return f'<svg style="{where}" width="{width}" height="{height}">{"".join(drawn)}</svg>'


def axes(plot: Plot, marks: Sequence[float], unit: str) -> Iterator[str]:
    left, _, right, _ = FRAME
    for mark in marks:
        at = plot.y(mark)
        yield f'<line x1="{left}" x2="{plot.width - right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{number(mark, unit)}</text>'
    began, ended = plot.span
    for index in range(6):
        moment = began + (ended - began) * index / 5
        clock = time.strftime("%H:%M:%S", time.gmtime(moment))
        under = plot.height - plot.bottom + 15
        yield f'<text x="{plot.x(moment):.0f}" y="{under}" text-anchor="middle">{clock}</text>'


def show(dashboard: dict[str, Any], prometheus: Prometheus, span: tuple[float, float]) -> None:
    panels = "".join(draw(panel, prometheus, span) for panel in dashboard["panels"])
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) * ROW + 34
    with run_browser() as browser:
        page = browser.new_page(viewport={"width": COLUMN * 24, "height": height})
        page.set_content(f"<style>{STYLE}</style><p>{html.escape(NOTE)}</p>{panels}")
        shot = Image.open(io.BytesIO(page.screenshot()))
    shot.convert("RGB").quantize(160, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


def main(seconds: float) -> None:
    with TemporaryDirectory() as folder, run_demo() as demo, run_servers(demo.url, folder, 2) as ports:
        targets = orjson.dumps([f"127.0.0.1:{port}" for port in ports]).decode()
        config = (
            f"scrape_configs: [{{job_name: limner, scrape_interval: 2s, static_configs: [{{targets: {targets}}}]}}]"
        )
        with run_prometheus(Path(folder), config=config) as prometheus:
            began = time.time()
            asyncio.run(load(ports, seconds))
            show(orjson.loads((ROOT / "deploy" / "dashboard.json").read_bytes()), prometheus, (began, time.time()))
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 600)
