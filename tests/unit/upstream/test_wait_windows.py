"""How long an upstream asks to wait, wherever it says so."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.wait_windows import find_wait, parse_retry_after

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Wait:
    name: str
    headers: dict[str, str]
    seconds: float | None


WAITS = (
    Wait("absent", {}, None),
    Wait("seconds", {"retry-after": " 7 "}, 7),
    Wait("a part of a second", {"retry-after": "2.5"}, 2.5),
    Wait("milliseconds go first", {"retry-after": "7", "retry-after-ms": "250"}, 0.25),
    Wait("senseless milliseconds are ignored", {"retry-after": "7", "retry-after-ms": "x"}, 7),
    Wait("a date", {"retry-after": formatdate(NOW + 30, usegmt=True)}, 30),
    Wait("a date in the past", {"retry-after": formatdate(NOW - 30, usegmt=True)}, 0),
    Wait(
        "a date by the clock of the upstream",
        {"retry-after": formatdate(NOW + 999, usegmt=True), "date": formatdate(NOW + 990, usegmt=True)},
        9,
    ),
    Wait("a date without a zone", {"retry-after": "Sun, 22 Nov 2026 10:00:05 -0000"}, 5),
    Wait("a year", {"retry-after": "31536000"}, 31_536_000),
    Wait("negative", {"retry-after": "-5"}, None),
    Wait("words", {"retry-after": "soon"}, None),
    Wait("a duration", {"retry-after": "1m2s"}, 62),
    Wait("a duration in words", {"retry-after": "2 minutes"}, 120),
    Wait("a date of ISO", {"retry-after": "2026-11-22T10:00:05Z"}, 5),
    Wait("a date of ISO without a zone", {"retry-after": "2026-11-22T10:00:06"}, 6),
    Wait("nearly a date of ISO", {"retry-after": "2026-13-22T10:00:06"}, None),
    Wait("an exponent", {"retry-after": "1e3"}, None),
    Wait("infinity", {"retry-after": "inf"}, None),
    Wait("full-width digits", {"retry-after": "７"}, None),
    Wait("more digits than sense", {"retry-after": "9" * 5000}, None),
    Wait("an hour out of all range", {"retry-after": "Sun, 22 Nov 2026 99999999999999999999:00:00 GMT"}, None),
)


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.name)
def test_retry_after_is_parsed(wait: Wait) -> None:
    assert parse_retry_after(wait.headers, NOW) == wait.seconds


IN_WORDS = [
    ("German", "Zu viele Anfragen. Versuchen Sie es in 12 Sekunden erneut.", 12),
    ("French", "Trop de requêtes. Réessayez dans 2 minutes.", 120),
    ("Spanish", "Demasiadas solicitudes. Inténtelo de nuevo en 12 segundos.", 12),
    ("Italian", "Riprova tra 12 secondi.", 12),
    ("Russian", "Слишком много запросов, повторите через 2 секунды", 2),
    ("Korean", "요청이 너무 많습니다. 30초 후에 다시 시도하세요.", 30),
    ("Arabic", "حاول مرة أخرى بعد 12 ثانية", 12),
    ("Turkish", "Lütfen 3 dakika sonra tekrar deneyin.", 180),
    ("Vietnamese", "Vui lòng thử lại sau 12 giây.", 12),
    ("Indonesian", "Coba lagi dalam 1 jam.", 3600),
    ("Hindi", "12 सेकंड बाद पुनः प्रयास करें", 12),
    ("Thai", "กรุณารอ 12 วินาที", 12),
    ("Dutch", "Probeer het over 30 seconden opnieuw", 30),
    ("a limit in English, which is no wait", "5 requests in 60 seconds are allowed.", None),
    ("a limit in Russian, which is no wait", "не более 5 запросов за 60 секунд", None),
    ("a time", "You will regain access on 2026-11-22 at 10:05 UTC.", 300),
    ("a time with a zone", "Resets 2026-11-22T12:00:07.5+02:00", 7),
    ("a time that is over", "since 2026-11-22T09:00:00Z", None),
    ("a time that is none", "at 2026-99-22 10:05", None),
]


@pytest.mark.parametrize(("name", "text", "seconds"), IN_WORDS, ids=[row[0] for row in IN_WORDS])
def test_words_in_other_languages_are_read(name: str, text: str, seconds: float | None) -> None:
    assert find_wait({}, [], text, NOW).named == seconds


@given(st.text(max_size=60) | st.datetimes().map(lambda date: format_datetime(date.replace(tzinfo=UTC), usegmt=True)))
def test_no_retry_after_makes_it_fail(value: str) -> None:
    seconds = parse_retry_after({"retry-after": value, "date": value}, NOW)
    assert seconds is None or seconds >= 0


@dataclass(frozen=True, slots=True)
class Window:
    name: str
    named: float | None = None
    reset: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""


WINDOWS = (
    Window("nothing is said"),
    Window("the header", named=7, headers={"retry-after": "7"}),
    Window("Gemini's words", named=36.5, text="You exceeded your current quota. Please retry in 36.5s."),
    Window("OpenAI's words", named=12, text="Rate limit reached for x. Please try again in 12s. Visit the site."),
    Window("OpenAI's words for milliseconds", named=0.02, text="Please try again in 20ms."),
    Window("OpenAI's words for minutes", named=360, text="Please try again in 6m0s."),
    Window("Azure's words", named=20, text="Please retry after 20 seconds."),
    Window("words for hours and minutes", named=5460, text="Try again in 1 hour and 31 minutes."),
    Window("words for days", named=172_800, text="The limit resets in 2 days"),
    Window("the end of a usage limit of Codex", named=3600, nodes=[{"type": "usage_limit_reached", "resets_in_seconds": 3600}]),
    Window("the end of a cooldown of CLIProxyAPI", named=12, nodes=[{"code": "model_cooldown", "reset_seconds": 12}]),
    Window("words for a wait", named=30, text="Please wait for 30 secs."),
    Window("words in Chinese", named=30, text="请求过于频繁，请在30秒后重试"),
    Window("words in Chinese, minutes", named=300, text="请 5 分钟后再试"),
    Window("words in Chinese, hours", named=7200, text="2小时后重置"),
    Window("words in Chinese for a pause", named=20, text="剩余冷却时间 20 秒"),
    Window("words for what will be available", named=180, text="The next image is available in 3 minutes"),
    Window("words for a pause", named=25, text="cooldown: 25s"),
    Window("one unit without a number", named=60, text="Try again in about a minute."),
    Window("one day without a number", named=86_400, text="retry in a day"),
    Window("the name of the field in the words", named=7, text="rate limited, retry_after: 7"),
    Window("the name of the header in the words, with a unit", named=120, text="Retry-After 2 minutes"),
    Window("another vendor's header", named=9, headers={"x-retry-after": "9"}),
    Window("Azure's header in milliseconds", named=3, headers={"x-ms-retry-after-ms": "3000"}),
    Window("the time that a model is loaded for", named=20, nodes=[{"error": "loading", "estimated_time": 20.0}]),
    Window("the delay of Google's internal API", named=7200, nodes=[{"quotaResetDelay": "2h"}]),
    Window("a number that is no wait", text="You may send 3 images in 12s."),
    Window("no unit", text="Try again 5 times"),
    Window("a unit that is none", text="Try again in 5 megapixels"),
    Window("another sentence", text="Try again later. This took 12s."),
    Window("Google's delay", named=34, nodes=[{}, {"@type": "google.rpc.RetryInfo", "retryDelay": "34s"}]),
    Window("Google's delay as numbers", named=3, nodes=[{"retryDelay": {"seconds": 3, "nanos": 7}}]),
    Window("a field in seconds", named=9, nodes=[{"retry_after": 9}]),
    Window("a field in milliseconds", named=0.5, nodes=[{"retryAfterMs": 500}]),
    Window("a field that makes no sense", nodes=[{"retry_after": "soon"}, {"retry_after": None}]),
    Window("the longest of all", named=20, headers={"retry-after": "1"}, nodes=[{"retry_after": 9}], text="retry in 20s"),
    Window("OpenRouter's headers of its provider", 5, None, nodes=[{"headers": {"Retry-After": "5"}}]),
    Window("OpenRouter's reset, in milliseconds since 1970", None, 60, nodes=[{"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int((NOW + 60) * 1000))}}]),
    Window("headers that are none", nodes=[{"headers": "x"}]),
    Window("a reset in seconds", reset=12, headers={"x-ratelimit-reset": "12"}),
    Window("a reset in seconds since 1970", reset=30, headers={"x-ratelimit-reset": str(int(NOW + 30))}),
    Window("a reset that is over", reset=0, headers={"x-ratelimit-reset": str(int(NOW - 30))}),
    Window("a reset as a duration", reset=62, headers={"x-ratelimit-reset-requests": "1m2s"}),
    Window("a reset as a date", reset=9, headers={"x-ratelimit-reset": formatdate(NOW + 9, usegmt=True)}),
    Window("Anthropic's reset", reset=15, headers={"anthropic-ratelimit-requests-reset": "2026-11-22T10:00:15Z"}),
    Window("the reset of the limit that is used up", reset=1, headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "6m0s"}),
    Window("the later reset where nothing is said to be left", reset=360, headers={"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}),
    Window("nothing is used up", headers={"x-ratelimit-remaining": "3", "x-ratelimit-reset": "60"}),
    Window("what is left makes no sense", reset=60, headers={"x-ratelimit-remaining": "x", "x-ratelimit-reset": "60"}),
    Window("the header of the IETF", reset=50, headers={"ratelimit": '"default";r=0;t=50'}),
    Window("an older header of the IETF", reset=50, headers={"ratelimit-reset": "50"}),
    Window("a reset that makes no sense", headers={"x-ratelimit-reset": "soon", "retry-after-ms": ""}),
    Window("another header", headers={"x-ratelimit-limit": "60"}),
)  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_each_place_of_a_wait_is_read(window: Window) -> None:
    found = find_wait(window.headers, window.nodes, window.text, NOW)
    assert found.named == pytest.approx(window.named)
    assert found.reset == pytest.approx(window.reset)
    assert found.has_retry_after is ("retry-after" in window.headers)
    assert found.of_a_limit == (found.named if found.named is not None else found.reset)


@given(
    st.text(max_size=80),
    st.dictionaries(st.sampled_from(["retryDelay", "retry_after", "headers"]), st.text(max_size=20)),
)
def test_no_text_makes_it_fail(text: str, node: dict[str, str]) -> None:
    headers = {"x-ratelimit-reset": text, "retry-after": text}
    found = find_wait(headers, [node], f"try again in {text}", NOW)
    assert all(wait is None or wait >= 0 for wait in (found.named, found.reset))
