"""Input images, masks, conversion and storage work for one request in front of the demo upstream."""

import base64
import io
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from PIL import Image, ImageChops

from app.errors import ImageUnavailable
from app.images.blob import Blob
from app.jobs.pipeline_io import JobIO, _blob, _pixels
from app.observability.metrics import REGISTRY
from app.protocol.image_format import ImageInfo
from tests.support.raw_http_lines import GENERATION, limner_with_model
from tests.support.sample_images import as_blob, noise, saved
from tests.support.servers import RunningDemo, run_limner


def opened(b64_json: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(b64_json, validate=True)))
    image.load()
    return image


@pytest.mark.parametrize("size", ["1024x1024", "1536x1024"])
def test_an_exact_mask_keeps_every_pixel_that_it_covers(demo: RunningDemo, size: str) -> None:
    original = noise((200, 120))
    mask = Image.new("RGBA", original.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (50, 30, 90, 70))
    files = [("image", ("a", saved(original, "PNG"))), ("mask", ("b", saved(mask, "PNG")))]
    with limner_with_model(demo, "gpt-image-2-chat", mask="exact") as limner:
        form = {"prompt": "a hat", "response_format": "b64_json", "size": size}
        response = httpx.post(f"{limner.url}/v1/images/edits", data=form, files=files, timeout=20)
    result = opened(response.json()["data"][0]["b64_json"]).convert("RGB")
    assert response.json()["size"] == "200x120"
    covered = mask.getchannel("A").convert("1")
    black = Image.new("RGB", original.size)
    difference = Image.composite(ImageChops.difference(result, original.convert("RGB")), black, covered)
    assert difference.getbbox() is None
    assert ImageChops.difference(result, original.convert("RGB")).getbbox() == (50, 30, 90, 70)


def test_an_exact_mask_with_damaged_pixels_is_refused_before_the_upstream_is_asked(demo: RunningDemo) -> None:
    demo.state.reset()
    data = saved(noise((64, 64)).convert("RGBA"), "PNG")
    start = data.index(b"IDAT") + 4
    damaged = data[:start] + bytes(len(data) - start - 12) + data[-12:]
    files = [("image", ("a", saved(noise((64, 64)), "PNG"))), ("mask", ("b", damaged))]
    with limner_with_model(demo, "gpt-image-2-chat", mask="exact") as limner:
        response = httpx.post(f"{limner.url}/v1/images/edits", data={"prompt": "a hat"}, files=files, timeout=20)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_mask_image_format")
    assert demo.state.calls == 0


LEGACY: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("256x256 is generated larger and scaled down", {"size": "256x256"}, (256, 256)),
    ("512x512 in another format", {"size": "512x512", "output_format": "webp"}, (512, 512)),
    ("a current size is passed on", {"size": "1024x1536"}, (1024, 1536)),
]


@pytest.mark.parametrize(("name", "parameters", "size"), LEGACY, ids=[row[0] for row in LEGACY])
def test_the_image_has_the_requested_size(
    demo: RunningDemo, name: str, parameters: dict[str, Any], size: tuple[int, int]
) -> None:
    with limner_with_model(demo, "gpt-image-2-chat") as limner:
        response = httpx.post(
            f"{limner.url}/v1/images/generations", json={**GENERATION, **parameters}, timeout=20
        ).json()
    assert opened(response["data"][0]["b64_json"]).size == size


def test_a_blob_without_an_image_has_no_size() -> None:
    with Blob() as nothing, as_blob(saved(noise((30, 20)), "PNG")) as image:
        assert (_pixels(nothing), _pixels(image)) == (None, (30, 20))


def test_small_inputs_go_upstream_unchanged(demo: RunningDemo) -> None:
    demo.state.reset()
    sent = saved(noise((300, 200)), "JPEG")
    with limner_with_model(demo, "gpt-image-2-chat") as limner:
        httpx.post(f"{limner.url}/v1/images/edits", data={"prompt": "a hat"}, files={"image": ("a", sent)}, timeout=20)
    part = demo.state.requests[-1].body["messages"][0]["content"][1]
    assert part["image_url"]["url"] == f"data:image/jpeg;base64,{base64.b64encode(sent).decode()}"


def test_an_image_that_cannot_be_stored_is_counted(demo: RunningDemo, monkeypatch: pytest.MonkeyPatch) -> None:
    def failures() -> float:
        return REGISTRY.get_sample_value("limner_part_errors_total", {"part": "store"}) or 0.0

    async def fail(blob: Blob, info: ImageInfo) -> str:
        raise ImageUnavailable("No room.", code="image_not_kept")

    before = failures()
    with limner_with_model(demo, "data-url") as limner:
        monkeypatch.setattr(limner.service.backends.store, "put", fail)
        response = httpx.post(
            f"{limner.url}/v1/images/generations", json={**GENERATION, "response_format": "url"}, timeout=20
        )
    assert response.json()["error"]["code"] == "image_not_kept"
    assert failures() - before == 1


