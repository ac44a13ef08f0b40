"""Read a body that is neither JSON nor events: a reply in plain text or HTML, or the page of a server in between."""

import re
from collections.abc import Sequence

import orjson

#: Characters that are searched for parts of a page.
_MAX_SEARCHED = 64 * 1024
#: What pages are made of and no sentence is, whatever language it is in.
_PAGE = re.compile(
    r"<(?:title|script|style|link|form|input|button|iframe|center|noscript|h1|hr|nav|footer)[\s/>]", re.IGNORECASE
)
#: What stands around any text that some program has turned into HTML.
_SHELL = re.compile(r"<\?xml[^<>]{0,200}>|<!doctype[^<>]{0,200}>|</?(?:html|head|body)\b[^<>]{0,300}>", re.IGNORECASE)


def words_in(body: str) -> str:
    """Return the text of a body: of a JSON string without its quotes, of HTML without the tags around it."""
    start = body.lstrip()[:1]
    if start == "<":
        return _SHELL.sub("", body)
    try:
        document = orjson.loads(body) if start == '"' else body
    except orjson.JSONDecodeError:
        return body
    return str(document)


def join_words(pieces: Sequence[str]) -> str:
    """Return the text that events without JSON objects carry: strings of JSON, words with their blanks, or lines."""
    if all(piece.startswith('"') for piece in pieces):
        return "".join(map(words_in, pieces))
    has_blanks = any(piece != piece.strip() for piece in pieces)
    return ("" if has_blanks else "\n").join(pieces)


def is_page(body: str) -> bool:
    """Return whether a body is an HTML page for people, by which servers in between say that something failed.

    The links and icons of such a page are not a result. A sentence in HTML has none of the parts of a page.
    """
    return _PAGE.search(body, 0, _MAX_SEARCHED) is not None
