"""Types of settings: how each is written, how it is checked, and the format that an error message shows.

The message of each `PydanticCustomError` completes the sentence "invalid value (format: …)".
"""

import ipaddress
import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, FilePath, SecretStr, TypeAdapter
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from app.config.spellings import decode_file, find_copied_mark, lower_case, parse_seconds, split_list, strip_spaces
from app.images.input_limits import NO_LIMITS, InputLimits
from app.images.signer import is_available
from app.images.ssrf import AllowRule, parse_allow, parse_host
from app.images.stores import check_store_url
from app.protocol.size_fit import SizeMode, read_size_mode

PREFIX = "LIMNER_"

#: Characters of a secret from which others are made.
MIN_SECRET = 24

#: A file name with which command line programs mean their standard output.
STANDARD_OUTPUT = Path("-")


def written_as(pattern: str, form: str) -> AfterValidator:
    """Return a check that a text matches a pattern; `form` says in words what is expected."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise PydanticCustomError("form", "{form}", {"form": form})
        return value

    return AfterValidator(check)


def variable(field: str) -> str:
    """Return the name of the environment variable for a field of `Settings`."""
    return PREFIX + field.upper()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_secret_file(path: str | Path) -> str:
    """Return the content of a file without surrounding white space, such as the line break at its end.

    Raises:
        PydanticCustomError: The file cannot be read, is not text, or is empty. The error does not contain the path,
            which could be the secret itself, written into the wrong setting.
    """
    try:
        text = decode_file(Path(path).read_bytes()).strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        raise PydanticCustomError("file", "a text file that can be read and is not empty")
    return text


#: RFC 3986, without what an address has at its end only if it was cut out of a text or a list.
_URL_PATH = re.compile(r"(?:(?:/|%[0-9A-Fa-f]{2}|[A-Za-z0-9._~!$&'()*+,;=:@-])*[A-Za-z0-9_~=/)-])?")


def _is_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    is_bare = not parts.query and not parts.fragment and "@" not in value
    is_single = _URL_PATH.fullmatch(parts.path) is not None and "://" not in parts.path
    return parts.scheme in {"http", "https"} and has_host and is_bare and is_single


def _check_base_url(value: str) -> str:
    text = value.strip()
    if not _is_address(text):
        raise PydanticCustomError(
            "url", "an http(s) address without user name and query, like https://api.example.com/v1"
        )
    return text.rstrip("/")


#: The endpoint that Limner itself adds to the address of an upstream.
_CHAT_ENDPOINT = "/chat/completions"

#: Other endpoints with which an address is copied from documentation. None of them answers chat requests. `/models`
#: alone is not one of them: the addresses of Azure's model inference end in it.
_OTHER_ENDPOINT = re.compile(
    r"/(responses|completions|messages|embeddings|v[0-9]+/models|images/[a-z]+|[^/]*:(stream)?generatecontent)$",
    re.IGNORECASE,
)


def _check_upstream_url(value: str) -> str:
    """Check the address of an upstream's API. The endpoint of chat requests at its end is left out."""
    url = _check_base_url(value)
    if url.lower().endswith(_CHAT_ENDPOINT):
        url = _check_base_url(url[: -len(_CHAT_ENDPOINT)])
    if match := _OTHER_ENDPOINT.search(url):
        raise PydanticCustomError(
            "endpoint",
            "the address of the API without {endpoint}, like https://api.example.com/v1; Limner adds "
            "/chat/completions, and can ask no other endpoint",
            {"endpoint": match[0]},
        )
    return url


def _check_store_url(value: str) -> str:
    try:
        check_store_url(value)
    except ValueError as error:
        raise PydanticCustomError("store", "{form}", {"form": str(error)}) from None
    return value


_REDIS_URL = re.compile(
    r"(?:(?:redis|valkey)s?://(?:[^/?#@]*@)?(?:[^/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[0-9]{0,4})?"
    r"|unix://(?:[^/?#@]*@)?/[^?#]+)(?:\?(?P<options>[^#]+))?"
)

#: The options that are allowed after the `?`, with their checks: how the server's certificate is verified, which
#: certificate this client presents, and the number of the database.
_REDIS_OPTIONS: dict[str, Callable[[str], bool]] = {
    "ssl_ca_certs": os.path.isfile,
    "ssl_certfile": os.path.isfile,
    "ssl_keyfile": os.path.isfile,
    "ssl_check_hostname": {"true", "false"}.__contains__,
    "ssl_cert_reqs": {"required", "none"}.__contains__,
    "db": str.isdecimal,
}


