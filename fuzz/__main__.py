"""Fuzz for a limited time: `python -m fuzz [--seconds N] [--only NAME] [--seed N]`; exits with 1 after a failure."""

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

#: Seconds that one input may take. The slowest valid megabyte takes a twentieth of that.
MAX_SECONDS = 2.0

#: Folder for inputs that failed, to be made into a test.
FINDINGS = Path(__file__).parent / "findings"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (60)")
    parser.add_argument("--only", choices=[target.name for target in TARGETS], help="one target")
    parser.add_argument("--seed", type=int, default=None, help="repeats the inputs of an earlier run (random)")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    targets = [target for target in TARGETS if options.only in {None, target.name}]
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    print(f"seed {seed}")
    return int(sum([fuzz(target, seed, options.seconds / len(targets)) for target in targets]) > 0)


def fuzz(target: Target, seed: int, seconds: float) -> int:
    """Fuzz one target and return the number of different failures."""
    random = Random(seed)
    failures: set[str] = set()
    deadline, slowest, count = time.perf_counter() + seconds, 0.0, 0
    while time.perf_counter() < deadline:
        data = target.stock.input(random)
        started = time.perf_counter()
        failure = check(target, random, data)
        duration = time.perf_counter() - started
        if failure is None and duration > MAX_SECONDS:
            failure = f"{duration:.1f} s for {len(data)} bytes"
        if failure is not None and failure not in failures:
            failures.add(failure)
            print(f"{target.name}: {failure}\n  {save(target, data)}")
        slowest, count = max(slowest, duration), count + 1
    print(f"{target.name:<10} {count:>7} inputs, the slowest {slowest * 1000:.0f} ms, {len(failures)} failures")
    return len(failures)


def check(target: Target, random: Random, data: bytes) -> str | None:
    """Return where and why the target failed, or None."""
    try:
        target.check(random, data)
    except Exception as error:  # noqa: BLE001  # reason: any other exception is a finding
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {str(error)[:100]}"
    return None


def save(target: Target, data: bytes) -> Path:
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{target.name}-{time.time_ns()}"
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    sys.exit(main())
