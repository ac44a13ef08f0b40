"""Play schedules on all cores: `python -m simulate [--seconds N] [--schedules N] [--seed N]`; exits with 1 after a violation."""

import argparse
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from multiprocessing import get_context

from simulate.figures import Figures, play_portion, prepare
from simulate.schedule import play, silence_log

#: Schedules that a process plays before it reports, and violations after which nothing more is played.
_PORTION, _MAX_FAILURES = 100, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Play schedules and print their figures. Returns 1 if one of them broke a rule."""
    parser = argparse.ArgumentParser("simulate", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all schedules together (60)")
    parser.add_argument("--schedules", type=int, default=None, help="so many schedules, however long they take")
    parser.add_argument("--seed", type=int, default=None, help="of the first schedule; the others follow (random)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="how many play at the same time (all cores)"
    )
    parser.add_argument("--history", action="store_true", help="print everything that happens with the one seed")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    if options.history:
        return tell(seed)
    print(f"first seed {seed}")
    started = time.perf_counter()
    figures = play_many(seed, options.seconds, options.schedules, options.processes)
    report(figures, time.perf_counter() - started)
    return int(bool(figures.failures))


def tell(seed: int) -> int:
    """Print the history of one schedule, with every command that Redis got."""
    restore = silence_log()
    outcome = play(seed, with_commands=True)
    restore()
    for at, text in outcome.events:
        print(f"{at:9.4f} {text}")
    print(f"seed {seed}: {len(outcome.violations)} violations")
    return int(bool(outcome.violations))


def play_many(seed: int, seconds: float, schedules: int | None, processes: int) -> Figures:
    """Play schedules until the time is over, or so many, or until too many have failed."""
    figures, deadline = Figures(), time.perf_counter() + seconds
    portions = _portions(seed, schedules)
    if processes == 1:
        restore = silence_log()
        for portion in portions:
            if (schedules is None and time.perf_counter() > deadline) or len(figures.failures) >= _MAX_FAILURES:
                break
            figures.merge(play_portion(portion))
        restore()
        return figures
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=prepare) as pool:
        running: set[Future[Figures]] = set()
        while True:
            is_late = schedules is None and time.perf_counter() > deadline
            while len(running) < 2 * processes and not is_late and len(figures.failures) < _MAX_FAILURES:
                portion = next(portions, range(0))
                if not portion:
                    break
                running.add(pool.submit(play_portion, portion))
            if not running:
                return figures
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                figures.merge(future.result())


def _portions(seed: int, schedules: int | None) -> Iterator[range]:
    for first in count(seed, _PORTION):
        last = first + _PORTION if schedules is None else min(first + _PORTION, seed + schedules)
        if last <= first:
            return
        yield range(first, last)


def report(figures: Figures, seconds: float) -> None:
    """Print what was played, and how to repeat what went wrong."""
    each = 1000 * seconds / max(1, figures.schedules)
    print(f"{figures.schedules:,} schedules in {seconds:.0f} s, one in {each:.1f} ms")
    print(
        f"{figures.requests:,} requests, {figures.calls:,} upstream calls, {figures.commands:,} commands of the job table"
    )
    for kind, number in sorted(figures.faults.items()):
        print(f"  {number:>10,}  {kind}")
    print(f"{len(figures.failures)} schedules with violations")
    for seed, rule in figures.failures[:_MAX_FAILURES]:
        print(f"  seed {seed}: {rule}\n    its history: python -m simulate --history --seed {seed}")
    if figures.failures:
        tell(figures.failures[0][0])


if __name__ == "__main__":
    sys.exit(main())
