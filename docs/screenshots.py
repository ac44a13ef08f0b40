"""Take the screenshots of docs/page.md from a demo in a real browser, so that they show today's page."""

import hashlib
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import httpx
import orjson
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.support.browser import open_page, run_browser
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner

IMAGES = Path(__file__).parent / "images"

#: What `/status` is opened with.
_STATUS_KEY = "sk-operator"

#: Room for the charts and the limits of keys.
_TALL = {"width": 1280, "height": 1180}

_REPLY = """> progress **100%**
![A lighthouse](https://images.example/lighthouse-1.png) ![Another](https://images.example/lighthouse-2.png)
![logo](https://images.example/logo.svg) ![a pixel](data:image/png;base64,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA)"""


def main() -> None:
    """Write the screenshots into docs/images."""
    with run_demo() as demo, run_browser() as browser:
        _result(browser, demo)
        _status(browser, demo)
        _stream(browser, demo)
        _refusal(browser, demo)


def _result(browser: Browser, demo: RunningDemo) -> None:
    with run_limner(demo.url) as limner, open_page(browser, limner, viewport={"width": 1280, "height": 920}) as page:
        _generate(page, "A lighthouse on a cliff in a storm, oil on canvas")
        page.wait_for_selector("#history li")
        page.wait_for_function("document.querySelector('figure img')?.complete")
        _save(page, "page")
        page.click("figure button:has-text('Edit this')")
        page.click("#draw-mask")
        page.locator("#mask-canvas canvas").first.wait_for()
        _draw(page)
        _save(page, "page-mask")
        page.click("#mask-cancel")
        page.click(".explain summary")
        page.fill("#pasted", _REPLY)
        page.click("#explainer button")
        page.wait_for_selector("#findings li")
        _save(page, "page-explain", ".explain")


#: Limits of client keys, and how many images each of them has got when the screenshot is taken.
_KEYS = (
    ("shop", 'images = ["20/hour"]\nmonthly_images = 100\nmonthly_cost = "1.00"\nconcurrency = 8', 14),
    ("newsroom", "monthly_images = 25", 4),
)


def _status(browser: Browser, demo: RunningDemo) -> None:
    with TemporaryDirectory() as folder:
        ledger, keys = Path(folder, "ledger"), Path(folder, "keys.toml")
        ledger.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in _records()))
        keys.write_text(
            "".join(f'[[keys]]\nname = "{name}"\nsha256 = "{_digest(name)}"\n{limits}\n' for name, limits, _ in _KEYS)
        )
        upstreams = [
            {
                "name": "demo",
                "base_url": f"{demo.url}/v1",
                "api_key": "sk-1",
                "model": "data-url",
                "prices": [{"image": "0.041"}],
            }
        ]
        unset = {"upstream_base_url": None, "upstream_api_key": None}
        options = {"ledger": str(ledger), "keys_file": str(keys), "status_key": _STATUS_KEY, "upstreams": upstreams}
        with (
            run_limner(demo.url, **unset, **options) as limner,
            open_page(browser, limner, "/status", viewport=_TALL) as page,
        ):
            for name, _, images in _KEYS:
                _use_key(limner, name, images)
            page.fill("#key", _STATUS_KEY)
            page.keyboard.press("Enter")
            page.wait_for_selector(".chart rect")
            page.wait_for_selector("section[aria-label='Limits of keys'] meter")
            _save(page, "page-status")


def _digest(name: str) -> str:
    return hashlib.sha256(f"sk-{name}".encode()).hexdigest()


def _use_key(limner: RunningLimner, name: str, images: int) -> None:
    """Generate images with a client key."""
    headers = {"authorization": f"Bearer sk-{name}"}
    while images:
        n = min(images, 10)
        body = {"prompt": "A lighthouse", "n": n, "size": "1024x1024"}
        url = f"{limner.url}/v1/images/generations"
        httpx.post(url, json=body, headers=headers, trust_env=False, timeout=60).raise_for_status()
        images -= n


def _records() -> Iterator[dict[str, object]]:
    """Yield ledger lines of a day, the same at each call but for the date."""
    now, chance = datetime.now(UTC), Random(3)  # noqa: S311  no secret depends on it
    for hour in range(23):
        for _ in range(chance.randrange(4, 18)):
            has_failed = chance.random() < 0.04
            yield {
                "at": (now - timedelta(hours=hour)).isoformat(),
                "key": chance.choice(("shop", "shop", "newsroom", "archive")),
                "outcome": "upstream_timeout" if has_failed else "ok",
                "images": 0 if has_failed else 1,
                "seconds": {"total": 30 + 60 * chance.random()},
                "cost": "0.041",
                "currency": "USD",
            }


def _stream(browser: Browser, demo: RunningDemo) -> None:
    options = {"viewport": {"width": 1180, "height": 860}, "color_scheme": "dark"}
    with (
        run_limner(demo.url, upstream_model="previews+pace-1") as limner,
        open_page(browser, limner, **options) as page,
    ):
        _generate(page, "A lighthouse on a cliff in a storm, oil on canvas")
        page.wait_for_selector("#timeline .partial")
        page.wait_for_function("document.querySelector('.placeholder img')?.complete")
        _save(page, "page-stream")


def _refusal(browser: Browser, demo: RunningDemo) -> None:
    options = {"viewport": {"width": 1180, "height": 640}}
    with run_limner(demo.url, upstream_model="refuses") as limner, open_page(browser, limner, **options) as page:
        _generate(page, "A portrait of my neighbor, from memory")
        page.wait_for_selector("#failure:not([hidden])")
        _save(page, "page-refusal")


def _generate(page: Page, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.click("#generate")


def _draw(page: Page) -> None:
    box = page.locator("#mask-canvas").bounding_box() or {}
    for step in range(5):
        y = box["y"] + box["height"] * (0.2 + 0.06 * step)
        page.mouse.move(box["x"] + box["width"] * 0.3, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.7, y, steps=12)
        page.mouse.up()


def _save(page: Page, name: str, part: str | None = None) -> None:
    png = page.locator(part).screenshot() if part else page.screenshot()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(IMAGES / f"{name}.webp", quality=82, method=6)


if __name__ == "__main__":
    main()
