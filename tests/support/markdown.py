"""The documents and the blocks of code in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "deploy/README.md", ROOT / "bench/README.md"], key=str
)

#: Where readers of the documents have Limner.
LIMNER = "http://127.0.0.1:8000"

_BLOCK = re.compile(r"^(?:<!-- (run|clients) -->\n)?```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """`where` it is run: "run" in the suite, "clients" by `make clients`, empty: nowhere."""

    where: str
    language: str
    code: str


def blocks(words: str) -> Iterator[Block]:
    return (Block(*match.groups("")) for match in _BLOCK.finditer(words))


def without_blocks(words: str) -> str:
    return _BLOCK.sub("", words)
