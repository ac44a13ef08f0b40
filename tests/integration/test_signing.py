"""Converted images are signed on each path, and no failure of signing loses an image."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import httpx
import orjson
import pytest
import structlog

from app.jobs.pipeline_io import JobIO
from app.observability.metrics import REGISTRY
from tests.support.raw_http_lines import GENERATION
from tests.support.sample_images import as_blob, gradient, saved
from tests.support.servers import RunningLimner, run_limner, serve
from tests.support.signing import Manifest, Web, credentials, genuinely_signed, read_manifest
from tests.support.wayward_upstream import WaywardUpstream

FORMATS = ("png", "jpeg", "webp")


@pytest.fixture(scope="module")
def signing(upstream: tuple[WaywardUpstream, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLimner]:
    with run_limner(upstream[1], **credentials().write(tmp_path_factory.mktemp("signing"))) as limner:
        yield limner


def generate(limner: RunningLimner, **parameters: Any) -> httpx.Response:
    url = f"{limner.url}/v1/images/generations"
    return httpx.post(
        url, json={**GENERATION, "response_format": "b64_json", **parameters}, timeout=30, trust_env=False
    )


def image_of(response: httpx.Response) -> bytes:
    (item,) = response.json()["data"]
    return base64.b64decode(item["b64_json"]) if "b64_json" in item else httpx.get(item["url"], trust_env=False).content


def manifest_of(response: httpx.Response, image_format: str) -> Manifest:
    return read_manifest(image_of(response), image_format)


def plain(image_format: str) -> bytes:
    return saved(gradient("RGB", (64, 48)), image_format)


def errors() -> float:
    return REGISTRY.get_sample_value("limner_part_errors_total", {"part": "signing"}) or 0.0


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_an_image_that_would_lose_its_manifest_is_signed(
    signing: RunningLimner,
    upstream: tuple[WaywardUpstream, str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    target: str,
    response_format: str,
) -> None:
    original = genuinely_signed(plain(source), source)
    monkeypatch.setattr(upstream[0], "answer", original)
    response = generate(signing, output_format=target, response_format=response_format)
    found = manifest_of(response, target)
    assert (found.state, found.parents) == ("Valid", () if source == target else ("Upstream",))
    assert (image_of(response) == original) is (source == target)
    # A link of the upstream that ends like the format is passed on unopened.
    expected = "kept" if source == target else "signed"
    assert response.headers.get("x-limner-credentials", expected) == expected


def test_an_unsigned_image_is_not_signed(
    signing: RunningLimner, upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream[0], "answer", plain("png"))
    assert generate(signing, output_format="webp").headers["x-limner-credentials"] == "none"


def test_the_ledger_and_the_header_of_two_images_say_it(
    upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(upstream[0], "answer", genuinely_signed(plain("png"), "png"))
    with run_limner(upstream[1], ledger=str(tmp_path / "lines"), **credentials().write(tmp_path)) as limner:
        response = generate(limner, output_format="webp", n=2)
    assert response.headers["x-limner-credentials"] == "signed"
    assert len(response.json()["data"]) == 2
    assert orjson.loads((tmp_path / "lines").read_bytes())["credentials"] == ["signed"]


@pytest.mark.parametrize(
    ("name", "parameters", "actions"),
    [
        ("another format", {"output_format": "webp"}, ("c2pa.created", "c2pa.transcoded")),
        ("a legacy size, into which nothing fits worse", {"size": "256x256"}, None),
        ("the same file", {}, None),
    ],
)
def test_each_conversion_is_signed_where_the_operator_wants_it(
    upstream: tuple[WaywardUpstream, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    parameters: dict[str, Any],
    actions: tuple[str, ...] | None,
) -> None:
    monkeypatch.setattr(upstream[0], "answer", plain("png"))
    with run_limner(upstream[1], sign="converted", **credentials().write(tmp_path)) as limner:
        response = generate(limner, **parameters)
    assert response.headers["x-limner-credentials"] == ("signed" if actions else "none")
    if actions:
        found = manifest_of(response, "webp")
        assert (found.actions, found.source_types) == (actions, ("trainedAlgorithmicMedia",))


def test_what_an_exact_mask_has_changed_is_partly_generated(
    signing: RunningLimner, upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(upstream[0], "answer", genuinely_signed(plain("png"), "png"))
    image, mask = (saved(gradient(mode, (64, 48)), "PNG") for mode in ("RGB", "RGBA"))
    with run_limner(upstream[1], mask="exact", credentials="keep", **credentials().write(tmp_path)) as limner:
        response = httpx.post(
            f"{limner.url}/v1/images/edits",
            data={"prompt": "a hat", "response_format": "b64_json"},
            files={"image": ("a.png", image), "mask": ("b.png", mask)},
            timeout=30,
            trust_env=False,
        )
    assert response.headers["x-limner-credentials"] == "signed"
    found = manifest_of(response, "png")
    assert (found.actions, found.parents) == (("c2pa.opened", "c2pa.edited"), ("Upstream",))
    assert found.source_types == ("compositeWithTrainedAlgorithmicMedia",)


def test_a_manifest_is_kept_as_an_ingredient_instead_of_leaving_the_image_as_it_is(
    upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(upstream[0], "answer", genuinely_signed(plain("png"), "png"))
    with run_limner(upstream[1], credentials="keep", **credentials().write(tmp_path)) as limner:
        response = generate(limner, output_format="webp")
    assert (response.headers["x-limner-credentials"], response.headers.get("x-limner-ignored")) == ("signed", None)
    assert manifest_of(response, "webp").parents == ("Upstream",)


@pytest.mark.parametrize(
    ("policy", "credential", "ignored"), [("strip", "stripped", None), ("keep", "kept", "output_format")]
)
def test_an_image_that_cannot_be_signed_is_delivered_all_the_same(
    upstream: tuple[WaywardUpstream, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    policy: Any,
    credential: str,
    ignored: str | None,
) -> None:
    original = genuinely_signed(plain("png"), "png")
    monkeypatch.setattr(upstream[0], "answer", original)
    before = errors()
    with serve(Web(lambda _: b"no time stamp")) as url, structlog.testing.capture_logs() as logs:
        options = {"sign_timestamps": url, "credentials": policy, **credentials().write(tmp_path)}
        with run_limner(upstream[1], **options) as limner:
            response = generate(limner, output_format="webp")
    assert response.headers["x-limner-credentials"] == credential
    assert response.headers.get("x-limner-ignored") == ignored
    assert (image_of(response) == original) is (policy == "keep")
    assert errors() == before + 1
    assert [record["log_level"] for record in logs if record["event"] == "signing_failed"] == ["error"]


def test_without_a_certificate_nothing_is_signed() -> None:
    io = JobIO(Mock(signer=None), MagicMock(), None)
    with as_blob(plain("png")) as image:
        assert asyncio.run(io.sign(image, image, is_ingredient=False, is_masked=False)) is None


def test_a_full_disk_leaves_an_image_unsigned(
    signing: RunningLimner, upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(upstream[0], "answer", genuinely_signed(plain("png"), "png"))
    monkeypatch.setattr(signing.app.state.services.backends.signer._jobs, "run", fail)
    response = generate(signing, output_format="webp")
    assert (response.status_code, response.headers["x-limner-credentials"]) == (200, "stripped")
