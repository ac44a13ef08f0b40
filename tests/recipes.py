"""The recipes of docs/clients.md, each with its proof and its blocks of code."""

import re
from dataclasses import dataclass
from pathlib import Path

CLIENTS = Path(__file__).parents[1] / "docs" / "clients.md"
LIMNER = "http://127.0.0.1:8000"

_PROOF = re.compile(r"<!-- proof: (run|replayed), (.+) -->")
_BLOCK = re.compile(r"(?:<!-- (run|clients) -->\n)?```([a-z]+)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """`where` it is run: "run" in the suite, "clients" by `make clients`, empty: nowhere."""

    where: str
    language: str
    code: str


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
    blocks = tuple(Block(*match.groups("")) for match in _BLOCK.finditer(words))
    return Recipe(name, proof[1], proof[2], blocks, words)


RECIPES = [read(chapter) for chapter in CLIENTS.read_text().split("\n## ")[1:]]
