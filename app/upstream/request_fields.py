"""Find the field of the request that an upstream's error is about, and whether Limner or the client has filled it."""

import re
from functools import lru_cache

from app.upstream.error_body import UpstreamErrorBody, plain_path
from app.upstream.error_words import CLIENTS_INPUT

#: Fields of a chat request that the client cannot fill, or only in Limner's name (`metadata`, `user`).
_FIELDS = (
    *("model", "messages", "modalities", "image_config", "extra_body"),
    *("metadata", "stream", "stream_options", "user"),
)
_LIMNERS = re.compile(rf"(?:{'|'.join(_FIELDS)})(?:\..*)?")
#: The parts of a message that hold what the client sent: its prompt and its images.
_CLIENTS_PART = re.compile(r"messages(?:\.[0-9]+)?\.content\b.*")
#: Upstreams that take a message's content as one text, and no list of parts.
_WANTS_TEXT = re.compile(
    r"(?:be|expected|expects) (?:an? )?(?:valid )?str(?:ing)?\b(?! (?:with|of))|string_type|\bstr type expected"
    r"|of type string\b",
    re.IGNORECASE,
)
#: Upstreams that expect other parts of a message than Limner writes, whatever these hold.
_WANTS_OTHER_PARTS = re.compile(
    r"\bfield required\b|\bunknown variant\b|inputs are not permitted|unknown (?:content|part) type"
    r"|content type .{0,40}not supported",
    re.IGNORECASE,
)
_UNKNOWN = r"(?:unknown|unrecognized|unexpected|unsupported|extra|additional|invalid)"
_IS_UNKNOWN = re.compile(
    rf"\b{_UNKNOWN}\b|not (?:permitted|allowed|supported)|only allowed|extra_forbidden", re.IGNORECASE
)
#: The field itself is not known, whatever its value. "Unsupported size" may be about the value alone.
_NAME_IS_UNKNOWN = re.compile(
    r"""
      \b(?:unknown|unrecognized|unexpected|unsupported|extra|additional) [ _] (?:\w+[ ]){0,3}
      (?:param|argument|arg\b|field|propert|key|name|input|option)
    | \b(?:param\w*|argument|field|property|option)s? \b (?:(?!\bvalue)[^.!?]){0,40}
      \b(?:not[ ](?:supported|allowed|permitted|recognized|known|accepted)|only[ ]allowed)
    | \bdo(?:es)?[ ]not[ ](?:support|accept|allow|have|know)[ ] (?:(?!\bvalue)[^.!?]){0,40}
      \b(?:param|argument|field|option)
    | extra_forbidden | inputs?[ ]are[ ]not[ ]permitted | unexpected[ ]keyword
    """,
    re.VERBOSE | re.IGNORECASE,
)


def limners_field(body: UpstreamErrorBody) -> str | None:
    """Return the field of the request that an error is about, if only Limner or its configuration fills that field."""
    if body.named_fields:
        return next(filter(None, (_limners(path, body) for path in body.named_fields)), None)
    found = _pattern(tuple(body.facts.dialect_fields)).search(body.searchable)
    if found is None:
        return None
    name = "messages.content" if found["parts"] else next(filter(None, found.groups())).lower()
    return _limners(plain_path(name), body)


@lru_cache(maxsize=64)
def _pattern(dialect_fields: tuple[str, ...]) -> re.Pattern[str]:
    """Return what finds a field that is named in words. Names that are words of a language need a sign beside them."""
    names = {name for path in dialect_fields for name in (path, *path.split("."))}
    distinct = {name for name in (*names, *_FIELDS) if re.search(r"[^a-z]", name)} | {"modalities"}
    every, own = _any_of({*names, *_FIELDS}), _any_of(names - distinct - {*_FIELDS})
    return re.compile(
        rf"""
          \b(?P<distinct>{_any_of(distinct)})\b
        | ['"`](?P<quoted>{every})['"`]
        | {_UNKNOWN} [ ] (?:\w+[ ]){{0,3}} (?:parameter|argument|field|property|key|name|input)s? (?:[ ]supplied)?
          :? [ ] (?P<listed>{every})\b
        | \b (?P<path>messages (?:\[[0-9]{{1,4}}\] | \.[0-9]{{1,4}}\b) (?:\.\w+ | \[[0-9]{{1,4}}\])*)
        | ^ (?P<first>metadata|messages|stream|user|{own}) (?:\.\w+)* : [ ]
        | \b (?P<switch>stream) (?:ing)? \b [ ] (?:parameter|mode|must|is[ ](?:not|required)) | \b (?P<only>stream)[ ]?=
        | \bsupports? [ ] (?:only[ ])? (?P<kind>stream)
        | (?P<parts> content [ ] (?:must|should) [ ] be [ ] (?:a[ ])? string
            | invalid [ ] type: [ ] sequence, [ ] expected [ ] a [ ] string
            | cannot [ ] unmarshal [ ] array [ ] into [ ] [^!?]{{0,80}} \bcontent [ ] of [ ] type [ ] string)
        | \b (?P<noun>{own}) [ ] (?:parameter|argument|field|property|option)\b
        | \b (?:parameter|argument|field|property|option) :? [ ] (?P<named>{own})\b
        """,
        re.VERBOSE | re.IGNORECASE,
    )


def _any_of(names: set[str]) -> str:
    """Return a pattern of any of these names, the longest first; of none, one that never matches."""
    return "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name))) or r"(?!)"


def _limners(path: str, body: UpstreamErrorBody) -> str | None:
    """Return the name of the field at a path, None where the client has filled it or it is not in the request."""
    root = path.partition(".")[0]
    if root == "messages" or path in {"metadata", "user"}:
        return None if _is_clients(path, body) else root
    for field in body.facts.dialect_fields:
        if name := _common_name(path, field):
            is_own = field in body.facts.client_fields and not _NAME_IS_UNKNOWN.search(body.searchable)
            return None if is_own else name
    return root if _LIMNERS.fullmatch(path) and not _is_clients(path, body) else None


def _common_name(path: str, field: str) -> str:
    """Return the field, or the part of it that a path means; empty if it means another field.

    Upstreams name fields by their last step, by their own path to it, or by another spelling: for Google
    `image_config.aspect_ratio` is `generationConfig.imageConfig.aspectRatio`.
    """
    steps, field_steps = _plain_steps(path), _plain_steps(field)
    if field_steps[-1] in steps:
        return field
    depth = field_steps.index(steps[-1]) + 1 if steps[-1] in field_steps else 0
    return ".".join(field.split(".")[:depth])


def _plain_steps(path: str) -> list[str]:
    return [re.sub("[_-]", "", step).lower() for step in path.split(".")]


def _is_clients(path: str, body: UpstreamErrorBody) -> bool:
    """Return whether what a field holds came from the client: its images and prompt, its own metadata or user."""
    root = path.partition(".")[0]
    if root == "messages":
        wants_text = path.endswith("content") and _WANTS_TEXT.search(body.searchable)
        is_form = wants_text or _WANTS_OTHER_PARTS.search(body.searchable)
        return not is_form and bool(_CLIENTS_PART.fullmatch(path) or CLIENTS_INPUT.search(body.searchable))
    is_own = root in body.facts.client_fields
    return is_own and (root == "metadata" or not _IS_UNKNOWN.search(body.searchable))
