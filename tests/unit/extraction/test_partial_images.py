"""Which images of a growing reply are partial images."""

from dataclasses import dataclass

import pytest

from app.extraction.candidates import FoundImage
from app.extraction.partial import PartialImageTracker


@dataclass(frozen=True)
class Growth:
    name: str
    snapshots: list[list[str]]
    superseded: list[list[str]]
    count: int = 3


GROWTHS = [
    Growth("a single image may be the final one", [["a"], ["a"]], [[], []]),
    Growth("a second image supersedes the first", [["a"], ["a", "b"], ["a", "b"]], [[], ["a"], []]),
    Growth("two images at once", [["a", "b"], ["a", "b", "c"]], [["a"], ["b"]]),
    Growth("drafts that disappear once the final image is there", [["a"], ["a", "b"], ["c"]], [[], ["a"], ["b"]]),
    Growth("no more than requested", [["a", "b", "c"], ["a", "b", "c", "d"]], [["a"], []], count=1),
    Growth("a URL that continues", [["https://h/1.p"], ["https://h/1.png"], ["https://h/1.png", "b"]], [[], [], ["https://h/1.png"]]),
    Growth("an earlier image that appears again", [["a", "b"], ["b", "a"]], [["a"], []]),
    Growth("no image yet", [[]], [[]]),
]  # fmt: skip


@pytest.mark.parametrize("case", GROWTHS, ids=lambda case: case.name)
def test_partial_images_are_those_that_a_newer_one_supersedes(case: Growth) -> None:
    tracker = PartialImageTracker(case.count)
    seen = [tracker.superseded([FoundImage(url, "form") for url in snapshot]) for snapshot in case.snapshots]
    assert [[image.url for image in images] for images in seen] == case.superseded
