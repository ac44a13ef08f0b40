"""Whatever an upstream answers, an exact size is the size of the image: through decoder processes and the server."""

import asyncio
import base64
import hashlib
import io
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from PIL import Image

from app.images.transcode import Transcoder
from app.protocol.size_fit import SizeMode
from app.protocol.sizes import Size, is_legal
from tests.support.raw_http_lines import GENERATION
from tests.support.sample_images import as_blob, as_image, gradient, saved
from tests.support.servers import RunningLimner, run_limner
from tests.support.wayward_upstream import WaywardUpstream, random_image

WEB_FORMATS = [None, "png", "jpeg", "webp"]


# The decoder processes


def test_hundreds_of_images_get_exactly_the_size_that_is_wished() -> None:
    numbers = random.Random(4)

    async def fit(transcoder: Transcoder) -> bool:
        data, wish = random_image(numbers), (numbers.randint(16, 160), numbers.randint(16, 160))
        wish = numbers.choice([wish, as_image(as_blob(data)).size])
        mode, image_format = numbers.choice([SizeMode.COVER, SizeMode.CONTAIN]), numbers.choice(WEB_FORMATS)
        is_transparent = numbers.random() < 0.3
        with as_blob(data) as blob:
            made = await transcoder.convert(
                blob, image_format=image_format, size=wish, mode=mode, transparent=is_transparent
            )
            with made:
                return as_image(made).size == wish

    async def fit_all() -> list[bool]:
        transcoder = Transcoder(decoders=2)
        try:
            return await asyncio.gather(*(fit(transcoder) for _ in range(400)))
        finally:
            transcoder.close()

    assert asyncio.run(fit_all()) == [True] * 400


# The server


@pytest.fixture(scope="module")
def exact(upstream: tuple[WaywardUpstream, str]) -> Iterator[RunningLimner]:
    with run_limner(upstream[1], size="exact") as limner:
        yield limner


def generate(limner: RunningLimner, headers: dict[str, str] | None = None, **parameters: Any) -> httpx.Response:
    url = f"{limner.url}/v1/images/generations"
    return httpx.post(url, json={**GENERATION, **parameters}, headers=headers, timeout=20, trust_env=False)


def image_of(response: httpx.Response) -> Image.Image:
    item = response.json()["data"][0]
    data = base64.b64decode(item["b64_json"]) if "b64_json" in item else httpx.get(item["url"], trust_env=False).content
    return Image.open(io.BytesIO(data))


