"""What Prometheus reads: of one process, and of several that share a folder."""

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
from app.observability.metrics import LabelledCounter, render, sample_gauges

ROOT = Path(__file__).parents[3]

#: What a worker does, then what the last one tells of all.
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
    said: str
    told: str


LABELS = [
    Label("a code of ours is told", "upstream_timeout", "upstream_timeout"),
    Label("what an upstream has made up is other", "Model not found: /srv/x", "other"),
    Label("a long one too", "x" * 41, "other"),
    Label("nothing at all too", "", "other"),
]


@pytest.mark.parametrize("case", LABELS, ids=lambda case: case.name)
def test_a_label_is_a_plain_word(case: Label) -> None:
    registry = CollectorRegistry()
    family = LabelledCounter(Counter("seen", "…", ("operation", "outcome"), registry=registry))
    family.labels("edit", case.said).inc()
    assert registry.get_sample_value("seen_total", {"operation": "edit", "outcome": case.told}) == 1


def test_only_so_many_labels_are_told_apart() -> None:
    registry = CollectorRegistry()
    family = LabelledCounter(Counter("seen", "…", ("outcome",), registry=registry), max_series=3)
    for code in ("a", "b", "c", "d", "e", "a", "e"):
        family.labels(code).inc()
    found = {code: registry.get_sample_value("seen_total", {"outcome": code}) for code in ("a", "c", "d", "other")}
    assert found == {"a": 2, "c": 1, "d": None, "other": 3}


@dataclass
class Places:
    in_use: int = 3
    waiting: int = 2
    limit: int = 8


def test_turns_circuits_and_the_lag_of_the_loop_are_looked_at() -> None:
    clock = iter((0.0, 1.5, 1.5, 2.5))
    looks: list[float] = []

    async def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise asyncio.CancelledError

    before = value("limner_event_loop_lag_seconds_count"), value("limner_event_loop_lag_seconds_sum")
    states = {"a": "closed", "b": "half-open", "c": "open"}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(sample_gauges(Places(), lambda: states, sleep=sleep, now=lambda: next(clock, 9.0)))
    after = value("limner_event_loop_lag_seconds_count"), value("limner_event_loop_lag_seconds_sum")
    assert after[0] - before[0] == 2
    assert after[1] - before[1] == pytest.approx(0.5)
    assert [value("limner_turns", state=state) for state in ("used", "waiting")] == [3, 2]
    assert value("limner_turns_limit") == 8
    assert [value("limner_upstream_circuit", upstream=name) for name in "abc"] == [0, 1, 2]


@pytest.mark.parametrize(("accept", "media_type", "end"), [("", "text/plain; version=0.0.4", b""), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0", b"# EOF\n")])  # fmt: skip
def test_the_form_is_the_one_that_is_asked_for(accept: str, media_type: str, end: bytes) -> None:
    body, told = render(accept)
    assert told.startswith(media_type)
    assert body.endswith(end)
    assert b'limner_step_seconds_bucket{le="600.0",step="ask"}' in body
    assert b"process_resident_memory_bytes" in body
    assert b"_created" not in body


def test_every_metric_is_explained_and_ours_are_named_so() -> None:
    families = list(text_string_to_metric_families(render("")[0].decode()))
    ours = [family for family in families if not family.name.startswith("process_")]
    assert all(family.name.startswith("limner_") and family.documentation.endswith(".") for family in ours)
    assert len(ours) == 14


def test_every_metric_is_in_the_readme() -> None:
    told = (ROOT / "README.md").read_text()
    names = re.findall("^# TYPE limner_([a-z_]+) ", render("")[0].decode(), re.MULTILINE)
    assert len(names) == 14
    assert [name for name in names if f"`{name}" not in told] == []


def test_several_workers_are_added_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run((sys.executable, "-c", WORKER), env=environment, check=True)
    told = subprocess.run((sys.executable, "-c", SCRAPED), env=environment, check=True, capture_output=True, text=True)
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(told.stdout)
        for sample in family.samples
    }
    assert samples["limner_questions_total", ("operation", "image_edit"), ("outcome", "ok")] == 2
    assert samples["limner_step_seconds_bucket", ("le", "30.0"), ("step", "ask")] == 0
    assert samples["limner_step_seconds_bucket", ("le", "45.0"), ("step", "ask")] == 2
    assert samples["limner_spool_bytes",] == 2000


def test_what_all_workers_share_is_read_in_this_process_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library looks at the variable when it is imported; from then on its class of values tells."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values.ValueClass, "_multiprocess", True)
    assert render("")[0] == b""


@pytest.mark.parametrize(("process", "file"), [("MainProcess", "counter_PID.db"), ("worker-3", "counter_worker-3.db")])
def test_a_worker_counts_on_in_the_files_of_the_one_before_it(
    process: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(current_process(), "name", process)
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())  # type: ignore[no-untyped-call]
    metrics.configure_multiprocess()
    Counter("seen", "…", registry=CollectorRegistry()).inc()
    assert [found.name for found in tmp_path.iterdir()] == [file.replace("PID", str(os.getpid()))]
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]
