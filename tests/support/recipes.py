"""The recipes of docs/clients.md, each with its proof and its blocks of code."""

import re
from dataclasses import dataclass

from tests.support.markdown import ROOT, Block, blocks

CLIENTS = ROOT / "docs" / "clients.md"

_PROOF = re.compile(r"<!-- proof: (run|replayed), (.+) -->")


@dataclass(frozen=True, slots=True)
class Recipe:
    """`by`: a test file or `make clients` for what is run, else how the names of its wire tests begin."""

    name: str
    kind: str
    by: str
    blocks: tuple[Block, ...]
    words: str


def read(chapter: str) -> Recipe:
    name, _, words = chapter.partition("\n")
    proof = _PROOF.search(words)
    assert proof, f"{name}: no proof"
    return Recipe(name, proof[1], proof[2], tuple(blocks(words)), words)


RECIPES = [read(chapter) for chapter in CLIENTS.read_text().split("\n## ")[1:]]
