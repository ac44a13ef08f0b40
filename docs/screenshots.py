"""Take the screenshots of docs/page.md from a demo in a real browser, so that they show today's page."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import orjson
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.support.browser import open_page, run_browser
from tests.support.servers import RunningDemo, run_demo, run_limner

IMAGES = Path(__file__).parent / "images"

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


def _status(browser: Browser, demo: RunningDemo) -> None:
    with TemporaryDirectory() as folder:
        ledger = Path(folder, "ledger")
        ledger.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in _records()))
        with run_limner(demo.url, ledger=str(ledger)) as limner, open_page(browser, limner, "/status") as page:
            page.wait_for_selector(".chart rect")
            _save(page, "page-status")


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
