"""Draw docs/images/dashboard.png from the results that a real Prometheus returns for the queries of the dashboard.

`python -m bench.dashboard [SECONDS]` needs Prometheus and Chromium. Prometheus scrapes two servers in front of the demo
upstream under load. The panels of deploy/dashboard.json are drawn here, not by Grafana, with their titles, units and
legends.
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
OUTPUT = ROOT / "docs" / "images" / "dashboard.png"

#: The name of a series and its points: Unix time in seconds, and value.
Line = tuple[str, list[tuple[float, float]]]

#: In pixels: width of a grid column, height of a grid row, and margins of a plot (left, top, right, bottom).
COLUMN_WIDTH, ROW_HEIGHT, MARGINS = 50, 27, (58, 30, 28, 26)
COLORS = (
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
CAPTION = (
    "The panels of deploy/dashboard.json with the results of their queries in a run under load. Drawn without Grafana."
)

#: Model that clients name, its weight, and the behavior of the demo upstream for it as `main` and as `spare`.
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
    """Configure two upstreams. The model `storm` fails at the first one, whose circuit breaker then opens."""
    names = ["main", "spare"]
    return orjson.dumps(
        [
            {
                "name": name,
                "base_url": f"{url}/v1",
                "api_key": "sk-demo",
                "priority": index,
                "max_concurrency": 14,
                "models": {line[0]: line[2 + index] for line in MODELS} | {"storm": ("error-503", "slow-5")[index]},
            }
            for index, name in enumerate(names)
        ]
    ).decode()


@contextmanager
def run_servers(demo: str, folder: str, count: int) -> Iterator[list[int]]:
    """Run `count` servers in front of the demo upstream and yield their ports."""
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
            wait_for_port(port)
        yield ports


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(port)


async def generate_load(ports: Sequence[int], seconds: float) -> None:
    """Send 2.5 requests per second, 6 in a busy phase; later one upstream fails for a while."""
    random_source, started_at = random.Random(6), time.monotonic()
    unbounded = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(timeout=120, trust_env=False, limits=unbounded) as http,
        asyncio.TaskGroup() as group,
    ):
        while (elapsed := (time.monotonic() - started_at) / seconds) < 1:
            is_busy, is_failing = 0.2 < elapsed < 0.45, 0.6 < elapsed < 0.75
            group.create_task(send_request(http, random_source, ports, is_failing=is_failing))
            await asyncio.sleep(random_source.expovariate(6.0 if is_busy else 2.5))


async def send_request(
    http: httpx.AsyncClient, random_source: random.Random, ports: Sequence[int], *, is_failing: bool
) -> None:
    (model,) = random_source.choices([row[0] for row in MODELS], [row[1] for row in MODELS])
    fields = {"model": "storm" if is_failing else model, "prompt": f"a fox {random_source.random()}"}
    fields["response_format"] = random_source.choice(["url", "b64_json"])
    url = f"http://127.0.0.1:{random_source.choice(ports)}/v1/images"
    with suppress(httpx.HTTPError):
        if random_source.random() < 0.2:
            await http.post(f"{url}/edits", data=fields, files={"image": ("a.png", noise_image(), "image/png")})
        else:
            await http.post(f"{url}/generations", json=fields)


def noise_image() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((512, 512), 60).save(file, "PNG")
    return file.getvalue()


def axis_label(value: float, unit: str) -> str:
    """Format a value as Grafana does on an axis."""
    if unit == "s":
        return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"
    steps = ("", " kB", " MB", " GB") if unit in {"bytes", "Bps"} else ("", " K", " Mil", " Bil")
    index = 0
    while value >= 1000 and index < len(steps) - 1:
        value, index = value / 1000, index + 1
    return f"{value:g}{steps[index]}" + ("/s" if unit == "Bps" else "")


def ticks(maximum: float) -> list[float]:
    """Return round numbers from 0 to at least the maximum, in four or five steps."""
    rough = maximum / 4 or 0.25
    power = 10 ** (len(f"{rough:.0f}") - 1) if rough >= 1 else 10 ** -len(f"{1 / rough:.0f}")
    step = next(power * times for times in (1, 2, 2.5, 5, 10, 20, 50, 100) if power * times >= rough)
    return [index * step for index in range(int(maximum / step) + 2)]


def read_series(panel: dict[str, Any], prometheus: Prometheus, span: tuple[float, float]) -> Iterator[Line]:
    """Yield name and points of each series. NaN and infinity leave a gap, as in Grafana; empty series are skipped."""
    for target in panel["targets"]:
        for series in prometheus.range(target["expr"], *span, step=max(2.0, (span[1] - span[0]) / 250)):
            name = target["legendFormat"]
            for label, value in series["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            points = [(moment, float(value)) for moment, value in series["values"] if value not in {"NaN", "+Inf"}]
            if points:
                yield name, points


def legend(names: Sequence[str], width: int) -> list[tuple[float, int]]:
    """Return for each name its left edge in pixels and its line."""
    positions, x, line = [], 10.0, 0
    for name in names:
        needed = 24 + 6.3 * len(name)
        if x + needed > width and x > 10:
            x, line = 10.0, line + 1
        positions.append((x, line))
        x += needed
    return positions


@dataclass(frozen=True, slots=True)
class Plot:
    """Coordinates in a panel: from times within `span` and values between 0 and `maximum` to pixels."""

    width: int
    height: int
    bottom: int
    span: tuple[float, float]
    maximum: float

    def x(self, moment: float) -> float:
        left, _, right, _ = MARGINS
        return left + (moment - self.span[0]) / (self.span[1] - self.span[0]) * (self.width - left - right)

    def y(self, value: float) -> float:
        return self.height - self.bottom - value / self.maximum * (self.height - MARGINS[1] - self.bottom)


def draw_panel(panel: dict[str, Any], prometheus: Prometheus, span: tuple[float, float]) -> str:
    position, unit = panel["gridPos"], panel["fieldConfig"]["defaults"]["unit"]
    width, height = int(position["w"] * COLUMN_WIDTH - 8), int(position["h"] * ROW_HEIGHT - 8)
    series = list(read_series(panel, prometheus, span))
    legend_positions = legend([name for name, _ in series], width)
    marks = ticks(max(value for _, points in series for _, value in points))
    plot = Plot(width, height, MARGINS[3] + 16 * (1 + legend_positions[-1][1]), span, marks[-1])
    elements = [f'<text class="title" x="10" y="18">{html.escape(panel["title"])}</text>', *axes(plot, marks, unit)]
    for (name, points), (left, line), color in zip(series, legend_positions, cycle(COLORS), strict=False):
        path = " ".join(f"{plot.x(moment):.1f},{plot.y(value):.1f}" for moment, value in points)
        baseline = height - plot.bottom + 38 + 16 * line
        elements.append(f'<polyline points="{path}" stroke="{color}"/>')
        elements.append(f'<rect x="{left:.0f}" y="{baseline - 5}" width="10" height="3" fill="{color}"/>')
        elements.append(f'<text x="{left + 14:.0f}" y="{baseline}">{html.escape(name)}</text>')
    style = f"left:{position['x'] * COLUMN_WIDTH + 4}px;top:{position['y'] * ROW_HEIGHT + 30}px"
    return f'<svg style="{style}" width="{width}" height="{height}">{"".join(elements)}</svg>'


def axes(plot: Plot, marks: Sequence[float], unit: str) -> Iterator[str]:
    left, _, right, _ = MARGINS
    for tick in marks:
        height = plot.y(tick)
        yield f'<line x1="{left}" x2="{plot.width - right}" y1="{height:.1f}" y2="{height:.1f}"/>'
        yield f'<text x="{left - 6}" y="{height + 4:.1f}" text-anchor="end">{axis_label(tick, unit)}</text>'
    started_at, ended_at = plot.span
    for index in range(6):
        moment = started_at + (ended_at - started_at) * index / 5
        time_text = time.strftime("%H:%M:%S", time.gmtime(moment))
        under = plot.height - plot.bottom + 15
        yield f'<text x="{plot.x(moment):.0f}" y="{under}" text-anchor="middle">{time_text}</text>'


def draw_dashboard(dashboard: dict[str, Any], prometheus: Prometheus, span: tuple[float, float]) -> None:
    panels = "".join(draw_panel(panel, prometheus, span) for panel in dashboard["panels"])
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) * ROW_HEIGHT + 34
    with run_browser() as browser:
        page = browser.new_page(viewport={"width": COLUMN_WIDTH * 24, "height": height})
        page.set_content(f"<style>{STYLE}</style><p>{html.escape(CAPTION)}</p>{panels}")
        screenshot = Image.open(io.BytesIO(page.screenshot()))
    screenshot.convert("RGB").quantize(160, dither=Image.Dither.NONE).save(OUTPUT, optimize=True)


def main(seconds: float) -> None:
    with TemporaryDirectory() as folder, run_demo() as demo, run_servers(demo.url, folder, 2) as ports:
        targets = orjson.dumps([f"127.0.0.1:{port}" for port in ports]).decode()
        config = (
            f"scrape_configs: [{{job_name: limner, scrape_interval: 2s, static_configs: [{{targets: {targets}}}]}}]"
        )
        with run_prometheus(Path(folder), config=config) as prometheus:
            started_at = time.time()
            asyncio.run(generate_load(ports, seconds))
            draw_dashboard(
                orjson.loads((ROOT / "deploy" / "dashboard.json").read_bytes()), prometheus, (started_at, time.time())
            )
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 600)
