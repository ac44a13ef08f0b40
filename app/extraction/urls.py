"""Classify and normalize image URLs, and find where a URL in a text ends.

Everything here is decided by the characters of the URL; nothing is requested.
"""

import html
import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache, wraps
from typing import TypeVar
from urllib.parse import unquote

from app.extraction.base64_runs import MARK

_Fact = TypeVar("_Fact")

#: Longer URLs are ignored. Signed URLs of object stores have 1 to 3 KB.
MAX_URL_LENGTH = 8192
#: URLs whose parts and kinds are remembered: those of the replies that are searched at present.
_REMEMBERED = 32
#: The kind of a URL shows within this many characters of the ends of its parts.
_NEAR_END = 256

#: Written next to text in all languages and part of no URL: soft hyphen, zero-width characters, direction marks.
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"

_IMAGE = "png|jpe?g|jpe|jfif|webp|gif|avif|heic|heif|bmp|tiff?"
#: Image servers put the wanted size or style behind the name: a.png!w800, a.jpg@400w, a.jpeg~tplv-x.image, a.jpg:large
_IMAGE_PATH = re.compile(rf"\.(?:{_IMAGE})(?:[!@~:][^/]{{0,200}})?/?$", re.IGNORECASE)
_IMAGE_QUERY = re.compile(
    rf"(?:^|&)[^=&]{{0,60}}=[^&]*\.(?:{_IMAGE})(?:&|$)"
    rf"|(?:^|&)[^=&]{{0,30}}(?:format|fm|ext|type|mime)[^=&]{{0,10}}=(?:image/)?(?:{_IMAGE})(?:&|$)"
    r"|(?:^|&)[\w-]{0,20}process=image/|(?:^|&)image(?:View2|Mogr2)",
    re.IGNORECASE,
)
_WIDTH = re.compile(r"(?:^|&)(?:w|width)=[0-9]", re.IGNORECASE)
_HEIGHT = re.compile(r"(?:^|&)(?:h|height)=[0-9]", re.IGNORECASE)
_SUFFIX = re.compile(r"\.([a-z][a-z0-9]{1,5})/?$", re.IGNORECASE)
#: Hosts of photos, icons and counters of readers, at which no upstream keeps what it has painted. A model that cannot
#: paint shows such photos.
_OTHERS_HOSTS = tuple(
    """
    .unsplash.com .pexels.com .pixabay.com .wikimedia.org .pinimg.com .staticflickr.com .picsum.photos .loremflickr.com
    .placekitten.com .gravatar.com .avatars.githubusercontent.com .google-analytics.com .pixel.wp.com
    .visitor-badge.laobi.icu .star-history.com .komarev.com .seeyoufarm.com
    """.split()
)
#: Files that cannot be delivered as an image. A URL that ends in none of the known suffixes may be anything.
_OTHER_SUFFIXES = frozenset(
    """
    7z aac apk bin css csv doc docx exe flac gz htm html ico js json m4a md mp3 ogg pdf ppt pptx psd rar svg svgz
    tar ts txt wav xhtml xls xlsx xml zip
    """.split()
)
_VIDEO_SUFFIXES = frozenset("avi m3u8 m4v mkv mov mp4 mpeg mpg webm".split())

