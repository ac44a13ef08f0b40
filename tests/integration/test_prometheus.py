"""A real Prometheus with the files of deploy/: each panel has data after a demo run, each alert fires in time."""

import subprocess
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import httpx
import orjson
import pytest
import yaml  # type: ignore[import-untyped]
from PIL import Image

from tests.support.prometheus import PROMETHEUS, PROMTOOL, Prometheus, run_prometheus, samples
from tests.support.servers import RunningLimner, run_demo, run_limner

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = [rule["alert"] for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]  # fmt: skip
TARGETS = [
    pytest.param(target["expr"], id=f"{panel['title']}: {target['legendFormat']}")
    for panel in orjson.loads((DEPLOY / "dashboard.json").read_bytes())["panels"]
    for target in panel["targets"]
]

#: The start of the demo run in seconds since 1970, and the simulated interval of its scrapes.
START, SCRAPE_INTERVAL = 1_800_000_000, 30

#: The behavior of the demo upstream by the model that a client names.
MODELS = {"gpt-image-2": "gpt-image-2-chat", "refused": "refuses-400", "broken": "error-500", "*": "gpt-image-2-chat"}


def require(program: str | None, name: str) -> None:
    if program is None:
        pytest.skip(f"needs {name}")


def send_requests(http: httpx.Client, folder: Path) -> None:
    """Send a generation, an edit, a request that is refused, and one that fails."""
    body = {"model": "gpt-image-2", "prompt": "a fox", "size": "1024x1024"}
    url, form = "/v1/images/generations", {key: value for key, value in body.items() if key != "size"}
    assert http.post(url, json=body).status_code == 200
    with (folder / "photo.png").open("rb") as photo:
        assert http.post("/v1/images/edits", data=form, files={"image": photo}).status_code == 200
    assert http.post(url, json={**body, "model": "refused"}).status_code == 400
    assert http.post(url, json={**body, "model": "broken"}).status_code == 500


def scrape(limner: RunningLimner, folder: Path) -> Iterator[str]:
    """Send requests and scrape in turn, until the gauges that are sampled each second have changed."""
    at, seen = START, set[str]()
    with httpx.Client(base_url=limner.url, timeout=30, trust_env=False) as http:
        while len(seen) < 4:
            send_requests(http, folder)
            scraped = http.get("/metrics").text
            seen.update(line for line in scraped.splitlines() if line.startswith("limner_event_loop_lag_seconds_count"))
            yield from samples(scraped, at, job="limner", instance="127.0.0.1:8000")
            at += SCRAPE_INTERVAL


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, float]]:
    """Prometheus with the data of a run of Limner and the demo upstream, and the time at which it ended."""
    require(PROMETHEUS, "prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    Image.new("RGB", (64, 64), "teal").save(folder / "photo.png")
    with run_demo() as demo:
        upstream = {
            "name": "demo",
            "base_url": f"{demo.url}/v1",
            "api_key": "sk-upstream",
            "models": MODELS,
            "prices": [{"image": "0.04"}],
        }
        one = {"upstream_base_url": None, "upstream_api_key": None}
        with run_limner(demo.url, upstreams=[upstream], **one) as limner:
            lines = list(scrape(limner, folder))
    with run_prometheus(folder, lines) as prometheus:
        yield prometheus, float(lines[-1].rpartition(" ")[2])


@pytest.mark.parametrize("query", TARGETS)
def test_each_query_of_the_dashboard_returns_data_from_a_demo_run(
    demo_run: tuple[Prometheus, float], query: str
) -> None:
    prometheus, ended = demo_run
    series = prometheus.query(query, ended)
    assert any(isfinite(float(each["value"][1])) for each in series)


def test_the_dashboard_separates_outcomes(demo_run: tuple[Prometheus, float]) -> None:
    prometheus, ended = demo_run
    series = prometheus.query("sum by (operation, outcome) (rate(limner_questions_total[5m])) > 0", ended)
    assert {(each["metric"]["operation"], each["metric"]["outcome"]) for each in series} >= {
        ("image_generation", "ok"),
        ("image_edit", "ok"),
        ("image_generation", "moderation_blocked"),
        ("image_generation", "upstream_error"),
    }


def test_every_alert_fires_when_it_should_and_is_silent_when_it_should() -> None:
    """The samples and the expected alerts are in tests/data/alerts.yaml."""
    require(PROMTOOL, "promtool")
    assert PROMTOOL is not None
    file = Path(__file__).parents[1] / "data" / "alerts.yaml"
    ended = subprocess.run([PROMTOOL, "test", "rules", file], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    expected = [alert for test in yaml.safe_load(file.read_text())["tests"] for alert in test["alert_rule_test"]]
    assert {each["alertname"] for each in expected if each.get("exp_alerts")} == set(ALERTS)
    assert {each["alertname"] for each in expected if not each.get("exp_alerts")} == set(ALERTS)
