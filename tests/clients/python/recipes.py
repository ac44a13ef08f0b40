"""The recipes of docs/clients.md whose clients are too large for the suite work; `make clients` runs them in a venv."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.markdown import LIMNER, ROOT, blocks
from tests.support.recipes import RECIPES
from tests.support.servers import RunningLimner, run_demo, run_limner

PYTHON = Path(__file__).parents[3] / ".venv-clients" / "bin" / "python"

#: These clients would download prices and send telemetry.
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False"}

BLOCKS = {recipe.name: block.code for recipe in RECIPES for block in recipe.blocks if block.where == "clients"}


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_demo() as demo, run_limner(demo.url, rehost="always") as running:
        yield running


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "NO_PROXY": "127.0.0.1", "IMAGES_KEY": "demo"}
    command = (str(PYTHON), "-c", code)
    return subprocess.run(
        command, cwd=folder, env=QUIET | environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("name", BLOCKS)
def test_a_recipe_generates_an_image(limner: RunningLimner, name: str, tmp_path: Path) -> None:
    done = run(BLOCKS[name].replace(LIMNER, limner.url), tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "fox.png") as image:
        assert image.size == (1024, 1024)


#: Configure LiteLLM's router as its proxy does from a configuration file.
ROUTER = """
import base64, yaml
from litellm import Router

read = yaml.safe_load({settings!r})
router = Router(model_list=read["model_list"], **read.get("router_settings", {{}}))
answer = router.image_generation(model="gpt-image-2", prompt="A fox in the snow", size="1024x1024")
open("fox.png", "wb").write(base64.b64decode(answer.data[0].b64_json))
"""


def litellm_before(limner: RunningLimner) -> str:
    page = (ROOT / "docs/coming-from.md").read_text()
    (settings,) = [block.code for block in blocks(page) if block.language == "yaml"]
    return ROUTER.format(settings=settings.replace(LIMNER, limner.url))


def test_litellm_forwards_requests_to_limner(limner: RunningLimner, tmp_path: Path) -> None:
    done = run(litellm_before(limner), tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "fox.png") as image:
        assert image.size == (1024, 1024)


def test_litellm_does_not_retry_what_may_be_paid_for(tmp_path: Path) -> None:
    with run_demo() as demo, run_limner(demo.url, upstream_model="error-500") as limner:
        done = run(litellm_before(limner), tmp_path)
        assert "InternalServerError" in done.stderr
        assert demo.state.calls == 1
