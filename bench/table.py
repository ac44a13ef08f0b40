"""Samples become lines of Markdown tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.load import Sample
from bench.subjects import LIMNER, NGINX, PLAIN, TRANSLATOR
from bench.waiting import Crowd, Wait
from bench.works import Work

_COLUMNS = (
    *("work", "at once", "requests per CPU s", "CPU ms", "× ok app", "× nginx", "× translator", "MB/s"),
    *("MiB over rest", "per request", "translator's MiB", "failed"),
)
_WAIT_COLUMNS = (
    *("waiting", "server", "requests", "MiB over rest", "KiB each", "added p99 ms", "CPU ms each"),
    *("signs of life", "failed"),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of several rounds: the median of times, the worst of memory. `cpu` in ms a request, `speed` in MB/s."""

    cpu: float
    speed: float
    peak: float
    failed: int


def sum_up(work: Work, samples: Sequence[Sample]) -> Figures:
    return Figures(
        cpu=median(sample.cpu / sample.done * 1000 for sample in samples),
        speed=median(work.moved * sample.done / sample.wall / 1e6 for sample in samples),
        peak=max(sample.peak for sample in samples),
        failed=sum(sample.failed for sample in samples),
    )


def row(work: Work, at_once: int, samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """One line; a dash for what was not measured. `samples` by the subject's name."""
    figures = {name: sum_up(work, of_subject) for name, of_subject in samples.items()}
    limner = figures[LIMNER.name]

    def times(name: str) -> str:
        return f"{limner.cpu / figures[name].cpu:.1f}" if name in figures and figures[name].cpu else "-"

    translator = figures.get(TRANSLATOR.name)
    return [
        work.name,
        str(at_once),
        f"{1000 / limner.cpu:.0f}" if limner.cpu else "-",
        f"{limner.cpu:.2f}",
        *(times(subject.name) for subject in (PLAIN, NGINX, TRANSLATOR)),
        f"{limner.speed:.0f}" if work.moved else "-",
        f"{limner.peak:.1f}",
        f"{limner.peak / at_once:.2f}",
        f"{translator.peak:.0f}" if translator else "-",
        str(limner.failed),
    ]


def wait_row(name: str, crowd: Crowd, waits: Sequence[Wait]) -> list[str]:
    peak = max(wait.peak for wait in waits)
    return [
        crowd.name,
        name,
        str(crowd.count),
        f"{peak:.1f}",
        f"{peak * 1024 / crowd.count:.0f}",
        f"{median(wait.added for wait in waits) * 1000:.1f}",
        f"{median(wait.cpu for wait in waits) / crowd.count * 1000:.2f}",
        str(min(wait.comments for wait in waits)),
        str(sum(wait.failed for wait in waits)),
    ]


def print_table(rows: Iterable[Sequence[str]], write: Callable[[str], object] = print) -> None:
    _write(_COLUMNS, rows, write)


def print_waits(rows: Iterable[Sequence[str]], write: Callable[[str], object] = print) -> None:
    _write(_WAIT_COLUMNS, rows, write)


def _write(columns: Sequence[str], rows: Iterable[Sequence[str]], write: Callable[[str], object]) -> None:
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        write(f"| {' | '.join(cells)} |")
