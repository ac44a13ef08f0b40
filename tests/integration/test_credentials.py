"""What becomes of signed manifests: on each path, for each format, under each setting."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from app.protocol.credentials import has_credentials
from app.protocol.image_format import bytes_reader
from tests.support.raw_http_lines import GENERATION
from tests.support.sample_images import gradient, saved
from tests.support.servers import RunningLimner, run_limner
from tests.support.signed_images import signed
from tests.support.wayward_upstream import WaywardUpstream

FORMATS = ("png", "jpeg", "webp")


@pytest.fixture(scope="module")
def stripping(
    upstream: tuple[WaywardUpstream, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningLimner]:
    with run_limner(upstream[1], ledger=str(tmp_path_factory.mktemp("ledger") / "lines")) as limner:
        yield limner


@pytest.fixture(scope="module")
def keeping(upstream: tuple[WaywardUpstream, str]) -> Iterator[RunningLimner]:
    with run_limner(upstream[1], credentials="keep") as limner:
        yield limner


def image_of(item: dict[str, Any]) -> bytes:
    return base64.b64decode(item["b64_json"]) if "b64_json" in item else httpx.get(item["url"], trust_env=False).content


def generate(limner: RunningLimner, headers: dict[str, str] | None = None, **parameters: Any) -> httpx.Response:
    url = f"{limner.url}/v1/images/generations"
    return httpx.post(url, json={**GENERATION, **parameters}, headers=headers, timeout=20, trust_env=False)


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
@pytest.mark.parametrize("target", [None, *FORMATS])
@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("source", FORMATS)
def test_the_header_says_what_became_of_a_manifest(
    stripping: RunningLimner,
    upstream: tuple[WaywardUpstream, str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    is_signed: bool,
    target: str | None,
    response_format: str,
) -> None:
    plain = saved(gradient("RGB", (64, 48)), source)
    data = signed(plain) if is_signed else plain
    monkeypatch.setattr(upstream[0], "answer", data)
    response = generate(stripping, output_format=target, response_format=response_format)
    made = image_of(response.json()["data"][0])
    is_same = target in {None, source}
    assert (made == data) is is_same
    assert has_credentials(bytes_reader(made)) is (is_same and is_signed)
    assert (b"trainedAlgorithmicMedia" in made) is (is_signed and not is_same)
    # A link of the upstream that ends like the format is passed on unopened.
    expected = "none" if not is_signed else "kept" if is_same else "stripped"
    assert response.headers.get("x-limner-credentials", expected) == expected


@dataclass(frozen=True)
class Kept:
    name: str
    parameters: dict[str, Any]
    ignored: str | None
    headers: dict[str, str] = field(default_factory=dict)


KEPT = [
    Kept("nothing was wished", {}, None),
    Kept("another format", {"output_format": "webp"}, "output_format"),
    Kept("another format and compression", {"output_format": "jpeg", "output_compression": 50}, "output_format, output_compression"),
    Kept("its own format", {"output_format": "png"}, None),
    Kept("a legacy size", {"size": "256x256"}, "size"),
    Kept("an exact size", {"size": "100x100"}, "size", {"x-limner-size": "exact"}),
    Kept("an exact size that it has", {"size": "64x48"}, None, {"x-limner-size": "exact"}),
    Kept("an unknown parameter, too", {"seed": 1, "output_format": "webp"}, "seed, output_format"),
]  # fmt: skip


@pytest.mark.parametrize("case", KEPT, ids=lambda case: case.name)
def test_a_signed_image_is_kept_and_what_was_wished_is_named(
    keeping: RunningLimner, upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch, case: Kept
) -> None:
    data = signed(saved(gradient("RGB", (64, 48)), "PNG"))
    monkeypatch.setattr(upstream[0], "answer", data)
    response = generate(keeping, case.headers, response_format="b64_json", **case.parameters)
    assert image_of(response.json()["data"][0]) == data
    assert response.headers["x-limner-credentials"] == "kept"
    assert response.headers.get("x-limner-ignored") == case.ignored
    assert "upscaled" not in response.headers["x-limner-size"]
    assert ("fitted" in response.headers["x-limner-size"]) is (case.name == "an exact size that it has")


def test_an_unsigned_image_is_converted_whatever_is_kept(
    keeping: RunningLimner, upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream[0], "answer", saved(gradient("RGB", (64, 48)), "PNG"))
    response = generate(keeping, output_format="webp", response_format="b64_json")
    assert image_of(response.json()["data"][0]).startswith(b"RIFF")
    assert (response.headers["x-limner-credentials"], response.headers.get("x-limner-ignored")) == ("none", None)


def test_an_exact_mask_strips_even_what_is_to_be_kept(
    upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream[0], "answer", signed(saved(gradient("RGB", (64, 48)), "PNG")))
    image, mask = (saved(gradient(mode, (64, 48)), "PNG") for mode in ("RGB", "RGBA"))
    with run_limner(upstream[1], credentials="keep", mask="exact") as limner:
        response = httpx.post(
            f"{limner.url}/v1/images/edits",
            data={"prompt": "a hat", "response_format": "b64_json"},
            files={"image": ("a.png", image), "mask": ("b.png", mask)},
            timeout=20,
            trust_env=False,
        )
    assert response.headers["x-limner-credentials"] == "stripped"
    assert b"compositeWithTrainedAlgorithmicMedia" in image_of(response.json()["data"][0])


def test_the_ledger_says_it_too(
    upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(upstream[0], "answer", signed(saved(gradient("RGB", (64, 48)), "PNG")))
    with run_limner(upstream[1], ledger=str(tmp_path / "lines")) as limner:
        generate(limner, output_format="webp", response_format="b64_json")
        generate(limner, response_format="b64_json")
    lines = [orjson.loads(line) for line in (tmp_path / "lines").read_bytes().splitlines()]
    assert [line["credentials"] for line in lines] == [["stripped"], ["kept"]]


def test_a_stream_says_it_in_a_comment(
    stripping: RunningLimner, upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream[0], "answer", signed(saved(gradient("RGB", (64, 48)), "PNG")))
    assert ": x-limner-credentials: kept" in generate(stripping, stream=True).text
