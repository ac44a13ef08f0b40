"""How operators write values: lists, lengths of time, and marks that were copied along with a value.

A shell and `.env` remove quotation marks, and put the value in the place of a variable's name. `docker run --env-file`,
the manifests of Kubernetes and most control panels do neither, so that both become a part of the value.
"""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE

import orjson

_QUOTES = "\"'`“”‘’«»"
_PLACEHOLDER = re.compile(
    r"\$\{.*\}|\$\(.*\)|\{\{.*\}\}|%[A-Za-z_][A-Za-z0-9_]*%|\$[A-Z_][A-Z0-9_]*|<[^<>]*>", re.DOTALL
)
_SCHEME = re.compile(r"bearer(?![\w-])", re.IGNORECASE)
_SERVICE_LINK = re.compile(r"tcp://[0-9a-f.:\[\]]+", re.IGNORECASE)
_COMMENT = re.compile(r"\s#")
_LENGTH_OF_TIME = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(s|sec|m|min|h|d)\s*", re.IGNORECASE)
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text file by its first two bytes: UTF-8, or UTF-16 as shells of Windows write it."""
    return "utf-16" if start in {BOM_UTF16_LE, BOM_UTF16_BE} else "utf-8-sig"


def decode_file(content: bytes) -> str:
    """Return the text of a file without its byte order mark. Raises `UnicodeDecodeError`."""
    return content.decode(encoding_of(content[:2]))


def find_copied_mark(value: object) -> str | None:
    """Return a remark for the operator if a text holds what was only meant to stand around the value.

    Such are quotation marks, also at one end, where a list in them was cut; the name of a variable that nothing has
    replaced; the word in front of a key in a header; a comment; and the address of a Service, which Kubernetes writes
    into `LIMNER_PORT` of all pods beside a Service of the name `limner`.
    """
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        return None
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        return "leave out the quotation marks, which are a part of the value here"
    if _PLACEHOLDER.fullmatch(text):
        return "this is a placeholder that nothing has replaced"
    if _SERVICE_LINK.fullmatch(text):
        return "Kubernetes sets it for a Service of this name, unless the pod has enableServiceLinks: false"
    if _COMMENT.search(text):
        return "leave out the comment, which is a part of the value here"
    return "leave out the word Bearer, which Limner writes itself" if _SCHEME.match(text) else None


def split_list(value: object) -> object:
    """Return the parts of a text that are separated by commas or line breaks, or those of a JSON list of texts."""
    if not isinstance(value, str):
        return value
    parts = _read_json_list(value)
    if parts is None:
        parts = re.split(r"[,\n]", value)
    return tuple(part.strip() for part in parts if part.strip())


def _read_json_list(text: str) -> list[str] | None:
    try:
        parts = orjson.loads(text) if text.lstrip().startswith("[") else None
    except orjson.JSONDecodeError:
        return None
    return parts if isinstance(parts, list) and all(isinstance(part, str) for part in parts) else None


def strip_spaces(value: object) -> object:
    """Return a text without spaces and line breaks at its ends, such as the one that `echo` writes into a secret."""
    return value.strip() if isinstance(value, str) else value


def lower_case(value: object) -> object:
    """Return a word in lower case: `INFO` is `info`."""
    return value.strip().lower() if isinstance(value, str) else value


def parse_seconds(value: object) -> object:
    """Return the seconds of a length of time with a unit, such as `90s`, `10m` or `2h`; all else as it is."""
    match = _LENGTH_OF_TIME.fullmatch(value) if isinstance(value, str) else None
    return value if match is None else float(match[1]) * _SECONDS[match[2].lower()]
