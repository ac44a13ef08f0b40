"""The documents of the project and the blocks of code in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "deploy/README.md", ROOT / "bench/README.md"], key=str
)

#: Address of Limner in the documents.
LIMNER = "http://127.0.0.1:8000"

_BLOCK = re.compile(r"^(?:<!-- (run|clients) -->\n)?```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of code.

    `where`: `run` in the test suite, `clients` in `make clients`, empty if it is not run.
    """

    where: str
    language: str
    code: str


def blocks(text: str) -> Iterator[Block]:
    return (Block(*match.groups("")) for match in _BLOCK.finditer(text))


def without_blocks(text: str) -> str:
    return _BLOCK.sub("", text)
