"""Generate replies in many languages around an address without an image ending: 40 results and 40 refusals for each.

`tests/data/sentences.json` has eight sentences of both kinds for each of twenty languages.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from tests.support.reply_corpus import DATA

IMAGE_URL = "https://out.painter.example/r/7f3a91c2"
#: Pages to which refusals and other sentences lead.
PAGE_URLS = (
    "https://painter.example/rules/4411",
    "https://painter.example/recharge?plan=pro",
    "https://painter.example/es/normas/4411",
    "https://drive.example/file/d/1a2b3c4d5e/view",
    "https://painter.example/s/expired-9f8e7d",
)

#: How the sentence and the address stand together.
_LAYOUTS = (
    "{words}: {url}",
    "{words}：{url}。",
    "[{words}]({url})",
    "**{words}**\n\n<{url}>",
    "> {words} ({url})",
)


@dataclass(frozen=True, slots=True)
class GuessReply:
    """`links`: every address in the reply."""

    name: str
    text: str
    links: tuple[str, ...]


def results() -> Iterator[GuessReply]:
    """Yield 800 replies with an image. Every second one also leads to a page, in front or behind."""
    for language, sentences in _sentences():
        for number, (words, layout) in enumerate(_texts(sentences["results"])):
            text, links = layout.format(words=words, url=IMAGE_URL), [IMAGE_URL]
            if number % 2:
                page = PAGE_URLS[number // 2 % len(PAGE_URLS)]
                beside = f"{sentences['refusals'][number // 2 % 8]}: {page}"
                text = f"{text}\n\n{beside}" if number % 4 == 1 else f"{beside}\n\n{text}"
                links.append(page)
            yield GuessReply(f"{language}-{number}", text, tuple(links))


def refusals() -> Iterator[GuessReply]:
    """Yield 800 replies without an image, each of which leads to a page."""
    for language, sentences in _sentences():
        for number, (words, layout) in enumerate(_texts(sentences["refusals"])):
            page = PAGE_URLS[number % len(PAGE_URLS)]
            yield GuessReply(f"{language}-{number}", layout.format(words=words, url=page), (page,))


def _sentences() -> Iterator[tuple[str, dict[str, list[str]]]]:
    yield from orjson.loads((DATA / "sentences.json").read_bytes()).items()


def _texts(sentences: list[str]) -> Iterator[tuple[str, str]]:
    return ((words, layout) for layout in _LAYOUTS for words in sentences)
