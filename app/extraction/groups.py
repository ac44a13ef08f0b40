"""Give images that stand together the words above the first of them: "Similar works:" is said once for all."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from app.extraction.mentions import IMAGE_MARKUP, UrlMention
from app.extraction.standing import is_unrelated

_EMPTY_LINE = re.compile(r"\n[ \t>]*\r?\n")
_LIST_ITEM = re.compile(r"\n[ \t>]*(?:[-*+•]|[0-9]{1,2}[.)、])[ \t]")


def with_shared_words(text: str, mentions: Sequence[UrlMention]) -> Iterator[UrlMention]:
    """Yield the mentions; an image without words of its own has those of the image above, if no empty line is between.

    Items of a list are alike. Elsewhere "Source:" is about the image behind it alone: the next one may be the result.
    """
    yield from mentions[:1]
    shared = mentions[0].before if mentions else ""
    for previous, mention in pairwise(mentions):
        if _is_in_group(text, previous, mention, shared):
            yield replace(mention, before=shared)
        else:
            shared = mention.before
            yield mention


def _is_in_group(text: str, previous: UrlMention, mention: UrlMention, shared: str) -> bool:
    are_images = previous.kind in IMAGE_MARKUP and mention.kind in IMAGE_MARKUP
    if not (shared and are_images) or any(map(str.isalnum, mention.before)):
        return False
    gap = text[previous.end : mention.start]
    is_alike = _LIST_ITEM.search(gap) is not None or not is_unrelated(shared, "")
    return is_alike and _EMPTY_LINE.search(gap) is None
