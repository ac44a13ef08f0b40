"""The benchmark, for a few requests of each kind: that it measures right answers, and how it prints what it measured."""

import asyncio
from dataclasses import dataclass

import pytest

from app.pure.media import sniff
from bench import load, works
from bench.load import Sample
from bench.pictures import picture
from bench.process import choose_cores
from bench.subjects import LIMNER, TRANSLATOR, Subject, start_upstream
from bench.table import print_table, row, wait_row
from bench.waiting import Crowd, Wait, wait
from bench.works import SMALL, Work

KIB = 1024
KINDS = (
    SMALL,
    Work("base64", answer=300 * KIB),
    Work("data URL", answer=300 * KIB, form="data"),
    Work("edit", upload=300 * KIB, pictures=2),
)


@pytest.mark.parametrize("subject", [LIMNER, TRANSLATOR], ids=lambda subject: subject.name)
def test_every_kind_of_work_is_answered_rightly(subject: Subject) -> None:
    core = choose_cores().others
    with start_upstream(core) as upstream, subject.start(upstream.port, core) as process:
        for work in KINDS:
            asyncio.run(load.warm_up(process, work, 1))
            sample = asyncio.run(load.measure(process, upstream.port, work, at_once=2, seconds=0, rest=process.memory))
            assert (sample.done, sample.failed) == (2, 0), work.name
        waited = asyncio.run(wait(process, Crowd("few", 3, arriving=0.02, hold=0.05), process.memory))
        assert waited.failed == 0
        assert waited.added < 1


@pytest.mark.parametrize("size", [1200, 64 * KIB])
def test_a_picture_has_the_asked_weight(size: int) -> None:
    assert len(picture(size)) == size
    info = sniff(picture(size))
    assert info is not None
    assert (info.width, info.height) == (1024, 1024)


@dataclass(frozen=True, slots=True)
class Case:
    """`size`: bytes of an answer's body."""

    says: str
    work: Work
    size: int
    right: bool


CASES = (
    Case("a link is a small answer", SMALL, 300, right=True),
    Case("a picture is as long as its base64 and a little more", Work("", answer=3000), 4100, right=True),
    Case("a picture that lacks bytes is wrong", Work("", answer=3000), 3999, right=False),
    Case("a small answer that is large is wrong", SMALL, 5000, right=False),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_answers_are_told_by_their_length(case: Case) -> None:
    assert case.work.is_answered_by(case.size) == case.right


def test_the_table_has_medians_of_time_and_the_worst_of_memory() -> None:
    work = works.WORKS[3]
    limner = [Sample(10, failed, cpu, 1.0, peak) for failed, cpu, peak in ((0, 0.4, 5.0), (1, 0.2, 8.0), (0, 0.3, 6.0))]
    line = row(work, 8, {"limner": limner, "translator": [Sample(10, 0, 0.6, 1.0, 400.0)]})
    assert line == ["base64 20 MiB", "8", "33", "30.00", "-", "-", "0.5", "210", "8.0", "1.00", "400", "1"]
    lines: list[str] = []
    print_table([line], lines.append)
    assert len({len(text) for text in lines}) == 1


def test_waiting_is_told_per_request() -> None:
    line = wait_row("limner", Crowd("plain JSON", 512, 1.0, 1.0), [Wait(0, 10.0, 0.004, 1.024, 0)])
    assert line == ["plain JSON", "limner", "512", "10.0", "20", "4.0", "2.00", "0", "0"]
