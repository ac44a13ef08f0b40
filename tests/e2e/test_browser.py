"""The pages in a real Chromium, with a real server and the demo upstream."""

import base64
import hashlib
import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.support.browser import go_to, open_page, run_browser
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner

PROMPT = "A lighthouse in a storm"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def limner(demo: RunningDemo) -> Iterator[RunningLimner]:
    with run_limner(demo.url) as running:
        yield running


@pytest.fixture
def page(browser: Browser, limner: RunningLimner, demo: RunningDemo) -> Iterator[Page]:
    demo.state.reset()
    with open_page(browser, limner) as page:
        yield page


def generate(page: Page, prompt: str = PROMPT, *, stream: bool = True) -> None:
    page.fill("#prompt", prompt)
    page.set_checked("#stream", stream)
    page.click("#generate")


def shown_sizes(page: Page) -> list[tuple[int, int]]:
    """Return the pixels of the images that are shown, once they are loaded."""
    page.wait_for_selector("figure img")
    sizes = page.eval_on_selector_all(
        "figure img",
        """images => Promise.all(images.map(async (image) => {
            await image.decode();
            return [image.naturalWidth, image.naturalHeight];
        }))""",
    )
    return [(width, height) for width, height in sizes]


def timeline(page: Page) -> str:
    return page.inner_text("#timeline")


def last_upstream_request(demo: RunningDemo) -> tuple[str, list[str], dict[str, Any]]:
    """Return what the upstream received last: the text, the image URLs, the metadata."""
    body = demo.state.requests[-1].body
    content = body["messages"][0]["content"]
    parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    links = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return parts[0]["text"], links, body.get("metadata") or {}


def image_of(link: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2], validate=True)))


def make_image(name: str = "photo.png", size: tuple[int, int] = (640, 480), color: str = "teal") -> FilePayload:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}


def test_the_request_follows_the_form(page: Page, demo: RunningDemo) -> None:
    page.check("input[name=size][value='1024x1024']")
    page.check("input[name=quality][value=high]")
    page.check("input[name=format][value=webp]")
    page.fill("#compression", "80")
    generate(page, 'It\'s a "fox" <b>', stream=False)
    assert shown_sizes(page) == [(1024, 1024)]
    assert last_upstream_request(demo) == ("1024x1024 'It's a \"fox\" <b>'", [], {"quality": "high"})
    assert re.match(r"1024×1024 · WEBP · [0-9.]+ kB", page.inner_text("figcaption"))
    facts = page.inner_text("#facts")
    for name in ("Total time", "Upstream time", "Limner's own time", "Found in", "Tokens", "Request ID"):
        assert name in facts
    assert re.search(r"[0-9]+ in, [0-9]+ out", facts)
    assert re.search(r"req_[0-9a-f]{32}", facts)
    for step in (
        "Request sent: POST /v1/images/generations",
        "Server responded: 200",
        "Images received: 1",
        "Displayed",
    ):
        assert step in timeline(page)


def test_an_image_can_be_downloaded_and_edited(page: Page, demo: RunningDemo) -> None:
    generate(page)
    assert shown_sizes(page) == [(1536, 1024)]
    with page.expect_download() as download:
        page.click("figure button:has-text('Download')")
    assert download.value.suggested_filename == "limner-1.png"
    with Image.open(download.value.path()) as image:
        assert image.size == (1536, 1024)
    page.click("figure button:has-text('Edit this')")
    expect(page.locator("#inputs li")).to_have_count(1)
    generate(page, "Make it night")
    page.wait_for_selector("#timeline .shown")
    text, links, _ = last_upstream_request(demo)
    assert text == "1536x1024 'Make it night'"
    assert [image_of(link).size for link in links] == [(1536, 1024)]


def test_an_image_opens_at_full_size(page: Page) -> None:
    """A 4K image is scaled down to fit the page; its window shows one of its pixels as one of the screen."""
    page.check("input[name=size][value='3840x2160']")
    generate(page)
    page.wait_for_selector("#timeline .shown")
    assert page.evaluate("document.querySelector('figure img').getBoundingClientRect().width") < 1280
    page.get_by_role("button", name="Full size").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-image")).to_be_focused()
    expect(page.locator("#viewer-title")).to_have_text(re.compile(r"3840×2160 · PNG · [0-9.]+ kB"))
    shown = page.locator("#viewer-image img")
    assert shown.evaluate("(image) => image.decode().then(() => image.getBoundingClientRect().width)") == 3840
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    page.keyboard.press("End")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.get_by_role("button", name="Full size")).to_be_focused()
    page.click("figure img")
    page.click("#viewer-close")
    expect(page.locator("#viewer img")).to_have_count(0)


def test_a_long_prompt_is_cut_in_names(page: Page) -> None:
    """The name of an entry of the history is read aloud, and shown while the pointer rests on it."""
    generate(page, "A harbour at dawn, seen from the hill. " * 50)
    page.wait_for_selector("#history li")
    name = page.locator("#history li button").first.get_attribute("aria-label")
    assert name is not None
    assert re.match(r"A harbour at dawn, .{55,62}… \(.+\)$", name)
    assert len(name) < 120


def test_all_images_of_a_request_are_shown(page: Page, demo: RunningDemo) -> None:
    page.uncheck("#stream")
    page.fill("#count", "3")
    generate(page, stream=False)
    assert shown_sizes(page) == [(1536, 1024)] * 3
    assert demo.state.calls == 3


