"""Find how long an upstream asks to wait: in headers, in fields of its error, or in its words.

Every number is returned, however absurd; the caller decides what is too long.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class WaitWindow:
    """How long an upstream asks to wait, in seconds; None where it does not say.

    Attributes:
        named: Asked for in this answer: `retry-after`, a field of the error, or words such as "try again in 12s".
        reset: When a limit that is used up is reset. Some upstreams send this with every answer, so it says something
            only of an answer that is about a limit.
        has_retry_after: The header `retry-after` (or `-ms`) is there and makes sense.
    """

    named: float | None = None
    reset: float | None = None
    has_retry_after: bool = False

    @property
    def of_a_limit(self) -> float | None:
        """The wait after an answer that is about a limit."""
        return self.reset if self.named is None else self.named


def find_wait(headers: Mapping[str, str], nodes: Iterable[Mapping[str, object]], text: str, now: float) -> WaitWindow:
    """Find the longest wait that an answer names, so that the next attempt comes too early for none of them.

    Args:
        headers: Found by lower-case names.
        nodes: All objects of the error's body.
        text: The words of the error.
        now: Seconds since 1970, used where the upstream does not send its own clock's `date`.
    """
    nodes = list(nodes)
    header = parse_retry_after(headers, now)
    inner = [_headers_in(node) for node in nodes]
    named = [header, *(parse_retry_after(each, now) for each in inner), *_fields_of(nodes, now), *_words_of(text, now)]
    resets = [each for source in (headers, *inner) for each in _resets_of(source, now)]
    is_standard = "retry-after" in headers or "retry-after-ms" in headers
    return WaitWindow(_longest(named), _longest(resets), header is not None and is_standard)


_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_SECONDS = re.compile(_NUMBER)
_UNIT_SECONDS = {
    "ms": 0.001,
    "milli": 0.001,
    "毫秒": 0.001,
    "s": 1,
    "秒": 1,
    "m": 60,
    "分": 60,
    "h": 3600,
    "小时": 3600,
    "小時": 3600,
    "d": 86_400,
    "天": 86_400,
    "日": 86_400,
}
_UNITS = (
    r"(?:milliseconds?|millis|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![A-Za-z])"
    r"|毫秒|秒钟?|分钟|分鐘|分|小时|小時|天|日"
)
_PART = re.compile(rf"({_NUMBER})\s?({_UNITS})", re.IGNORECASE)
_DURATION = rf"(?:{_NUMBER}\s?(?:{_UNITS})[\s,]{{0,2}}(?:and\s)?){{1,4}}"
_WHOLE_DURATION = re.compile(_DURATION, re.IGNORECASE)
#: Words that a duration follows, or precedes (in Chinese and Japanese).
_WAIT_WORDS = re.compile(
    rf"\b(?:try(?:ing)?\s(?:it\s|your\srequest\s)?again|retry(?:ing)?|retries|wait(?:ing)?|resets?|available\sagain)"
    rf"\b[^.;!?0-9\n]{{0,60}}?({_DURATION})"
    rf"|\b(?:available|allowed|ready)\s(?:again\s)?in\s({_DURATION})|\bcool-?down\W{{1,3}}({_DURATION})"
    rf"|冷却(?:时间)?\s?[:：]?\s?({_DURATION})|({_DURATION})\s?(?:之?[后後]|以降|後に)",
    re.IGNORECASE,
)
#: The name of the field or header within a text.
_NAMED_IN_TEXT = re.compile(rf"\bretry[-_]after\W{{1,4}}({_NUMBER})(?![0-9.]|\s?(?:{_UNITS}))", re.IGNORECASE)
#: English without a number.
_ONE_UNIT = re.compile(r"\b(?:again|retry) in (?:about )?an? (second|minute|hour|day)\b", re.IGNORECASE)
#: Units in other languages by their stems, beside those that English has as well.
_STEMS = {
    1: "sekund|second|segund|secund|секунд|초|ثاني|ثوان|saniye|giây|detik|วินาที|सेकंड|सेकेंड|saniy|שני",
    60: "minut|минут|хвилин|분|دقيق|دقائق|dakika|phút|menit|นาที|मिनट|דקו",
    3600: "stunde|heure|hora|ore|ora|час|годин|시간|ساع|saat|giờ|jam|godzin|uur|uren|ชั่วโมง|घंट|שע",
}
_STEM = "|".join(_STEMS.values())
#: Words in front of a duration and behind it which say that it is one to wait.
_FOREIGN_WAIT = re.compile(
    rf"\b(?:dans|en|em|tra|fra|om|over|za|через|sau|dalam|بعد|în|peste)\s({_NUMBER})\s?({_STEM})"
    # English says "in 60 seconds" of a limit, too.
    rf"|\bin\s({_NUMBER})\s?(sekund|minut(?=en\b)|stunde)"
    rf"|({_NUMBER})\s?({_STEM})[^\s0-9]{{0,8}}\s?(?:후|뒤|이후|sonra|बाद|içinde|보다)"
    rf"|(?:รอ|อีก|ใน|chờ|tunggu|подождите|attendez|esper[ea]|warten sie|aspetta|wacht)\s?({_NUMBER})\s?({_STEM})",
    re.IGNORECASE,
)
#: A time at which a limit ends.
_TIME = re.compile(
    r"\b(20[0-9]{2}-[0-9]{2}-[0-9]{2})(?:T|\s(?:at\s)?)([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.[0-9]{1,9})?"
    r"\s?(Z\b|UTC|GMT|[+-][0-9]{2}:[0-9]{2})?"
)
#: Fields that name a wait, without `_`, `-` and case. The number of each is in seconds unless it says otherwise.
_WAIT_FIELDS = {
    **dict.fromkeys(("retryafter", "retryafterseconds", "retrydelay", "retryafters", "waitseconds"), 1.0),
    # Of Codex and of relays in front of it, of Google's internal API, of Hugging Face while a model is loaded.
    **dict.fromkeys(("resetsinseconds", "resetinseconds", "resetseconds"), 1.0),
    **dict.fromkeys(("quotaresetdelay", "estimatedtime", "waittime", "cooldown"), 1.0),
    **dict.fromkeys(("retryafterms", "retryaftermillis", "retrydelayms", "retryaftermilliseconds"), 0.001),
}
_RESET = re.compile(r"(?:^|-)rate-?limit(?:-[a-z]{1,30}){0,4}?-reset\b|^ratelimit$", re.IGNORECASE)
_RESET_PARAMETER = re.compile(rf";\s?t=({_NUMBER})")
#: Larger numbers are a time and not a wait: seconds, or milliseconds, since 1970.
_LEAST_EPOCH, _LEAST_EPOCH_MS = 1e9, 1e12


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds of `retry-after-ms` or `retry-after` (a number, a duration or a date), `None` without sense.

    `now`: seconds since 1970, used where the upstream does not send its own clock's `date`.
    """
    milliseconds = _first(headers, "retry-after-ms", "x-ms-retry-after-ms")
    if _SECONDS.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    value = _first(headers, "retry-after", "x-retry-after")
    if _SECONDS.fullmatch(value):
        return float(value)
    return _duration(value) if _WHOLE_DURATION.fullmatch(value) else _until(value, headers, now)


