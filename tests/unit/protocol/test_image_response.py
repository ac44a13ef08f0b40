"""The JSON and the events of the Images API, and which form an image has in them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import (
    OutputImage,
    alpha_report,
    completed_event,
    credentials_report,
    effective_response_format,
    error_event,
    images_json,
    link_matches_request,
    partial_event,
    size_report,
    unmet_wishes,
)
from app.protocol.json_stream import Base64String, StreamingJson
from app.protocol.parameters import Operation
from app.protocol.request_parser import read_json
from app.protocol.size_fit import SizeMode
from app.protocol.sizes import Size
from app.protocol.usage import Usage


class Bytes:
    size = 3

    def chunks(self, size: int) -> Iterator[bytes]:
        yield b"abc"


PNG = ImageInfo("image/png", 1536, 1024, alpha=False)
WEBP = ImageInfo("image/webp", 1024, 1024, alpha=True)
USAGE = Usage(input_text_tokens=17, output_image_tokens=343)
REQUEST = ImagesRequest(operation=Operation.GENERATION, prompt="a fox")


def written(document: object) -> bytes:
    return b"".join(StreamingJson(document).chunks())


def test_the_official_order_of_keys() -> None:
    request = ImagesRequest(operation=Operation.EDIT, prompt="a fox", quality="high", safety_identifier="u")
    document = images_json(request, [OutputImage("form", Bytes(), info=WEBP)], USAGE, 1713833628)
    assert written(document) == (
        b'{"created":1713833628,"background":"transparent","data":[{"b64_json":"YWJj"}],"output_format":"webp",'
        b'"quality":"high","size":"1024x1024","usage":{"input_tokens":17,"input_tokens_details":{"image_tokens":0,'
        b'"text_tokens":17},"output_tokens":343,"output_tokens_details":{"image_tokens":343,"text_tokens":0},'
        b'"total_tokens":360},"safety_identifier":"u"}'
    )


def test_unknown_fields_are_left_out() -> None:
    document = images_json(REQUEST, [OutputImage("form", url="https://h/a.png")], Usage(), 1)
    assert set(document) == {"created", "data", "usage"}
    assert document["data"] == [{"url": "https://h/a.png"}]
    assert orjson.loads(written(document))["usage"]["input_tokens_details"] == {"image_tokens": 0, "text_tokens": 0}


def test_the_address_of_this_server_is_put_in_front_of_a_stored_image_only() -> None:
    images = [OutputImage("form", url=url) for url in ("/kept/a.png", "https://h/b.png")]
    document = images_json(REQUEST, images, Usage(), 1, "http://limner.test:8000")
    assert document["data"] == [{"url": "http://limner.test:8000/kept/a.png"}, {"url": "https://h/b.png"}]


def test_images_of_two_sizes_have_no_common_size() -> None:
    two = [OutputImage("form", Bytes(), info=info) for info in (PNG, WEBP)]
    assert "size" not in images_json(REQUEST, two, Usage(), 1)
    assert images_json(REQUEST, two[:1] * 2, Usage(), 1)["size"] == "1536x1024"


def test_the_format_is_left_out_if_one_image_is_unknown() -> None:
    two = [OutputImage("form", url="https://h/a"), OutputImage("form", url="https://h/b", info=PNG)]
    assert "output_format" not in images_json(REQUEST, two, Usage(), 1)


def test_an_image_without_a_store_is_a_data_url() -> None:
    document = images_json(
        REQUEST, [OutputImage("form", url=Base64String(Bytes(), "data:image/png;base64,"), info=PNG)], Usage(), 1
    )
    assert b'{"url":"data:image/png;base64,YWJj"}' in written(document)


def test_a_response_holds_the_bytes_of_an_image_or_of_its_data_url() -> None:
    source = Bytes()
    assert OutputImage("form", source=source).delivered_source is source
    assert OutputImage("form", url=Base64String(source, "data:image/png;base64,")).delivered_source is source
    assert OutputImage("form", url="https://example.com/a.png").delivered_source is None


@pytest.mark.parametrize("operation", Operation)
def test_the_completed_event_has_every_required_field(operation: Operation) -> None:
    request = ImagesRequest(operation=operation, prompt="a fox", stream=True)
    name, document = completed_event(request, OutputImage("form", Bytes(), info=PNG), USAGE, 1761105722)
    read = orjson.loads(written(document))
    assert name == read["type"] == f"{operation.value}.completed"
    assert {key: read[key] for key in ("size", "quality", "background", "output_format")} == {
        "size": "1536x1024",
        "quality": "medium",
        "background": "opaque",
        "output_format": "png",
    }
    assert (read["b64_json"], read["created_at"], read["usage"]["total_tokens"]) == ("YWJj", 1761105722, 360)
    assert "auto" not in read.values()


def test_the_completed_event_names_the_safety_identifier() -> None:
    request = ImagesRequest(operation=Operation.EDIT, prompt="a fox", stream=True, safety_identifier="u-17")
    _, document = completed_event(request, OutputImage("form", Bytes(), info=PNG), USAGE, 1)
    assert document["safety_identifier"] == "u-17"


def test_a_partial_event_counts_from_0_and_has_no_usage() -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a fox", quality="low")
    name, document = partial_event(request, OutputImage("form", Bytes(), info=WEBP), 0, 7)
    read = orjson.loads(written(document))
    assert name == read["type"] == "image_generation.partial_image"
    assert (read["partial_image_index"], read["quality"], read["output_format"]) == (0, "low", "webp")
    assert "usage" not in read


def test_an_event_of_an_unknown_image_has_the_requested_fields() -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a fox", size=Size(1536, 1024), output_format="webp")
    _, document = completed_event(request, OutputImage("form", Bytes()), USAGE, 1)
    assert (document["size"], document["output_format"]) == ("1536x1024", "webp")


def test_an_error_event_nests_the_error() -> None:
    assert error_event({"error": {"message": "m"}}) == ("error", {"type": "error", "error": {"message": "m"}})


@pytest.mark.parametrize(
    ("parameters", "default", "format"),
    [
        ({"stream": True, "response_format": "url"}, "url", "b64_json"),
        ({"response_format": "url"}, "b64_json", "url"),
        ({"model": "dall-e-3"}, "b64_json", "b64_json"),
        ({"model": "dall-e-3"}, "auto", "url"),
        ({"model": None}, "auto", "url"),
        ({"model": "gpt-image-2"}, "auto", "b64_json"),
        ({"model": "gpt-image-2", "as_task": True}, "auto", "url"),
        ({"as_task": True}, "b64_json", "b64_json"),
        ({"as_task": True, "response_format": "b64_json"}, "auto", "b64_json"),
    ],
)
def test_a_link_or_bytes(parameters: dict[str, Any], default: str, format: str) -> None:  # noqa: A002  the field's name
    assert effective_response_format(replace(REQUEST, **parameters), default) == format


@pytest.mark.parametrize(
    ("url", "parameters", "matches"),
    [
        pytest.param("https://h/a.png", {}, True, id="no format asked for"),
        pytest.param("https://h/a", {"output_compression": 50}, True, id="a compression without a format"),
        pytest.param(
            "https://h/a.JPG?signed",
            {"output_format": "jpeg"},
            True,
            id="the other ending of JPEG, in capitals, before a query",
        ),
        pytest.param(
            "https://h/a.jpeg", {"output_format": "jpeg", "output_compression": 100}, True, id="the full quality"
        ),
        pytest.param(
            "https://h/a.jpeg", {"output_format": "jpeg", "output_compression": 50}, False, id="a lower quality"
        ),
        pytest.param(
            "https://h/a.png", {"output_format": "png", "output_compression": 50}, True, id="a compression of a PNG"
        ),
        pytest.param("https://h/a.png", {"output_format": "webp"}, False, id="another format"),
        pytest.param("https://h/a?b=.png", {"output_format": "png"}, False, id="the ending is in the query"),
        pytest.param("https://h/a#.png", {"output_format": "png"}, False, id="the ending is behind the path"),
        pytest.param("http://[h/a.png", {"output_format": "png"}, True, id="a host that cannot be read"),
    ],
)
def test_which_links_match_the_request(url: str, parameters: dict[str, Any], matches: bool) -> None:
    assert link_matches_request(url, replace(REQUEST, **parameters)) is matches


@pytest.mark.parametrize(
    ("parameters", "infos", "report"),
    [
        ({}, [], "asked=auto sent=auto"),
        ({}, [PNG], "asked=auto sent=auto got=1536x1024"),
        ({"size": "512x512"}, [PNG], "asked=512x512 sent=1024x1024 got=1536x1024"),
        ({"aspect_ratio": "16:9"}, [PNG, PNG, WEBP], f"asked=16:9 sent=2048x1152 got=1536x1024,{WEBP.size}"),
        ({"aspect_ratio": "16:9", "resolution": "2K"}, [None], "asked=16:9,2K sent=2048x1152"),
    ],
)
def test_the_size_is_reported(parameters: dict[str, str], infos: list[ImageInfo | None], report: str) -> None:
    request = read_json(Operation.GENERATION, {"prompt": "a fox", **parameters})
    images = [OutputImage("form", Bytes(), info=info, received=info) for info in infos]
    assert size_report(request, images) == report


HALF, FOURTH = (ImageInfo("image/png", width, height, alpha=False) for width, height in ((960, 544), (480, 272)))
UNKNOWN = ImageInfo("image/png", None, None, alpha=False)
HD = ImageInfo("image/png", 1920, 1080, alpha=False)
SMALL, LARGE = ImageInfo("image/png", 512, 512, alpha=False), ImageInfo("image/png", 2048, 1152, alpha=False)
MODES = (SizeMode.NATIVE, SizeMode.COVER, SizeMode.CONTAIN)


@dataclass(frozen=True)
class Fitted:
    name: str
    parameters: dict[str, str]
    mode: SizeMode
    images: list[tuple[ImageInfo, ImageInfo]]
    report: str


FITTED = [
    Fitted("a legacy size is fitted", {"size": "512x512"}, MODES[0], [(WEBP, SMALL)], "asked=512x512 sent=1024x1024 got=1024x1024 fitted=512x512"),
    Fitted("nothing had to be done", {"size": "1536x1024"}, MODES[1], [(PNG, PNG)], "asked=1536x1024 sent=1536x1024 got=1536x1024 fitted=1536x1024"),
    Fitted("made smaller", {"size": "1920x1080"}, MODES[1], [(PNG, HD)], "asked=1920x1080 sent=1920x1088 got=1536x1024 fitted=1920x1080 upscaled=1.25"),
    Fitted("enlarged to cover", {"size": "1920x1080"}, MODES[1], [(HALF, HD)], "asked=1920x1080 sent=1920x1088 got=960x544 fitted=1920x1080 upscaled=2.0"),
    Fitted("enlarged to be contained", {"size": "1920x1080"}, MODES[2], [(HALF, HD)], "asked=1920x1080 sent=1920x1088 got=960x544 fitted=1920x1080 upscaled=1.99"),
    Fitted("the factor is rounded up", {"size": "1920x1080"}, MODES[1], [(PNG, HD), (FOURTH, HD)], "asked=1920x1080 sent=1920x1088 got=1536x1024,480x272 fitted=1920x1080 upscaled=4.0"),
    Fitted("an image that could not be measured", {"size": "1920x1080"}, MODES[1], [(UNKNOWN, HD)], "asked=1920x1080 sent=1920x1088 fitted=1920x1080"),
    Fitted("a ratio", {"aspect_ratio": "16:9"}, MODES[1], [(HD, LARGE)], "asked=16:9 sent=2048x1152 got=1920x1080 fitted=2048x1152 upscaled=1.07"),
    Fitted("no size at all", {}, MODES[1], [(PNG, PNG)], "asked=auto sent=auto got=1536x1024"),
]  # fmt: skip


@pytest.mark.parametrize("case", FITTED, ids=lambda case: case.name)
def test_what_was_made_of_the_image_is_reported(case: Fitted) -> None:
    request = read_json(Operation.GENERATION, {"prompt": "a fox", **case.parameters}, case.mode)
    images = [OutputImage("form", Bytes(), info=info, received=received) for received, info in case.images]
    assert size_report(request, images) == case.report


@pytest.mark.parametrize(
    ("infos", "report"),
    [
        pytest.param([], "", id="no image"),
        pytest.param([None], "", id="an unmeasured image"),
        pytest.param([PNG], "no", id="an image without alpha"),
        pytest.param([WEBP, None, WEBP], "yes", id="all measured images have alpha"),
        pytest.param([PNG, WEBP, PNG], "no, yes", id="some have alpha"),
    ],
)
def test_alpha_is_what_the_images_have(infos: list[ImageInfo | None], report: str) -> None:
    assert alpha_report([OutputImage("form", Bytes(), info=info) for info in infos]) == report


@dataclass(frozen=True)
class Unmet:
    """What only a conversion of a PNG of 1536x1024 could fulfill."""

    name: str
    parameters: dict[str, Any]
    unmet: tuple[str, ...]
    mode: SizeMode = SizeMode.NATIVE
    info: ImageInfo = PNG


UNMET = [
    Unmet("nothing was wished", {}, ()),
    Unmet("its own format", {"output_format": "png", "output_compression": 50}, ()),
    Unmet("another format", {"output_format": "webp"}, ("output_format",)),
    Unmet("compression", {"output_format": "webp", "output_compression": 50}, ("output_compression",), info=WEBP),
    Unmet("compression without a format", {"output_compression": 50}, ("output_compression",), info=WEBP),
    Unmet("no compression", {"output_format": "webp", "output_compression": 100}, (), info=WEBP),
    Unmet("another native size is the upstream's affair", {"size": "1024x1024"}, ()),
    Unmet("a legacy size", {"size": "512x512"}, ("size",)),
    Unmet("an exact size that it has", {"size": "1536x1024"}, (), SizeMode.COVER),
    Unmet("another exact size", {"size": "1500x1000"}, ("size",), SizeMode.CONTAIN),
]


@pytest.mark.parametrize("case", UNMET, ids=lambda case: case.name)
def test_what_a_kept_image_does_not_fulfill(case: Unmet) -> None:
    request = read_json(Operation.GENERATION, {"prompt": "a fox", **case.parameters}, case.mode)
    assert unmet_wishes(request, case.info) == case.unmet


def test_the_fate_of_manifests_is_reported_once() -> None:
    images = [OutputImage("form", credentials=each) for each in ("kept", None, "stripped", "kept")]
    assert (credentials_report(images), credentials_report([])) == ("kept, stripped", "")


def test_a_kept_image_was_not_fitted() -> None:
    request = read_json(Operation.GENERATION, {"prompt": "a fox", "size": "3000x2000"}, SizeMode.COVER)
    image = OutputImage("form", Bytes(), info=PNG, received=PNG)
    assert size_report(request, [image]) == "asked=3000x2000 sent=3008x2000 got=1536x1024"


def test_a_link_does_not_match_an_exact_size() -> None:
    request = read_json(Operation.GENERATION, {"prompt": "a fox", "size": "1024x1024"}, SizeMode.COVER)
    assert not link_matches_request("https://h/a.png", request)
