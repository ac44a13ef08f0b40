"""What a URL by itself tells: whether it can be asked for, whether it looks like an image, a page or a stand-in."""

import html
import re
from enum import Enum
from urllib.parse import unquote

#: Longer ones are no addresses; signed ones of object stores have 1 to 3 KB.
MAX_LENGTH = 8192
#: What tells the kind of an address stands this near to its ends.
_NEAR = 256

#: Written beside text in all languages, part of no address: zero-width characters and marks of direction.
INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"

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
#: Files that are no picture we could hand on. An address that ends in another way may be anything.
_OTHER_SUFFIXES = frozenset(
    """
    7z aac apk bin css csv doc docx exe flac gz htm html ico js json m4a md mp3 ogg pdf ppt pptx psd rar svg svgz
    tar ts txt wav xhtml xls xlsx xml zip
    """.split()
)
_VIDEO_SUFFIXES = frozenset("avi m3u8 m4v mkv mov mp4 mpeg mpg webm".split())

#: Host and path parts of pages for people.
_PAGE_HOST = re.compile(
    r"(?:^|\.)(?:docs?|help|support|blog|wiki|status|community|forum|console|dashboard)\.", re.IGNORECASE
)
_PAGE_PATH = re.compile(
    r"/(?:docs?|documentation|api-reference|(?:[\w-]+-)?polic(?:y|ies)|help|support|guides?|terms|privacy|legal|pricing|plans"
    r"|log-?in|sign-?up|register|accounts?|dashboard|console|about|blog|articles?|news|wiki|search|faqs?|community|forum"
    r"|readme|issues|invite|join|settings|billing|status|tutorials?|tags?|topics?|questions|gallery|explore|share|chat)(?:/|$)",
    re.IGNORECASE,
)
_STAND_IN = re.compile(
    r"placeholder|placehold\.|dummyimage|fakeimg|lorempixel|//(?:img\.)?shields\.io|//badgen\.net|/badges?/"
    r"|[/_.=-](?:your|insert)[-_]?(?:generated)?[-_]?(?:image|img|picture|photo|file|url|link|domain|cdn|bucket|host|server)s?\b"
    r"|/path[-_/]to[-_/]|image[-_]url[-_]here|\bx{3,}\b|[{<\[][a-z_ ]{0,20}(?:url|id|image)[}>\]]|\.\.\.|…"
    r"|[/_-](?:spinner|loading|loader|spacer|blank)[-_0-9x]{0,12}\.(?:gif|png|svg|webp)|[/_-]pixel\.gif|//encrypted-tbn[0-9]|[?&]q=tbn:|/th\?id=OIP",
    re.IGNORECASE,
)
_HOST = re.compile(r"(?:[^\s/?#@]{1,200}@)?(?:\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(?::[0-9]{0,5})?", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#[0-9]{1,7}|#x[0-9a-f]{1,6});", re.IGNORECASE)


class UrlKind(Enum):
    IMAGE = "an image"
    VIDEO = "a video"
    OTHER_FILE = "a file that is not an image"
    PAGE = "a page"
    UNKNOWN = "anything"


def split_url(url: str) -> tuple[str, str, str]:
    """Host with its prefixes, path, query."""
    rest = url.partition("://")[2].partition("#")[0]
    address, _, query = rest.partition("?")
    host, slash, path = address.partition("/")
    return host, slash + path, query


def classify_url(url: str) -> UrlKind:
    host, path, query = split_url(url)
    if _IMAGE_PATH.search(path[-_NEAR:]):
        return UrlKind.IMAGE
    suffix = _SUFFIX.search(path[-_NEAR:])
    ending = suffix[1].lower() if suffix else ""
    if ending in _OTHER_SUFFIXES | _VIDEO_SUFFIXES:
        return UrlKind.VIDEO if ending in _VIDEO_SUFFIXES else UrlKind.OTHER_FILE
    if _IMAGE_QUERY.search(unquote(query[-4 * _NEAR :])) or (_WIDTH.search(query) and _HEIGHT.search(query)):
        return UrlKind.IMAGE
    is_page = _PAGE_HOST.search(host[:_NEAR]) or _PAGE_PATH.search(path[:_NEAR]) or (path in {"", "/"} and not query)
    return UrlKind.PAGE if is_page else UrlKind.UNKNOWN


#: No address has them, and whoever shows or logs one would be steered by them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def is_placeholder(url: str) -> bool:
    """Written where an address belongs, or served where a picture belongs: samples of code, badges, spinners."""
    return _STAND_IN.search(unquote(url[:_NEAR])) is not None


def normalize_url(url: str) -> str | None:
    """As a browser would ask for it: None where it could not. Letters of other scripts stay as they are."""
    url = _ENTITY.sub(lambda entity: html.unescape(entity[0]), url.strip())
    if url.startswith("//"):
        url = "https:" + url
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in {"http", "https"} or len(url) > MAX_LENGTH or _CONTROL.search(url):
        return None
    host = _HOST.match(rest)
    if not host or rest[host.end() : host.end() + 1] not in {"", "/", "?", "#"}:
        return None
    return f"{scheme.lower()}://{host[0].lower()}{rest[host.end() :]}".replace(" ", "%20")


def url_fingerprint(url: str) -> str:
    """Equal for addresses that ask for the same: other escapes, other marks at the end, a fragment."""
    return unquote(url.partition("#")[0]).rstrip("/.,;:!?'\")]}&*_`> ").casefold()


def file_name(url: str) -> str:
    return split_url(url)[1].rpartition("/")[2]


#: Ends an address in plain text.
_PLAIN = re.compile(
    rf"[^\s<>\"`|{{}}^\\\[\]{INVISIBLE}\ue000，。、；：！？（）【】《》〈〉「」『』〔〕“”‘’…·]+"
    r"|(?<=//)\[[0-9a-fA-F:.]{2,45}\][^\s<>\"`|{}^\\\[\]]{0,2000}"
)
_DELIMITED = re.compile(rf"[^\s<>\"\\{INVISIBLE}\ue000]+")
_PARENTHESIS = re.compile(r"[()]")
#: A second address behind the first, unless the first one takes it as its parameter.
_NEXT = re.compile(r"(?<![=/&?#%(@])https?://", re.IGNORECASE)
#: Behind a whole address the next entry of a list: ",url=…" of chat robots.
_LISTED = re.compile(r"(?<=png|jpg|gif|ebp|peg),(?=[a-z]{1,10}=)")
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_FOREIGN_IMAGE = re.compile(rf".*\.(?:{_IMAGE})(?![A-Za-z0-9])(?:\?[!-~]*)?", re.IGNORECASE)


def read_bare_url(text: str, start: int, *, in_emphasis: bool) -> tuple[str, int]:
    """The address that begins at `start` in plain text, and where it ends."""
    scheme_end = text.find("//", start, start + 24) + 2
    match = _PLAIN.match(text, scheme_end) if scheme_end > 1 else None
    if match is None:
        return read_run_mark(text, start)
    if match.end() - start > MAX_LENGTH:
        return "", match.end()
    url = text[start : match.end()]
    following = _NEXT.search(url, 8) if "://" in url[8:] else None
    if following is None and "," in url:
        following = _LISTED.search(url)
    url = url[: following.start()] if following else url
    url = _cut_foreign(_cut_parenthesis(url)).rstrip(".,;:!?'*~$" + ("_" if in_emphasis else ""))
    return url, start + len(url)


def read_run_mark(text: str, start: int) -> tuple[str, int]:
    end = text.find("\ue000", start + 1, start + 9) + 1
    return (text[start:end], end) if end else ("", start)


def read_delimited_url(text: str, start: int, closing: str) -> tuple[str, int]:
    """The address that begins at `start` and that one of the characters of `closing` ends."""
    if text.startswith("\ue000", start):
        return read_run_mark(text, start)
    match = _DELIMITED.match(text, start)
    end = match.end() if match else start
    if end - start > MAX_LENGTH:
        return "", end
    url = text[start:end]
    if closing == ")":
        url = _cut_parenthesis(url)
        return _with_blanks(text, start, url) if len(url) == end - start else (url, start + len(url))
    if (
        closing in {">", '"', "'"}
        and (blanks := _BLANKS.match(text, end))
        and classify_url(url + blanks[1]) is UrlKind.IMAGE
    ):
        return url + blanks[1], blanks.end() - 1
    cut = min((at for mark in closing.replace(">", ">|") if (at := url.find(mark)) >= 0), default=len(url))
    return url[:cut], start + cut


#: A name that goes on behind a blank, up to what closes the address.
_BLANKS = re.compile(r"([ ][^\n()<>\"']{1,300})[>\"']")
_REST = re.compile(r"([ ][^\n()<>\"]{1,300})\)")
#: A title, a size, or the end of the Markdown around the address.
_CLOSED = re.compile(r"\s+(?:[\"'(“]|=[0-9%]*x)|\s*[>)]")


def _with_blanks(text: str, start: int, url: str) -> tuple[str, int]:
    """A blank in a Markdown address: a title follows, or a file name has blanks, or the reply was cut off."""
    end = start + len(url)
    if _CLOSED.match(text, end):
        return url, end
    rest = _REST.match(text, end)
    if rest and "://" not in rest[1] and classify_url(url + rest[1].rstrip()) is UrlKind.IMAGE:
        return url + rest[1].rstrip(), rest.end() - 1
    return read_bare_url(text, start, in_emphasis=False)


def _cut_parenthesis(url: str) -> str:
    if ")" not in url:
        return url
    depth = 0
    for count, match in enumerate(_PARENTHESIS.finditer(url)):
        depth += 1 if match[0] == "(" else -1
        if depth < 0 or count > 64:
            return url[: match.start()]
    return url


def _cut_foreign(url: str) -> str:
    """Words glued to an address in a language without blanks, or a file name in that language?"""
    foreign = _FOREIGN.search(url)
    if foreign is None:
        return url
    head = url[: foreign.start()]
    name = _FOREIGN_IMAGE.match(url, foreign.start())
    if name is None or (classify_url(head) is UrlKind.IMAGE and "?" not in head):
        return head
    return url[: name.end()]
