"""Images beside the result: which of them count where there is nothing better, and which never do."""

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from app.extraction.forms import find_images
from app.protocol.reply_parser import read_reply

A, B, C = (f"https://cdn.example.com/gen/{name}.png" for name in ("a1", "b2", "c3"))
LOGO = "https://relay.example.net/logo.png"


@dataclass(frozen=True)
class Case:
    name: str
    message: str | dict[str, Any]
    found: list[str]


MARKS = [
    Case("the copy without a mark, and the one with it", {"watermarked_url": A, "unwatermarked_url": B}, [B]),
    Case("the same in other words", {"with_watermark": A, "no_watermark": B}, [B]),
    Case("the same in camel case", {"watermarkUrl": A, "watermarkFreeUrl": B}, [B]),
    Case("the copy without a mark alone", {"imageWithoutWatermark": A}, [A]),
    Case("the copy with a mark alone", {"watermark_image": A}, [A]),
]
FLAGS = [
    Case("a flag of a preview", {"images": [{"url": A, "is_preview": True}, {"url": B, "is_preview": False}]}, [B]),
    Case("a flag of a partial image", {"images": [{"url": A, "partial": True}, {"url": B}]}, [B]),
    Case("a flag of the input", {"images": [{"url": A}, {"url": B, "isInput": True}]}, [A]),
    Case("a flag of what is not final", {"images": [{"url": A, "final": False}, {"url": B, "final": True}]}, [B]),
    Case("flags about other matters", {"images": [{"url": A, "nsfw": False, "public": True}, {"url": B}]}, [A, B]),
    Case("a preview alone", {"images": [{"url": A, "preview": True}]}, [A]),
]
KEYS = [
    Case("a button", {"blocks": [{"type": "image", "url": A}, {"type": "button", "url": LOGO}]}, [A]),
    Case("a temporary file", {"images": [{"type": "temp", "url": A}, {"type": "output", "url": B}]}, [B]),
    Case("temporary files alone", {"images": [{"type": "temp", "url": A}, {"type": "temp", "url": B}]}, [A, B]),
    Case("the usual size and the full one", {"images": [{"urls": {"small": A, "regular": B, "full": C}}]}, [C]),
    Case("a template beside the image", {"template_image": A, "url": B}, [B]),
    Case("what a failed task was called with", {"task": {"status": "failed", "image_url": A}}, []),
    Case("the state of an image that is there", {"task": {"status": "processing", "image_url": A}}, [A]),
]
MARKUP = [
    Case("roles of elements", f'<image role="input" url="{A}"/><image role="output" url="{B}"/>', [B]),
    Case("roles of elements in turn", f'<image role="output" url="{B}"/>\n<image role="input" url="{A}"/>', [B]),
    Case("kinds of files", f'<file kind="thumbnail" href="{A}"/>\n<file kind="image" href="{B}"/>', [B]),
    Case("types of elements", f'<image type="thumbnail" src="{A}"/>\n<image type="full" src="{B}"/>', [B]),
    Case("names of elements in one line", f"<preview>{A}</preview><full>{B}</full>", [B]),
    Case("names of elements in turn", f"<result>{B}</result><source>{A}</source>", [B]),
    Case("sizes as attributes", f'<photo small="{A}" large="{B}"/>', [B]),
    Case("words in an element in front", f"<b>Preview</b>: {A}\n<b>Final</b>: {B}", [B]),
    Case("a hidden image", f'![fox]({A})\n<img src="{LOGO[:-8]}t.png" style="display: none">', [A]),
    Case("a hidden image by its attribute", f'![fox]({A})\n<img hidden src="{LOGO[:-8]}t.png">', [A]),
    Case("a counter of readers", f"{A}\n![](https://relay.example.net/track.gif?id=1)", [A]),
    Case("a counter of readers without an ending", f"![](https://relay.example.net/pixel?ev=view)\n![x]({A})", [A]),
    Case("the art of pixels", "![fox](https://cdn.example.com/pixel/1.png)", ["https://cdn.example.com/pixel/1.png"]),
    Case("a code for a group", f"![fox]({A})\n![加入QQ群](https://relay.example.net/q.png)", [A]),
    Case("a rule between paragraphs", f"![fox]({A})\n![](https://relay.example.net/assets/divider.png)", [A]),
    Case("a sample that is no address", "![image](https://example)", []),
    Case("emphasis that begins in front", f"__Result: {A}__", [A]),
    Case("words behind two hyphens", f"{A}-- enjoy", [A]),
    Case("a name that ends with a hyphen", "https://cdn.example.com/f/abc-", []),
]
CASES = [*MARKS, *FLAGS, *KEYS, *MARKUP]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_the_results_are_found(case: Case) -> None:
    message = {"content": case.message} if isinstance(case.message, str) else case.message
    reply = read_reply(orjson.dumps({"choices": [{"message": message}]}))
    assert [image.url for image in find_images(reply)] == case.found
