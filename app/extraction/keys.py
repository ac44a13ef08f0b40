"""What the keys of JSON objects say about the strings below them, in English and in other languages."""

import re
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import TypeVar

from app.extraction.words import (
    CHANGED_WORDS,
    DECORATION_WORDS,
    IMAGE_KEYS,
    INPUT_WORDS,
    LINK_KEYS,
    ORIGINAL_WORDS,
    PREVIEW_WORDS,
    RESULT_KEYS,
    UNCHANGED_WORDS,
)

_Key = TypeVar("_Key", bound=Hashable)

#: Characters of a key that are read.
_MAX_KEY = 80

#: A word of a key: camelCase, snake_case and kebab-case are all split.
_KEY_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")

#: What says in a key that an image has no mark of the vendor over it, which is all that is to be said.
_UNMARKED = re.compile(
    r"(?:(?:no|non|without|clean|remove|removed)[_-]?|(?<![a-z])un)watermark(?:ed|s)?|watermark[_-]?(?:free|less|removed)",
    re.IGNORECASE,
)

#: A key with one of these words holds what is never the result: the input, reasoning, a citation, a thumbnail.
UNRELATED_KEYS = frozenset(
    """
    api arguments audio avatar callback cancel citation citations cover debug doc docs documentation draft
    error errors favicon frame get grounding help homepage icon init input inputs log logo logprobs logs mask messages
    moderation page parameters partial permalink policy poster preview previews profile prompt reasoning ref
    reference referenced references refusal request search self sources status support terms thinking thought
    thoughts thumb thumbnail thumbnails thumbs tmb usage video videos web webhook website
    """.split()
)
#: The same, unless the key also says that it is a result: these belong to somebody else or to an earlier request.
FOREIGN_KEYS = frozenset(
    """
    history params previous query question recommendations recommended related suggestions user
    """.split()
)
#: A key or a label with one of these words holds an image that counts less than any other: one that the client has sent
#: to be used, an advertisement, or one with the mark of the vendor over it. A product may as well paint such images, so
#: they count where there is nothing else.
SECONDARY_KEYS = frozenset(
    """
    ad ads advert banner before canny compressed control controlnet depth intermediate intermediates pose promo
    promotion qr qrcode sponsor sponsored style template watermark watermarked
    """.split()
)
#: Two kinds of keys that mean the image before and the image after the change where both stand in one object. Alone
#: they mean nothing: "original" is the largest copy beside a thumbnail.
UNCHANGED_KEYS = frozenset("base before from in initial old original raw source src temp temporary".split())
CHANGED_KEYS = frozenset(
    """
    after changed dest destination dst edited enhanced final generated modified new out output outputs processed
    result results to transformed upscaled
    """.split()
)
#: A key with one of these words lists copies of the image beside it.
COPIES_WORDS = frozenset("crops formats renditions resolutions sizes variants versions".split())
IMAGE_WORDS = frozenset(
    """
    artwork gif image images img imgs jpeg jpg photo photos pic pics picture pictures png sample samples webp
    """.split()
)
LINK_WORDS = frozenset("href link links src uri uris url urls".split())
BYTES_WORDS = frozenset("b64 base64 bytes blob".split())
#: A key with one of these words holds text of the model, which is searched like the text of a message.
TEXT_WORDS = frozenset(
    """
    answer body caption content data markdown message msg output outputs reply response result results text
    value
    """.split()
)
NAMING_WORDS = LINK_WORDS | TEXT_WORDS
#: A key of these words alone names the result. "recharge_url" does not: what it leads to must be looked at.
RESULT_KEY_WORDS = (
    NAMING_WORDS
    | IMAGE_WORDS
    | frozenset(
        """
        asset cdn delivery direct download external file final full generated hd hosted media object oss original
        presigned public raw remote s3 s signed temp temporary
        """.split()
    )
)
#: Meanings of keys in other languages, as the English word with the same meaning.
_MEANINGS = ((IMAGE_KEYS, "image"), (LINK_KEYS, "url"), (RESULT_KEYS, "result"), (PREVIEW_WORDS, "thumbnail"))
#: Only for keys in other scripts: in English these words have other meanings as keys.
_OTHER_MEANINGS = (
    (INPUT_WORDS, "input"),
    (ORIGINAL_WORDS, "original"),
    (UNCHANGED_WORDS, "original"),
    (CHANGED_WORDS, "edited"),
    (DECORATION_WORDS, "logo"),
)
_KNOWN_WORDS = UNRELATED_KEYS | FOREIGN_KEYS | BYTES_WORDS | RESULT_KEY_WORDS
#: What the label of an image may consist of to be more than a description of what the image shows.
_LABEL_WORDS = _KNOWN_WORDS | SECONDARY_KEYS | UNCHANGED_KEYS | CHANGED_KEYS
_NO_RESULT = SECONDARY_KEYS | FOREIGN_KEYS | UNRELATED_KEYS


def words_of(key: str) -> frozenset[str]:
    """Split a key into lower-case words, each with and without its number at the end. Only its first part is read.

    A word of two known words counts as both of them: "imageurl". A key in another language counts as the English words
    with the same meaning.
    """
    return _words_of(key[:_MAX_KEY])


# Keys are cut first: upstreams choose them, and what is remembered stays in memory.
@lru_cache(1024)
def _words_of(key: str) -> frozenset[str]:
    key = _UNMARKED.sub("", key)
    words = [word.lower() for word in _KEY_WORD.findall(key)]
    words += [word.rstrip("0123456789") for word in words]
    parts = {part for word in words if word not in _KNOWN_WORDS for part in _split(word)}
    text = " ".join(words) if key.isascii() else key.replace("_", " ")
    meanings = _MEANINGS if key.isascii() else (*_MEANINGS, *_OTHER_MEANINGS)
    found = {meaning for pattern, meaning in meanings if pattern.search(text)}
    return frozenset(parts | found | {word for word in words if word in _KNOWN_WORDS or not _split(word)})


def _split(word: str) -> tuple[str, ...]:
    """Split a word into two known words, nothing where it has no two."""
    splits = ((word[:end], word[end:]) for end in range(2, len(word) - 1))
    return next((pair for pair in splits if pair[0] in _KNOWN_WORDS and pair[1] in _KNOWN_WORDS), ())


def is_unrelated(words: frozenset[str]) -> bool:
    """Check for the words of a key whose value is not the result."""
    is_foreign = not words.isdisjoint(FOREIGN_KEYS) and words.isdisjoint(CHANGED_KEYS)
    return is_foreign or not words.isdisjoint(UNRELATED_KEYS)


def words_of_label(label: str) -> frozenset[str]:
    """Split the label of an image into words, none where the label describes what the image shows."""
    words = words_of(label)
    return words if words <= _LABEL_WORDS else frozenset()


def names_secondary(words: frozenset[str]) -> bool:
    """Check for the words of a key or a label whose image counts only where there is nothing better."""
    return not words.isdisjoint(_NO_RESULT) and words.isdisjoint(CHANGED_KEYS)


def unchanged_among(named: Mapping[_Key, frozenset[str]]) -> frozenset[_Key]:
    """Return which of several keys or labels, given with their words, name the image before a change."""
    if all(words.isdisjoint(CHANGED_KEYS) for words in named.values()):
        return frozenset()
    return frozenset(key for key, words in named.items() if words & UNCHANGED_KEYS and not words & CHANGED_KEYS)
