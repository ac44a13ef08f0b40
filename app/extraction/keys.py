"""What the keys of JSON objects say about the strings below them, in English and in other languages."""

import re
from functools import lru_cache

from app.extraction.words import ASIDE_WORDS, IMAGE_KEYS, INPUT_WORDS, LINK_KEYS, PREVIEW_WORDS, RESULT_KEYS

#: A word of a key: camelCase, snake_case and kebab-case are all split.
_KEY_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")

#: A key with one of these words holds something beside the result: the input, reasoning, a citation, a thumbnail.
AUXILIARY_WORDS = frozenset(
    """
    api arguments audio avatar callback cancel citation citations cover debug doc docs documentation draft
    error errors favicon get grounding help homepage icon init input inputs logo logprobs mask messages
    moderation page parameters partial permalink policy poster preview previews prompt reasoning ref reference
    referenced references refusal request search self sources status support terms thinking thought thoughts
    thumb thumbnail thumbnails thumbs tmb usage video videos watermark web webhook website
    """.split()
)
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
_OTHER_MEANINGS = ((INPUT_WORDS, "input"), (ASIDE_WORDS, "logo"))
_KNOWN_WORDS = AUXILIARY_WORDS | BYTES_WORDS | RESULT_KEY_WORDS


@lru_cache(1024)
def words_of(key: str) -> frozenset[str]:
    """Split a key into lower-case words, each with and without its number at the end.

    A word of two known words counts as both of them: "imageurl". A key in another language counts as the English words
    with the same meaning.
    """
    words = [word.lower() for word in _KEY_WORD.findall(key[:80])]
    words += [word.rstrip("0123456789") for word in words]
    parts = {part for word in words if word not in _KNOWN_WORDS for part in _split(word)}
    text = " ".join(words) if key.isascii() else key[:80].replace("_", " ")
    meanings = _MEANINGS if key.isascii() else (*_MEANINGS, *_OTHER_MEANINGS)
    found = {meaning for pattern, meaning in meanings if pattern.search(text)}
    return frozenset(parts | found | {word for word in words if word in _KNOWN_WORDS or not _split(word)})


def _split(word: str) -> tuple[str, ...]:
    """Split a word into two known words, nothing where it has no two."""
    splits = ((word[:end], word[end:]) for end in range(2, len(word) - 1))
    return next((pair for pair in splits if pair[0] in _KNOWN_WORDS and pair[1] in _KNOWN_WORDS), ())
