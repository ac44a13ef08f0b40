"""A real Chromium before the page: strict about errors, and about requests to anybody else."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.support.servers import RunningLimner

_PROGRAM = shutil.which("chromium")

#: The last one: whatever the page or the browser would look up is not found.
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

#: Milliseconds. Nothing here takes as long; a failing test need not take half a minute.
_PATIENCE = 10_000


@contextmanager
def run_browser() -> Iterator[Browser]:
    """With an empty profile of its own. Skips the test where Chromium is missing."""
    if _PROGRAM is None:
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_PROGRAM, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watch:
    """What must not happen on a page: errors in the console (broken policies are such), requests to elsewhere."""

    home: str
    complaints: list[str] = field(default_factory=list)

    def hear(self, message: ConsoleMessage) -> None:
        # An answer that is no success is a line in the console, and the business of the test.
        answered = message.text.startswith("Failed to load resource") and "/v1/" in message.location.get("url", "")
        if message.type in {"error", "warning"} and not answered:
            self.complaints.append(f"{message.type}: {message.text}")

    def see(self, request: Request) -> None:
        if not request.url.startswith((self.home, f"blob:{self.home}")):
            self.complaints.append(f"request: {request.url}")


@contextmanager
def open_page(browser: Browser, limner: RunningLimner, path: str = "/", **options: Any) -> Iterator[Page]:
    """Fresh storage, as of a first visit. `options` as of `Browser.new_context`."""
    context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1280, "height": 900}, **options})
    try:
        context.set_default_timeout(_PATIENCE)
        page = context.new_page()
        watch = Watch(limner.url)
        page.on("console", watch.hear)
        page.on("pageerror", lambda error: watch.complaints.append(f"fault: {error}"))
        page.on("request", watch.see)
        visit(page, limner.url + path)
        yield page
        assert not watch.complaints
    finally:
        context.close()


def visit(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("html[data-ready]", state="attached")