#: Host and path parts of pages made for people.
_PAGE_HOST = re.compile(
    r"(?:^|\.)(?:docs?|help|support|blog|wiki|status|community|forum|console|dashboard)\.", re.IGNORECASE
)
_PAGE_PATH = re.compile(
    r"/(?:docs?|documentation|api-reference|(?:[\w-]+-)?polic(?:y|ies)|help|support|guides?|terms|privacy|legal|pricing|plans"
    r"|log-?in|sign-?up|register|accounts?|dashboard|console|about|blog|articles?|news|wiki|search|faqs?|community|forum"
    r"|readme|issues|invite|join|settings|billing|status|tutorials?|tags?|topics?|questions|gallery|explore|share|chat)(?:/|$)",
    re.IGNORECASE,
)
#: Sample code, badges, spinners, blank pixels, thumbnails of search engines: in lower case, which is searched faster.
_PLACEHOLDER = re.compile(
    r"placeholder|placehold\.|dummyimage|fakeimg|lorempixel|//(?:img\.)?shields\.io|//badgen\.net|/badges?/"
    r"|[/_.=-](?:your|insert)[-_]?(?:generated)?[-_]?(?:image|img|picture|photo|file|url|link|domain|cdn|bucket|host|server)s?\b"
    r"|/path[-_/]to[-_/]|image[-_]url[-_]here|\bx{3,}\b|[{<\[][a-z_ ]{0,20}(?:url|id|image)[}>\]]|\.\.\.|…"
    r"|[/_-](?:spinner|loading|loader|spacer|blank)[-_0-9x]{0,12}\.(?:gif|png|svg|webp)"
    r"|/(?:track(?:er|ing)?|pixel|beacon)(?:\.gif(?:\?|$)|\?)|[/_-]pixel\.gif|^https?://[\w-]*/?$|//encrypted-tbn[0-9]|/s2/favicons\b|//www\.facebook\.com/tr\?"
    r"|//cdn\.discordapp\.com/(?:emojis|avatars|icons|embed/avatars)/|[?&]q=tbn:|/th\?id=oip"
)
_HOST = re.compile(r"(?:[^\s/?#@]{1,200}@)?(?:\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(?::[0-9]{0,5})?", re.IGNORECASE)
#: What an HTML entity in a URL may stand for.
_IN_URL = re.compile(r"[\w/&=?#.:%+~@!$()*,;-]")
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#[0-9]{1,7}|#x[0-9a-f]{1,6});", re.IGNORECASE)


#: No URL contains control characters, and they would steer the terminal or log that shows the URL. Programs that color
#: their output write some directly behind a URL.
_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_CONTROL = re.compile(f"[{_CONTROLS}]")

#: A URL in prose: up to white space, a quote, a bracket or punctuation of CJK text. An IPv6 address may be the host.
_BARE = re.compile(
    rf"[^\s<>\"`|{{}}^\\\[\]{_CONTROLS}{_INVISIBLE}{MARK}，。、；：！？（）【】《》〈〉「」『』〔〕“”‘’…·]+"
    r"|(?<=//)\[[0-9a-fA-F:.]{2,45}\][^\s<>\"`|{}^\\\[\]\x00-\x1f\x7f-\x9f]{0,2000}"
)
_DELIMITED = re.compile(rf"[^\s<>\"\\{_CONTROLS}{_INVISIBLE}{MARK}]+")
_PARENTHESIS = re.compile(r"[()]")
#: More parentheses in one URL are not counted.
_MAX_PARENTHESES = 64
#: A second URL directly behind the first, unless the first has it as a parameter.
_NEXT_URL = re.compile(r"(?<![=/&?#%(@])https?://", re.IGNORECASE)
#: Behind a complete URL the next entry of a list: ",url=…" as chat robots write it.
_NEXT_ENTRY = re.compile(r"(?<=png|jpg|gif|ebp|peg),(?=[a-z]{1,10}=)")
#: Behind a complete URL something in parentheses, a field of a list, or a suffix of the language.
_NEXT_WORDS = re.compile(rf"(?<=\.)(?:{_IMAGE})(?=[(,;'])", re.IGNORECASE)
_LAST_WORDS = re.compile(r"[(,;'][^/?#]{0,200}$")
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_KEYCAP = re.compile("\ufe0f?\u20e3")
_NON_ASCII_IMAGE = re.compile(rf".*\.(?:{_IMAGE})(?![A-Za-z0-9])(?:\?[!-~]*)?", re.IGNORECASE)
#: The rest of a file name that contains blanks, up to the closing `>`, quote or parenthesis.
_REST_IN_MARKUP = re.compile(r"([ ][^\n()<>\"']{1,300})[>\"']")
_REST_IN_MARKDOWN = re.compile(r"([ ](?:[^\n()<>\"]|\([^\n()<>\"]{0,60}\)){1,300})\)")
#: What follows a complete URL in Markdown: a title, a size, or the end of the link.
_END_OF_MARKDOWN = re.compile(r"\s+(?:[\"'“]|\([^()\n]{0,300}\)\s*\)|=[0-9%]*x)|\s*[>)]")