def _check_state_url(value: str) -> str:
    """Check the address of a Redis server as a whole, and before the first command is sent.

    redis-py silently ignores options that it does not know, and reads an address with an unescaped `#` or `/` in the
    password as another one. Its own parser is not used, because importing redis takes 7 MB of memory, and only
    `app/state` may do that.
    """
    if value == "memory:":
        return value
    match = _REDIS_URL.fullmatch(value)
    if match is None or not 0 < (urlsplit(value).port or 1) < 65_536:
        raise PydanticCustomError(
            "state",
            "memory:, or the address of one server like redis://user:password@host:6379/0, also rediss:, valkey:, "
            "valkeys:, unix:///path; no Sentinel, no Cluster; special characters of a password as %40",
        )
    is_secure = value.startswith(("rediss:", "valkeys:"))
    known = {name: check for name, check in _REDIS_OPTIONS.items() if is_secure or not name.startswith("ssl_")}
    options = parse_qsl(match["options"] or "", keep_blank_values=True)
    if not all(name in known and known[name](given) for name, given in options):
        names = ", ".join(known)
        raise PydanticCustomError("state", "after ? only {names}; files must exist", {"names": names})
    return value


def _check_host(value: str) -> str:
    try:
        return value if value == "*" else str(parse_host(value))
    except ValueError as error:
        raise PydanticCustomError(
            "host",
            "names or addresses without scheme and port, like images.example.com, or *: {reason}",
            {"reason": str(error)},
        ) from None


def _check_listen_host(value: str) -> str:
    """Check an address to listen on. An IPv6 address may be in brackets, and name an interface."""
    host = value.strip().strip("[]")
    try:
        return str(ipaddress.ip_address(host) if ":" in host else parse_host(host))
    except ValueError:
        raise PydanticCustomError(
            "listen", "an address or a name of this machine, like 127.0.0.1, 0.0.0.0 or ::; the port is LIMNER_PORT"
        ) from None


#: What browsers write into `Origin`: scheme and host of a page, or `null` for a page without either.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s*,;]+|\*|null")


def _check_origin(value: str) -> str:
    origin = value.lower().rstrip("/")
    if not _ORIGIN.fullmatch(origin):
        raise PydanticCustomError("origin", "origins without a path, like https://app.example.com, or *")
    default_port = {"http": ":80", "https": ":443"}.get(origin.partition(":")[0], "/")
    return origin.removesuffix(default_port)


def _check_writable_dir(value: Path) -> Path:
    if not value.is_dir() or not os.access(value, os.W_OK):
        raise PydanticCustomError("folder", "a folder that exists and can be written to")
    return value


def _check_ledger_file(value: Path) -> Path:
    is_file = not value.is_dir() and value.parent.is_dir() and os.access(value.parent, os.W_OK)
    if value != STANDARD_OUTPUT and (not is_file or find_copied_mark(str(value))):
        raise PydanticCustomError("ledger", "a file in a folder that exists and can be written to, or -")
    return value


def _check_otlp_endpoint(value: str) -> str:
    try:
        import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError:
        raise PydanticCustomError(
            "extra", "needs a package that is not installed: pip install 'limner[otel]'"
        ) from None
    return _check_base_url(value)


def _check_signing_extra(value: Path) -> Path:
    if not is_available():
        raise PydanticCustomError("extra", "needs a package that is not installed: pip install 'limner[c2pa]'")
    return value


def _check_header_secret(value: SecretStr) -> SecretStr:
    # The key is sent in a header: with a line break in it, the rest of the key would become further headers.
    text = value.get_secret_value()
    if not re.fullmatch(r"[!-~]+", text) or find_copied_mark(text):
        raise PydanticCustomError("secret", "visible ASCII characters without spaces")
    return value


def _check_long_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < MIN_SECRET:
        raise PydanticCustomError("secret", "{least} characters or more", {"least": MIN_SECRET})
    return value


def _check_client_key(value: SecretStr) -> SecretStr:
    if re.fullmatch(r"(?i:sha256):(?![0-9a-f]{64}$).*", value.get_secret_value()):
        raise PydanticCustomError("digest", "a key, or sha256: and the 64 hexadecimal digits of its SHA-256")
    if ";" in value.get_secret_value():
        raise PydanticCustomError("separator", "keys separated by commas or line breaks, not by semicolons")
    return _check_header_secret(value)


