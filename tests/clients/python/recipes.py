"""`make clients` runs the recipes of docs/clients.md whose clients are too heavy for the suite, in a venv of their own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.documents import LIMNER
from tests.recipes import RECIPES
from tests.servers import RunningLimner, run_demo, run_limner

PYTHON = Path(__file__).parents[3] / ".venv-clients" / "bin" / "python"

#: These two would ask the network for prices, and tell it who is here.
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False"}

BLOCKS = {recipe.name: block.code for recipe in RECIPES for block in recipe.blocks if block.where == "clients"}


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_demo() as demo, run_limner(demo.url, rehost="always") as running:
        yield running


@pytest.mark.parametrize("name", BLOCKS)
def test_a_recipe_paints(limner: RunningLimner, name: str, tmp_path: Path) -> None:
    code = BLOCKS[name].replace(LIMNER, limner.url)
    environment = QUIET | {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "NO_PROXY": "127.0.0.1"}
    command = (str(PYTHON), "-c", code)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "fox.png") as image:
        assert image.size == (1024, 1024)