#: How a URL goes on behind a line break, or behind characters that nobody sees, up to the end of its markup.
_WRAPPED = re.compile(
    rf"(?:(?:[{_INVISIBLE}]+|[ \t]*\r?\n[ \t]*)[\w./?&=%~+:@!$*;,-]{{1,2000}}){{1,8}}(?=[ \t\r\n]*[)>\"'])"
)
#: How one goes on in prose.
_CONTINUED = re.compile(rf"(?:[{_INVISIBLE}]+[A-Za-z0-9./?&=%~+_-]{{1,2000}}){{1,8}}")
_BREAKS = re.compile(rf"[\s{_INVISIBLE}]+")


#: What may continue a URL, up to the end of the text. An escape may be cut in its middle, too.
_OPEN_END = re.compile(
    rf"(?![)*'])[^\s<>\"`|{{}}^\\\[\]{_CONTROLS}{MARK}，。、；：！？（）【】《》〈〉「」『』〔〕“”‘’…·]*+(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?"
)


def _remember(function: Callable[[str], _Fact]) -> Callable[[str], _Fact]:
    """Remember what a function returns for the latest URLs, except for those that are ignored for their length.

    JSON has whole images where a URL may stand, and what is remembered stays in memory.
    """
    remembering = lru_cache(_REMEMBERED)(function)

    @wraps(function)
    def recall(url: str) -> _Fact:
        return remembering(url) if len(url) <= MAX_URL_LENGTH else function(url)

    return recall


class UrlKind(Enum):
    """What a URL looks like. The values complete the sentence "it leads to …" of a rejection."""

    IMAGE = "an image"
    VIDEO = "a video"
    OTHER_FILE = "a file that is not an image"
    PAGE = "a page"
    UNKNOWN = "anything"


@_remember
def classify_url(url: str) -> UrlKind:
    """Return what the URL most likely leads to, by its file suffix, its query, and the words of its host and path."""
    host, path, query = _split(url)
    if _IMAGE_PATH.search(path[-_NEAR_END:]):
        return UrlKind.IMAGE
    suffix = _SUFFIX.search(path[-_NEAR_END:])
    ending = suffix[1].lower() if suffix else ""
    if ending in _OTHER_SUFFIXES | _VIDEO_SUFFIXES:
        return UrlKind.VIDEO if ending in _VIDEO_SUFFIXES else UrlKind.OTHER_FILE
    if _names_image(query) or (_WIDTH.search(query) and _HEIGHT.search(query)):
        return UrlKind.IMAGE
    is_root = path in {"", "/"} and not query
    is_page = _PAGE_HOST.search(host[:_NEAR_END]) or _PAGE_PATH.search(path[:_NEAR_END]) or is_root
    return UrlKind.PAGE if is_page else UrlKind.UNKNOWN


def has_image_ending(url: str) -> bool:
    """Check for a URL that names an image file, in its path or in a parameter: only such a URL is trusted unseen."""
    _, path, query = _split(url)
    return _IMAGE_PATH.search(path[-_NEAR_END:]) is not None or _names_image(query)


def may_be_image(url: str) -> bool:
    """Check for a URL that says nothing of what it leads to: its bytes must be looked at. A home page is never one."""
    _, path, query = _split(url)
    is_root = path in {"", "/"} and not query
    return not is_root and classify_url(url) in (UrlKind.UNKNOWN, UrlKind.PAGE)


def _names_image(query: str) -> bool:
    return _IMAGE_QUERY.search(unquote(query[-4 * _NEAR_END :])) is not None


