"""Find every URL in a text together with its markup: Markdown, HTML, BBCode, a link, or none.

The markup and the words around a URL tell whether the URL is the image that was asked for. `forms.py` and `filters.py`
judge that; this module only reads.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice, pairwise

from app.extraction.base64_runs import MARK
from app.extraction.slices import search_in_slices
from app.extraction.tables import words_in_table
from app.extraction.urls import has_image_ending, may_go_on, read_bare_url, read_delimited_url

#: URLs read from one text. A reply has a few; a text with more is no reply.
_MAX_MENTIONS = 250
_MAX_REFERENCES = 1000
_MAX_BRACKETS = 64
_MAX_SOURCES = 32
#: Characters before a URL that are searched for its markup.
_MARKUP_WINDOW = 2000
#: Characters before a URL that are kept as words.
_MAX_WORDS = 160

#: What a URL begins with: "://" behind a scheme, the mark of a run of base64, or "//" where an attribute or link opens.
_START = re.compile(rf"://(?=[^\s/:])|{MARK}[0-9]{{1,6}}{MARK}|[(\"'=<]//(?=[A-Za-z0-9])")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+-]{1,20}$")
_HTTP_SCHEME = re.compile(r"https?$", re.IGNORECASE)
_JSON_KEY = re.compile(r"[\"']([A-Za-z_][\w-]{0,40})[\"']\s{0,9}:\s{0,9}\[?\s{0,9}[\"']$")
_TAG = re.compile(r"<([A-Za-z]{1,10})[\s/]")
_TITLE = re.compile(r"\s{1,9}(?:\"[^\"\n]{0,300}\"|'[^'\n]{0,300}')\s{0,9}\)")
_TAG_END = re.compile(rf"[^<>{MARK}]{{0,{_MARKUP_WINDOW}}}>")
_ATTRIBUTE = re.compile(r"([A-Za-z:-]{2,30})\s{0,3}$")
_BBCODE = re.compile(r"\[(?:img|image)(?:[= ][^\[\]]{0,60})?(?:\]\s{0,9}|=[\"']?)$", re.IGNORECASE)
_BBCODE_LINK = re.compile(r"\[url=[\"']?$", re.IGNORECASE)
_LINK_END = re.compile(r"</a\b|\[/url\]", re.IGNORECASE)
#: The markup between the two URLs of `[![label](image)](link)`, of which the image may be HTML or BBCode as well.
_CLOSES_LINK = re.compile(
    r">?\s{0,9}(?:(?:\"[^\"\n]{0,300}\"|'[^'\n]{0,300}')\s{0,9})?\)(?:\{[^{}\n]{0,200}\})?\]\(\s{0,9}<?"
    r"|[^<>\n]{0,300}>\s{0,9}\]\(\s{0,9}<?|\[/ima?ge?\]\s{0,9}\]\(\s{0,9}<?",
    re.IGNORECASE,
)
_DEFINITION = re.compile(r"[ ]{0,3}\[([^\[\]]{1,80})\]:[ ]{0,9}<?")
_REFERENCE = re.compile(r"!\[([^\[\]\n]{0,300})\](?:\[([^\[\]\n]{0,80})\])?")
#: One copy in a `srcset`: its URL, and how wide or how dense it is.
_SOURCE = re.compile(
    rf"([^\s,\"'<>{MARK}][^\s\"'<>{MARK}]*?)(?:\s{{1,9}}([0-9]{{1,6}}(?:\.[0-9]{{1,3}})?)([wx]))?\s{{0,9}}(?:,\s{{1,9}}|(?=[\"'>]))"
)
#: Attributes of <img> that hold the image, by preference: pages that load images lazily put a placeholder into src.
_IMAGE_ATTRIBUTES = {"data-srcset": 4, "srcset": 3, "data-src": 2, "data-original": 2, "data-lazy-src": 2, "src": 1}
#: Others that hold a larger copy than src does: "data-full", "data-zoom-src", "data-hires".
_LARGER_COPY = re.compile(r"data-(?:[a-z]{1,12}-)?(?:full|large|zoom|hi-?res|hd|big|orig)", re.IGNORECASE)
#: Attributes that list one image in several sizes.
_SOURCE_ATTRIBUTES = frozenset({"srcset", "data-srcset"})
#: Attributes of any tag that name a vocabulary, or lead to where a form is sent, and never to an image.
_OTHER_ATTRIBUTES = frozenset(
    "action cite codebase formaction itemid itemtype manifest ping profile vocab xmlns".split()
)
#: Attributes that say what an image shows or is for, by preference, and those that hold any URL.
_LABELS = (" alt=", " role=", " kind=", " type=", " class=")
_LINKS = frozenset("content data href src srcset uri url value".split())
#: The end of an element of XML, whose name says nothing of what follows.
_END_TAG = re.compile(r"</[^<>]{0,80}>")
#: What stands between the image before a change and the one after it, and its length.
_CONVERSION = re.compile(
    r"[^\w\n]{0,9}(?:[-=]>|→|⇒|➡|>>|became|(?:turned|converted|transformed)? ?into"
    r"|变成|變成|转为|轉為|转换为|轉換為|に変換)"
    r"[^\w\n]{0,9}(?:[^\[\]()\n]{0,80}\]\(|img\b[^<>\n]{0,80}=[\"']?)?",
    re.IGNORECASE,
)
_MAX_GAP = 200
#: What closes the markup around a URL, or opens a title behind it.
_CLOSING = re.compile(r"[)>\]\"']")
#: How an image is shown: not at all, or as wide as a letter or two, in pixels.
_ICON = re.compile(
    r"(?:display|visibility)\s{0,3}:\s{0,3}(?:none|hidden)|\shidden(?=\s*(?:[/>=]|$)|\s+[\w-]+=)|\bwidth\s{0,3}[=:]\s{0,3}[\"']?\s{0,3}[0-9]{1,2}(?:px)?(?=[\s\"';/>]|$)",
    re.IGNORECASE,
)


class MarkupKind(Enum):
    MARKDOWN = "Markdown image"
    HTML = "HTML image"
    BBCODE = "BBCode image"
    LINK = "link"
    PLAIN = "plain address"


#: Markup that shows an image, in place of only leading to one. No set, which would hash the kind of each mention.
IMAGE_MARKUP = (MarkupKind.MARKDOWN, MarkupKind.HTML, MarkupKind.BBCODE)


@dataclass(slots=True)
class UrlMention:
    """One URL in a text.

    Attributes:
        url: As written, or the mark of a run of base64.
        label: The alternative text of an image, or the words of a link.
        before: The words in front of the URL, at most back to the previous URL.
        enclosing_link: The link that an image stands inside of.
        open_link: The link whose markup is still open behind the URL.
        tag: The name of the HTML attribute, and the position of its tag in the text, or of the <picture> around it.
        key: The JSON key in front of the URL.
        definition: The name that a Markdown reference definition gives to the URL.
        is_truncated: The text ends before the markup around the URL is closed.
        is_open: The text may end in the middle of the URL.
        is_icon: The image is shown as large as an icon, or is hidden.
        is_converted: An arrow leads to the next URL, or words such as "turned into".
    """

    kind: MarkupKind
    url: str
    start: int
    end: int
    label: str = ""
    before: str = ""
    enclosing_link: "UrlMention | None" = None
    open_link: "UrlMention | None" = field(default=None, repr=False, compare=False)
    tag: tuple[str, int] = ("", 0)
    key: str = ""
    definition: str = ""
    is_truncated: bool = False
    is_open: bool = False
    is_icon: bool = False
    is_converted: bool = False


def find_mentions(text: str) -> list[UrlMention]:
    """Return the URLs of the text in order, `_MAX_MENTIONS` at most."""
    mentions = _join_org_links(text, list(_scan(text)))
    _resolve_references(text, mentions)
    return _without_labels(text, _best_of_each_tag(mentions))


def note_open_end(text: str, mentions: list[UrlMention], *, is_whole: bool) -> None:
    """Note in the last mention whether the text may end in the middle of its URL.

    `is_whole`: nothing is known to be missing of the text. Markup and quotes that are not closed say it themselves.
    """
    for mention in mentions[-1:]:
        opening = text[mention.start - 1 : mention.start]
        # A name of a file may go on behind a blank, and a wrapped URL behind a line break.
        is_unclosed = (mention.kind is not MarkupKind.PLAIN or opening == "<") and not _CLOSING.search(
            text, mention.end
        )
        is_quoted = mention.kind is not MarkupKind.PLAIN or opening in {'"', "'", "<"}
        mention.is_open = is_unclosed or (may_go_on(text, mention.end) and (is_quoted or not is_whole))


def note_conversions(text: str, mentions: list[UrlMention]) -> None:
    """Note from which URLs an arrow leads to the next image. An arrow to a page shows where to view this one."""
    for mention, following in pairwise(mentions):
        gap = text[mention.end : min(following.start, mention.end + _MAX_GAP)]
        is_image = following.kind in IMAGE_MARKUP or has_image_ending(following.url)
        mention.is_converted = is_image and _CONVERSION.fullmatch(gap) is not None


def _scan(text: str) -> Iterator[UrlMention]:
    previous, position = None, 0
    for _ in range(_MAX_MENTIONS):
        match = search_in_slices(_START, text, position, len(text))
        if match is None:
            return
        start = _start_of_url(text, match, position)
        if start is None:
            position = match.end()
            continue
        mention = _read(text, start, position, previous)
        mention.before = words_in_table(text, start) or mention.before
        mention.open_link = mention if _opens_link(text, mention) else _link_around(text, start, previous)
        position = max(mention.end, match.end())
        if mention.url:
            previous = mention
            yield mention


def _start_of_url(text: str, match: re.Match[str], floor: int) -> int | None:
    """Return where the URL at a match of `_START` begins, if any does. Text up to `floor` is read already."""
    if match[0].startswith(MARK):
        return match.start()
    if match[0] != "://":
        return match.start() + 1
    scheme = _SCHEME.search(text, max(floor, match.start() - 20), match.start())
    # A blob URL names an object inside the browser that made it.
    if scheme is None or text[scheme.start() - 5 : scheme.start()] == "blob:":
        return None
    # Letters directly before the scheme are words of the text: "imagehttps://…".
    http = _HTTP_SCHEME.search(scheme[0])
    return scheme.start() + (http.start() if http else 0)


def _read(text: str, start: int, floor: int, previous: UrlMention | None) -> UrlMention:
    before = text[max(0, start - _MARKUP_WINDOW) : start]
    words = _last_line(before[max(0, len(before) - (start - max(floor, _end_of_markup(text, previous)))) :])
    lead = before.rstrip(" \t\r\n<")
    if lead.endswith("]("):
        return _read_markdown(text, start, before, previous)
    tag = _open_tag(before)
    if tag is not None:
        return _read_html(text, start, before, tag, previous)
    if _BBCODE.search(before[-80:]):
        url, end = read_delimited_url(text, start, "[]")
        link = _link_around(text, start, previous)
        return UrlMention(MarkupKind.BBCODE, url, start, end, before=words, enclosing_link=link)
    url, end = _read_plain(text, start, before)
    definition = _DEFINITION.fullmatch(before.rpartition("\n")[2])
    key = _JSON_KEY.search(before[-80:])
    return UrlMention(
        MarkupKind.PLAIN,
        url,
        start,
        end,
        before=words,
        key=key[1] if key else "",
        definition=definition[1].casefold() if definition else "",
    )


def _read_plain(text: str, start: int, before: str) -> tuple[str, int]:
    opening = before[-1:]
    if opening and opening in "\"'<":
        return read_delimited_url(text, start, {"<": ">"}.get(opening, opening))
    return read_bare_url(text, start, in_emphasis=opening == "_")


def _read_markdown(text: str, start: int, before: str, previous: UrlMention | None) -> UrlMention:
    url, end = read_delimited_url(text, start, ">" if before.endswith("<") else ")")
    lead = before.rstrip(" \t\r\n<")
    if previous is not None and previous.kind in IMAGE_MARKUP and _CLOSES_LINK.fullmatch(text, previous.end, start):
        link = UrlMention(MarkupKind.LINK, url, start, end, label=previous.label, before=previous.before)
        previous.enclosing_link = link
        return link
    opening = _opening_bracket(lead, len(lead) - 2)
    is_image = lead[:opening].endswith(("!", "！"))
    words = _last_line(text[_end_of_markup(text, previous) : start - len(before) + opening].removesuffix("!"))
    is_truncated = len(text) == end
    kind = MarkupKind.MARKDOWN if is_image else MarkupKind.LINK
    around = _link_around(text, start, previous) if is_image else None
    label = lead[opening + 1 : -2]
    return UrlMention(kind, url, start, end, label, words, around, is_truncated=is_truncated)


def _opens_link(text: str, mention: UrlMention) -> bool:
    """Check for `<a href=…>` or `[url=…]`."""
    is_bbcode = _BBCODE_LINK.search(text, max(0, mention.start - 8), mention.start)
    return mention.tag[0] == "href" or is_bbcode is not None


def _link_around(text: str, start: int, previous: UrlMention | None) -> UrlMention | None:
    """Return the link whose markup is open where something begins."""
    link = None if previous is None else previous.open_link
    return None if previous is None or link is None or _LINK_END.search(text, previous.end, start) else link


def _opening_bracket(text: str, end: int) -> int:
    """Return where the bracket opens that closes at `end`, 0 where none does. The label may contain brackets too."""
    depth, position = 0, end + 1
    for _ in range(_MAX_BRACKETS):
        position = max(text.rfind("[", 0, position), text.rfind("]", 0, position))
        if position < 0:
            break
        depth += 1 if text[position] == "]" else -1
        if depth == 0:
            return position
    return 0


def _open_tag(before: str) -> tuple[str, str, int] | None:
    """Return name, attribute and position of the HTML tag whose attribute value begins at the end of `before`."""
    value = before.rstrip(" \t\r\n\"'")
    opening = before.rfind("<")
    if not value.endswith("=") or opening < 0 or ">" in before[opening:]:
        return None
    attribute = _ATTRIBUTE.search(value, max(0, len(value) - 24), len(value) - 1)
    tag = _TAG.match(before, opening)
    if not tag or not attribute:
        return None
    # "xlink:href" leads where "href" does; "xmlns:xlink" leads nowhere.
    space, _, name = attribute[1].lower().rpartition(":")
    return tag[1].lower(), space if space == "xmlns" else name, opening


def _read_html(
    text: str, start: int, before: str, tag: tuple[str, str, int], previous: UrlMention | None
) -> UrlMention:
    name, attribute, opening = tag
    quote = before.rstrip()[-1:]
    url, end = read_delimited_url(text, start, quote if quote and quote in "\"'" else " >")
    is_image = name == "img" and _rank_of_attribute(attribute) > 0
    if attribute in _OTHER_ATTRIBUTES:
        return UrlMention(MarkupKind.LINK, "", start, end)
    if attribute in _SOURCE_ATTRIBUTES:
        url, end, is_image = _largest_source(text, start) or (url, end, False)
    kind = MarkupKind.HTML if is_image else MarkupKind.LINK
    position = start - len(before) + opening
    words = _last_line(text[_end_of_markup(text, previous) : position])
    inside = (before[opening:], text[end : _end_of_tag(text, end)])
    label = next(filter(None, (_value(part, name) for name in _LABELS for part in inside)), "")
    if attribute not in _LINKS and not label and not is_image:
        label = attribute
    picture = before.rfind("<picture", before.rfind("</picture") + 1)
    position = start - len(before) + picture if picture >= 0 else position
    mention = UrlMention(kind, url, start, end, label, words, tag=(attribute, position))
    mention.enclosing_link = _link_around(text, start, previous) if is_image else None
    mention.key = "" if is_image else attribute
    mention.is_icon = any(map(_ICON.search, inside))
    return mention


def _largest_source(text: str, start: int) -> tuple[str, int, bool] | None:
    """Return the URL of the largest copy in a `srcset` that begins here, where the list ends, and whether it has sizes.

    A copy of density 1 is no larger than what stands in `src`.
    """
    sources: list[re.Match[str]] = []
    for _ in range(_MAX_SOURCES):
        match = _SOURCE.match(text, sources[-1].end() if sources else start)
        if match is None:
            break
        sources.append(match)
    if not sources:
        return None
    largest = max(sources, key=lambda source: float(source[2] or 0))
    return largest[1], sources[-1].end(), largest[3] == "w" or float(largest[2] or 0) > 1


def _end_of_markup(text: str, previous: UrlMention | None) -> int:
    """Return where the words behind a mention begin: its title and the other attributes of its tag are not words."""
    if previous is None:
        return 0
    title = None if previous.tag[0] else _TITLE.match(text, previous.end)
    return title.end() if title else _end_of_tag(text, previous.end) if previous.tag[0] else previous.end


def _end_of_tag(text: str, position: int) -> int:
    """Return where the tag ends that is open at a position, which itself is returned if the tag does not end."""
    end = _TAG_END.match(text, position)
    return end.end() if end else position


def _value(tag: str, name: str) -> str:
    """Return the value of an attribute in a part of an HTML tag. `name`: with its equals sign."""
    _, found, rest = tag.rpartition(name)
    return rest[1:].partition(rest[:1])[0] if found and rest else ""


def _last_line(before: str) -> str:
    """Return the last line with words in front of a URL: the line of the URL, or the one above if that has none."""
    before = before[-_MAX_WORDS:]
    before = _END_TAG.sub(" ", before) if "</" in before else before
    lines = [line for line in before.splitlines() if line.strip(" \t>*-#`_|:：\"'<([1234567890.")]
    return lines[-1] if lines else ""


def _join_org_links(text: str, mentions: list[UrlMention]) -> list[UrlMention]:
    """Turn `[[link][image]]` of Org mode into an image within a link."""
    joined: list[UrlMention] = []
    for mention in mentions:
        link = joined[-1] if joined else None
        if link and text[link.start - 2 : link.start] == "[[" and text[link.end : mention.start] == "][":
            mention.kind, mention.enclosing_link = MarkupKind.MARKDOWN, replace(link, kind=MarkupKind.LINK)
            joined.pop()
        joined.append(mention)
    return joined


def _resolve_references(text: str, mentions: list[UrlMention]) -> None:
    """Turn the definition behind `![label][name]` into a Markdown image, in place."""
    definitions = {mention.definition: mention for mention in mentions if mention.definition}
    if definitions:
        for match in islice(_REFERENCE.finditer(text), _MAX_REFERENCES):
            mention = definitions.get((match[2] or match[1]).casefold())
            if mention is not None:
                mention.kind, mention.label = MarkupKind.MARKDOWN, match[1]


def _best_of_each_tag(mentions: list[UrlMention]) -> list[UrlMention]:
    """Keep one URL of each HTML image: the one of the attribute that holds the image itself."""
    best: dict[int, UrlMention] = {}
    for mention in mentions:
        if mention.kind is MarkupKind.HTML:
            position = mention.tag[1]
            other = best.get(position)
            if other is None or _is_better(mention, other):
                best[position] = mention
    return [mention for mention in mentions if mention.kind is not MarkupKind.HTML or best[mention.tag[1]] is mention]


def _is_better(mention: UrlMention, other: UrlMention) -> bool:
    """Return whether a URL of a tag holds the image rather than another. A whole file is no smaller than its copies."""
    if mention.url.startswith(f"{other.url}?") or other.url.startswith(f"{mention.url}?"):
        return len(mention.url) < len(other.url)
    return _rank_of_attribute(mention.tag[0]) > _rank_of_attribute(other.tag[0])


def _rank_of_attribute(name: str) -> int:
    """Return how much an attribute of <img> counts, 0 if it does not hold the image."""
    return _IMAGE_ATTRIBUTES.get(name, 0) or (5 if _LARGER_COPY.match(name) else 0)


def _without_labels(text: str, mentions: list[UrlMention]) -> list[UrlMention]:
    """Remove URLs that are themselves the label of a link or an image."""
    return [mention for mention in mentions if not text.startswith("](", mention.end)]
