"""No key and no address of an internal network is left in text that a client or the log receives."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import pytest

from app.protocol import redaction
from app.protocol.redaction import first_sentence, loggable_text, public_text, redact_keys, redact_secrets

SECRETS = ["hunter2"]


@dataclass(frozen=True, slots=True)
class Leak:
    name: str
    text: str
    public: str


LEAKS = (
    Leak("a key", "Incorrect API key provided: sk-abc***xyz.", "Incorrect API key provided: [key]"),
    Leak("a Google key", "key AIzaSyA-1", "key [key]"),
    Leak("a bearer token", "got 'Bearer abc.def'", "got 'Bearer [key]'"),
    Leak("a given secret, in whatever form", "not hunter2!", "not [key]!"),
    Leak("a URL", 'Post "http://new-api:3000/v1/x": EOF', 'Post "[address]": EOF'),
    Leak("an IPv4 address", "dial tcp 10.1.2.3:443: refused", "dial tcp [address]: refused"),
    Leak("an IPv6 address", "dial tcp [fd00::1:2]:443: refused", "dial tcp [address]: refused"),
    Leak("an IPv6 address without a port", "dial tcp fd00::1:2: refused", "dial tcp [address] refused"),
    Leak("this machine", "connect to localhost:8000 or localhost", "connect to [address] or [address]"),
    Leak("a host with a port", "redis-1:6379 and gpu.example.com:8080 fail", "[address] and [address] fail"),
    Leak("an internal name", "no route to minio.prod.internal", "no route to [address]"),
    Leak("a name that was looked up", "lookup api-inner: no such host", "lookup [address]: no such host"),
    Leak("an account", "in organization org-ABCdef123 on images", "in organization [account] on images"),
    Leak("line breaks and control characters", "a\r\nb\x00c\u2028d", "a b c d"),
    Leak("a long text", "x" * 600, "x" * 499 + "…"),
)


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
def test_leaks_are_replaced(leak: Leak) -> None:
    assert public_text(leak.text, SECRETS) == leak.public


@pytest.mark.parametrize(
    "text",
    [
        "Invalid size '1792x936'. Width and height must both be divisible by 16.",
        "Between 10:30 and 12:00 UTC, please.",
        "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        "Please try again in 2.4s. Limit 5, Used 5 (request id: 20261122100000123456789abcdef)",
        "include the request ID 123e4567-e89b-42d3-a456-426614174000. safety_violations=[sexual].",
        "已生成图片失败：尺寸不对",
    ],
)
def test_harmless_text_is_unchanged(text: str) -> None:
    assert public_text(text) == text


@pytest.mark.parametrize("pattern", range(len(redaction.KEY_PATTERNS) + len(redaction.ADDRESS_PATTERNS)))
def test_each_pattern_is_needed(pattern: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, addresses = list(redaction.KEY_PATTERNS), list(redaction.ADDRESS_PATTERNS)
    (keys if pattern < len(keys) else addresses).pop(pattern if pattern < len(keys) else pattern - len(keys))
    monkeypatch.setattr(redaction, "KEY_PATTERNS", tuple(keys))
    monkeypatch.setattr(redaction, "ADDRESS_PATTERNS", tuple(addresses))
    assert any(public_text(leak.text, SECRETS) != leak.public for leak in LEAKS)


def test_the_log_keeps_addresses_but_no_keys() -> None:
    text = loggable_text("10.1.2.3 sk-abc Bearer x hunter2" + "x" * 3000, SECRETS)
    assert text.startswith("10.1.2.3 [key] Bearer [key] [key]xxx")
    assert len(text) < 2100


def test_links_of_a_reply_stay() -> None:
    text = "Bearer sk-abc of our-key at 10.0.0.7\nsee https://h/a.png"
    assert redact_keys(text, ["our-key"]) == "Bearer [key] of [key] at 10.0.0.7\nsee https://h/a.png"
    assert redact_secrets(text, ["our-key"]) == "Bearer [key] of [key] at [address] see https://h/a.png"


@pytest.mark.parametrize("text", ["a-" * 32_000, "a." * 32_000, "1:" * 32_000, "0" * 64_000, "a" * 64_000])
@pytest.mark.parametrize("redact", [public_text, loggable_text])
def test_hostile_text_takes_little_time(redact: Callable[[str, Collection[str]], str], text: str) -> None:
    started = time.process_time()
    redact(text, SECRETS)
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("The image is too odd. See the manual.", "The image is too odd."),
        ("The image is too odd! Really.", "The image is too odd!"),
        ("Error. The image is too odd. See the manual.", "Error. The image is too odd."),
        ("图片太奇怪了，请换一张再试一次吧。详见手册。", "图片太奇怪了，请换一张再试一次吧。"),
        ("Version 1.5 of the model is odd", "Version 1.5 of the model is odd"),
        ("", ""),
    ],
)
def test_the_first_sentence_that_says_something(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence
