"""Recognize the poster of a video: the still that stands for it, which is no image that somebody asked for.

A video beside an image does not make it one: upstreams show how an image was painted, or offer to animate it.
"""

import re
from collections.abc import Collection

from app.extraction.mentions import UrlMention
from app.extraction.standing import MAX_LABEL, last_clause
from app.extraction.urls import file_name
from app.extraction.words import POSTER_WORDS, PREVIEW_WORDS

_ENDING = re.compile(r"\.[A-Za-z0-9]{2,5}$")
_POSTER_NAME = re.compile(
    r"(?:^|[/_.-])(?:poster|cover|thumb(?:nail)?|frame|snapshot|still)s?(?=[/_.?0-9-]|$)", re.IGNORECASE
)
#: Characters of a URL that are searched for such a name.
_MAX_URL = 300


def is_poster(mention: UrlMention, videos: Collection[str]) -> bool:
    """Check for a poster of one of the videos of the same text: by the link around it, its words or its name."""
    if not videos or mention.url in videos:
        return False
    link = mention.enclosing_link
    words = (last_clause(mention.before), mention.label[:MAX_LABEL])
    return (
        (link is not None and link.url in videos)
        or any(POSTER_WORDS.search(text) or PREVIEW_WORDS.search(text) for text in words)
        or _POSTER_NAME.search(mention.url.partition("?")[0][:_MAX_URL]) is not None
        or any(_is_named_after(mention.url, video) for video in videos)
    )


def _is_named_after(image: str, video: str) -> bool:
    """Check for the name of the video with another ending, and perhaps more behind the name: "v.mp4" and "v_1.jpg"."""
    name, stem = (_ENDING.sub("", file_name(url)) for url in (image, video))
    return bool(stem) and name.startswith(stem) and not name[len(stem) :][:1].isalnum()
