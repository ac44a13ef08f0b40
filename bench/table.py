"""Format samples as Markdown tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.load import Sample
from bench.servers_under_test import BASELINE, LIMNER, NGINX, TRANSLATOR
from bench.waiting_clients import ClientGroup, WaitingResult
from bench.workloads import Workload

_COLUMNS = (
    *("workload", "connections", "requests per CPU s", "CPU ms", "× baseline", "× nginx", "× translator", "MB/s"),
    *("MiB over idle", "per request", "translator's MiB", "failed"),
)
_WAITING_COLUMNS = (
    *("waiting", "server", "requests", "MiB over idle", "KiB each", "MiB with results", "added p99 ms", "CPU ms each"),
    *("keep-alives", "failed"),
)


_LATENCY_COLUMNS = ("latency", "direct download ms", "through Limner ms", "added ms", "added %", "failed")
_CROWD_COLUMNS = (
    *("under way", "CPU ms", "× the first", "KiB each", "added p99 ms", "MiB kept afterwards", "80 s later", "failed"),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """Several rounds together: medians of times, maxima of memory.

    `cpu` is in ms per request, `speed` in MB/s, `peak` in MiB above the idle server.
    """

    cpu: float
    speed: float
    peak: float
    failed: int


def summarize(workload: Workload, samples: Sequence[Sample]) -> Summary:
    return Summary(
        cpu=median(sample.cpu / sample.done * 1000 for sample in samples),
        speed=median(workload.transferred_bytes * sample.done / sample.wall / 1e6 for sample in samples),
        peak=max(sample.peak for sample in samples),
        failed=sum(sample.failed for sample in samples),
    )


def row(workload: Workload, concurrency: int, samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Return the cells of one line, with a dash for figures that were not measured.

    `samples` has the names of the servers as keys.
    """
    summaries = {name: summarize(workload, of_one) for name, of_one in samples.items()}
    limner = summaries[LIMNER.name]

    def ratio(name: str) -> str:
        return f"{limner.cpu / summaries[name].cpu:.1f}" if name in summaries and summaries[name].cpu else "-"

    translator = summaries.get(TRANSLATOR.name)
    return [
        workload.name,
        str(concurrency),
        f"{1000 / limner.cpu:.0f}" if limner.cpu else "-",
        f"{limner.cpu:.2f}",
        *(ratio(server.name) for server in (BASELINE, NGINX, TRANSLATOR)),
        f"{limner.speed:.0f}" if workload.transferred_bytes else "-",
        f"{limner.peak:.1f}",
        f"{limner.peak / concurrency:.2f}",
        f"{translator.peak:.0f}" if translator else "-",
        str(limner.failed),
    ]


def waiting_row(name: str, group: ClientGroup, results: Sequence[WaitingResult]) -> list[str]:
    waiting = max(result.waiting_memory for result in results)
    return [
        group.name,
        name,
        str(group.count),
        f"{waiting:.1f}",
        f"{waiting * 1024 / group.count:.0f}",
        f"{max(result.added_memory for result in results):.1f}",
        f"{median(result.added_seconds for result in results) * 1000:.1f}",
        f"{median(result.cpu_seconds for result in results) / group.count * 1000:.2f}",
        str(min(result.keepalives for result in results)),
        str(sum(result.failed for result in results)),
    ]


def print_table(rows: Iterable[Sequence[str]], write: Callable[[str], object] = print) -> None:
    write_table(_COLUMNS, rows, write)


def print_waiting(rows: Iterable[Sequence[str]], write: Callable[[str], object] = print) -> None:
    write_table(_WAITING_COLUMNS, rows, write)


def print_crowds(rows: Iterable[Sequence[str]], write: Callable[[str], object] = print) -> None:
    write_table(_CROWD_COLUMNS, rows, write)


def print_latency(rows: Iterable[Sequence[str]], write: Callable[[str], object] = print) -> None:
    write_table(_LATENCY_COLUMNS, rows, write)


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]], write: Callable[[str], object]) -> None:
    """Write a Markdown table, line by line."""
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        write(f"| {' | '.join(cells)} |")
