"""How much an image counts by the words around it and by its address: as a result, or only where there is no result."""

import re
from enum import IntEnum
from functools import lru_cache

from app.extraction.copies import is_small_copy
from app.extraction.words import (
    CHANGED_WORDS,
    CONTROL_NAMES,
    DECORATION_WORDS,
    EXAMPLE_WORDS,
    INPUT_WORDS,
    ORIGINAL_WORDS,
    PREVIEW_WORDS,
    RESULT_NAMES,
    STEP_NAMES,
    UNMARKED,
    UNRELATED_WORDS,
    WATERMARKED,
)

#: Characters of a label that are read. Longer labels repeat the prompt.
MAX_LABEL = 80
#: Characters of a URL that are searched for the words of its path.
_MAX_PATH = 300
#: A name in front of a URL has at most this many characters, and a colon behind it.
_MAX_NAME, _AROUND_NAME = 30, " \t*_#>|-:："

#: Parts of paths, in lower case, which is searched in half the time: those of decorations in the first group.
_SECONDARY_PATH = re.compile(
    r"(?:^|[/_.-])(?:(logo|icons?|favicons?|emojis?|flags?|avatars?|banners?|qr(?:code)?|ads?|advert\w*|(?<=/)examples(?=/)|(?<=//)(?:docs|help|support)(?=\.)"
    r"|(?<=/)(?:header|footer|divider|separator)(?=\.))"
    r"|thumb(?:nail)?s?|previews?|drafts?|tmb|(?<!no[_-])(?<!non[_-])(?<!without[_-])watermark(?:ed)?)(?=[/_.?-]|$)"
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
_NAME = re.compile(rf"[ \t*_#>|-]*[^\s:：*][^:：.!?。！？]{{0,{_MAX_NAME - 1}}}[:：][ \t*_`<(]*")
_CLAUSE_END = re.compile(r"[。！？!?；;，,](?=.)|\.\s+(?=.)")


class Standing(IntEnum):
    """How much a candidate counts: the lowest number first. Where a reply has no result, its next best images count.

    A candidate that never counts, not even alone, has no standing but a reason for its rejection.
    """

    RESULT = 0
    #: Perhaps the result: "original" is the largest copy beside a preview, and the input beside a result. A mask is no
    #: result where there are others.
    DOUBTFUL = 1
    #: A smaller, earlier or blurred copy of the result.
    PREVIEW = 2
    #: What the result was made of, or an earlier result.
    INPUT = 3
    #: What has another purpose: marks of the vendor, avatars, advertisements, examples.
    DECORATION = 4


def standing_of(words: str, label: str, url: str) -> Standing:
    """Return the standing of an image. `words`: those in front of it; `label`: what is shown in place of its URL."""
    label = label[:MAX_LABEL]
    path = _SECONDARY_PATH.search(url.partition("?")[0][:_MAX_PATH].lower())
    if path is not None:
        by_url = Standing.DECORATION if path[1] else Standing.PREVIEW
    else:
        by_url = Standing.PREVIEW if is_small_copy(url) or _PROGRESS.search(label) else Standing.RESULT
    return max(_standing_by(last_clause(words)), _standing_by(label), by_url)


def standing_of_copy(words: str, label: str) -> Standing:
    """Return the standing of the whole image behind a small one, by the words around that: "preview" is said of it."""
    standing = max(_standing_by(last_clause(words)), _standing_by(label[:MAX_LABEL]))
    return Standing.RESULT if standing is Standing.PREVIEW else standing


# Upstreams say the same words with each image, and patterns with words of many languages are slow.
@lru_cache(4096)
def _standing_by(text: str) -> Standing:
    is_marked = WATERMARKED.search(text) is not None and UNMARKED.search(text) is None
    # "Original resolution" says how large an image is, "original" that it is the one before the change.
    text = _ORIGINAL_SIZE.sub("", text)
    if DECORATION_WORDS.search(text):
        return Standing.DECORATION
    if INPUT_WORDS.search(text):
        return Standing.INPUT
    if is_marked or PREVIEW_WORDS.search(text):
        return Standing.PREVIEW
    name = text.strip(_AROUND_NAME)
    is_doubtful = ORIGINAL_WORDS.search(text) or CONTROL_NAMES.fullmatch(name)
    return Standing.DOUBTFUL if is_doubtful else Standing.RESULT


def is_unrelated(words: str, label: str) -> bool:
    """Check for an image that is not the result even if there is no other: a source, a search result."""
    return _says_unrelated(last_clause(words)) or _says_unrelated(label[:MAX_LABEL])


def shows_example(words: str, label: str) -> bool:
    """Check for words of an example or of documentation."""
    return _says_example(last_clause(words)) or _says_example(label[:MAX_LABEL])


def is_name(words: str) -> bool:
    """Check for a name in front of a URL, in place of a sentence: "Depth map:"."""
    return _NAME.fullmatch(words) is not None


def names_result(words: str) -> bool:
    """Check for a name that is one for the result: "Final image:", "Result"."""
    name = words.strip(_AROUND_NAME)
    # A label may have any length, and what is remembered stays in memory.
    return len(name) <= _MAX_NAME and _is_name_of_result(name)


@lru_cache(4096)
def _is_name_of_result(name: str) -> bool:
    return any(pattern.search(name) for pattern in (RESULT_NAMES, CHANGED_WORDS))


@lru_cache(4096)
def says_result(text: str) -> bool:
    """Check for words that call an image a result, or the one after a change."""
    return CHANGED_WORDS.search(text) is not None or names_result(text)


def names_step(text: str) -> bool:
    """Check for the name of a step on the way to a result: "Step 2"."""
    return STEP_NAMES.match(text.strip(_AROUND_NAME)) is not None


@lru_cache(4096)
def _says_example(text: str) -> bool:
    return EXAMPLE_WORDS.search(text) is not None


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
