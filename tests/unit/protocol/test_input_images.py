"""Input images are read in every shape that clients send, and refused with a name and a reason."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.protocol.input_images import MAX_LINK_LENGTH, ImageListParam, ImageParam, InputImage
from app.protocol.parameters import FormPart
from tests.support.memory_sink import MemorySink
from tests.support.refusals import assert_invalid

MANY = ImageListParam(16)
LINK = "https://example.com/cat.png"
BASE64 = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg=="
DATA = f"data:image/png;base64,{BASE64}"


@dataclass(frozen=True)
class Json:
    name: str
    value: Any
    urls: list[str]


JSON = [
    Json("the official form, a link", [{"image_url": LINK}], [LINK]),
    Json("the official form, a data URL", [{"image_url": DATA}], [DATA]),
    Json("several, in order", [{"image_url": DATA}, {"image_url": LINK}], [DATA, LINK]),
    Json("sixteen", [{"image_url": LINK}] * 16, [LINK] * 16),
    Json("file_id null is absent", [{"image_url": LINK, "file_id": None}], [LINK]),
    Json("the form of chat messages", [{"type": "image_url", "image_url": {"url": LINK}}], [LINK]),
    Json("a url with a type beside it", {"url": LINK, "type": "image_url"}, [LINK]),
    Json("a single object", {"image_url": LINK}, [LINK]),
    Json("base64 by the name that answers have", [{"b64_json": BASE64}], [f"data:;base64,{BASE64}"]),
    Json("base64 by its own name", [{"base64": DATA}], [DATA]),
    Json(
        "the form of Anthropic",
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BASE64}},
        [f"data:;base64,{BASE64}"],
    ),
    Json("the form of Gemini", [{"inlineData": {"mimeType": "image/png", "data": BASE64}}], [f"data:;base64,{BASE64}"]),
    Json("the form of the Responses API", [{"type": "input_image", "image_url": DATA}], [DATA]),
    Json("bare strings", [DATA, LINK], [DATA, LINK]),
    Json("a single string", DATA, [DATA]),
    Json("bare base64", [BASE64], [f"data:;base64,{BASE64}"]),
    Json(
        "bare base64 with line breaks",
        [f"{BASE64[:60]}\r\n{BASE64[60:]}\n"],
        [f"data:;base64,{BASE64[:60]}\r\n{BASE64[60:]}\n"],
    ),
    Json("bare base64 of the URL-safe alphabet", ["-_" * 20], [f"data:;base64,{'-_' * 20}"]),
    Json("bare base64 in an object", [{"image_url": BASE64}], [f"data:;base64,{BASE64}"]),
    Json("a data URL in capitals", ["DATA:image/png;base64,AAAA"], ["data:image/png;base64,AAAA"]),
    Json("a link in capitals", ["HTTPS://EXAMPLE.COM/CAT.PNG"], ["HTTPS://EXAMPLE.COM/CAT.PNG"]),
    Json("http", ["http://example.com/猫.png?a=b#c"], ["http://example.com/猫.png?a=b#c"]),
    Json("white space around", [f" {LINK}\n"], [LINK]),
    Json("the longest link", ["https://" + "a" * (MAX_LINK_LENGTH - 8)], ["https://" + "a" * (MAX_LINK_LENGTH - 8)]),
    Json("data URLs may be longer", ["data:" + "a" * MAX_LINK_LENGTH], ["data:" + "a" * MAX_LINK_LENGTH]),
]


@pytest.mark.parametrize("case", JSON, ids=lambda case: case.name)
def test_json_is_read(case: Json) -> None:
    assert MANY.from_json("images", case.value) == tuple(InputImage(url=url) for url in case.urls)


@dataclass(frozen=True)
class Wrong:
    name: str
    value: Any
    message: str
    param: str
    code: str


NO_LINK = "expected an http or https link, or a data URL with base64."

WRONG_JSON = [
    Wrong(
        "no list",
        None,
        "Invalid type for 'images': expected an array of objects, but got null instead.",
        "images",
        "invalid_type",
    ),
    Wrong("an empty list", [], "Invalid 'images': empty array. …", "images", "empty_array"),
    Wrong("seventeen", [LINK] * 17, "Invalid 'images': array too long. …", "images", "array_above_max_length"),
    Wrong(
        "a number",
        [LINK, 5],
        "Invalid type for 'images[1]': expected an object, but got an integer instead.",
        "images[1]",
        "invalid_type",
    ),
    Wrong(
        "an uploaded file",
        [{"file_id": "file-abc"}],
        "Invalid 'images[0].file_id': this server keeps no files. …",
        "images[0].file_id",
        "invalid_value",
    ),
    Wrong(
        "both a link and a file",
        [{"image_url": LINK, "file_id": "file-abc"}],
        "Invalid 'images[0]': exactly one of 'image_url' and 'file_id' is expected.",
        "images[0]",
        "invalid_value",
    ),
    Wrong(
        "neither",
        [{"detail": "high"}],
        "Invalid 'images[0]': exactly one of 'image_url' and 'file_id' is expected.",
        "images[0]",
        "invalid_value",
    ),
    Wrong(
        "a list as a link",
        [{"image_url": [LINK]}],
        "Invalid type for 'images[0].image_url': expected a string, but got an array instead.",
        "images[0].image_url",
        "invalid_type",
    ),
    Wrong(
        "the form of chat messages without a link",
        [{"image_url": {"detail": "high"}}],
        "Invalid type for 'images[0].image_url.url': expected a string, but got null instead.",
        "images[0].image_url.url",
        "invalid_type",
    ),
    Wrong(
        "ftp",
        [{"image_url": "ftp://h/a.png"}],
        f"Invalid 'images[0].image_url': {NO_LINK}",
        "images[0].image_url",
        "invalid_value",
    ),
    Wrong("a local file", ["file:///etc/passwd"], f"Invalid 'images[0]': {NO_LINK}", "images[0]", "invalid_value"),
    Wrong("a script", ["javascript:alert(1)"], f"Invalid 'images[0]': {NO_LINK}", "images[0]", "invalid_value"),
    Wrong("a link without a host", ["https://"], f"Invalid 'images[0]': {NO_LINK}", "images[0]", "invalid_value"),
    Wrong("a space in a link", ["https://h/a b"], f"Invalid 'images[0]': {NO_LINK}", "images[0]", "invalid_value"),
    Wrong(
        "a line break in a link", ["https://h/a\r\nb"], f"Invalid 'images[0]': {NO_LINK}", "images[0]", "invalid_value"
    ),
    Wrong("too short for base64", ["file-abc123"], f"Invalid 'images[0]': {NO_LINK}", "images[0]", "invalid_value"),
    Wrong("an empty text", [""], f"Invalid 'images[0]': {NO_LINK}", "images[0]", "invalid_value"),
    Wrong("prose", ["the picture of a cat, " * 9], f"Invalid 'images[0]': {NO_LINK}", "images[0]", "invalid_value"),
    Wrong(
        "too long a link",
        ["https://" + "a" * (MAX_LINK_LENGTH - 7)],
        "Invalid 'images[0]': string too long. …",
        "images[0]",
        "string_above_max_length",
    ),
]


@pytest.mark.parametrize("case", WRONG_JSON, ids=lambda case: case.name)
def test_wrong_json_is_refused(case: Wrong) -> None:
    with pytest.raises(InvalidRequest) as caught:
        MANY.from_json("images", case.value)
    assert_invalid(caught.value, case.message, case.param, case.code)


ONE, TWO, THREE = MemorySink(b"abc"), MemorySink(b"abc"), MemorySink(b"abc")


@dataclass(frozen=True)
class Form:
    name: str
    parts: list[FormPart]
    images: list[InputImage]


FORM = [
    Form("one file", [FormPart("image", ONE)], [InputImage(ONE)]),
    Form("a repeated name", [FormPart("image", ONE), FormPart("image", TWO)], [InputImage(ONE), InputImage(TWO)]),
    Form("brackets", [FormPart("image[]", ONE), FormPart("image[]", TWO)], [InputImage(ONE), InputImage(TWO)]),
    Form(
        "numbers choose the order",
        [FormPart("image[10]", THREE), FormPart("image[0]", ONE), FormPart("image[2]", TWO)],
        [InputImage(ONE), InputImage(TWO), InputImage(THREE)],
    ),
    Form("a link as text", [FormPart("image", LINK)], [InputImage(url=LINK)]),
    Form(
        "a data URL as text", [FormPart("image", DATA), FormPart("image", ONE)], [InputImage(url=DATA), InputImage(ONE)]
    ),
]


@pytest.mark.parametrize("case", FORM, ids=lambda case: case.name)
def test_forms_are_read(case: Form) -> None:
    assert MANY.from_form("image", case.parts) == tuple(case.images)


WRONG_FORM = [
    Wrong(
        "a text that is no link",
        [FormPart("image[]", ONE), FormPart("image[]", "cat.png")],
        "Invalid type for 'image[1]': expected a file, but got a string instead.",
        "image[1]",
        "invalid_type",
    ),
    Wrong(
        "base64 of something else as text",
        [FormPart("image", "QUJD" * 30)],
        "Invalid type for 'image[0]': expected a file, but got a string instead.",
        "image[0]",
        "invalid_type",
    ),
    Wrong(
        "seventeen files",
        [FormPart("image[]", ONE)] * 17,
        "Invalid 'image': array too long. …",
        "image",
        "array_above_max_length",
    ),
]


@pytest.mark.parametrize("case", WRONG_FORM, ids=lambda case: case.name)
def test_wrong_forms_are_refused(case: Wrong) -> None:
    with pytest.raises(InvalidRequest) as caught:
        MANY.from_form("image", case.value)
    assert_invalid(caught.value, case.message, case.param, case.code)


def test_a_mask_is_one_image() -> None:
    mask = ImageParam()
    assert mask.from_json("mask", {"image_url": LINK}) == InputImage(url=LINK)
    assert mask.from_json("mask", DATA) == InputImage(url=DATA)
    assert mask.from_form("mask", [FormPart("mask[]", ONE)]) == InputImage(ONE)
    assert mask.from_form("mask", [FormPart("mask", LINK)]) == InputImage(url=LINK)


@pytest.mark.parametrize(
    ("first", "second"),
    [(ONE, MemorySink(b"abc")), (LINK, LINK), (LINK, f" {LINK}")],
    ids=["files", "links", "links but for white space"],
)
def test_a_mask_that_is_sent_twice_is_one_mask(first: MemorySink | str, second: MemorySink | str) -> None:
    mask = ImageParam().from_form("mask", [FormPart("mask", first), FormPart("mask[]", second)])
    assert mask == (InputImage(url=LINK) if isinstance(first, str) else InputImage(first))


@pytest.mark.parametrize(
    ("first", "second"),
    [(ONE, MemorySink(b"abd")), (ONE, MemorySink(b"abcd")), (ONE, LINK), (LINK, ONE), (LINK, f"{LINK}?2")],
    ids=["one byte", "length", "a file and a link", "a link and a file", "links"],
)
def test_two_different_masks_are_refused(first: MemorySink | str, second: MemorySink | str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ImageParam().from_form("mask", [FormPart("mask", first), FormPart("mask[]", second)])
    message = "Invalid parameter: 'mask'. This parameter already has a different value in your parameters."
    assert (caught.value.message, caught.value.param) == (message, "mask")


def test_a_mask_that_is_a_list_is_refused() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^Invalid type for 'mask': expected an object, but got an array instead\.$"
    ):
        ImageParam().from_json("mask", [LINK])


def test_files_and_links_are_described() -> None:
    assert MANY.describe() == "1 to 16 images"
    file = {"type": "string", "format": "binary"}
    assert MANY.schema(form=True) == {"type": "array", "items": file, "minItems": 1, "maxItems": 16}
    assert ImageParam().schema(form=True) == file
    assert ImageParam().schema(form=False) == MANY.schema(form=False)["items"]


@pytest.mark.parametrize("text", ["A" + " " * 10**6 + "!", "https://" + "a" * 10**6 + " ", "A=" * 10**6])
def test_hostile_text_is_read_in_linear_time(text: str) -> None:
    started = time.process_time()
    with suppress(InvalidRequest):
        MANY.from_json("images", text)
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    ("url", "is_link"), [("https://h/a.png", True), ("data:image/png;base64,AAAA", False), (None, False)]
)
def test_which_images_are_links(url: str | None, is_link: bool) -> None:
    assert InputImage(url=url).is_link is is_link


def test_a_placeholder_is_resolved_to_the_spooled_bytes() -> None:
    source = MemorySink(b"abc")
    spooled = {"data:image/png;base64,c3RhbmQtaW4=": source}
    assert InputImage(url="data:image/jpeg;base64,c3RhbmQtaW4=").resolve_spooled(spooled) == InputImage(source=source)
    for other in (
        InputImage(url="data:image/png;base64,AAAA"),
        InputImage(url="https://h/a,b"),
        InputImage(source=source),
    ):
        assert other.resolve_spooled(spooled) is other
