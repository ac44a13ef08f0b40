"""The page at /docs in a real Chromium: every endpoint of the OpenAPI document, with examples that work."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import open_page, run_browser
from tests.support.servers import RunningLimner, run_limner

#: Opens everything that can be opened.
OPEN_ALL = "document.querySelectorAll('details').forEach((each) => (each.open = true))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_limner("http://127.0.0.1:9", api_keys="sk-client") as running:
        yield running


@pytest.fixture(scope="module")
def document(limner: RunningLimner) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{limner.url}/openapi.json", trust_env=False).json()
    return found


@pytest.fixture
def page(browser: Browser, limner: RunningLimner) -> Iterator[Page]:
    with open_page(browser, limner, "/docs") as page:
        yield page


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_endpoint_is_shown_and_linked(page: Page, document: dict[str, Any]) -> None:
    every = sorted((method.upper(), path) for method, path, _ in operations(document))
    for place in (".operation h3", "#contents a"):
        texts = page.locator(place).all_inner_texts()
        assert sorted(tuple(text.split()) for text in texts) == every
    page.evaluate(OPEN_ALL)
    for _, _, operation in operations(document):
        box = page.locator(f"#{operation['operationId']}")
        statuses = box.locator(".response summary b").all_inner_texts()
        assert statuses == list(operation["responses"])
        names = [parameter["name"] for parameter in operation.get("parameters", ())]
        names += [
            name
            for media in operation.get("requestBody", {}).get("content", {}).values()
            for name in media["schema"]["properties"]
        ]
        assert set(names) <= set(box.locator("dt code").all_inner_texts())


def test_types_are_words_with_their_limits(page: Page) -> None:
    page.evaluate(OPEN_ALL)

    def described(operation: str, name: str) -> str:
        row = page.locator(f"#{operation} .fields > div").filter(has=page.locator(f"dt code:text-is({name!r})"))
        return row.first.inner_text()

    assert described("image_generation", "prompt").endswith("string, at most 32000 characters")
    assert "required" in described("image_generation", "prompt")
    assert described("image_generation", "n").endswith("integer, 1–10")
    assert described("image_generation", "output_format").endswith("png | jpeg | webp | jpg")
    assert described("image_generation", "size").endswith("\nstring")
    assert described("image_generation", "Idempotency-Key").startswith("Idempotency-Key\nheader")
    assert described("image_edit", "images[].image_url").endswith("string")
    assert described("image_edit", "mask").endswith("object")
    assert described("image_edit", "image").endswith("list of file, 1–16")
    assert described("image_generation", "data").endswith("list of object ≥ 1")


def test_an_example_can_be_run(page: Page, limner: RunningLimner, document: dict[str, Any]) -> None:
    command = page.locator("#image_generation .example pre").first.text_content()
    assert command is not None
    environment = {"PATH": os.environ["PATH"], "LIMNER_KEY": "sk-client"}

    def run(command: str) -> Any:
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, timeout=60, check=True)
        return orjson.loads(done.stdout)

    # The upstream cannot be reached, so the request was understood.
    assert run(command)["error"]["code"] == "upstream_unreachable"
    models = next(each for _, path, each in operations(document) if path == "/v1/models/{name}")
    command = page.locator(f"#{models['operationId']} .example pre").first.text_content()
    assert command is not None
    assert run(command)["id"] == "gpt-image-2"


def test_a_link_opens_its_endpoint(page: Page, browser: Browser, limner: RunningLimner) -> None:
    page.click("#contents a[href='#image_edit']")
    expect(page.locator("#image_edit")).to_have_attribute("open", "")
    expect(page.locator("#image_generation")).not_to_have_attribute("open", "")
    with open_page(browser, limner, "/docs#image_result") as linked:
        expect(linked.locator("#image_result")).to_be_in_viewport()
        expect(linked.locator("#image_result h4").first).to_be_visible()


def test_the_reference_works_with_the_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#image_generation > summary")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#image_generation h4").first).to_be_visible()


def test_an_example_is_copied_or_else_selected(page: Page, browser: Browser, limner: RunningLimner) -> None:
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('denied')); }")
    page.evaluate(OPEN_ALL)
    button = page.locator("#image_generation .example button").first
    button.click()
    expect(button).to_have_text("Selected: press Ctrl+C")
    assert page.evaluate("getSelection().toString()").startswith("curl ")
    expect(button).to_have_text("Copy")
    with open_page(browser, limner, "/docs", permissions=["clipboard-read", "clipboard-write"]) as other:
        other.evaluate(OPEN_ALL)
        other.locator("#image_generation .example button").first.click()
        expect(other.locator("#image_generation .example button").first).to_have_text("Copied")
        assert other.evaluate("navigator.clipboard.readText()").startswith("curl ")


@pytest.mark.parametrize("width", [320, 360])
def test_the_reference_fits_on_a_phone(browser: Browser, limner: RunningLimner, width: int) -> None:
    phone = {"viewport": {"width": width, "height": 720}, "has_touch": True, "is_mobile": True}
    with open_page(browser, limner, "/docs", **phone) as page:
        page.evaluate(OPEN_ALL)
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_reference_in_chinese_keeps_what_is_open(browser: Browser, limner: RunningLimner) -> None:
    with open_page(browser, limner, "/docs#image_edit", locale="zh-CN") as page:
        assert page.inner_text("h1") == "API 参考"
        assert "必填" in page.inner_text("#image_edit")
        page.click("#language")
        assert page.inner_text("h1") == "API reference"
        expect(page.locator("#image_edit h4").first).to_be_visible()


def test_a_document_that_cannot_be_loaded_is_reported(browser: Browser, limner: RunningLimner) -> None:
    with open_page(browser, limner, "/docs") as page:
        page.route("**/openapi.json", lambda route: route.fulfill(status=200, body="<html>"))
        page.reload()
        expect(page.locator("#failure")).to_have_text(
            "The description of the API cannot be loaded. Reload the page to try again."
        )
