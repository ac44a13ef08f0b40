"""Take the screenshots of docs/page.md from a demo in a real browser, so that they show today's page."""

import io
from pathlib import Path

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
    with run_limner(demo.url, status_key="k") as limner, open_page(browser, limner, "/status") as page:
        page.fill("input[type=password]", "k")
        page.keyboard.press("Enter")
        page.wait_for_selector(".gauges")
        _save(page, "page-status")


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
