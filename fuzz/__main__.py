"""Fuzz for a bounded time: `python -m fuzz [--seconds N] [--only NAME] [--seed N]`; 1 where something went wrong."""

import argparse
import logging
import secrets
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random

from fuzz.targets import TARGETS, Target

#: Seconds that one input may take. The slowest honest megabyte takes a twentieth of that.
TOO_LONG = 2.0

#: Inputs that failed are kept here, to be given to a test.
FINDINGS = Path(__file__).parent / "findings"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (60)")
    parser.add_argument("--only", choices=[target.name for target in TARGETS], help="one target")
    parser.add_argument("--seed", type=int, default=None, help="the same inputs once more; chosen anew otherwise")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    targets = [target for target in TARGETS if options.only in {None, target.name}]
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    print(f"seed {seed}")
    return int(sum([fuzz(target, seed, options.seconds / len(targets)) for target in targets]) > 0)


def fuzz(target: Target, seed: int, seconds: float) -> int:
    """How many failures of different kinds there were."""
    random = Random(seed)
    kinds: set[str] = set()
    until, slowest, count = time.perf_counter() + seconds, 0.0, 0
    while time.perf_counter() < until:
        data = target.stock.input(random)
        began = time.perf_counter()
        kind = fault(target, random, data)
        took = time.perf_counter() - began
        if kind is None and took > TOO_LONG:
            kind = f"{took:.1f} s for {len(data)} bytes"
        if kind is not None and kind not in kinds:
            kinds.add(kind)
            print(f"{target.name}: {kind}\n  {keep(target, data)}")
        slowest, count = max(slowest, took), count + 1
    print(f"{target.name:<10} {count:>7} inputs, the slowest {slowest * 1000:.0f} ms, {len(kinds)} failures")
    return len(kinds)


def fault(target: Target, random: Random, data: bytes) -> str | None:
    """Where and why it failed."""
    try:
        target.check(random, data)
    except Exception as error:  # noqa: BLE001  # reason: whatever it is, it is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {str(error)[:100]}"
    return None


def keep(target: Target, data: bytes) -> Path:
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{target.name}-{time.time_ns()}"
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    sys.exit(main())