def _first(headers: Mapping[str, str], *names: str) -> str:
    return next((value for name in names if (value := headers.get(name, "").strip())), "")


def _until(value: str, headers: Mapping[str, str], now: float) -> float | None:
    until = _parse_date(value)
    # The upstream's date is measured by the upstream's clock if possible, since ours may be wrong.
    since = _parse_date(headers.get("date", "")) or now
    return max(0.0, until - since) if until is not None else None


def _parse_date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return _parse_iso_date(value)
    return date.replace(tzinfo=date.tzinfo or UTC).timestamp()


def _parse_iso_date(value: str) -> float | None:
    if "-" not in value or ":" not in value:
        return None
    try:
        date = datetime.fromisoformat(value)
    except ValueError:
        return None
    return date.replace(tzinfo=date.tzinfo or UTC).timestamp()


def _duration(text: str) -> float:
    """Add up a duration such as `1m2s`."""
    return math.fsum(float(number) * _seconds_of(unit.lower()) for number, unit in _PART.findall(text))


def _seconds_of(unit: str) -> float:
    longest_first = sorted(_UNIT_SECONDS, key=len, reverse=True)
    return next(_UNIT_SECONDS[name] for name in longest_first if unit.startswith(name))


def _words_of(text: str, now: float) -> Iterator[float | None]:
    for match in _WAIT_WORDS.finditer(text):
        yield _duration(next(filter(None, match.groups())))
    yield from (float(match[1]) for match in _NAMED_IN_TEXT.finditer(text))
    yield from (float(_seconds_of(match[1][0].lower())) for match in _ONE_UNIT.finditer(text))
    for match in _FOREIGN_WAIT.finditer(text):
        number, unit = [each for each in match.groups() if each is not None]
        seconds = next(seconds for seconds, stems in _STEMS.items() if re.fullmatch(stems, unit, re.IGNORECASE))
        yield float(number) * seconds
    for match in _TIME.finditer(text):
        zone = match[3] if match[3] and match[3][0] in "+-" else "+00:00"
        until = _parse_iso_date(f"{match[1]}T{match[2]}{zone}")
        # A time that is over is when something happened.
        yield until - now if until is not None and until > now else None


