"""Every address in a text, with the writing around it: Markdown, HTML, BBCode, a link, or plain words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from app.extraction.base64_runs import MARK
from app.extraction.urls import read_bare_url, read_delimited_url

#: Addresses looked at in one text. A reply has a few; a text with more is no reply.
_MAX_MENTIONS = 250
_MAX_REFERENCES = 1000
#: How far back the writing around an address is read, and how much of it is kept as words.
_BEFORE, _WORDS = 2000, 160

_START = re.compile(rf"://(?=[^\s/:])|{MARK}[0-9]{{1,6}}{MARK}|[(\"'=<]//(?=[A-Za-z0-9])")
_GLUED = re.compile(r"https?$", re.IGNORECASE)
_KEY = re.compile(r"[\"']([A-Za-z_][\w-]{0,40})[\"']\s{0,9}:\s{0,9}\[?\s{0,9}[\"']$")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+-]{1,20}$")
_MAX_BRACKETS = 64
_TAG = re.compile(r"<([A-Za-z]{1,10})[\s/]")
_ATTRIBUTE = re.compile(r"([A-Za-z-]{2,20})\s{0,3}$")
_BBCODE = re.compile(r"\[(?:img|image)(?:[= ][^\[\]]{0,60})?(?:\]\s{0,9}|=[\"']?)$", re.IGNORECASE)
_DEFINITION = re.compile(r"[ ]{0,3}\[([^\[\]]{1,80})\]:[ ]{0,9}<?")
_REFERENCE = re.compile(r"!\[([^\[\]\n]{0,300})\](?:\[([^\[\]\n]{0,80})\])?")
#: Where the picture itself stands; lazily loaded pages put a stand-in into src.
_SOURCES = {"data-src": 2, "data-original": 2, "data-lazy-src": 2, "src": 1}


_TARGETS = frozenset({"href", "src", "srcset", "content", "data-url"})


class MarkupKind(Enum):
    MARKDOWN = "Markdown image"
    HTML = "HTML image"
    BBCODE = "BBCode image"
    LINK = "link"
    PLAIN = "plain address"


IMAGE_MARKUP = frozenset({MarkupKind.MARKDOWN, MarkupKind.HTML, MarkupKind.BBCODE})


@dataclass(slots=True)
class UrlMention:
    """`label`: alternative text or the words of a link; `before`: the words in front, up to the address before.

    `around`: the link that a picture is inside of; `tag`: HTML attribute, and where its tag begins; `key`: the JSON key
    in front; `is_cut`: the text ends before the writing around it is closed.
    """

    kind: MarkupKind
    url: str
    start: int
    end: int
    label: str = ""
    before: str = ""
    enclosing_link: "UrlMention | None" = None
    tag: tuple[str, int] = ("", 0)
    key: str = ""
    definition: str = ""
    is_truncated: bool = False


def find_mentions(text: str) -> list[UrlMention]:
    mentions = list(_scan(text))
    _resolve_references(text, mentions)
    return _drop_labels(text, _drop_twins(mentions))


def _scan(text: str) -> Iterator[UrlMention]:
    previous, at = None, 0
    for _ in range(_MAX_MENTIONS):
        found = _START.search(text, at)
        if found is None:
            return
        start = _start_of(text, found, at)
        if start is None:
            at = found.end()
            continue
        mention = _read(text, start, at, previous)
        at = max(mention.end, found.end())
        if mention.url:
            previous = mention
            yield mention


def _start_of(text: str, found: re.Match[str], floor: int) -> int | None:
    if found[0].startswith(MARK):
        return found.start()
    if found[0] != "://":
        return found.start() + 1
    scheme = _SCHEME.search(text, max(floor, found.start() - 20), found.start())
    if scheme is None or text[scheme.start() - 5 : scheme.start()] == "blob:":
        return None
    # Words glued to the scheme belong to the text: "imagehttps://…".
    glued = _GLUED.search(scheme[0])
    return scheme.start() + (glued.start() if glued else 0)


def _read(text: str, start: int, floor: int, previous: UrlMention | None) -> UrlMention:
    before = text[max(0, start - _BEFORE) : start]
    words = _words(before[max(0, len(before) - (start - floor)) :])
    lead = before.rstrip(" \t\r\n<")
    if lead.endswith("]("):
        return _markdown(text, start, before, previous)
    tag = _tag_of(before)
    if tag is not None:
        return _html(text, start, before, tag, previous)
    if _BBCODE.search(before[-80:]):
        url, end = read_delimited_url(text, start, "[]")
        return UrlMention(MarkupKind.BBCODE, url, start, end, before=words)
    url, end = _cut_bare(text, start, before)
    definition = _DEFINITION.fullmatch(before.rpartition("\n")[2])
    key = _KEY.search(before[-80:])
    return UrlMention(
        MarkupKind.PLAIN,
        url,
        start,
        end,
        before=words,
        key=key[1] if key else "",
        definition=definition[1].casefold() if definition else "",
    )


def _cut_bare(text: str, start: int, before: str) -> tuple[str, int]:
    opening = before[-1:]
    if opening and opening in "\"'<":
        return read_delimited_url(text, start, {"<": ">"}.get(opening, opening))
    return read_bare_url(text, start, in_emphasis=opening == "_")


def _markdown(text: str, start: int, before: str, previous: UrlMention | None) -> UrlMention:
    url, end = read_delimited_url(text, start, ">" if before.endswith("<") else ")")
    lead = before.rstrip(" \t\r\n<")
    if (
        previous is not None
        and previous.kind is MarkupKind.MARKDOWN
        and text[previous.end : start].strip(" >\n") == ")]("
    ):
        previous.enclosing_link = UrlMention(
            MarkupKind.LINK, url, start, end, label=previous.label, before=previous.before
        )
        return previous.enclosing_link
    opening = _opening_bracket(lead, len(lead) - 2)
    is_image = lead[:opening].endswith(("!", "！"))
    words = _words(text[previous.end if previous else 0 : start - len(before) + opening].removesuffix("!"))
    is_cut = len(text) == end
    kind = MarkupKind.MARKDOWN if is_image else MarkupKind.LINK
    return UrlMention(kind, url, start, end, lead[opening + 1 : -2], words, is_truncated=is_cut)


def _opening_bracket(text: str, end: int) -> int:
    """Where the bracket opens that closes at `end`; the words inside may hold brackets too. 0 where none does."""
    depth, at = 0, end + 1
    for _ in range(_MAX_BRACKETS):
        at = max(text.rfind("[", 0, at), text.rfind("]", 0, at))
        if at < 0:
            break
        depth += 1 if text[at] == "]" else -1
        if depth == 0:
            return at
    return 0


def _tag_of(before: str) -> tuple[str, str, int] | None:
    """Name, attribute and place of the HTML tag that the address stands in."""
    value = before.rstrip(" \t\r\n\"'")
    opening = before.rfind("<")
    if not value.endswith("=") or opening < 0 or ">" in before[opening:]:
        return None
    attribute = _ATTRIBUTE.search(value, max(0, len(value) - 24), len(value) - 1)
    tag = _TAG.match(before, opening)
    return (tag[1].lower(), attribute[1].lower(), opening) if tag and attribute else None


def _html(text: str, start: int, before: str, tag: tuple[str, str, int], previous: UrlMention | None) -> UrlMention:
    name, attribute, opening = tag
    quote = before.rstrip()[-1:]
    url, end = read_delimited_url(text, start, quote if quote and quote in "\"'" else " >")
    is_image = name == "img" and attribute in _SOURCES
    if not is_image and attribute not in _TARGETS:
        return UrlMention(MarkupKind.LINK, "", start, end)
    kind = MarkupKind.HTML if is_image else MarkupKind.LINK
    place = start - len(before) + opening
    words = _words(text[previous.end if previous else 0 : place])
    mention = UrlMention(kind, url, start, end, _alt(before[opening:]), words, tag=(attribute, place))
    if is_image and previous and previous.tag[0] == "href" and "</a" not in text[previous.end : start]:
        mention.enclosing_link = previous
    return mention


def _alt(before: str) -> str:
    _, found, rest = before.rpartition("alt=")
    return rest[1:].partition(rest[:1])[0] if found and rest else ""


def _words(before: str) -> str:
    """The line in front of the address, or the one above where that is empty."""
    lines = [line for line in before[-_WORDS:].splitlines() if line.strip(" \t>*-#`_|:：\"'<([1234567890.")]
    return lines[-1] if lines else ""


def _resolve_references(text: str, mentions: list[UrlMention]) -> None:
    definitions = {mention.definition: mention for mention in mentions if mention.definition}
    if definitions:
        for match in islice(_REFERENCE.finditer(text), _MAX_REFERENCES):
            mention = definitions.get((match[2] or match[1]).casefold())
            if mention is not None:
                mention.kind, mention.label = MarkupKind.MARKDOWN, match[1]


def _drop_twins(mentions: list[UrlMention]) -> list[UrlMention]:
    """Of the addresses in one HTML tag the one that is the picture."""
    best: dict[int, UrlMention] = {}
    for mention in mentions:
        if mention.kind is MarkupKind.HTML:
            place = mention.tag[1]
            rival = best.get(place)
            if rival is None or _SOURCES[mention.tag[0]] > _SOURCES[rival.tag[0]]:
                best[place] = mention
    return [mention for mention in mentions if mention.kind is not MarkupKind.HTML or best[mention.tag[1]] is mention]


def _drop_labels(text: str, mentions: list[UrlMention]) -> list[UrlMention]:
    """An address that is itself the words of a link or of a picture says nothing new."""
    return [mention for mention in mentions if not text.startswith("](", mention.end)]