def is_placeholder(url: str) -> bool:
    """Check for a URL that is no result: an example from sample code, or a badge, a spinner, a blank pixel."""
    return _PLACEHOLDER.search(unquote(url[:_NEAR_END]).lower()) is not None


def is_of_others(url: str) -> bool:
    """Check for a host of `_OTHERS_HOSTS`, or one below it."""
    return f".{_split(url)[0]}".endswith(_OTHERS_HOSTS)


def normalize_url(url: str) -> str | None:
    """Return the URL as a browser would request it, `None` if a browser could not.

    Scheme and host become lower case, HTML entities are decoded, blanks are escaped. Letters of other scripts stay.
    """
    url = _ENTITY.sub(lambda entity: html.unescape(entity[0]), url.strip())
    if url.startswith("//"):
        url = "https:" + url
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in {"http", "https"} or len(url) > MAX_URL_LENGTH or _CONTROL.search(url):
        return None
    host = _HOST.match(rest)
    if not host or rest[host.end() : host.end() + 1] not in {"", "/", "?", "#"}:
        return None
    return f"{scheme.lower()}://{host[0].lower()}{rest[host.end() :]}".replace(" ", "%20")


def is_same_site(one: str, other: str) -> bool:
    """Check for hosts of one owner, as far as their last two labels tell."""
    return _split(one)[0].split(".")[-2:] == _split(other)[0].split(".")[-2:]


def file_name(url: str) -> str:
    """Return the last segment of the path."""
    return _split(url)[1].rpartition("/")[2]


def read_bare_url(text: str, start: int, *, in_emphasis: bool) -> tuple[str, int]:
    """Read the URL that begins at `start` in prose; return it and the position behind it.

    The URL is empty where none can be read. `in_emphasis`: an underscore at the end closes Markdown emphasis.
    """
    scheme_end = text.find("//", start, start + 24) + 2
    match = _BARE.match(text, scheme_end) if scheme_end > 1 else None
    if match is None:
        return _read_mark(text, start)
    if match.end() - start > MAX_URL_LENGTH:
        return "", match.end()
    url, end = _continue(text, text[start : match.end()], match.end(), _CONTINUED)
    if end > match.end():
        return url, end
    following = _NEXT_URL.search(url, 8) if "://" in url[8:] else None
    if following is None and "," in url:
        following = _NEXT_ENTRY.search(url)
    url = _cut_entity(url[: following.start()] if following else url)
    if (name := _NEXT_WORDS.search(url)) and classify_url(url) is not UrlKind.IMAGE:
        url = url[: name.end()]
    url = _cut_non_ascii(_cut_parenthesis(url)).rstrip(".,;:!?'*~$%" + ("_" if in_emphasis else ""))
    url = url.removesuffix("==") if text.startswith("==", start - 2) else url
    if url.endswith(("_", "-")) and classify_url(url) is not UrlKind.IMAGE:
        # "__URL__" closes emphasis that may begin far in front, "URL--" goes on with words.
        plain = url.rstrip("_-")
        url = plain if classify_url(plain) is UrlKind.IMAGE else url
    return url, start + len(url)


def _continue(text: str, url: str, end: int, pattern: re.Pattern[str]) -> tuple[str, int]:
    """Return the URL with its rest behind a break, and where that ends, if only both make the URL of an image."""
    rest = pattern.match(text, end) if end < len(text) and not text[end].isprintable() else None
    if rest is None or "://" in rest[0] or classify_url(url) is UrlKind.IMAGE:
        return url, end
    whole = url + _BREAKS.sub("", rest[0])
    return (whole, rest.end()) if classify_url(whole) is UrlKind.IMAGE else (url, end)


def may_go_on(text: str, end: int) -> bool:
    """Return whether nothing behind a URL, which ends there, says that it has ended. A cut text may end within it."""
    return _OPEN_END.fullmatch(text, end) is not None


