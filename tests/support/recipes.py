"""The recipes of docs/clients.md, each with its proof and its blocks of code."""

import re
from dataclasses import dataclass

from tests.support.markdown import ROOT, Block, blocks

CLIENTS = ROOT / "docs" / "clients.md"

_PROOF = re.compile(r"<!-- proof: (run|replayed), (.+) -->")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe.

    `by`: the test file or `make clients` if the recipe is run, else the prefix of the names of its wire tests.
    """

    name: str
    kind: str
    by: str
    blocks: tuple[Block, ...]
    text: str


def read_recipe(chapter: str) -> Recipe:
    name, _, text = chapter.partition("\n")
    proof = _PROOF.search(text)
    assert proof, f"{name}: no proof"
    return Recipe(name, proof[1], proof[2], tuple(blocks(text)), text)


RECIPES = [read_recipe(chapter) for chapter in CLIENTS.read_text().split("\n## ")[1:]]
