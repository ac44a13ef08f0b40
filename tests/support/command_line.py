"""Run `limner` in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limner(*arguments: str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run `limner` in a process without the variables of the user who runs the tests."""
    root = str(Path(__file__).parents[2])
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": root, "LIMNER_PORT": "0", **environment}
    command = [sys.executable, "-m", "app", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=own, cwd=folder, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