def wish_of(numbers: random.Random) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Return a random size in pixels, the parameters and the headers that wish it."""
    width, height = (numbers.choice([numbers.randint(16, 200), 512, 1024]) for _ in range(2))
    size = f"{width}x{height}"
    spelling: dict[str, Any] = numbers.choice(
        [{"size": size}, {"width": width, "height": height}, {"size": f"{width}×{height}"}]
    )
    more = {
        "response_format": numbers.choice(["url", "b64_json"]),
        "output_format": numbers.choice(WEB_FORMATS),
        "background": numbers.choice([None, "auto", "opaque"]),
    }
    fit = numbers.choice([{}, {"x-limner-size": "exact; fit=contain"}, {"x-limner-size": "exact; fit=cover"}])
    return size, {**spelling, **more}, fit


def test_every_answer_has_the_size_that_was_wished(exact: RunningLimner, upstream: tuple[WaywardUpstream, str]) -> None:
    wishes = [wish_of(numbers) for numbers in [random.Random(6)] for _ in range(60)]

    def ask(wish: tuple[str, dict[str, Any], dict[str, str]]) -> tuple[str, str, str | None]:
        size, parameters, headers = wish
        response = generate(exact, headers, **parameters)
        image = image_of(response)
        assert response.json()["data"][0].get("url", exact.url).startswith(exact.url)
        fitted = re.search(r" fitted=(\S+)", response.headers["x-limner-size"])
        return size, f"{image.width}x{image.height}", fitted and fitted[1]

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, wishes))
    assert [(got, fitted) for _, got, fitted in answers] == [(size, size) for size, _, _ in answers]
    assert all(is_legal(Size(*map(int, size.split("x")))) for size in upstream[0].sent)


def test_the_final_image_of_a_stream_is_exact(exact: RunningLimner) -> None:
    response = generate(exact, size="123x45", stream=True)
    event = orjson.loads(response.text.split("event: image_generation.completed\ndata: ")[1].split("\n\n")[0])
    assert Image.open(io.BytesIO(base64.b64decode(event["b64_json"]))).size == (123, 45)
    assert event["size"] == "123x45"
    assert ": x-limner-size: asked=123x45 sent=1328x496 got=" in response.text


def test_bytes_of_the_right_size_are_not_touched(
    exact: RunningLimner, upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = saved(gradient("RGB", (90, 60)), "PNG", compress_level=1)
    monkeypatch.setattr(upstream[0], "answer", data)
    response = generate(exact, size="90x60", response_format="b64_json")
    assert base64.b64decode(response.json()["data"][0]["b64_json"]) == data
    assert response.headers["x-limner-size"] == "asked=90x60 sent=976x672 got=90x60 fitted=90x60"
    stored = generate(exact, size="90x60", response_format="url")
    assert httpx.get(stored.json()["data"][0]["url"], trust_env=False).content == data


def test_the_header_reports_enlargement(
    exact: RunningLimner, upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream[0], "answer", saved(gradient("RGB", (40, 30)), "PNG"))
    response = generate(exact, size="100x75")
    assert response.headers["x-limner-size"].endswith(" got=40x30 fitted=100x75 upscaled=2.5")


def test_an_edit_in_a_form_is_exact(exact: RunningLimner) -> None:
    response = httpx.post(
        f"{exact.url}/v1/images/edits",
        data={"prompt": "a hat", "width": "77", "height": "99", "response_format": "b64_json"},
        files={"image": ("a.png", saved(gradient("RGB", (64, 64)), "PNG"))},
        timeout=20,
        trust_env=False,
    )
    assert image_of(response).size == (77, 99)


def test_without_a_size_nothing_is_changed(
    exact: RunningLimner, upstream: tuple[WaywardUpstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = saved(gradient("RGB", (50, 40)), "PNG")
    monkeypatch.setattr(upstream[0], "answer", data)
    response = generate(exact, response_format="b64_json")
    assert base64.b64decode(response.json()["data"][0]["b64_json"]) == data
    assert response.headers["x-limner-size"] == "asked=auto sent=auto got=50x40"


# Who decides


def test_the_header_wins_over_the_key_and_the_key_over_the_server(
    upstream: tuple[WaywardUpstream, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream[0], "answer", saved(gradient("RGB", (40, 30)), "PNG"))
    keys = tmp_path / "keys.toml"
    tables = [("plain", ""), ("exactly", 'size = "exact"'), ("natively", 'size = "native"')]
    keys.write_text(
        "\n".join(
            f'[[keys]]\nname = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n{line}'
            for name, line in tables
        )
    )

    def size_for(limner: RunningLimner, key: str, header: str | None = None) -> tuple[int, int]:
        headers = {"authorization": f"Bearer {key}"} | ({} if header is None else {"x-limner-size": header})
        return image_of(generate(limner, headers, size="1024x1024", response_format="b64_json")).size

    for server, untold in (("native", (40, 30)), ("exact", (1024, 1024))):
        with run_limner(upstream[1], size=server, keys_file=keys) as limner:
            assert size_for(limner, "plain") == untold
            assert size_for(limner, "exactly") == (1024, 1024)
            assert size_for(limner, "natively") == (40, 30)
            assert size_for(limner, "natively", "exact") == (1024, 1024)
            assert size_for(limner, "exactly", "native") == (40, 30)


def test_a_header_that_means_nothing_is_refused(exact: RunningLimner) -> None:
    response = generate(exact, {"x-limner-size": "huge"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-limner-size")


def test_an_illegal_size_is_refused_unless_it_is_exact(exact: RunningLimner) -> None:
    response = generate(exact, {"x-limner-size": "native"}, size="1920x1080")
    assert response.json()["error"]["message"].endswith("The nearest legal sizes are 1920x1088 and 1920x1072.")
