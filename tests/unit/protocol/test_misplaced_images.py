"""An image under an unknown name is read where its meaning is plain, else refused, and never dropped."""

import base64
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.protocol.inline_images import placeholder_png
from app.protocol.input_images import InputImage
from app.protocol.parameters import FormPart, Operation
from app.protocol.request_parser import read_form, read_json
from tests.support.memory_sink import MemorySink

LINK = "https://example.com/cat.png"
NAKED = "https://cdn.example.com/a/8f14e45f"
PNG = placeholder_png(1)
BASE64 = base64.b64encode(PNG).decode()
URL_SAFE = base64.urlsafe_b64encode(b"\xff\xd8\xff\xe0\xfb\xff" + bytes(60)).decode()
DATA = f"data:image/png;base64,{BASE64}"
JPEG_AS_BYTES = (
    f"data:application/octet-stream;base64,{base64.b64encode(bytes.fromhex('ffd8ffe0') + bytes(60)).decode()}"
)
GENERATION, EDIT = Operation


@dataclass(frozen=True)
class Case:
    """`place`: the place that the message names; empty if there is no image."""

    name: str
    body: dict[str, Any]
    place: str = ""


HELD = [
    Case("references as chat parts", {"input_references": [{"type": "image_url", "image_url": {"url": DATA}}]}, "input_references[0].image_url.url"),
    Case("a link by OpenAI's name for it", {"image_url": LINK}, "image_url"),
    Case("a link without an image ending", {"image_url": NAKED}, "image_url"),
    Case("links in a list", {"image_urls": [NAKED]}, "image_urls[0]"),
    Case("a data URL", {"init_image": DATA}, "init_image"),
    Case("base64 without a data URL", {"init_images": [BASE64]}, "init_images[0]"),
    Case("base64 with line ends", {"init_image": "\n".join((BASE64[:60], BASE64[60:]))}, "init_image"),
    Case("base64 with signs escaped in lower case", {"control_image": URL_SAFE.replace("-", "%2b").replace("_", "%2f")}, "control_image"),
    Case("base64 in the alphabet of URLs", {"control_image": URL_SAFE}, "control_image"),
    Case("a data URL that names no image", {"blob": JPEG_AS_BYTES}, "blob"),
    Case("a vector image", {"logo": "data:image/svg+xml,%3Csvg%2F%3E"}, "logo"),
    Case("an object with base64", {"reference_image": {"b64_json": BASE64}}, "reference_image.b64_json"),
    Case("Gemini's parts", {"contents": [{"parts": [{"text": "a"}, {"inlineData": {"data": BASE64}}]}]}, "contents[0].parts[1].inlineData.data"),
    Case("chat messages", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": NAKED}}]}]}, "messages[0].content[0].image_url.url"),
    Case("an image within a text", {"messages": [{"content": f"Edit ![this]({DATA}) please"}]}, "messages[0].content"),
    Case("extra_body as it stands", {"extra_body": {"image": [LINK]}}, "extra_body.image[0]"),
    Case("a list of lists", {"xs": [[[[{"y": DATA}]]]]}, "xs[0][0][0][0].y"),
    Case("JSON within a text", {"input_references": orjson.dumps([{"image_url": LINK}]).decode()}, "input_references[0].image_url"),
    Case("a Buffer of Node", {"file": {"type": "Buffer", "data": [*PNG]}}, "file.data"),
    Case("a Uint8Array of a browser", {"pixels": {str(at): byte for at, byte in enumerate(PNG)}}, "pixels"),
    Case("a file of OpenAI's", {"reference": {"file_id": "file-6F2ksmvXxt4Vdoq"}}, "reference.file_id"),
    Case("a link to an image under a name that says nothing", {"foo": LINK}, "foo"),
    Case("a link with a query behind its ending", {"foo": "https://example.com/cat.JPG?sig=1"}, "foo"),
    Case("a link without an ending under a name that says nothing", {"foo": NAKED}, "foo"),
    Case("a bucket", {"input_uri": "gs://bucket/cat"}, "input_uri"),
    Case("a link whose host cannot be read", {"foo": "http://[::1/cat.png"}, "foo"),
    Case("a link with a host of odd letters", {"foo": "http://a\u2100b/cat.png"}, "foo"),
    Case("an image made by a script", {"reference": "https://example.com/cat.php?id=1"}, "reference"),
    Case("an image in metadata", {"metadata": {"picture": DATA}}, "metadata.picture"),
    Case("a link to an image in metadata", {"metadata": {"image_url": NAKED}}, "metadata.image_url"),
    Case("an image in the object of vector images", {"svg": {"template": DATA}}, "svg.template"),
    Case("the first of two", {"seed": 1, "a": DATA, "b": DATA}, "a"),
    Case("a name that no header can carry", {"bild \n": DATA}, "bild__"),
    Case("a long name", {"x" * 500: DATA}, "x" * 64),
]  # fmt: skip

HARMLESS = [
    Case("numbers, truth and nothing", {"seed": 7, "watermark": False, "guidance": 3.5, "lora": None}),
    Case("words", {"negative_prompt": "no base64, no image of a cat", "sampler": "euler_a"}),
    Case("a long text that looks like base64", {"note": "abcd" * 100}),
    Case("base64 of something else", {"token": base64.b64encode(bytes(100)).decode()}),
    Case("a sound", {"audio": f"data:audio/wav;base64,{base64.b64encode(bytes(100)).decode()}"}),
    Case("where to call back", {"callback_url": "https://example.com/hooks/17", "webhook": {"url": NAKED}}),
    Case("who asks", {"http_referer": "https://example.com/page", "site_url": "https://example.com/"}),
    Case("an origin alone", {"source": "https://example.com/"}),
    Case("prose with a percent sign", {"note": "a poster of a sale with 50% off and a fox in large red letters"}),
    Case("prose with percent signs in metadata", {"metadata": {"campaign": "Summer sale 30% to 50% off everything in the shop"}}),
    Case("a number with a percent sign", {"foo": "9" * 30 + "%" + "9" * 31}),
    Case("an origin that cannot be read", {"seed": "http://[::1"}),
    Case("a page", {"source": "https://example.com/article.html"}),
    Case("weights", {"loras": [{"path": "https://example.com/a.safetensors"}]}),
    Case("prose with a link", {"note": "see https://example.com/cat.png for more"}),
    Case("a link in metadata, which goes upstream", {"metadata": {"ticket": LINK, "reference": NAKED, "file": "file-6F2ksmvXxt4Vdoq"}}),
    Case("a list of numbers", {"steps": [*range(100)]}),
    Case("a list of large numbers", {"sizes": [*range(137, 100_000, 1000)]}),
    Case("numbered keys", {"map": {"0": "a", "1": "b"}}),
    Case("what only looks like JSON", {"note": "[image]", "other": "{not json}"}),
    Case("a name of something in a text", {"tool": "file-manager"}),
    Case("names of files", {"output_filename": "cat.png"}),
]  # fmt: skip


@pytest.mark.parametrize("case", HELD, ids=lambda case: case.name)
def test_an_image_is_refused_on_generations(case: Case) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_json(GENERATION, {"prompt": "p", **case.body})
    assert caught.value.message == (
        f"Unknown parameter: '{case.place}'. To edit images, use /v1/images/edits with 'images'."
    )
    assert (caught.value.param, caught.value.code) == (case.place, "unknown_parameter")


@pytest.mark.parametrize("case", HELD, ids=lambda case: case.name)
def test_an_image_beside_the_images_of_an_edit_is_refused(case: Case) -> None:
    with pytest.raises(InvalidRequest, match="use 'images'") as caught:
        read_json(EDIT, {"prompt": "p", "images": [LINK], **case.body})
    assert caught.value.param == case.place


@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case.name)
@pytest.mark.parametrize("operation", Operation)
def test_other_values_are_ignored(case: Case, operation: Operation) -> None:
    images = {"images": [LINK]} if operation is EDIT else {}
    request = read_json(operation, {"prompt": "p", **images, **case.body})
    assert len(request.images) == len(images)


