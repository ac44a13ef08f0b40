"""Recognize what the client itself has sent and the reply repeats.

Its links and its images are no results, and the words of its prompt say nothing about the image beside them.
"""

import html
import re
from collections.abc import Collection
from functools import cached_property
from urllib.parse import unquote

from app.extraction.base64_runs import Base64Run, extract_base64
from app.extraction.urls import has_image_ending

#: A text may be escaped as often as it was passed on. More often is not looked at.
_MAX_ESCAPES = 3
_SCHEME = re.compile(r"^https?://")
#: Behind a link, these continue it: the text has a longer one. A query does not: it may have been cut off.
_CONTINUES = re.compile(r"[\w/%-]|\.\w")
_BEGINS = re.compile(r"[\w-]$")
_END = "/.,;:!?'\")]}&*_`> "
#: What stands around a prompt that is repeated: markup, quotes, a name such as "Prompt:", dots where it was cut off.
_NAME = re.compile(r"^[^\s:：][^:：]{0,24}[:：]\s*")
_AROUND_PROMPT = " \t>*_#`|-.…\"'“”„«»「」『』《》:："
#: With fewer letters, words stand in the prompt and in the reply by chance: "logo"; within a long prompt, with fewer
#: than many: "the original image".
_LEAST_WORDS, _MUCH = 4, 40
#: Characters of a text in which repeated words are looked for.
_MAX_TEXT = 64 * 1024


class ClientTexts:
    """What a client has sent that may contain links and images: URLs, data URLs, its prompt and other texts."""

    def __init__(self, texts: Collection[str]) -> None:
        self._texts = texts

    @cached_property
    def _plain(self) -> str:
        """All texts with their escapes removed. Texts that are data URLs have no links."""
        return "\n".join(_unescape(text) for text in self._texts if text[:5].lower() != "data:" and _has_link(text))

    @cached_property
    def _runs(self) -> list[Base64Run]:
        return [run for text in self._texts for run in extract_base64(text)[1]]

    @cached_property
    def _words(self) -> list[str]:
        """The texts that are not data URLs, in lower case and with single blanks."""
        return [_plain_words(text[:_MAX_TEXT]) for text in self._texts if text[:5].lower() != "data:"]

    def has_words(self, words: str) -> bool:
        """Check for words that repeat a text of the client: its beginning, or much of it."""
        spellings = {_plain_words(words), _plain_words(_NAME.sub("", words.strip(_AROUND_PROMPT)))}
        return any(_repeats(each, text) for each in spellings if len(each) >= _LEAST_WORDS for text in self._words)

    def contains(self, pattern: re.Pattern[str]) -> bool:
        """Check for words in a text of the client."""
        return any(pattern.search(text) is not None for text in self._words)

    def shares_words(self, text: str, pattern: re.Pattern[str]) -> bool:
        """Check for words of a pattern that both a text and the client's texts have."""
        found = {match[0].casefold() for match in pattern.finditer(text)}
        return bool(found) and any(match[0] in found for own in self._words for match in pattern.finditer(own))

    def has_link(self, url: str) -> bool:
        """Check for a link of the client, however it is escaped, with http or https, with or without its query."""
        if not self._plain:
            return False
        link = _SCHEME.sub("", _unescape(url.partition("#")[0])).rstrip(_END)
        path = link.partition("?")[0]
        return self._contains(link) or (path != link and has_image_ending(f"http://{path}") and self._contains(path))

    def has_image(self, data: bytes) -> bool:
        """Check for an image of the client, in whatever spelling of base64."""
        return any(_has_bytes(run, data) for run in self._runs)

    def _contains(self, link: str) -> bool:
        # An address like `http://..` has nothing that could be found, and an empty text is found without end.
        start = self._plain.find(link) if link else -1
        while start >= 0:
            end = start + len(link)
            before, behind = self._plain[max(0, start - 1) : start], self._plain[end : end + 2]
            if not _CONTINUES.match(behind) and not _BEGINS.match(before):
                return True
            start = self._plain.find(link, end)
        return False


def _plain_words(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_AROUND_PROMPT)


def _repeats(words: str, text: str) -> bool:
    is_much = len(words) >= min(_MUCH, len(text) / 2)
    return text.startswith(words) or (is_much and words in text)


def _has_link(text: str) -> bool:
    return "/" in text or "%" in text


def _unescape(text: str) -> str:
    for _ in range(_MAX_ESCAPES):
        plain = unquote(html.unescape(text.replace("\\u0026", "&").replace("\\", "")))
        if plain == text:
            break
        text = plain
    return text.casefold()


def _has_bytes(run: Base64Run, data: bytes) -> bool:
    # Only a run of about the right length is worth decoding.
    if not 0.9 < len(run.payload) / (len(data) * 4 / 3 + 4) < 1.5:
        return False
    try:
        return run.decode() == data
    except ValueError:
        return False
