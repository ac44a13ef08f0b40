"""Each recipe of docs/clients.md has a proof: a test that runs the client, or one that replays its requests."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from PIL import Image

from tests.e2e.test_client_requests import CASES
from tests.support.markdown import LIMNER, Block
from tests.support.node_clients import FOLDER as NODE
from tests.support.node_clients import need_node_clients
from tests.support.recipes import RECIPES, Recipe
from tests.support.servers import RunningLimner, run_demo, run_limner

ROOT = Path(__file__).parents[2]
NAMES = {
    *("openai-python", "openai-node", "Vercel AI SDK", "LangChain", "LangChain.js", "LlamaIndex", "LiteLLM SDK"),
    *("Haystack", "Semantic Kernel", "Open WebUI", "LibreChat", "LobeChat", "n8n", "Dify", "curl", "Go"),
    *("Java and Spring AI", ".NET", "Ruby", "PHP", "Codex CLI", "cc-switch", "gpt-image-2-skill"),
}

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def test_every_recipe_is_listed() -> None:
    assert {recipe.name for recipe in RECIPES} == NAMES


@each_recipe
def test_a_recipe_has_its_proof(recipe: Recipe) -> None:
    if recipe.kind == "replayed":
        assert [case.name for case in CASES if case.name.startswith(recipe.by)]
        assert "*Replayed" in recipe.text
    else:
        ran = any(block.where == "clients" for block in recipe.blocks)
        assert ran if recipe.by == "make clients" else (ROOT / recipe.by).exists()
        assert "*Run*" in recipe.text or "*Run.*" in recipe.text


BLOCKS = [(recipe.name, block) for recipe in RECIPES for block in recipe.blocks]
JAVASCRIPT = [block for _, block in BLOCKS if block.language == "js"]


@pytest.mark.parametrize("block", [block for _, block in BLOCKS if block.language == "python"], ids=lambda block: block.code.splitlines()[-1])  # fmt: skip
def test_python_is_python(block: Block) -> None:
    compile(block.code, "recipe", "exec")


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_demo() as demo, run_limner(demo.url) as running:
        yield running


def only(language: str) -> str:
    (code,) = [block.code for _, block in BLOCKS if block.where == "run" and block.language == language]
    return code


def test_the_python_recipe_generates_an_image(limner: RunningLimner, tmp_path: Path) -> None:
    code = only("python").replace(LIMNER, limner.url)
    subprocess.run((sys.executable, "-W", "error", "-c", code), cwd=tmp_path, check=True, timeout=60)
    with Image.open(tmp_path / "fox.png") as image:
        assert image.size == (1024, 1024)


def package(block: Block) -> str:
    """Return the client of a JavaScript block: its first import that is not part of Node."""
    imported: list[str] = re.findall(r' from "(.+)"', block.code)
    return next(name for name in imported if not name.startswith("node:"))


@pytest.mark.parametrize("block", JAVASCRIPT, ids=package)
def test_each_javascript_recipe_generates_an_image(limner: RunningLimner, block: Block, tmp_path: Path) -> None:
    need_node_clients()
    assert block.where == "run"
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    (tmp_path / "recipe.mjs").write_text(block.code.replace(LIMNER, limner.url))
    done = subprocess.run(("node", "recipe.mjs"), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "fox.png") as image:
        assert image.size == (1024, 1024)


def test_the_curl_recipe_generates_an_image(limner: RunningLimner) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    code = only("sh").replace(LIMNER, limner.url).replace("curl ", "curl --silent --fail ")
    done = subprocess.run(("bash", "-euc", code), capture_output=True, check=True, timeout=60)
    assert orjson.loads(done.stdout)["data"][0]["url"]