@pytest.mark.parametrize("case", [case for case in HARMLESS if "metadata" not in case.body], ids=lambda case: case.name)
def test_other_texts_of_a_form_are_ignored(case: Case) -> None:
    texts = [FormPart(name, orjson.dumps(value).decode()) for name, value in case.body.items() if value]
    assert read_form(GENERATION, [FormPart("prompt", "p"), *texts]).prompt == "p"


@dataclass(frozen=True)
class Plain:
    name: str
    body: dict[str, Any]
    urls: list[str] = field(default_factory=lambda: [DATA])


PLAIN = [
    Plain("a link by OpenAI's name for it", {"image_url": LINK}, [LINK]),
    Plain("base64 by its name", {"image_base64": BASE64}, [f"data:;base64,{BASE64}"]),
    Plain("a list of references", {"input_references": [{"type": "image_url", "image_url": {"url": DATA}}, LINK]}, [DATA, LINK]),
    Plain("an initial image", {"initImage": DATA}),
    Plain("several fields of one name, numbered", {"image_1": LINK, "image_2": DATA}, [LINK, DATA]),
    Plain("an empty list in the right place", {"images": [], "reference_images": [DATA]}),
    Plain("JSON within a text", {"image_urls": orjson.dumps([LINK, DATA]).decode()}, [LINK, DATA]),
    Plain("one object within a text", {"image_url": orjson.dumps({"url": LINK}).decode()}, [LINK]),
]  # fmt: skip


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_the_only_images_of_an_edit_are_its_images_if_their_name_says_so(case: Plain) -> None:
    request = read_json(EDIT, {"prompt": "p", **case.body})
    assert request.images == tuple(InputImage(url=url) for url in case.urls)
    assert not set(request.ignored) & case.body.keys()


