"""The metrics as Prometheus reads them: of one process, and of several that share a folder."""

import asyncio
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import current_process
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, values
from prometheus_client.parser import text_string_to_metric_families

from app.observability import metrics
from app.observability.metrics import LabeledCounter, render, sample_gauges

ROOT = Path(__file__).parents[3]

#: A worker that counts, and one that then prints the metrics of all workers.
WORKER = """
from app.observability import metrics
metrics.REQUESTS.labels("image_edit", "ok").inc()
metrics.STEP_SECONDS["ask"].observe(45)
metrics.SPOOL_BYTES.inc(1000)
"""
SCRAPED = WORKER + "import sys; sys.stdout.buffer.write(metrics.render('')[0])"


def value(name: str, **labels: str) -> float:
    found = metrics.REGISTRY.get_sample_value(name, labels)
    assert found is not None, name
    return found


@dataclass(frozen=True, slots=True)
class Label:
    name: str
    code: str
    label: str


LABELS = [
    Label("one of our error codes is kept", "upstream_timeout", "upstream_timeout"),
    Label("a sentence of an upstream is other", "Model not found: /srv/x", "other"),
    Label("a long code is other", "x" * 41, "other"),
    Label("an empty code is other", "", "other"),
]


@pytest.mark.parametrize("case", LABELS, ids=lambda case: case.name)
def test_only_short_plain_words_become_label_values(case: Label) -> None:
    registry = CollectorRegistry()
    counter = LabeledCounter(Counter("seen", "…", ("operation", "outcome"), registry=registry))
    counter.labels("edit", case.code).inc()
    assert registry.get_sample_value("seen_total", {"operation": "edit", "outcome": case.label}) == 1


def test_the_number_of_label_values_is_limited() -> None:
    registry = CollectorRegistry()
    counter = LabeledCounter(Counter("seen", "…", ("outcome",), registry=registry), max_series=3)
    for code in ("a", "b", "c", "d", "e", "a", "e"):
        counter.labels(code).inc()
    found = {code: registry.get_sample_value("seen_total", {"outcome": code}) for code in ("a", "c", "d", "other")}
    assert found == {"a": 2, "c": 1, "d": None, "other": 3}


@dataclass
class Slots:
    in_use: int = 3
    waiting: int = 2
    limit: int = 8


def test_slots_circuits_and_the_lag_of_the_loop_are_sampled() -> None:
    clock = iter((0.0, 1.5, 1.5, 2.5))
    sleeps: list[float] = []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            raise asyncio.CancelledError

    before = value("limner_event_loop_lag_seconds_count"), value("limner_event_loop_lag_seconds_sum")
    states = {"a": "closed", "b": "half-open", "c": "open"}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(sample_gauges(Slots(), lambda: states, sleep=sleep, now=lambda: next(clock, 9.0)))
    after = value("limner_event_loop_lag_seconds_count"), value("limner_event_loop_lag_seconds_sum")
    assert after[0] - before[0] == 2
    assert after[1] - before[1] == pytest.approx(0.5)
    assert [value("limner_turns", state=state) for state in ("used", "waiting")] == [3, 2]
    assert value("limner_turns_limit") == 8
    assert [value("limner_upstream_circuit", upstream=name) for name in "abc"] == [0, 1, 2]


@pytest.mark.parametrize(("accept", "media_type", "end"), [("", "text/plain; version=0.0.4", b""), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0", b"# EOF\n")])  # fmt: skip
def test_the_format_follows_the_accept_header(accept: str, media_type: str, end: bytes) -> None:
    body, content_type = render(accept)
    assert content_type.startswith(media_type)
    assert body.endswith(end)
    assert b'limner_step_seconds_bucket{le="600.0",step="ask"}' in body
    assert b"process_resident_memory_bytes" in body
    assert b"_created" not in body


def test_every_metric_has_a_description_and_our_prefix() -> None:
    families = list(text_string_to_metric_families(render("")[0].decode()))
    ours = [family for family in families if not family.name.startswith("process_")]
    assert all(family.name.startswith("limner_") and family.documentation.endswith(".") for family in ours)
    assert len(ours) == 20


def test_every_metric_is_documented() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    names = re.findall("^# TYPE limner_([a-z_]+) ", render("")[0].decode(), re.MULTILINE)
    assert len(names) == 20
    assert [name for name in names if f"| `limner_{name}` |" not in page] == []


def test_the_metrics_of_several_workers_are_summed(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run((sys.executable, "-c", WORKER), env=environment, check=True)
    scraped = subprocess.run(
        (sys.executable, "-c", SCRAPED), env=environment, check=True, capture_output=True, text=True
    )
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(scraped.stdout)
        for sample in family.samples
    }
    assert samples["limner_questions_total", ("operation", "image_edit"), ("outcome", "ok")] == 2
    assert samples["limner_step_seconds_bucket", ("le", "30.0"), ("step", "ask")] == 0
    assert samples["limner_step_seconds_bucket", ("le", "45.0"), ("step", "ask")] == 2
    assert samples["limner_spool_bytes",] == 2000


def test_the_files_of_all_workers_are_read_in_this_process_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads the variable once, at its import, and chooses its value class accordingly."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values.ValueClass, "_multiprocess", True)
    assert render("")[0] == b""


@pytest.mark.parametrize(("process", "file"), [("MainProcess", "counter_PID.db"), ("worker-3", "counter_worker-3.db")])
def test_a_worker_continues_the_files_of_its_predecessor(
    process: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(current_process(), "name", process)
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())  # type: ignore[no-untyped-call]
    metrics.configure_multiprocess()
    Counter("seen", "…", registry=CollectorRegistry()).inc()
    assert [found.name for found in tmp_path.iterdir()] == [file.replace("PID", str(os.getpid()))]
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]
