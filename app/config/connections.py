"""How an upstream is reached: types of its headers, its proxy and its certificates.

The message of each `PydanticCustomError` completes the sentence "invalid value (format: …)".
"""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from app.config.field_types import read_named_file, read_secret_file

#: What stands for no proxy, where one is set for all upstreams.
DIRECT = "none"

#: Headers that Limner writes itself, with the setting that changes what is in them.
_OURS = dict.fromkeys(
    (
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"),
        *("host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "traceparent", "x-request-id"),
    ),
    "",
) | {"authorization": "; the key belongs into `api_key`", "user-agent": "; there is `user_agent` for it"}

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_TEXT = re.compile(r"[^\x00-\x1f\x7f\s](?:[^\x00-\x1f\x7f]{0,8190}[^\x00-\x1f\x7f\s])?")


def _check_header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise PydanticCustomError("header", "the name of a header, like X-Title")
    if (remedy := _OURS.get(value.lower())) is not None:
        raise PydanticCustomError("header", "no header that Limner writes itself{remedy}", {"remedy": remedy})
    return value


def _check_header_text(value: str) -> str:
    if not _HEADER_TEXT.fullmatch(value):
        raise PydanticCustomError("text", "a text on one line, without spaces at its ends")
    return value


def _check_header_value(value: SecretStr) -> SecretStr:
    _check_header_text(value.get_secret_value())
    return value


def _read_header(value: object) -> object:
    """Return the value of a header, perhaps from the file that a table names."""
    if not isinstance(value, Mapping):
        return value
    if value.keys() != {"file"} or not isinstance(value["file"], str):
        raise PydanticCustomError("header", 'a text, or { file = "/path" } for one that is secret')
    return read_secret_file(value["file"])


def _parse_headers(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise PydanticCustomError("headers", 'JSON like {"X-Title": "Limner"}') from None


def _check_headers(value: dict[str, SecretStr]) -> dict[str, SecretStr]:
    if len({name.lower() for name in value}) < len(value):
        raise PydanticCustomError("headers", "each header once, in whatever spelling")
    return value


def _is_proxy(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_host = bool(parts.hostname) and parts.port != 0 and ":" not in unquote(parts.username or "")
    except ValueError:
        return False
    is_alone = parts.path in {"", "/"} and not parts.query and not parts.fragment
    return parts.scheme == "http" and is_host and is_alone and re.fullmatch(r"[!-~]+", text) is not None


def _check_proxy(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text == DIRECT:
        return value
    if not _is_proxy(text):
        raise PydanticCustomError(
            "proxy",
            "the address of an HTTP proxy like http://user:password@proxy.example:3128, or none; SOCKS is not spoken",
        )
    return value


def _check_certificates(value: Path) -> Path:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(value)
    except (OSError, ValueError):
        raise PydanticCustomError("certificates", "a file with certificates as PEM that can be read") from None
    return value


HeaderText = Annotated[str, AfterValidator(_check_header_text)]
HeaderTable = Annotated[
    dict[
        Annotated[str, AfterValidator(_check_header_name)],
        Annotated[SecretStr, AfterValidator(_check_header_value), BeforeValidator(_read_header)],
    ],
    Field(max_length=32),
    AfterValidator(_check_headers),
    NoDecode,
    BeforeValidator(_parse_headers),
]
ProxyUrl = Annotated[SecretStr, AfterValidator(_check_proxy)]
ProxyUrlFile = Annotated[ProxyUrl, BeforeValidator(read_named_file)]
CertificateFile = Annotated[Path, AfterValidator(_check_certificates)]