UNCLEAR = [
    Case("a mask, but no image", {"mask_image": DATA}, "For a mask on /v1/images/edits, use 'mask'."),
    Case("an image that controls", {"control_image": DATA}, "use 'images' (array)"),
    Case("a style", {"style_reference": DATA}, "use 'images' (array)"),
    Case("two names, whose order is not known", {"init_image": DATA, "reference_image": DATA}, "use 'images' (array)"),
    Case("an image deep within", {"extra_body": {"image": DATA}}, "use 'images' (array)"),
]  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR, ids=lambda case: case.name)
def test_an_image_whose_meaning_is_not_plain_is_refused(case: Case) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_json(EDIT, {"prompt": "p", **case.body})
    assert case.place in caught.value.message


FILE = MemorySink(b"abc")


def test_all_images_of_a_request_are_listed() -> None:
    body = {"prompt": "p", "images": [LINK], "markup": DATA}
    assert read_json(EDIT, body).all_images == (InputImage(url=LINK), None, InputImage(url=DATA))


def form(*parts: tuple[str, Any]) -> list[FormPart]:
    return [FormPart("prompt", "p"), *(FormPart(name, value) for name, value in parts)]


@pytest.mark.parametrize(
    ("parts", "images"),
    [
        (form(("images", FILE)), [InputImage(source=FILE)]),
        (form(("images[]", FILE), ("images[]", LINK)), [InputImage(source=FILE), InputImage(url=LINK)]),
        (form(("reference_image", DATA)), [InputImage(url=DATA)]),
        (form(("input_image[0]", BASE64)), [InputImage(url=f"data:;base64,{BASE64}")]),
        (form(("file", FILE)), [InputImage(source=FILE)]),
    ],
)
def test_the_only_images_of_a_form_are_its_images(parts: list[FormPart], images: list[InputImage]) -> None:
    assert read_form(EDIT, parts).images == tuple(images)


@pytest.mark.parametrize(
    ("operation", "parts", "place"),
    [
        (GENERATION, form(("reference_image", DATA)), "reference_image"),
        (GENERATION, form(("refs", orjson.dumps([{"image_url": LINK}]).decode())), "refs[0].image_url"),
        (GENERATION, form(("attachment", FILE)), "attachment"),
        (GENERATION, form(("metadata[photo]", DATA)), "metadata"),
        (EDIT, form(("image", FILE), ("init_image", LINK)), "init_image"),
        (EDIT, form(("image", FILE), ("mask_url", LINK)), "mask_url"),
        (EDIT, form(("control", FILE)), "control"),
    ],
)
def test_an_image_in_a_form_is_refused(operation: Operation, parts: list[FormPart], place: str) -> None:
    with pytest.raises(InvalidRequest, match="Unknown parameter") as caught:
        read_form(operation, parts)
    assert caught.value.param == place


def test_a_request_with_too_many_values_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"'xs'.*more than 100000 values"):
        read_json(GENERATION, {"prompt": "p", "xs": [0] * 100_001})


names = st.text("abcXYZ_0", min_size=1, max_size=8).filter(lambda name: name != "n")
nested = st.recursive(
    st.just(DATA), lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(names, inner, min_size=1, max_size=3)
)  # fmt: skip


@given(name=names, value=nested)
def test_no_image_is_dropped_wherever_it_stands(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match="Unknown parameter"):
        read_json(GENERATION, {"prompt": "p", name: value})
