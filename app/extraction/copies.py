"""Recognize copies of one image in several sizes, of which only the largest counts.

A size may stand in the name ("fox_small.png"), in a segment of the path, behind the name ("fox.png!w256"), in the query
("w=256"), or alone in the label or the words in front of the URL ("Small:", "小图").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from app.extraction.words import RESULT_WORDS, SIZE_WORDS

#: Pixels of an edge for each rank of `SIZE_WORDS`: only their order matters.
_EDGES = (128, 256, 512, 2048, 100_000)
#: A URL that says no size is the image itself; only a name for the full size or a factor (fox@2x.png) says more.
UNNAMED = 50_000
#: No upstream paints images whose longer edge is shorter.
MIN_RESULT = 512
#: Characters of a URL that are read.
_MAX_URL = 2000
#: Characters of a label. A longer one describes the image.
_MAX_LABEL = 40

_NAMES = {
    **dict.fromkeys("thumb thumbs thumbnail thumbnails tn tmb xs tiny mini miniature miniatura vignette".split(), 128),
    **dict.fromkeys("small sm s preview low lowres lq klein petit vorschau".split(), 256),
    **dict.fromkeys("medium med md m mid regular".split(), 512),
    **dict.fromkeys("large lg l big high hq gross".split(), 2048),
    **dict.fromkeys("full orig original originals hd uhd raw max hires highres xl xxl source master".split(), 100_000),
}
_NAME = "|".join(sorted((name for name in _NAMES if len(name) > 1), key=len, reverse=True))
_COMMON = "64|100|128|150|200|256|300|400|500|512|600|640|768|800|1024|1280|1536|2048|3840|4096"
_NUMBER = rf"[0-9]{{2,4}}x[0-9]{{2,4}}|[wh][0-9]{{2,4}}|[0-9]{{2,4}}(?:w|h|px|p)|(?:{_COMMON})"
#: A size at the end of a file's name, as a segment of the path, or behind the name.
_IN_NAME = re.compile(rf"[_.@-]({_NAME}|{_NUMBER}|[sml]|[1-4]x)(?=\.[a-z]{{3,4}}$)", re.IGNORECASE)
_IN_PATH = re.compile(rf"/({_NAME}|{_NUMBER})(?=/)", re.IGNORECASE)
#: Options of an image server in a segment of the path, with a size among them: "width=400,quality=80", "w_400".
_OPTIONS = re.compile(
    r"(?:/cdn-cgi/image)?/((?:[a-z]{1,12}[=_:][\w.:-]{1,30},)*(?:w|h|width|height)[=_:][0-9]{2,4}(?:,[\w=.:-]{1,40})*)(?=/)",
    re.IGNORECASE,
)
_SIZE_AT_END = re.compile(rf"(/(?:{_NAME}|{_NUMBER}))(?=\?|$)", re.IGNORECASE)
_BEHIND = re.compile(r"[!@~:]([\w.-]{1,60})$")
_ENDING = re.compile(r"\.[a-z]{3,4}$", re.IGNORECASE)
_SIZE_PARAMETERS = frozenset("w width h height size sz s resize imwidth max maxwidth".split())
#: Parameters that change how an image is encoded, not how large it is.
_OTHER_PARAMETERS = frozenset("dpr quality q format fm".split())
#: What every URL of a small copy has, in lower case, which takes half the time: most others need no closer look.
_SMALL = re.compile(rf"[/_.@!~:=,x-](?:{_NAME}|[sm]|[1-4]x|[wh]?[0-9]{{2,3}})(?![a-z])")
#: Parameters of signatures, which differ between copies.
_SIGNATURE = re.compile(
    r"^(?:x-(?:amz|oss|goog|cos)-.*|sig.*|token|expires?|key-pair-id|policy|se|sp|sv|sr|st|t|ts|auth.*)$"
)
_DIGITS = re.compile(r"[0-9]+")
_AREA = re.compile(r"([0-9]{2,5})\s?[x×✕*]\s?([0-9]{2,5})", re.IGNORECASE)
_LABEL_NUMBER = re.compile(rf"([0-9]{{1,5}})\s?(k|px|pixels?|p|w)\b|\b({_COMMON})\b", re.IGNORECASE)

_FORMATS = ("png", "webp", "avif", "jpeg", "jpg")
_FORMAT = re.compile(rf"[\s*_#>|-]*({'|'.join(_FORMATS)})[\s*_:：]*", re.IGNORECASE)
_ORDINAL = re.compile(r"[\s#№(]{1,3}([1-9][0-9]?)[\s:：).\]-]{0,4}$")
#: Words that a label of a size may have beside the size.
_FILLERS = re.compile(
    r"\b(?:size|version|px|pixels?|copy|quality|resolution|format|größe|auflösung|taille|tamaño|tamanho|formato|dimensione?|maat"
    r"|rozmiar|размер|boyut|ukuran|cỡ|kích thước)\b|尺寸|版|サイズ|크기|حجم|الحجم|आकार|ขนาด",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Copy:
    """`name`: equal for all copies of one image; `edge`: how large this copy is, roughly in pixels."""

    name: str
    edge: int


def read_copy(url: str, words: str, label: str) -> Copy:
    """Return which image the URL is a copy of, and how large."""
    for text in (label, words):
        if file_format := _FORMAT.fullmatch(text[:_MAX_LABEL]):
            # One file in several formats, of which the first in `_FORMATS` has lost least.
            return Copy(f"{_copy_by_url(url).name}.", UNNAMED - _FORMATS.index(file_format[1].lower()))
        # "Thumbnail 2": of several images, each has copies.
        number = _ORDINAL.search(text[:_MAX_LABEL])
        if edge := edge_of_label(text) or (edge_of_label(text[: number.start()]) if number else 0):
            # Copies with a size as their label stand beside each other, under whatever names.
            return Copy(number[1] if number else "", edge)
    return _copy_by_url(url)


def is_small_copy(url: str) -> bool:
    """Check for a URL that says itself that it leads to a small copy."""
    # Behind the host, whose numbers are not sizes.
    path = max(url.find("/", 8), 8)
    return _SMALL.search(url.lower(), path, _MAX_URL) is not None and _copy_by_url(url).edge < MIN_RESULT


def is_larger_copy(url: str, other: str) -> bool:
    """Check whether two URLs are copies of one image, and the first one the larger of them.

    A size may also be the last segment of the path, which elsewhere may as well be a number.
    """
    one, two = (_copy_by_url(_SIZE_AT_END.sub(r"\1/", each, count=1)) for each in (url, other))
    return one.name == two.name and one.edge > two.edge


def smaller_copies(copies: Sequence[Copy]) -> set[int]:
    """Return the positions of those that are smaller than another copy of the same image."""
    order = sorted(range(len(copies)), key=lambda position: copies[position].name)
    smaller: set[int] = set()
    for _, group in groupby(order, lambda position: copies[position].name):
        positions = list(group)
        largest = max(copies[position].edge for position in positions)
        smaller |= {position for position in positions if copies[position].edge < largest}
    return smaller


def _copy_by_url(url: str) -> Copy:
    address, _, query = url[:_MAX_URL].partition("#")[0].partition("?")
    edges: list[int] = []

    def take(match: re.Match[str]) -> str:
        edges.append(_edge_of_name(match[1]))
        return ""

    path = _OPTIONS.sub(take, _IN_PATH.sub(take, _IN_NAME.sub(take, address)))
    folder, slash, name = path.rpartition("/")
    path = folder + slash + _IN_NAME.sub(take, _BEHIND.sub(take, name))
    kept = []
    for parameter in filter(None, query.split("&")):
        key, _, value = parameter.partition("=")
        if key.lower() in _SIZE_PARAMETERS or "process" in key.lower() or key.startswith("image"):
            edges.append(_edge_of_name(value or key))
        elif key.lower() not in _OTHER_PARAMETERS and not _SIGNATURE.match(key.lower()):
            kept.append(parameter)
    named = [edge for edge in edges if edge]
    return Copy("?".join([_ENDING.sub("", path), *kept]), min(named, default=UNNAMED))


def _edge_of_name(name: str) -> int:
    """Return the edge that the name of a size means, 0 if it means none: the quality of a JPEG, a style."""
    known = _NAMES.get(name.lower())
    if known:
        return known
    if name.lower() in {"1x", "2x", "3x", "4x"}:
        # A file without a factor is the one of factor 1.
        return UNNAMED + int(name[0]) - 1
    numbers = [int(number) for number in _DIGITS.findall(name)]
    return max((number for number in numbers if 16 <= number <= 8192), default=0)


def edge_of_label(label: str) -> int:
    """Return the edge that a label means if it says nothing but a size, else 0."""
    if not label or len(label) > _MAX_LABEL:
        return 0
    edges: list[int] = []

    def take_area(match: re.Match[str]) -> str:
        edges.append(max(int(match[1]), int(match[2])))
        return " "

    def take_number(match: re.Match[str]) -> str:
        edges.append(int(match[1] or match[3]) * (1024 if match[2] in {"k", "K"} else 1))
        return " "

    rest = _LABEL_NUMBER.sub(take_number, _AREA.sub(take_area, label))
    for edge, pattern in zip(_EDGES, SIZE_WORDS, strict=True):
        if pattern.search(rest):
            edges.append(edge)
            rest = pattern.sub(" ", rest)
    rest = _FILLERS.sub(" ", RESULT_WORDS.sub(" ", rest))
    edge = max(edges, default=0)
    return edge if edge >= 64 and not any(map(str.isalnum, rest)) else 0
