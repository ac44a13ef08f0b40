"""What many schedules have shown together. In a file of its own, since processes that play cannot import `__main__`."""

import gc
from collections import Counter
from dataclasses import dataclass, field

from simulate.schedule import Outcome, play, silence_log


@dataclass(slots=True)
class Figures:
    """Sums over schedules. `failures` are the seeds that broke a rule, each with the first rule."""

    schedules: int = 0
    requests: int = 0
    calls: int = 0
    commands: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.schedules += 1
        self.requests += outcome.requests
        self.calls += outcome.calls
        self.commands += outcome.redis_commands.total()
        self.faults += outcome.faults
        if outcome.violations:
            self.failures.append((outcome.seed, outcome.violations[0]))

    def merge(self, other: "Figures") -> None:
        for name in ("schedules", "requests", "calls", "commands"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults += other.faults
        self.failures += other.failures


def play_portion(seeds: range) -> Figures:
    """Play schedules in this process."""
    figures = Figures()
    for seed in seeds:
        figures.add(play(seed))
    return figures


def prepare() -> None:
    """Let nothing be logged, and leave garbage to `play`, which collects it between schedules."""
    silence_log()
    gc.collect()
    gc.freeze()
    gc.disable()