def _check_store_key(value: SecretStr) -> SecretStr:
    if find_copied_mark(value.get_secret_value()):
        raise PydanticCustomError("secret", "the key alone")
    return value


def _check_model_name(value: str) -> str:
    if not value or not value.isprintable() or find_copied_mark(value):
        raise PydanticCustomError("model_name", "a name in one line")
    return value


def read_named_file(value: object) -> object:
    """Return the secret in the file that a setting names. What cannot be a path is left to the next check."""
    return read_secret_file(value) if isinstance(value, str | Path) else value


def _parse_input_limits(value: object) -> object:
    """Parse `20MiB,4096` or `never`. As elsewhere, MB is a decimal unit and MiB a binary one."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "never":
        return NO_LIMITS
    size, _, edge = (part.strip() for part in value.partition(","))
    try:
        limits = InputLimits(TypeAdapter(ByteSize).validate_python(size), int(edge))
    except ValueError:
        limits = InputLimits(0, 0)
    if not (limits.max_bytes and limits.max_edge and limits.max_bytes > 0 and limits.max_edge > 0):
        raise PydanticCustomError("shrink", "a size and a number of pixels, like 20MiB,4096, or never")
    return limits


def _parse_size_mode(value: object) -> object:
    mode = read_size_mode(value) if isinstance(value, str) else None
    if mode is None:
        raise PydanticCustomError("size_mode", "native, exact, or exact; fit=contain")
    return mode


def _parse_allow_list(value: object) -> object:
    """Parse comma-separated rules, or the list of strings that a TOML file has in their place."""
    text = ",".join(map(str, value)) if isinstance(value, list) else value
    try:
        return parse_allow(text) if isinstance(text, str) else text
    except ValueError as error:
        raise PydanticCustomError("allow", "{reason}", {"reason": str(error)}) from None


HostList = Annotated[tuple[Annotated[str, AfterValidator(_check_host)], ...], NoDecode, BeforeValidator(split_list)]
OriginList = Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], NoDecode, BeforeValidator(split_list)]
#: Goes before the words that a setting may have.
IN_LOWER_CASE = BeforeValidator(lower_case)
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(lambda value: "warning" if lower_case(value) == "warn" else lower_case(value)),
]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False), BeforeValidator(parse_seconds)]
SecondsOrNever = Annotated[float, Field(ge=0, le=86_400), BeforeValidator(parse_seconds)]
PositiveInt = Annotated[int, Field(ge=1, le=1_000_000)]
ByteCount = Annotated[ByteSize, Field(ge=1024)]
BaseUrl = Annotated[str, AfterValidator(_check_base_url)]
UpstreamUrl = Annotated[str, AfterValidator(_check_upstream_url)]
ListenHost = Annotated[str, AfterValidator(_check_listen_host)]
WritableDir = Annotated[Path, AfterValidator(_check_writable_dir)]
StateUrl = Annotated[str, AfterValidator(_check_state_url)]
LedgerFile = Annotated[Path, AfterValidator(_check_ledger_file)]
SigningCertificates = Annotated[FilePath, AfterValidator(_check_signing_extra)]
OtlpEndpoint = Annotated[str, AfterValidator(_check_otlp_endpoint)]
StoreUrl = Annotated[str, AfterValidator(_check_store_url)]
ShrinkLimits = Annotated[InputLimits, NoDecode, BeforeValidator(_parse_input_limits)]
SizeModeSetting = Annotated[SizeMode, NoDecode, BeforeValidator(_parse_size_mode)]
AllowList = Annotated[tuple[AllowRule, ...], NoDecode, BeforeValidator(_parse_allow_list)]

ModelName = Annotated[str, AfterValidator(_check_model_name), BeforeValidator(strip_spaces)]
ModelNameList = Annotated[tuple[ModelName, ...], NoDecode, BeforeValidator(split_list)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_check_header_secret), BeforeValidator(strip_spaces)]
HeaderSecretFile = Annotated[HeaderSecret, BeforeValidator(read_named_file)]
Secret = Annotated[SecretStr, Field(min_length=1)]
StoreKey = Annotated[Secret, AfterValidator(_check_store_key)]
Currency = Annotated[str, written_as("[A-Z]{3}", "three capital letters, like EUR")]
LongSecret = Annotated[SecretStr, AfterValidator(_check_long_secret)]
ClientKeyList = Annotated[
    tuple[Annotated[SecretStr, AfterValidator(_check_client_key)], ...], NoDecode, BeforeValidator(split_list)
]
