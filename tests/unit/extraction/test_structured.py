"""What keys and types of structured values say."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from app.extraction.base64_runs import MARK, Base64Run
from app.extraction.structured import JsonWalker, is_auxiliary_key
from tests.unit.extraction.test_base64_runs import PNG

URL = "https://a.example/x.png"
OPEN = "https://a.example/files/1"


@dataclass(frozen=True)
class Case:
    name: str
    value: Any
    found: list[str]
    texts: list[str] = field(default_factory=list)


CASES = [
    Case("an address under any key", {"x": URL}, [URL]),
    Case("an address that looks like nothing, under any key", {"x": OPEN}, []),
    Case("under a key that says link", {"url": OPEN}, [OPEN]),
    Case("under a key that says image", {"imageUri": OPEN}, [OPEN]),
    Case("below a key that says image", {"images": [{"x": OPEN}]}, [OPEN]),
    Case("beside a type that says image", {"type": "output_image", "x": OPEN}, [OPEN]),
    Case("beside a media type", {"mimeType": "image/png", "x": OPEN}, [OPEN]),
    Case("beside another media type", {"mime_type": "video/mp4", "url": OPEN}, []),
    Case("bytes of any type", {"mime_type": "application/octet-stream", "url": OPEN}, [OPEN]),
    Case("a small copy", {"thumbnailUrl": URL}, []),
    Case("what was sent", {"input": {"image": URL}, "messages": [URL]}, []),
    Case("a message of the user", {"role": "user", "images": [URL]}, []),
    Case("a thought", {"thought": True, "image": URL}, []),
    Case("a citation", {"type": "url_citation", "url": URL}, []),
    Case("a video", {"type": "video_url", "video_url": {"url": URL}}, []),
    Case("a task that still runs", {"status": "processing", "url": OPEN}, []),
    Case("a task that is done", {"status": "done", "url": OPEN}, [OPEN]),
    Case("a running task with its image", {"status": "processing", "url": URL}, [URL]),
    Case("variants of one image", {"url": URL, "image_url": OPEN}, [OPEN]),
    Case("bytes and link of one image", {"url": URL, "b64_json": PNG}, [PNG]),
    Case("no bytes, but a link", {"url": URL, "b64_json": ""}, [URL]),
    Case("numbered images", {"image1": URL, "image2": OPEN}, [URL, OPEN]),
    Case("bytes under any key", {"result": PNG}, [PNG]),
    Case("bytes with their type", {"x": f"data:image/png;base64,{PNG}"}, [PNG]),
    Case("bytes with half a type", {"x": f"image/png;base64,{PNG}"}, [PNG]),
    Case("bytes that say so", {"base64": "x" * 80}, ["x" * 80]),
    Case("short bytes that say so", {"base64": "x"}, []),
    Case("an AVIF", {"x": "AAAAIGZ0eXBhdmlm"}, ["AAAAIGZ0eXBhdmlm"]),
    Case("words", {"content": "hello", "x": "hello"}, [], ["hello"]),
    Case("words that show an image", {"x": f"![x]({URL})"}, [], [f"![x]({URL})"]),
    Case("an address with more behind it", {"content": f"{URL})"}, [], [f"{URL})"]),
    Case("a stand-in", {"x": f"{MARK}0{MARK}"}, ["piece"]),
    Case("a stand-in for nothing", {"x": f"{MARK}9{MARK}"}, []),
    Case("nothing", [None, 1, True, 1.5, {"image": None}, []], []),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_value_is_walked(case: Case) -> None:
    walk = JsonWalker([Base64Run("", "piece")])
    walk.walk(case.value)
    assert [
        each.value.payload if isinstance(each.value, Base64Run) else each.value for each in walk.fields
    ] == case.found
    assert walk.texts == case.texts


def test_a_field_says_where_it_stood_and_whether_it_was_declared() -> None:
    walk = JsonWalker()
    walk.walk({"output": [{"image": {"url": URL}}], "x": URL})
    assert [(each.path, each.declared) for each in walk.fields] == [("output.image.url", True), ("x", False)]


def test_values_without_end_are_not_walked() -> None:
    deep: Any = URL
    for _ in range(100):
        deep = [deep]
    walk = JsonWalker()
    walk.walk([deep, [{"x": URL}] * 6000, {str(number): URL for number in range(6000)}])
    assert len(walk.fields) == 250


def test_a_key_alone_tells_what_is_aside() -> None:
    assert is_auxiliary_key("thumbnail_url")
    assert not is_auxiliary_key("url")