def _headers_in(node: Mapping[str, object]) -> dict[str, str]:
    """Return the headers that OpenRouter puts into its error: those of its own provider."""
    headers = node.get("headers")
    return {str(key).lower(): str(value) for key, value in headers.items()} if isinstance(headers, dict) else {}


def _fields_of(nodes: Iterable[Mapping[str, object]], now: float) -> Iterator[float | None]:
    for node in nodes:
        for key, value in node.items():
            factor = _WAIT_FIELDS.get(re.sub("[_-]", "", key.lower()))
            if factor is not None:
                yield _wait_in(value, factor, now)


def _wait_in(value: object, factor: float, now: float) -> float | None:
    """Read a number, a text, or a protobuf duration `{"seconds": 3, "nanos": 0}`."""
    if isinstance(value, dict):
        value = value.get("seconds")
    text = str(value).strip()
    if _SECONDS.fullmatch(text):
        return float(text) * factor
    return parse_retry_after({"retry-after": text}, now)


def _resets_of(headers: Mapping[str, str], now: float) -> Iterator[float | None]:
    """Yield when each limit is reset that is used up, or of which it is not known how much is left."""
    for name, value in headers.items():
        if not _RESET.search(name):
            continue
        left = headers.get(re.sub("reset", "remaining", name, flags=re.IGNORECASE), "0").strip()
        if name.lower() == "ratelimit" or not _SECONDS.fullmatch(left) or float(left) == 0:
            yield _reset_in(value.strip(), headers, now)


def _reset_in(value: str, headers: Mapping[str, str], now: float) -> float | None:
    parameter = _RESET_PARAMETER.search(value)
    number = parameter[1] if parameter else value
    if not _SECONDS.fullmatch(number):
        return parse_retry_after({**headers, "retry-after": value, "retry-after-ms": ""}, now)
    seconds = float(number)
    if seconds >= _LEAST_EPOCH_MS:
        seconds /= 1000
    return max(0.0, seconds - now) if seconds >= _LEAST_EPOCH else seconds


def _longest(waits: Iterable[float | None]) -> float | None:
    return max((each for each in waits if each is not None), default=None)
