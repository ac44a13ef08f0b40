"""Which strings of JSON values are images, by keys and types."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from app.extraction.base64_runs import MARK, Base64Run
from app.extraction.structured import JsonWalker, is_unrelated_key
from tests.support.image_files import PNG_BASE64 as PNG

URL = "https://a.example/x.png"
OPEN = "https://a.example/files/1"


@dataclass(frozen=True)
class Case:
    name: str
    value: Any
    found: list[str]
    texts: list[str] = field(default_factory=list)


CASES = [
    Case("the URL of an image under any key", {"x": URL}, [URL]),
    Case("a URL of unknown kind under any key", {"x": OPEN}, []),
    Case("under a key that says link", {"url": OPEN}, [OPEN]),
    Case("under a key that says image", {"imageUri": OPEN}, [OPEN]),
    Case("below a key that says image", {"images": [{"x": OPEN}]}, [OPEN]),
    Case("beside a type that says image", {"type": "output_image", "x": OPEN}, [OPEN]),
    Case("beside a media type", {"mimeType": "image/png", "x": OPEN}, [OPEN]),
    Case("beside a type in capitals", {"type": "IMAGE", "x": OPEN}, [OPEN]),
    Case("beside another media type", {"mime_type": "video/mp4", "url": OPEN}, []),
    Case("bytes of any type", {"mime_type": "application/octet-stream", "url": OPEN}, [OPEN]),
    Case("a small copy", {"thumbnailUrl": URL}, []),
    Case("what the client sent", {"input": {"image": URL}, "messages": [URL]}, []),
    Case("a message of the user", {"role": "user", "images": [URL]}, []),
    Case("a thought", {"thought": True, "image": URL}, []),
    Case("a citation", {"type": "url_citation", "url": URL}, []),
    Case("a video", {"type": "video_url", "video_url": {"url": URL}}, []),
    Case("a task that still runs", {"status": "processing", "url": OPEN}, []),
    Case("a task that is done", {"status": "done", "url": OPEN}, [OPEN]),
    Case("a running task with its image", {"status": "processing", "url": URL}, [URL]),
    Case("variants of one image", {"url": URL, "image_url": OPEN}, [OPEN]),
    Case("bytes and link of one image", {"url": URL, "b64_json": PNG}, [PNG]),
    Case("empty bytes beside a link", {"url": URL, "b64_json": ""}, [URL]),
    Case("numbered images", {"image1": URL, "image2": OPEN}, [URL, OPEN]),
    Case("a URL with blanks that ends like an image", {"url": "https://h/my fox 1.png"}, ["https://h/my fox 1.png"]),
    Case("the id of a message", {"messageId": "m-1"}, []),
    Case("a list of sizes without images", {"sizes": [{"width": 64}, {"width": 1024, "url": URL}]}, [URL]),
    Case("a URL with words behind it", {"text": "https://h/fox.png is here"}, [], ["https://h/fox.png is here"]),
    Case("two URLs in one string", {"text": "https://h/a https://h/b.png"}, [], ["https://h/a https://h/b.png"]),
    Case("a URL that ends with a parenthesis", {"image_url": f"{URL}?p=(1)"}, [f"{URL}?p=(1)"]),
    Case("a URL that ends with a full stop", {"url": f"{URL}?x=a."}, [f"{URL}?x=a."]),
    Case("bytes of a failed task", {"status": "failed", "b64_json": PNG}, [PNG]),
    Case("bytes under any key", {"result": PNG}, [PNG]),
    Case("bytes as a data URL", {"x": f"data:image/png;base64,{PNG}"}, [PNG]),
    Case("bytes behind half a data URL", {"x": f"image/png;base64,{PNG}"}, [PNG]),
    Case("bytes under a key that says so", {"base64": "x" * 80}, ["x" * 80]),
    Case("a short word under a key that says bytes", {"base64": "x"}, []),
    Case("an AVIF", {"x": "AAAAIGZ0eXBhdmlm"}, ["AAAAIGZ0eXBhdmlm"]),
    Case("words", {"content": "hello", "x": "hello"}, [], ["hello"]),
    Case("words that show an image", {"x": f"![x]({URL})"}, [], [f"![x]({URL})"]),
    Case("a URL with more behind it", {"content": f"{URL})"}, [], [f"{URL})"]),
    Case("the mark of a run", {"x": f"{MARK}0{MARK}"}, ["run"]),
    Case("a mark without a run", {"x": f"{MARK}9{MARK}"}, []),
    Case("nothing", [None, 1, True, 1.5, {"image": None}, []], []),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_images_and_texts_are_collected(case: Case) -> None:
    walker = JsonWalker([Base64Run("", "run")])
    walker.walk(case.value)
    assert [
        each.value.payload if isinstance(each.value, Base64Run) else each.value for each in walker.fields
    ] == case.found
    assert walker.texts == case.texts


def test_a_field_has_its_path_and_whether_it_was_declared() -> None:
    walker = JsonWalker()
    walker.walk({"output": [{"image": {"url": URL}}], "x": URL})
    assert [(each.path, each.declared) for each in walker.fields] == [("output.image.url", True), ("x", False)]


def test_values_beyond_a_limit_are_not_visited() -> None:
    deep: Any = URL
    for _ in range(100):
        deep = [deep]
    walker = JsonWalker()
    walker.walk([deep, [{"x": URL}] * 6000, {str(number): URL for number in range(6000)}])
    assert len(walker.fields) == 250


def test_an_unrelated_key_is_known_by_its_words() -> None:
    assert is_unrelated_key("thumbnail_url")
    assert not is_unrelated_key("url")
