"""A real Chromium that opens the page, and fails the test on console errors and on requests to other servers."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.support.servers import RunningLimner

_PROGRAM = shutil.which("chromium")

#: The last flag makes every DNS look-up fail.
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

#: Milliseconds for a step or an expectation: both cores may be busy with other tests.
_TIMEOUT = 20_000


@contextmanager
def run_browser() -> Iterator[Browser]:
    """Start Chromium with an empty profile. Skips the test if Chromium is missing."""
    if _PROGRAM is None:
        pytest.skip("needs chromium")
    expect.set_options(timeout=_TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_PROGRAM, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class PageMonitor:
    """Collects what must not happen: console errors (policy violations are such) and requests to other servers."""

    base_url: str
    violations: list[str] = field(default_factory=list)

    def on_console(self, message: ConsoleMessage) -> None:
        # The browser logs each API response with an error status; checking these is up to the test.
        is_api_error = message.text.startswith("Failed to load resource") and "/v1/" in message.location.get("url", "")
        if message.type in {"error", "warning"} and not is_api_error:
            self.violations.append(f"{message.type}: {message.text}")

    def on_request(self, request: Request) -> None:
        if not request.url.startswith((self.base_url, f"blob:{self.base_url}")):
            self.violations.append(f"request: {request.url}")


@contextmanager
def open_page(browser: Browser, limner: RunningLimner, path: str = "/", **options: Any) -> Iterator[Page]:
    """Open a page with empty storage. `options` are those of `Browser.new_context`."""
    context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1280, "height": 900}, **options})
    try:
        context.set_default_timeout(_TIMEOUT)
        page = context.new_page()
        monitor = PageMonitor(limner.url)
        page.on("console", monitor.on_console)
        page.on("pageerror", lambda error: monitor.violations.append(f"error: {error}"))
        page.on("request", monitor.on_request)
        go_to(page, limner.url + path)
        yield page
        assert not monitor.violations
    finally:
        context.close()


def go_to(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("html[data-ready]", state="attached")