def test_a_stream_shows_partial_images(browser: Browser) -> None:
    with (
        run_demo(chunk_pause=0.02) as demo,
        run_limner(demo.url, upstream_model="previews", keepalive_interval=0.05) as limner,
        open_page(browser, limner) as page,
    ):
        seen = page.evaluate_handle(
            """() => {
                const sizes = [];
                new MutationObserver(() => {
                    const image = document.querySelector(".placeholder img");
                    if (image) sizes.push(image.naturalWidth);
                }).observe(document.getElementById("stage"), { childList: true, subtree: true });
                return sizes;
            }"""
        )
        generate(page)
        page.wait_for_selector("#timeline .shown")
        assert shown_sizes(page) == [(1536, 1024)]
        for step in ("Partial image 1", "Partial image 2", "In progress, keep-alive", "Images received"):
            assert step in timeline(page)
        assert re.search(r"Upstream reports: 进度 (13|55|88)%", timeline(page))
        assert "Found in\nbare link" in page.inner_text("#facts")
        page.click("#tabs button:has-text('Response')")
        assert "\nx-limner-reply-form: address\n" in page.inner_text("#code")
        assert list(dict.fromkeys(seen.json_value())) == [384, 768]


def test_an_edit_with_a_mask(page: Page, demo: RunningDemo) -> None:
    page.set_input_files("#files", [make_image(), make_image("other.png", (320, 320), "red")])
    expect(page.locator("#inputs li")).to_have_count(2)
    page.click("#draw-mask")
    expect(page.locator("#mask-canvas")).to_be_focused()
    box = page.locator("#mask-canvas").bounding_box()
    assert box is not None
    page.fill("#brush", "10")
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5, steps=8)
    page.mouse.up()
    use_mask(page)
    expect(page.locator("#draw-mask")).to_have_text("Edit the mask")
    generate(page, "A boat", stream=False)
    assert shown_sizes(page) == [(1536, 1024)]
    text, links, _ = last_upstream_request(demo)
    first, second, mask = (image_of(link) for link in links)
    assert "A boat" in text
    assert (first.size, second.size, mask.size, mask.format) == ((640, 480), (320, 320), (640, 480), "PNG")
    alpha = mask.getchannel("A")
    painted = [(160, 240), (320, 240), (480, 240), (320, 215)]
    untouched = [(0, 0), (639, 479), (60, 240), (580, 240), (320, 120), (320, 360)]
    assert [alpha.getpixel(at) for at in painted] == [0] * 4
    assert [alpha.getpixel(at) for at in untouched] == [255] * 6


def alpha_after(page: Page, demo: RunningDemo) -> Image.Image:
    """Return the alpha channel of the mask that the upstream receives."""
    generate(page, "A boat", stream=False)
    page.wait_for_selector("#timeline .shown")
    return image_of(last_upstream_request(demo)[1][-1]).getchannel("A")


def use_mask(page: Page) -> None:
    """Chromium encodes a canvas only when it is idle, which may take seconds on a busy machine."""
    page.click("#mask-done")
    expect(page.locator("#mask")).to_be_hidden(timeout=20_000)


def draw_dot(page: Page, across: float, down: float) -> None:
    expect(page.locator("#mask")).to_be_visible()
    box = page.locator("#mask-canvas").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * across, box["y"] + box["height"] * down)


def test_a_mask_can_be_undone_edited_and_removed(page: Page, demo: RunningDemo) -> None:
    page.set_input_files("#files", [make_image()])
    page.click("#draw-mask")
    draw_dot(page, 0.25, 0.5)
    draw_dot(page, 0.75, 0.5)
    page.click("#undo")
    use_mask(page)
    page.click("#draw-mask")
    draw_dot(page, 0.5, 0.75)
    page.keyboard.press("Escape")
    page.click("#draw-mask")
    draw_dot(page, 0.5, 0.25)
    use_mask(page)
    alpha = alpha_after(page, demo)
    # Drawn, undone, cancelled, added.
    assert [alpha.getpixel(at) for at in ((160, 240), (480, 240), (320, 360), (320, 120))] == [0, 255, 255, 0]
    page.click("button:has-text('Remove the mask')")
    expect(page.locator("#draw-mask")).to_have_text("Draw a mask")
    generate(page, "A boat", stream=False)
    page.wait_for_selector("#timeline .shown")
    assert len(last_upstream_request(demo)[1]) == 1


@pytest.mark.parametrize("how", ["clear", "erase"])
def test_an_empty_mask_is_none(page: Page, how: str) -> None:
    page.set_input_files("#files", [make_image()])
    page.click("#draw-mask")
    draw_dot(page, 0.5, 0.5)
    if how == "clear":
        page.click("#clear")
    else:
        page.click("#tool label:has-text('Erase')")
        page.fill("#brush", "20")
        draw_dot(page, 0.5, 0.5)
    use_mask(page)
    expect(page.locator("#draw-mask")).to_have_text("Draw a mask")