def test_a_stream_has_comments_with_progress_and_reply_form(
    demo: RunningDemo,
) -> None:
    with limner_with_model(demo, "pace-0.06") as limner:
        parameters = {**GENERATION, "stream": True}
        response = httpx.post(f"{limner.url}/v1/images/generations", json=parameters, timeout=20, trust_env=False)
    comments = [line.removeprefix(": ") for line in response.text.splitlines() if line.startswith(": ")]
    lines = [line for line in comments if line.startswith("progress ")]
    # A busy machine may miss one.
    assert lines
    assert lines == [f"progress 进度 {part}%" for part in (13, 55, 88) if f"progress 进度 {part}%" in lines]
    assert "x-limner-reply-form: address" in comments
    assert any(comment.startswith("x-limner-size: asked=auto sent=auto got=") for comment in comments)
    assert "x-limner-reply-form" not in response.headers


def test_only_blobs_are_converted() -> None:
    with pytest.raises(TypeError, match="bytes is not a blob"):
        _blob(b"")  # type: ignore[arg-type]


def photo() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    exif[0x8825] = {1: "N", 2: (47.0, 22.0, 6.5)}
    file = io.BytesIO()
    noise((64, 48)).save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(("options", "has_place"), [({}, False), ({"strip_location": False}, True)])
def test_an_input_image_loses_its_place_before_it_goes_upstream(
    demo: RunningDemo, options: dict[str, Any], has_place: bool
) -> None:
    sent = photo()
    with limner_with_model(demo, "gpt-image-2-chat", **options) as limner:
        files = [("image", ("a.jpg", sent))]
        response = httpx.post(f"{limner.url}/v1/images/edits", data={"prompt": "a hat"}, files=files, timeout=20)
    assert response.status_code == 200
    url = demo.state.requests[-1].body["messages"][0]["content"][1]["image_url"]["url"]
    got = base64.b64decode(url.partition(",")[2])
    image = Image.open(io.BytesIO(got))
    assert (0x8825 in image.getexif(), image.getexif()[0x010F], len(got)) == (has_place, "Camera", len(sent))


@pytest.mark.parametrize(("rehost", "is_kept"), [("needed", True), ("never", False)])
def test_a_link_that_only_this_server_reaches_is_kept(demo: RunningDemo, rehost: str, is_kept: bool) -> None:
    with limner_with_model(demo, "gpt-image-2-chat", rehost=rehost) as limner:
        body = {"prompt": "a fox", "response_format": "url"}
        url = httpx.post(f"{limner.url}/v1/images/generations", json=body, timeout=20).json()["data"][0]["url"]
        assert url.startswith(f"{limner.url}/kept/" if is_kept else demo.url)
        assert httpx.get(url).content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("keys", "upstream", "expected"),
    [
        pytest.param(
            ("sk-a", "sk-b", "sk-c"),
            None,
            {"https://a.example:443": "sk-a", "https://b.example:443": "sk-b"},
            id="of two keys for one origin, the first",
        ),
        pytest.param(
            ("sk-a", "sk-b", "sk-c"),
            "b",
            {"https://b.example:443": "sk-b"},
            id="only that of the upstream a key is bound to",
        ),
        pytest.param(
            (None, None, None),
            "b",
            {"https://b.example:443": "sk-caller"},
            id="that of the caller, in pass-through mode",
        ),
        pytest.param((None, None, None), "d", {}, id="none for an upstream that keeps its key out of downloads"),
    ],
)
def test_keys_of_upstreams_belong_to_their_origins(
    demo: RunningDemo, keys: tuple[str | None, ...], upstream: str | None, expected: dict[str, str]
) -> None:
    addresses = {"a": "https://a.example/v1", "b": "https://b.example/v1", "c": "https://a.example/other"}
    closed: dict[str, Any] = {"name": "d", "base_url": "https://d.example/v1", "origin_downloads_with_key": False}
    upstreams: list[dict[str, Any]] = [
        {"name": name, "base_url": url, **({"api_key": key} if key else {})}
        for (name, url), key in zip(addresses.items(), keys, strict=True)
    ]
    upstreams.append(closed | ({"api_key": "sk-d"} if keys[0] else {}))
    with run_limner(demo.url, upstream_base_url=None, upstream_api_key=None, upstreams=upstreams) as limner:
        job_io = JobIO(limner.service.backends, Mock(paid_replies=[], paid_failures=[]), "sk-caller", upstream)
        assert job_io._upstream_keys() == expected
        nobody = JobIO(limner.service.backends, Mock(paid_replies=[], paid_failures=[]), None, upstream)
        assert bool(nobody._upstream_keys()) == (keys[0] is not None)
