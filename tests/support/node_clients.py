"""The Node clients, which are installed into a folder of their own."""

import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "clients" / "node"


def need_node_clients() -> None:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if not (FOLDER / "node_modules" / ".installed").exists():
        pytest.skip("the Node clients are not installed: `make test` installs them")
