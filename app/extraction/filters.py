"""Decide whether a candidate is an image that can be delivered: its normalized URL, or the reason against it.

`CandidateFilter` judges a candidate by its URL or bytes. The functions judge it by its label and the words before it.
"""

import re
from collections.abc import Collection
from functools import lru_cache

from app.extraction.base64_runs import Base64Run
from app.extraction.copies import is_larger_copy, is_small_copy
from app.extraction.own_links import ClientTexts
from app.extraction.urls import UrlKind, classify_url, file_name, is_placeholder, may_be_image, normalize_url
from app.extraction.words import (
    ASIDE_WORDS,
    AWAY_WORDS,
    CHANGED_WORDS,
    INPUT_WORDS,
    PREVIEW_WORDS,
    RESULT_NAMES,
    UNMARKED,
    UNRELATED_WORDS,
    WATERMARKED,
)
from app.protocol.data_url import image_data_url
from app.protocol.image_format import ImageInfo, bytes_reader, is_complete, sniff

#: Characters of a label that are read. Longer labels repeat the prompt.
MAX_LABEL = 80
#: Edge of the largest image that counts as a tracking pixel.
_MAX_TRACKING_EDGE = 3
#: Characters of a URL that are searched for the words of its path.
_MAX_PATH = 300

_SECONDARY_PATH = re.compile(
    r"(?:^|[/_.-])(?:thumb(?:nail)?s?|previews?|drafts?|tmb|logo|icons?|favicons?|emojis?|flags?|avatars?|banners?|qr(?:code)?|ads?"
    r"|advert\w*|(?<=/)(?:header|footer|divider|separator)(?=\.)|(?<!no[_-])(?<!non[_-])(?<!without[_-])watermark(?:ed)?)(?=[/_.?-]|$)",
    re.IGNORECASE,
)
#: Searched in the label only: the line above a result often counts up to 100 %.
_PROGRESS = re.compile(r"\b[0-9]{1,3}\s?%|progress|进度", re.IGNORECASE)
_SAMPLE_CODE = re.compile(
    r"(?:^|[\s$>#`])(?:curl|wget|aria2c|axel|iwr|Invoke-WebRequest|https?ie?)\s(?:.*\s)?[\"'`<(]?$|[\w.](?<!\burl)\([rf]?[\"'`]$",
    re.IGNORECASE,
)
_ORIGINAL_SIZE = re.compile(
    r"\boriginal(?:er?|n?e)?[- ]?(?:size|resolution|quality|größe|auflösung)|(?:taille|résolution) originale"
    r"|(?:tamaño|tamanho|resolución|resolução) original"
    r"|原始(?:尺寸|大小|分辨率|解析度)|元のサイズ|원본 (?:크기|해상도)",
    re.IGNORECASE,
)
#: A name in front of a URL has at most this many characters, and a colon behind it.
_MAX_NAME, _AROUND_NAME = 30, " \t*_#>|-:："
_NAME = re.compile(rf"[ \t*_#>|-]*[^\s:：*][^:：.!?。！？]{{0,{_MAX_NAME - 1}}}[:：][ \t*_`<(]*")
_CLAUSE_END = re.compile(r"[。！？!?；;，,](?=.)|\.\s+(?=.)")

_NOT_IMAGES = (UrlKind.VIDEO, UrlKind.OTHER_FILE)


class CandidateFilter:
    """Accept candidates that are images and that the client did not send.

    The reasons of rejections are shown by `limner explain` and are translated on the page (`app/web/explainer.js`).
    """

    def __init__(self, sent: Collection[str]) -> None:
        """`sent`: what the client itself has sent: URLs and data URLs of its images, and texts that may have more."""
        self.client = ClientTexts(sent)

    def check(self, value: str | Base64Run) -> tuple[str, str]:
        """Return the normalized URL and an empty reason, or an empty URL and the reason in plain words."""
        return self._check_run(value) if isinstance(value, Base64Run) else self._check_url(value)

    def _check_url(self, value: str) -> tuple[str, str]:
        url = normalize_url(value)
        if url is None:
            return "", "it is no http or https address"
        if is_placeholder(url):
            return "", "it stands where a picture belongs, but is none"
        if (kind := classify_url(url)) in _NOT_IMAGES:
            return "", f"it leads to {kind.value}"
        if self.client.has_link(url):
            return "", "the client itself had sent it"
        return url, ""

    def _check_run(self, run: Base64Run) -> tuple[str, str]:
        try:
            data = run.decode()
        except ValueError:
            return "", "it is not base64"
        info = sniff(data)
        if info is None:
            return "", "its bytes are no image"
        if not is_complete(bytes_reader(data), len(data)):
            return "", "its bytes are cut off"
        if is_tracking_pixel(info):
            return "", "it is a single pixel, which stands where a picture belongs"
        return ("", "the client itself had sent it") if self.client.has_image(data) else (image_data_url(data), "")