def without_last_words(url: str) -> str:
    """Return the URL without what may be words that follow it without a blank: "…/fox(1024x1024)", "…/fox,5"."""
    return _LAST_WORDS.sub("", url)


def read_delimited_url(text: str, start: int, closing: str) -> tuple[str, int]:
    """Read the URL between `start` and the first character of `closing`; return it and the position behind it.

    The URL is empty where none can be read. It may contain blanks if that makes it the URL of an image.
    """
    if text.startswith(MARK, start):
        return _read_mark(text, start)
    match = _DELIMITED.match(text, start)
    end = match.end() if match else start
    if end - start > MAX_URL_LENGTH:
        return "", end
    url, wrapped = _continue(text, text[start:end], end, _WRAPPED)
    if wrapped > end and closing in {")", ">", '"', "'"}:
        return url, wrapped
    url = text[start:end]
    if closing == ")":
        url = _cut_parenthesis(url)
        return _read_markdown_rest(text, start, url) if len(url) == end - start else (url, start + len(url))
    if closing in {">", '"', "'"} and (rest := _REST_IN_MARKUP.match(text, end)):
        whole = url + rest[1]
        if classify_url(whole) is UrlKind.IMAGE:
            return whole, rest.end() - 1
    ends = [url.find(character) for character in closing.replace(">", ">|")]
    length = min((position for position in ends if position >= 0), default=len(url))
    return url[:length], start + length


@_remember
def _split(url: str) -> tuple[str, str, str]:
    """Return the host (with user and port), the path and the query. Each URL of a reply is split several times."""
    rest = url.partition("://")[2].partition("#")[0]
    address, _, query = rest.partition("?")
    host, slash, path = address.partition("/")
    return host, slash + path, query


def _read_mark(text: str, start: int) -> tuple[str, int]:
    """Read the mark of a run of base64 in place of a URL. See `base64_runs`."""
    end = text.find(MARK, start + 1, start + 9) + 1
    return (text[start:end], end) if end else ("", start)


def _read_markdown_rest(text: str, start: int, url: str) -> tuple[str, int]:
    """Read on behind the blank that follows `url` in a Markdown link.

    A title may follow, or the rest of a file name with blanks; without either, the closing parenthesis is missing.
    """
    end = start + len(url)
    if _END_OF_MARKDOWN.match(text, end):
        return url, end
    rest = _REST_IN_MARKDOWN.match(text, end)
    if rest and "://" not in rest[1] and classify_url(url + rest[1].rstrip()) is UrlKind.IMAGE:
        return url + rest[1].rstrip(), rest.end() - 1
    return read_bare_url(text, start, in_emphasis=False)


def _cut_parenthesis(url: str) -> str:
    """Cut the URL at the first closing parenthesis that was opened before the URL."""
    if ")" not in url:
        return url
    depth = 0
    for count, match in enumerate(_PARENTHESIS.finditer(url)):
        depth += 1 if match[0] == "(" else -1
        if depth < 0 or count > _MAX_PARENTHESES:
            return url[: match.start()]
    return url


def _cut_entity(url: str) -> str:
    """Cut the URL at the first HTML entity of a character that ends URLs in prose: a quote, a blank."""
    entities = _ENTITY.finditer(url) if "&" in url else ()
    ends = (entity.start() for entity in entities if _IN_URL.fullmatch(html.unescape(entity[0])) is None)
    return url[: next(ends, len(url))]


def _cut_non_ascii(url: str) -> str:
    """Cut off words that follow the URL without a blank, but keep an image file name in another script."""
    other = _NON_ASCII.search(url)
    if other is None:
        return url
    # A digit before the mark of a keycap is no part of the URL: "…/fox.png2️⃣".
    head = url[: other.start() - (_KEYCAP.match(url, other.start()) is not None)]
    name = _NON_ASCII_IMAGE.match(url, other.start())
    if name is None or (classify_url(head) is UrlKind.IMAGE and "?" not in head):
        return head
    return url[: name.end()]