TRANSFER = """async ([kind, type, name, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    const options = { bubbles: true, cancelable: true };
    const event = kind === "paste"
        ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
        : new DragEvent("drop", { ...options, dataTransfer: transfer });
    document.querySelector("#prompt").dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_images_can_be_pasted_and_dropped(page: Page, kind: str) -> None:
    image = make_image()
    page.evaluate(TRANSFER, [kind, image["mimeType"], image["name"], base64.b64encode(image["buffer"]).decode()])
    expect(page.locator("#inputs small")).to_have_text("640×480, 1.9 kB")
    page.evaluate(TRANSFER, [kind, "image/png", "fake.png", base64.b64encode(b"no image").decode()])
    expect(page.locator("#inputs-error")).to_have_text(
        "fake.png is not an image that this browser can read. Use PNG, JPEG or WebP."
    )
    page.click("#inputs button[aria-label='Remove: Image 1']")
    expect(page.locator("#inputs li")).to_have_count(0)


@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "a stream"])
def test_the_cost_is_shown_with_all_its_digits(browser: Browser, demo: RunningDemo, stream: bool) -> None:
    with run_limner(demo.url, upstream_model="costs-0.0345") as limner, open_page(browser, limner) as page:
        generate(page, stream=stream)
        expect(page.locator("#facts .cost dd")).to_have_text("$0.0345")


@dataclass(frozen=True, slots=True)
class Failure:
    name: str
    title: str
    message: str
    settings: dict[str, Any] = field(default_factory=dict)
    stream: bool = True
    focus: str = "generate"


FAILURES = [
    Failure("a refusal", "The model refused this request", "rejected by the safety system", {"upstream_model": "refuses-400"}, focus="prompt"),
    Failure("a refusal in words", "The model refused this request", "", {"upstream_model": "refuses"}, stream=False, focus="prompt"),
    Failure("text without an image", "The model replied with text and no image", "", {"upstream_model": "text-only"}, focus="prompt"),
    Failure("an unreachable upstream", "The upstream does not respond", "", {"upstream_base_url": "http://127.0.0.1:9/v1", "upstream_attempts": 1}),
    Failure("an upstream that rejects the key", "The upstream rejected this server", "", {"upstream_model": "error-401"}),
    Failure("a stream that breaks off", "The upstream failed", "", {"upstream_model": "breaks-mid-stream"}),
    Failure("a response that failed after its start", "The upstream failed", "", {"upstream_model": "slow-0.2+broken-json", "keepalive_after": 0.05}, stream=False),
    Failure("an image that cannot be downloaded", "The image was generated but not delivered", "", {"fetch_allow": ""}),
]  # fmt: skip


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case.name)
def test_a_failure_is_shown_in_plain_words(browser: Browser, demo: RunningDemo, case: Failure) -> None:
    with run_limner(demo.url, **case.settings) as limner, open_page(browser, limner) as page:
        generate(page, stream=case.stream)
        alert = page.locator("#failure")
        expect(alert.locator("h3")).to_have_text(case.title)
        assert alert.get_attribute("role") == "alert"
        assert case.message in alert.inner_text()
        assert re.search(r"req_[0-9a-f]{32}", alert.inner_text())
        assert "Failed" in timeline(page)
        expect(page.locator(f"#{case.focus}")).to_be_focused()
        expect(page.locator("#stop")).to_be_hidden()


@dataclass(frozen=True, slots=True)
class ErrorText:
    name: str
    title: str
    status: int
    code: str | None = None
    param: str | None = None


ERROR_TEXTS = [
    ErrorText("a key without permission", "The key was not accepted", 403),
    ErrorText("a size that the server rejects", "This size is not possible", 400, "invalid_value", "size"),
    ErrorText("a mask of another size", "The mask does not match the image", 400, "invalid_mask_image_format", "mask"),
    ErrorText("an unreadable image", "An input image cannot be read", 400, "invalid_image_file", "images[0]"),
    ErrorText("a body that is too large", "The request is too large", 413, "request_too_large"),
    ErrorText("any other invalid parameter", "The request is invalid", 400, "invalid_value", "model"),
    ErrorText("an account without credit", "The upstream account has no credit left", 500, "upstream_quota"),
    ErrorText("too many requests", "The server is busy", 429, "rate_limit_exceeded"),
    ErrorText("an upstream that took too long", "The upstream took too long", 500, "upstream_timeout"),
    ErrorText("a bug", "The server failed", 500),
]  # fmt: skip


@pytest.mark.parametrize("case", ERROR_TEXTS, ids=lambda case: case.name)
def test_every_kind_of_error_has_a_text(page: Page, case: ErrorText) -> None:
    error = {"message": "The server's own words.", "type": "t", "param": case.param, "code": case.code}
    page.route("**/v1/images/*", lambda route: route.fulfill(status=case.status, json={"error": error}))
    generate(page)
    expect(page.locator("#failure h3")).to_have_text(case.title)
    expect(page.locator("#failure blockquote")).to_have_text("The server's own words.")


@pytest.mark.parametrize("body", ["", "{", "event: image_generation.partial_image\n"])
def test_a_response_that_is_cut_off_is_an_error(page: Page, body: str) -> None:
    kind = "text/event-stream" if body.startswith("event") else "application/json"
    page.route("**/v1/images/*", lambda route: route.fulfill(status=200, body=body, content_type=kind))
    generate(page)
    expect(page.locator("#failure h3")).to_have_text("The response was cut off")


def test_the_server_cannot_be_reached(page: Page) -> None:
    page.context.set_offline(True)
    generate(page)
    expect(page.locator("#failure h3")).to_have_text("Limner cannot be reached")
    page.context.set_offline(False)
    generate(page)
    assert shown_sizes(page) == [(1536, 1024)]


def test_an_invalid_size_is_shown_at_once_and_can_be_corrected(page: Page, demo: RunningDemo) -> None:
    page.check("input[name=size][value=custom]")
    rule, near = page.locator("#size-rule"), page.locator("#nearest")
    for width, height, message, suggestion in (
        ("1000", "1000", "Width and height must be multiples of 16.", "Use 1008×1008"),
        ("4096", "2048", "Width and height can be at most 3840 pixels.", "Use 3840×1920"),
        ("3200", "800", "The long side can be at most 3 times the short side.", "Use 2768×928"),
        ("3840", "3840", "Too many pixels: the maximum is 8,294,400.", "Use 2880×2880"),
        ("512", "768", "Too few pixels: the minimum is 655,360.", "Use 672×992"),
    ):
        page.fill("#width", width)
        page.fill("#height", height)
        expect(rule).to_have_text(message)
        expect(near).to_have_text(suggestion)
    generate(page)
    assert demo.state.calls == 0
    expect(page.locator("#width")).to_be_focused()
    near.click()
    expect(rule).to_have_text("1:1.48, 0.67 megapixels")
    generate(page)
    assert shown_sizes(page) == [(672, 992)]
    page.fill("#width", "")
    expect(rule).to_have_text("Width and height must be whole numbers.")
    expect(near).to_be_hidden()
    page.fill("#width", "512")
    page.fill("#height", "512")
    expect(rule).to_have_text("Generated as 1024×1024, then scaled down.")


def test_the_page_and_the_server_agree_on_sizes(page: Page) -> None:
    """The server sends the rules, but the page applies them itself."""
    from app.errors import UserError
    from app.protocol.sizes import parse_size

    def allowed(width: int, height: int) -> bool:
        try:
            return parse_size(f"{width}x{height}") is not None
        except UserError:
            return False

    edges = [16, 256, 480, 512, 672, 800, 808, 816, 1024, 1280, 2160, 2164, 2880, 2896, 3824, 3840, 3856]
    pairs = [(width, height) for width in edges for height in edges]
    judged = page.evaluate(
        """async (pairs) => {
            const { brokenRule, nearest } = await import("/web/sizes.js");
            const rules = (await (await fetch("/web/server.json")).json()).size;
            return pairs.map(([w, h]) => [brokenRule(w, h, rules) === null, nearest(w, h, rules)]);
        }""",
        pairs,
    )
    assert [fits for fits, _ in judged] == [allowed(*pair) for pair in pairs]
    assert all(allowed(*near) for _, near in judged)


def test_exact_sizes_are_offered_and_explained(browser: Browser, demo: RunningDemo) -> None:
    with run_limner(demo.url, size="exact") as limner, open_page(browser, limner) as page:
        page.check("input[name=size][value=custom]")
        page.fill("#width", "1000")
        page.fill("#height", "15")
        expect(page.locator("#size-rule")).to_have_text("Width and height must be at least 16 pixels.")
        page.fill("#height", "701")
        generate(page)
        assert shown_sizes(page) == [(1000, 701)]
        expect(page.locator("#facts .size dd")).to_have_text(
            "asked=1000x701 sent=1008x704 got=1008x704 fitted=1000x701"
        )


def test_a_key_is_required_and_stays_in_memory(browser: Browser, demo: RunningDemo) -> None:
    with run_limner(demo.url, api_keys="sk-client") as limner, open_page(browser, limner) as page:
        generate(page)
        expect(page.locator("#key-error")).to_have_text("Enter a key: this server requires one.")
        expect(page.locator("#key")).to_be_focused()
        page.fill("#key", "sk-wrong")
        generate(page)
        expect(page.locator("#failure h3")).to_have_text("The key was not accepted")
        expect(page.locator("#key")).to_be_focused()
        page.fill("#key", "sk-client")
        generate(page)
        assert shown_sizes(page) == [(1536, 1024)]
        assert "sk-client" not in page.inner_text("#code")
        stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        assert "sk-" not in page.evaluate(stored)
        go_to(page, limner.url)
        expect(page.locator("#key")).to_have_value("")
        page.fill("#key", "sk-client")
        page.check("#remember")
        go_to(page, limner.url)
        expect(page.locator("#key")).to_have_value("sk-client")
        page.click("summary")
        page.uncheck("#remember")
        assert "sk-" not in page.evaluate(stored)


def test_models_are_offered(page: Page) -> None:
    page.click("summary")
    page.focus("#model")
    page.wait_for_selector("#models option", state="attached")
    assert "gpt-image-2" in page.eval_on_selector_all("#models option", "all => all.map((each) => each.value)")


def wait_until_unread(limner: RunningLimner) -> None:
    """Wait until the server has noticed that the client of its only job has disconnected."""
    deadline = time.monotonic() + 10
    while httpx.get(f"{limner.url}/v1/status", trust_env=False).json()["under_way"][0]["readers"]:
        assert time.monotonic() < deadline


def test_the_elapsed_time_is_shown_while_waiting(page: Page) -> None:
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.route("**/v1/images/*", lambda route: None)
    generate(page)
    expect(page.locator("#elapsed")).to_have_text("0 s. Usually 30 to 120 s.")
    expect(page.locator("#announcer")).to_have_text(re.compile("usually for 30 to 120 seconds"))
    page.clock.run_for(42_000)
    expect(page.locator("#elapsed")).to_have_text("42 s. Usually 30 to 120 s.")
    page.click("#language")
    page.clock.run_for(1000)
    expect(page.locator("#elapsed")).to_have_text("43 秒。通常需要 30 到 120 秒。")
    page.click("#language")
    page.clock.run_for(100_000)
    expect(page.locator("#elapsed")).to_have_text(
        "143 s, longer than usual. The server is still waiting for the upstream."
    )
    page.click("#stop")
    page.clock.run_for(1000)
    expect(page.locator("#elapsed")).to_have_count(0)


def test_waiting_can_be_stopped(browser: Browser, demo: RunningDemo) -> None:
    demo.state.reset()
    with run_limner(demo.url, upstream_model="holds") as limner, open_page(browser, limner) as page:
        generate(page)
        assert demo.state.wait_for_calls(1)
        page.click("#stop")
        expect(page.locator("#timeline .stopped")).to_be_visible()
        expect(page.locator("#stage")).to_have_text("Your image will appear here. Most upstreams need 30 to 120 s.")
        wait_until_unread(limner)
        demo.state.release()
        # The image that was paid for is delivered now; the upstream is not called again.
        generate(page)
        assert shown_sizes(page) == [(1536, 1024)]
        assert demo.state.calls == 1


def test_the_history_stays_in_the_browser(page: Page, limner: RunningLimner) -> None:
    for number, size in enumerate(("1024x1024", "1024x1536"), 1):
        page.check(f"input[name=size][value='{size}']")
        generate(page, f"Image {number}")
        expect(page.locator("#history li")).to_have_count(number)
    go_to(page, limner.url)
    expect(page.locator("#history li")).to_have_count(2)
    page.click("#history li:last-child button:first-child")
    assert shown_sizes(page) == [(1024, 1024)]
    assert page.input_value("#prompt") == "Image 1"
    assert page.is_checked("input[name=size][value='1024x1024']")
    page.hover("#history li:first-child")
    page.click("#history li:first-child .remove")
    expect(page.locator("#history li")).to_have_count(1)
    page.click("#clear-history")
    expect(page.locator("#history-section")).to_be_hidden()
    go_to(page, limner.url)
    expect(page.locator("#history-section")).to_be_hidden()


def test_results_are_compared_side_by_side(page: Page, limner: RunningLimner) -> None:
    for number, size in enumerate(("1024x1024", "1024x1536", "1536x1024"), 1):
        page.check(f"input[name=size][value='{size}']")
        generate(page, f"Image {number}")
        expect(page.locator("#history li")).to_have_count(number)
    assert page.locator("figure .hint").count() == 0
    for place, shape, prompt in ((3, (1024, 1024), "Image 1"), (2, (1024, 1536), "Image 2")):
        page.hover(f"#history li:nth-child({place})")
        page.click(f"#history li:nth-child({place}) .compare")
        assert shown_sizes(page) == [(1536, 1024), shape]
        assert page.locator("figure .hint").all_text_contents() == ["Image 3", prompt]
        expect(page.locator("#announcer")).to_have_text(f"Beside the result: {prompt}")
    expect(page.locator("#facts")).to_be_hidden()
    assert page.input_value("#prompt") == "Image 3"
    page.click("#history li:nth-child(3) button:first-child")
    assert shown_sizes(page) == [(1024, 1024)]
    go_to(page, limner.url)
    page.hover("#history li:nth-child(2)")
    page.click("#history li:nth-child(2) .compare")
    assert shown_sizes(page) == [(1024, 1536)]
    assert page.input_value("#prompt") == "Image 2"


def test_nothing_is_compared_while_a_request_is_running(page: Page) -> None:
    generate(page)
    expect(page.locator("#history li")).to_have_count(1)
    page.route("**/v1/images/*", lambda route: None)
    generate(page, "Never answered")
    expect(page.locator("#stop")).to_be_visible()
    page.click("#history li .compare", force=True)
    expect(page.locator("#elapsed")).to_be_visible()
    page.click("#stop")


def test_the_history_is_limited(page: Page) -> None:
    kept = page.evaluate(
        """async () => {
            const { History } = await import("/web/history.js");
            const history = new History(() => {});
            await history.open();
            const blob = new Blob([new Uint8Array(10)], { type: "image/png" });
            const entry = (at) => ({ at, fields: { prompt: "p" }, images: [], mask: null, pictures: [{ blob }], facts: {} });
            for (let at = 1; at <= 64; at++) await history.add(entry(at));
            const again = new History(() => {});
            await again.open();
            return again.entries.map(({ at }) => at);
        }"""
    )
    assert kept == list(range(64, 4, -1))


def test_the_raw_response_is_shown(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#tabs button:has-text('Response')")
    expect(page.locator("#code")).to_have_text("No request has been sent yet.")
    generate(page, stream=False)
    page.wait_for_selector("#timeline .shown")
    raw = page.inner_text("#code")
    assert raw.startswith("HTTP 200\n")
    assert "x-limner-reply-form: " in raw
    assert re.search(r'"b64_json": "iVBORw0KGgo[A-Za-z0-9+/]+… \([0-9,]+ characters\)"', raw)
    page.click("#copy")
    expect(page.locator("#copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == raw


@pytest.mark.parametrize("language", ["curl", "Python"])
@pytest.mark.parametrize("edit", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_the_code_samples_send_the_same_request(
    page: Page, demo: RunningDemo, tmp_path: Path, language: str, edit: bool, stream: bool
) -> None:
    page.fill("#prompt", 'It\'s "so" $HOME `x` \\ 雪')
    page.set_checked("#stream", stream)
    page.check("input[name=quality][value=low]")
    if edit:
        page.set_input_files("#files", [make_image()])
        (tmp_path / "image-1.png").write_bytes(make_image()["buffer"])
        expect(page.locator("#inputs li")).to_have_count(1)
    page.click(f"#tabs button:has-text('{language}')")
    code = page.inner_text("#code")
    command = (
        ["bash", "-euc", code.replace("curl ", "curl -fsS ")] if language == "curl" else [sys.executable, "-c", code]
    )
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    sent_by_code = last_upstream_request(demo)
    page.click("#generate")
    page.wait_for_selector("#timeline .shown")
    assert sent_by_code == last_upstream_request(demo)
    assert sent_by_code[0] == "1536x1024 'It's \"so\" $HOME `x` \\ 雪'"
    if language == "Python":
        name = "image.png" if stream else "image-1.png"
        with Image.open(tmp_path / name) as image:
            assert image.size == (1536, 1024)


def test_the_page_works_with_the_keyboard(page: Page, demo: RunningDemo) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    focused = "document.activeElement.id || document.activeElement.name || document.activeElement.className"
    order = [page.evaluate(focused)]
    for _ in range(10):
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
    assert order == ["add-input", "size", "quality", "format", "stream", "partials", "", "generate", "", "copy", "code"]
    page.focus("input[name=size]:checked")
    page.keyboard.press("ArrowRight")
    page.focus("#prompt")
    page.keyboard.type("A boat")
    page.keyboard.press("Control+Enter")
    assert shown_sizes(page) == [(1024, 1536)]
    assert last_upstream_request(demo)[0] == "1024x1536 'A boat'"
    page.focus("#tabs [aria-selected=true]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "Python"
    assert "from openai import OpenAI" in page.inner_text("#code")


def test_a_mask_with_the_keyboard(page: Page, demo: RunningDemo) -> None:
    page.set_input_files("#files", [make_image()])
    page.focus("#draw-mask")
    page.keyboard.press("Enter")
    expect(page.locator("#mask-canvas")).to_be_focused()
    page.keyboard.press("Space")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    page.focus("#mask-done")
    page.keyboard.press("Enter")
    expect(page.locator("#draw-mask")).to_be_focused()
    expect(page.locator("#draw-mask")).to_have_text("Edit the mask")
    alpha = alpha_after(page, demo)
    assert [alpha.getpixel(at) for at in ((320, 240), (370, 240))] == [0, 0]
    assert [alpha.getpixel(at) for at in ((240, 240), (320, 340))] == [255, 255]


def test_screen_readers_are_informed(page: Page) -> None:
    generate(page)
    page.wait_for_selector("#timeline .shown")
    expect(page.locator("#announcer")).to_have_text(re.compile(r"Done\. Images: 1, 1536×1024, [0-9.]+ s"))
    assert page.get_attribute("#announcer", "aria-live") == "polite"
    assert page.get_attribute("figure img", "alt") == PROMPT
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, a, [role]")]
            .filter((each) => each.type !== "file" && !each.hidden)
            .filter((each) => !(each.getAttribute("aria-label") || each.getAttribute("aria-labelledby")
                || [...(each.labels ?? [])].some((label) => label.textContent.trim()) || each.textContent.trim()
                || each.matches("[role=status], [role=alert], [role=tablist]")))
            .map((each) => each.outerHTML)"""
    )
    assert nameless == []