def is_tracking_pixel(info: ImageInfo) -> bool:
    """Check for an image that nobody sees: a few pixels that count readers or keep a place."""
    return (
        info.width is not None
        and info.height is not None
        and (min(info.width, info.height) == 1 or max(info.width, info.height) <= _MAX_TRACKING_EDGE)
    )


def is_secondary(words: str, label: str, url: str) -> bool:
    """Check for an image beside the result: a preview, the input, a logo, an advertisement."""
    return (
        _says_secondary(last_clause(words))
        or _says_secondary(label[:MAX_LABEL])
        or _PROGRESS.search(label[:MAX_LABEL]) is not None
        or _SECONDARY_PATH.search(url.partition("?")[0][:_MAX_PATH]) is not None
        or is_small_copy(url)
    )


def says_beside(words: str, label: str) -> bool:
    """Check for words of an image that is not the result in whatever size: the input, a logo, an advertisement."""
    return any(
        pattern.search(text)
        for pattern in (INPUT_WORDS, ASIDE_WORDS)
        for text in (last_clause(words), label[:MAX_LABEL])
    )


def leads_to_larger_image(link: str, image: str) -> bool:
    """Check whether the link around an image leads to the whole image, unless one of the names says otherwise.

    A link that says nothing of what it leads to counts only if it is the same address but for a larger size: it may be
    a page, or a button that costs money.
    """
    if classify_url(link) is UrlKind.IMAGE:
        # A link for saving the same file leads to no larger one.
        is_same = "download" in link and file_name(link) == file_name(image)
        return not is_same and not (is_small_copy(link) and is_larger_copy(image, link))
    return may_be_image(link) and is_larger_copy(link, image)


def is_unrelated(words: str, label: str) -> bool:
    """Check for an image that is not the result even if there is no other: a source, a search result."""
    return _says_unrelated(last_clause(words)) or _says_unrelated(label[:MAX_LABEL])


def leads_away(words: str, label: str) -> bool:
    """Check for words that send the reader elsewhere: to an example, to documentation."""
    return _says_away(last_clause(words)) or _says_away(label[:MAX_LABEL])


def is_name(words: str) -> bool:
    """Check for a name in front of a URL, in place of a sentence: "Depth map:"."""
    return _NAME.fullmatch(words) is not None


@lru_cache(4096)
def names_result(words: str) -> bool:
    """Check for a name that is one for the result: "Final image:", "Result"."""
    name = words.strip(_AROUND_NAME)
    return len(name) <= _MAX_NAME and any(pattern.search(name) for pattern in (RESULT_NAMES, CHANGED_WORDS))


# Upstreams say the same words with each image, and patterns with words of many languages are slow.
@lru_cache(4096)
def _says_secondary(text: str) -> bool:
    is_marked = WATERMARKED.search(text) is not None and UNMARKED.search(text) is None
    # "Original resolution" says how large an image is, "original" that it is the one before the change.
    text = _ORIGINAL_SIZE.sub("", text)
    return is_marked or any(pattern.search(text) for pattern in (PREVIEW_WORDS, INPUT_WORDS, ASIDE_WORDS))


@lru_cache(4096)
def _says_away(text: str) -> bool:
    return AWAY_WORDS.search(text) is not None


@lru_cache(4096)
def says_change(text: str) -> bool:
    """Check for words that call an image the one after a change."""
    return CHANGED_WORDS.search(text) is not None


@lru_cache(4096)
def _says_unrelated(text: str) -> bool:
    found = UNRELATED_WORDS.finditer(text)
    # "Light sources: two lamps" says what an image shows: a name in front of other words begins its clause.
    return any(match.start() == 0 or match.end() == len(text.rstrip()) or match[0][-1] not in ":：" for match in found)


def is_sample_code(words: str) -> bool:
    """Check for a URL that is an argument of a command or a function: such code may run before the image is there."""
    return _SAMPLE_CODE.search(words) is not None


@lru_cache(4096)
def last_clause(words: str) -> str:
    """Return the clause that is about the URL behind it.

    In "from your reference, here is the picture: …" the first clause is about another image. A name such as
    "input_image" becomes words.
    """
    return _CLAUSE_END.split(words.rstrip(" ，,。"))[-1].replace("_", " ")