CONTRAST = """() => {
    const style = getComputedStyle(document.documentElement);
    const probe = document.createElement("i");
    document.body.append(probe);
    const light = (name) => {
        probe.style.color = style.getPropertyValue(name);
        const parts = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map((part) => {
            const value = part / 255;
            return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const pairs = [["--ink", "--paper"], ["--ink", "--sheet"], ["--soft", "--paper"], ["--soft", "--wash"], ["--minium", "--paper"],
        ["--error", "--paper"], ["--good", "--sheet"], ["--on-ink", "--minium"], ["--paper", "--ink"]];
    return pairs.map(([one, other]) => {
        const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
        return [one, other, (bright + 0.05) / (dark + 0.05)];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_sufficient_in_light_and_dark(browser: Browser, limner: RunningLimner, scheme: str) -> None:
    with open_page(browser, limner, color_scheme=scheme) as page:
        low = [pair for pair in page.evaluate(CONTRAST) if pair[2] < 4.5]
        assert low == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(20, 19, 18)") == (scheme == "dark")


@pytest.mark.parametrize("width", [320, 360])
@pytest.mark.parametrize("path", ["/", "/status"])
def test_the_pages_fit_on_a_phone(browser: Browser, limner: RunningLimner, width: int, path: str) -> None:
    phone = {"viewport": {"width": width, "height": 720}, "has_touch": True, "is_mobile": True}
    with open_page(browser, limner, path, **phone) as page:
        if path == "/":
            page.check("input[name=size][value=custom]")
            page.click("summary")
            page.set_input_files("#files", [make_image()])
            generate(page)
            assert shown_sizes(page) == [(1536, 1024)]
            expect(page.get_by_role("button", name="Copy", exact=True)).to_be_visible()
            explain(page, f"![a](https://e.com/{'a' * 300}.png) ![b](data:image/png;base64,{'A' * 300})")
            expect(page.locator("#findings li")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        if path == "/":
            page.click("#draw-mask")
            expect(page.locator("#mask-canvas")).to_be_focused()
            box = page.locator("#mask").bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


def test_the_page_in_chinese(browser: Browser, limner: RunningLimner) -> None:
    with open_page(browser, limner, locale="zh-CN") as page:
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        assert page.inner_text("label[for=prompt]") == "提示词"
        assert page.get_attribute("#prompt", "placeholder") == "暴风雨中的灯塔，布面油画"
        generate(page, "雪中的狐狸")
        page.wait_for_selector("#timeline .shown")
        assert "已收到图片：1 张" in timeline(page)
        words = page.evaluate("document.body.innerText.match(/[A-Za-z]{4,}/g)")
        known = {"Limner", "OpenAPI", "Token", "English", "POST", "images", "generations", "JPEG", "WebP", "curl", "Python", "Node", "Ctrl"}  # fmt: skip
        assert {word for word in words if word not in known} <= set(page.inner_text("#code").split('"')) | set(
            re.findall("[A-Za-z]{4,}", page.inner_text("#code") + page.inner_text("#facts"))
        )
        page.click("#language")
        assert page.inner_text("label[for=prompt]") == "Prompt"
        assert "Images received: 1" in timeline(page)
        go_to(page, limner.url)
        assert page.inner_text("label[for=prompt]") == "Prompt"


def test_repeated_steps_take_one_line(page: Page) -> None:
    """The lines are in the order of the last step of each kind."""
    comments = ("keep-alive", "progress 13 %", "keep-alive", "progress 55 %", "x-limner-reply-form: link")
    body = "".join(f": {comment}\n\n" for comment in comments)
    page.route("**/v1/images/*", lambda route: route.fulfill(status=200, body=body, content_type="text/event-stream"))
    generate(page)
    expect(page.locator("#failure h3")).to_have_text("The response was cut off")
    lines = page.locator("#timeline span").all_inner_texts()
    assert lines[2:] == ["In progress, keep-alive 2", "Upstream reports: 55 %", "Failed"]


def explain(page: Page, reply: str) -> None:
    page.click(".explain summary")
    page.fill("#pasted", reply)
    page.click("#explainer button")


def test_a_pasted_reply_is_explained(page: Page) -> None:
    inside = "data:image/png;base64," + base64.b64encode(make_image(size=(96, 64))["buffer"]).decode()
    explain(page, f"> 进度 **34%**\n![a]({inside})\n![b](https://e.com/b.png)\n![logo](https://e.com/c.svg)")
    found = page.locator("#findings li:not(.rejected)")
    expect(found).to_have_count(2)
    assert found.nth(0).inner_text().startswith("markdown-image\n96×64 · PNG · ")
    assert page.eval_on_selector("#findings img", "image => image.decode().then(() => image.naturalWidth)") == 96
    link = found.nth(1).locator("a")
    attributes = [link.get_attribute(name) for name in ("href", "target", "rel")]
    assert attributes == ["https://e.com/b.png", "_blank", "noopener noreferrer"]
    rejected = page.locator("#findings .rejected")
    expect(rejected).to_have_count(1)
    expect(rejected).to_contain_text("it leads to a file that is not an image")
    expect(page.locator("#announcer")).to_have_text("Images found: 2. Rejected: 1.")
    with page.expect_download() as download:
        page.click("#findings button:has-text('Download')")
    assert download.value.suggested_filename == "limner-explained.png"
    page.click("#language")
    expect(page.locator("#findings .hint")).to_have_text("按普通文字读取。")
    expect(rejected).to_contain_text("指向的文件不是图片")


@dataclass(frozen=True, slots=True)
class Pasted:
    name: str
    reply: str
    expected: str


PASTED = [
    Pasted("a refusal", "I cannot help with that: it violates our content policy.", "400 moderation_blocked: "),
    Pasted("a stream that broke off", 'data: {"choices":[{"delta":{"content":"Wait"}}]}\n\ndata: {"cho', "Read as a stream of events, which is cut off."),
    Pasted("markup with scripts", "<img src=x onerror=\"document.title='gone'\"><script>document.title = 'gone'</script>", "Images found: 0"),
    Pasted("data that is not an image", f"![a](data:image/svg+xml;base64,{'PHN2Zz4g' * 40})", "its bytes are no image"),
    Pasted("a javascript address", "![a](javascript:alert(1)) ![b](https://e.com/b.png)", "https://e.com/b.png"),
]  # fmt: skip


@pytest.mark.parametrize("case", PASTED, ids=lambda case: case.name)
def test_a_pasted_reply_is_shown_as_text(page: Page, case: Pasted) -> None:
    explain(page, case.reply)
    expect(page.locator("#findings")).to_contain_text(case.expected)
    assert page.title() == "Limner"
    links = page.eval_on_selector_all("#findings a", "all => all.map((each) => each.protocol)")
    assert set(links) <= {"https:"}


def test_a_reply_that_cannot_be_explained_says_why(browser: Browser, demo: RunningDemo) -> None:
    with run_limner(demo.url, api_keys="sk-client") as limner, open_page(browser, limner) as page:
        explain(page, " ")
        error = page.locator("#pasted-error")
        expect(error).to_have_text("Paste a reply first.")
        expect(page.locator("#pasted")).to_be_focused()
        page.fill("#pasted", "![a](https://e.com/a.png)")
        page.click("#explainer button")
        expect(error).to_have_text("Enter a key: this server requires one.")
        page.fill("#key", "sk-wrong")
        page.focus("#pasted")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(error).to_have_text("The key was not accepted. Incorrect API key provided.")
        page.fill("#key", "sk-client")
        page.click("#explainer button")
        expect(page.locator("#findings a")).to_have_count(1)
        expect(error).to_be_hidden()
        page.context.set_offline(True)
        page.click("#explainer button")
        expect(error).to_contain_text("Limner cannot be reached.")
        expect(page.locator("#findings")).to_be_hidden()


def test_operators_see_the_last_day_by_hour_and_key(browser: Browser, demo: RunningDemo, tmp_path: Path) -> None:
    """From the ledger, with costs and the last failures, each with what to do about it."""
    now = datetime.now(UTC)
    ledger = tmp_path / "ledger"
    records = [
        {
            "at": (now - timedelta(hours=hour % 20)).isoformat(),
            "key": f"team-{hour % 3}",
            "outcome": "upstream_timeout" if hour % 9 == 4 else "ok",
            "images": 0 if hour % 9 == 4 else 1 + hour % 4,
            "seconds": {"total": 30 + 7 * (hour % 11)},
            "cost": "0.041",
            "currency": "USD",
        }
        for hour in range(90)
    ]
    ledger.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    with run_limner(demo.url, upstream_model="error-401", ledger=str(ledger)) as limner:
        answer = httpx.post(f"{limner.url}/v1/images/generations", json={"prompt": "a fox"}, trust_env=False)
        assert answer.status_code == 500
        with open_page(browser, limner, "/status", color_scheme="dark") as page:
            charts = page.locator(".chart svg")
            expect(charts).to_have_count(3)
            expect(charts.nth(0)).to_have_attribute(
                "aria-label", re.compile("^Images by hour. Images: 200, Failures: 1[01]$")
            )
            expect(charts.nth(2)).to_have_attribute("aria-label", "Cost. Cost: $3.69")
            expect(page.locator("section[aria-label='Keys, last 24 hours'] tbody tr")).to_have_count(4)
            expect(page.locator("section[aria-label='Keys, last 24 hours'] tbody tr").first).to_contain_text("$1.23")
            expect(page.locator("section[aria-label='Last failures of this process'] tbody tr")).to_contain_text(
                "The upstream rejected this server"
            )
            expect(page.locator("section[aria-label='Last failures of this process'] tbody tr")).to_contain_text(
                "The operator must check"
            )


def test_operators_see_what_keys_have_used_of_their_limits(browser: Browser, demo: RunningDemo, tmp_path: Path) -> None:
    demo.state.reset()
    (tmp_path / "keys.toml").write_text(
        f'[[keys]]\nname = "shop"\nsha256 = "{hashlib.sha256(b"sk-shop").hexdigest()}"\nconcurrency = 4\n'
        f'images = ["2/hour"]\nmonthly_images = 50\nmonthly_cost = "2.50"\n'
        f'[[keys]]\nname = "free"\nsha256 = "{hashlib.sha256(b"sk-free").hexdigest()}"\n'
    )
    upstream = {"name": "demo", "base_url": f"{demo.url}/v1", "api_key": "sk-1", "model": "data-url", "prices": [{"image": "0.04"}]}  # fmt: skip
    options = {
        "upstream_base_url": None,
        "upstream_api_key": None,
        "upstreams": [upstream],
        "status_key": "sk-operator",
    }
    with run_limner(demo.url, keys_file=str(tmp_path / "keys.toml"), **options) as limner:
        answer = httpx.post(
            f"{limner.url}/v1/images/generations",
            json={"prompt": "a fox", "n": 2},
            headers={"authorization": "Bearer sk-shop"},
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        with open_page(browser, limner, "/status") as page:
            page.fill("#key", "sk-operator")
            page.keyboard.press("Enter")
            rows = page.locator("section[aria-label='Limits of keys'] tbody tr")
            expect(rows).to_have_count(4)
            expect(rows.nth(0)).to_contain_text("shopimages a hour22")
            expect(rows.nth(0).locator(".bad")).to_have_text("2")
            expect(rows.nth(1)).to_contain_text("images a month250")
            expect(rows.nth(2)).to_contain_text("cost a month$0.08$2.50")
            expect(rows.nth(2).locator("meter")).to_have_attribute("aria-label", "shop, cost a month")
            assert rows.nth(2).locator("meter").evaluate("meter => meter.value / meter.max") == pytest.approx(0.032)
            expect(rows.nth(3)).to_contain_text("requests in flight04")
            page.click("#language")
            expect(page.locator("section[aria-label='密钥限额'] tbody tr").nth(1)).to_contain_text("每月图片数")


def test_operators_see_jobs_upstreams_and_requests(browser: Browser, demo: RunningDemo) -> None:
    demo.state.reset()
    with (
        run_limner(demo.url, upstream_model="holds", status_key="sk-operator") as limner,
        open_page(browser, limner) as client_page,
        open_page(browser, limner, "/status/") as page,
    ):
        assert page.is_hidden("#report")
        assert page.is_hidden("#key-error")
        page.fill("#key", "sk-wrong")
        page.click("button.primary")
        expect(page.locator("#key-error")).to_have_text("The key was not accepted. Incorrect API key provided.")
        generate(client_page)
        assert demo.state.wait_for_calls(1)
        page.fill("#key", "sk-operator")
        page.keyboard.press("Enter")
        expect(page.locator("section[aria-label='In progress'] tbody tr")).to_have_count(1)
        expect(page.locator("section[aria-label='In progress'] tbody")).to_contain_text(
            "generation · 1536x1024 · Stream"
        )
        expect(page.locator("section[aria-label='Upstreams'] tbody")).to_contain_text("closed: working")
        demo.state.release()
        expect(page.locator("section[aria-label='Last requests'] tbody tr")).to_have_count(1)
        expect(page.locator("section[aria-label='Last requests'] tbody .good")).to_have_text("200")
        expect(page.locator("section[aria-label='In progress'] .quiet")).to_have_text("None")
        expect(page.locator("section[aria-label='Limits and settings']")).to_contain_text("LIMNER_MAX_IMAGE_BYTES")
        expect(page.locator(".chart [aria-label='Images by hour. Images: 1, Failures: 0']")).to_be_visible()
        expect(page.locator(".chart rect.images title")).to_have_text(re.compile(r".+: Images 1"))
        expect(page.locator("section[aria-label='Keys, last 24 hours'] tbody tr")).to_have_count(1)
        page.click("#language")
        expect(page.locator("h1")).to_have_text("状态")
