"""Decide which addresses may be fetched, to prevent server-side request forgery (SSRF).

Pure: no socket is opened and no name is resolved here. `check_url` decides what the text of a URL can decide;
`check_addresses` decides about the addresses that its host name resolved to. IPv4 addresses embedded in IPv6 addresses
are recognized.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urljoin

import idna

Address = IPv4Address | IPv6Address

#: Ports of image hosts. Other services of a machine (SMTP, Redis, SSH) must not be reached.
ALLOWED_PORTS = frozenset({80, 443, 8080, 8443})

#: Characters. Signed URLs reach 2 KiB; servers accept 8 KiB for the whole request line.
MAX_URL_LENGTH = 8000

_HINT = "LIMNER_FETCH_ALLOW would open it"


class AddressBlocked(ValueError):
    """This URL or address must not be fetched.

    The message may be shown to clients. `detail` names addresses and is only for the log.
    """

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.detail = detail or reason


@dataclass(frozen=True, slots=True)
class AllowRule:
    """One entry of LIMNER_FETCH_ALLOW: a host name or a network. Without `port` it covers every port."""

    host: str | IPv4Network | IPv6Network
    port: int | None = None

    def permits(self, name: str, address: Address, port: int) -> bool:
        """Return whether the rule permits this address of the host `name`.

        A name permits every address that it resolves to, for this name only. A network permits its addresses under
        every name.
        """
        if self.port not in {None, port}:
            return False
        if isinstance(self.host, str):
            return name == self.host
        return address in self.host


@dataclass(frozen=True, slots=True)
class FetchTarget:
    """A parsed URL.

    Attributes:
        url: The URL in ASCII, without its fragment.
        name: The host as in `url`, an IPv6 address without its brackets.
        address: The host as an address, or None for a name that must still be resolved.
    """

    url: str
    name: str
    port: int
    address: Address | None


# URLs

#: Control characters, and surrogates, which cannot be encoded.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.ASCII | re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:@]*)(?::([0-9]{0,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: The characters besides letters and digits that RFC 3986 permits.
_URL_SAFE = "!$%&'()*+,-./:;=?@[]_~"


def check_url(url: str, allow: tuple[AllowRule, ...] = ()) -> FetchTarget:
    """Parse a URL and check everything that its text can decide.

    A host that is an address is checked; the addresses of a name are left to `check_addresses`.

    Raises:
        AddressBlocked: The URL cannot be parsed or must not be fetched.
    """
    if len(url) > MAX_URL_LENGTH or _UNSAFE.search(url):
        raise AddressBlocked("its URL is too long or has control characters")
    if (parts := _URL.fullmatch(url)) is None:
        raise AddressBlocked("only http and https URLs are fetched")
    if "@" in parts[2]:
        raise AddressBlocked("its URL brings a user name")
    if (authority := _AUTHORITY.fullmatch(parts[2])) is None:
        raise AddressBlocked("its host or port cannot be read")
    scheme = parts[1].lower()
    try:
        host = parse_host(authority[1])
        port = _parse_port(authority[2]) if authority[2] else _DEFAULT_PORTS[scheme]
    except ValueError as error:
        raise AddressBlocked(str(error)) from None
    if port not in ALLOWED_PORTS and not any(rule.port in {None, port} for rule in allow):
        ports = ", ".join(map(str, sorted(ALLOWED_PORTS)))
        raise AddressBlocked(f"its port is not one of {ports}", f"port {port} ({_HINT})")
    target = _build_target(scheme, host, port, parts[3])
    if target.address is not None:
        check_addresses(target, (target.address,), allow)
    return target


def host_of(url: str) -> str | Address | None:
    """Return the host of a URL, None where it cannot be read."""
    parts = _URL.fullmatch(url)
    return None if parts is None else _host_in(_AUTHORITY.fullmatch(parts[2].rpartition("@")[2]))


def _host_in(authority: re.Match[str] | None) -> str | Address | None:
    try:
        return None if authority is None else parse_host(authority[1])
    except ValueError:
        return None


def origin_of(url: str) -> str | None:
    """Return scheme, host and port of a URL, None where they cannot be read or it brings a user name."""
    parts = _URL.fullmatch(url)
    authority = None if parts is None else _AUTHORITY.fullmatch(parts[2])
    host = _host_in(authority)
    if parts is None or authority is None or host is None:
        return None
    scheme = parts[1].lower()
    return f"{scheme}://{host}:{int(authority[2]) if authority[2] else _DEFAULT_PORTS[scheme]}"


def is_local_name(name: str) -> bool:
    """Return whether a host name has a meaning only on this machine or in its network (RFC 6761, 6762, 8375, 9476)."""
    return "." not in name or name.endswith(_LOCAL_SUFFIXES)


_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".intranet", ".corp", ".home")


def check_redirect(target: FetchTarget, location: str, allow: tuple[AllowRule, ...] = ()) -> FetchTarget:
    """Resolve a `Location` header, usually relative, against the URL that returned it, and check the result.

    Raises:
        AddressBlocked: As for `check_url`.
    """
    try:
        url = urljoin(target.url, location)
    except ValueError:
        raise AddressBlocked("its redirect cannot be read") from None
    return check_url(url, allow)


def _build_target(scheme: str, host: str | Address, port: int, path_and_query: str) -> FetchTarget:
    authority = f"[{host}]" if isinstance(host, IPv6Address) else str(host)
    if port != _DEFAULT_PORTS[scheme]:
        authority += f":{port}"
    # Existing escapes stay as they are, because a signature may cover them. Only characters that no URL may contain are
    # escaped.
    path = quote(path_and_query if path_and_query.startswith("/") else f"/{path_and_query}", safe=_URL_SAFE)
    return FetchTarget(f"{scheme}://{authority}{path}", str(host), port, None if isinstance(host, str) else host)


def _parse_port(text: str) -> int:
    if not 0 < int(text) < 65536:
        raise ValueError("its port is out of range")
    return int(text)


# Addresses


def _belongs_to_others(_: Address) -> bool:
    return False


def check_addresses(
    target: FetchTarget,
    addresses: Sequence[Address],
    allow: tuple[AllowRule, ...],
    is_own: Callable[[Address], bool] = _belongs_to_others,
) -> bool:
    """Check all addresses of the target's host.

    One address that must not be fetched blocks the target: a name with both public and internal addresses is an attack
    or a mistake, and which address a client tries first is chance. `is_own` recognizes the addresses of this machine:
    its other services may trust everything that comes from there.

    Returns:
        Whether some address is reachable only by a rule of `allow`. Such a URL must not be shown to clients.

    Raises:
        AddressBlocked: There is no address, or one of them must not be fetched.
    """
    if not addresses:
        raise AddressBlocked("its host has no address")
    is_internal = False
    for address in addresses:
        reason = block_reason(address) or ("an address of this machine" if is_own(address) else None)
        if reason is None and target.port in ALLOWED_PORTS:
            continue
        if not any(rule.permits(target.name, address, target.port) for rule in allow):
            reason = reason or "public, but not on a usual port"
            detail = f"{address} port {target.port}: {reason} ({_HINT})"
            raise AddressBlocked("its address is not open to this server", detail)
        is_internal = True
    return is_internal


def block_reason(address: Address) -> str | None:
    """Return why the address must not be fetched, or None for a public address."""
    number = int(address)
    if isinstance(address, IPv6Address):
        if number >> 32 == _NAT64:
            reason = block_reason(IPv4Address(number & 0xFFFFFFFF))
            return reason and f"NAT64 of {reason}"
        if address.scope_id is not None:
            return "an interface of this machine"
    for network in BLOCKED_V4 if isinstance(address, IPv4Address) else BLOCKED_V6:
        if number & network.mask == network.value:
            return f"{network.reason}, {network.notation}"
    return None


@dataclass(frozen=True, slots=True)
class BlockedNetwork:
    """The addresses that equal `value` under `mask`. None of them may be fetched."""

    notation: str
    value: int
    mask: int
    reason: str


def _blocked(notation: str, reason: str) -> BlockedNetwork:
    """Parse `notation`: a CIDR, or ADDRESS/MASK for a network whose fixed bits are not the leading ones."""
    address, _, mask = notation.partition("/")
    if ":" in mask:
        return BlockedNetwork(notation, int(ip_address(address)), int(ip_address(mask)), reason)
    network = ip_network(notation)
    return BlockedNetwork(notation, int(network.network_address), int(network.netmask), reason)


#: Sources: the IANA special-purpose registries and the documentation of the clouds. The first match gives the reason.
BLOCKED_V4 = (
    _blocked("169.254.169.254/32", "cloud metadata"),
    _blocked("169.254.170.2/32", "cloud metadata (Amazon ECS)"),
    _blocked("100.100.100.200/32", "cloud metadata (Alibaba)"),
    _blocked("192.0.0.192/32", "cloud metadata (Oracle)"),
    _blocked("168.63.129.16/32", "cloud metadata (Azure)"),
    _blocked("0.0.0.0/8", "this host"),
    _blocked("10.0.0.0/8", "private"),
    _blocked("100.64.0.0/10", "carrier-grade NAT"),
    _blocked("127.0.0.0/8", "loopback"),
    _blocked("169.254.0.0/16", "link-local"),
    _blocked("172.16.0.0/12", "private"),
    _blocked("192.0.0.0/24", "IETF protocol assignments"),
    _blocked("192.0.2.0/24", "documentation"),
    _blocked("192.88.99.0/24", "6to4 relay"),
    _blocked("192.168.0.0/16", "private"),
    _blocked("198.18.0.0/15", "benchmarking"),
    _blocked("198.51.100.0/24", "documentation"),
    _blocked("203.0.113.0/24", "documentation"),
    _blocked("224.0.0.0/4", "multicast"),
    _blocked("255.255.255.255/32", "broadcast"),
    _blocked("240.0.0.0/4", "reserved"),
)
BLOCKED_V6 = (
    _blocked("fd00:ec2::254/128", "cloud metadata (Amazon)"),
    _blocked("fd20:ce::254/128", "cloud metadata (Google)"),
    _blocked("::/128", "this host"),
    _blocked("::1/128", "loopback"),
    _blocked("::ffff:0:0/96", "IPv4-mapped"),
    _blocked("::ffff:0:0:0/96", "IPv4-translated"),
    _blocked("::/96", "IPv4-compatible"),
    # In every network. The second lowest bit of the first byte only says how the IPv4 address was assigned (RFC 5214).
    _blocked("::5efe:0:0/::fdff:ffff:0:0", "ISATAP"),
    _blocked("64:ff9b:1::/48", "local NAT64"),
    _blocked("100::/64", "discard"),
    _blocked("100:0:0:1::/64", "dummy prefix"),
    _blocked("2001::/32", "Teredo"),
    _blocked("2001::/23", "IETF protocol assignments"),
    _blocked("2001:db8::/32", "documentation"),
    _blocked("2002::/16", "6to4"),
    _blocked("3ffe::/16", "6bone"),
    _blocked("3fff::/20", "documentation"),
    _blocked("5f00::/16", "segment routing"),
    _blocked("fc00::/7", "private"),
    _blocked("fe80::/10", "link-local"),
    _blocked("fec0::/10", "site-local"),
    _blocked("ff00::/8", "multicast"),
    # Only 2000::/3 is allocated (RFC 4291).
    _blocked("::/3", "not global unicast"),
    _blocked("4000::/2", "not global unicast"),
    _blocked("8000::/1", "not global unicast"),
)

#: The well-known NAT64 prefix. IPv6-only networks reach IPv4 hosts by it, public ones included.
_NAT64 = int(IPv6Address("64:ff9b::")) >> 32


# Host names

_LABEL = "[a-z0-9_-]{1,63}"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

#: Browsers, curl and inet_aton read a host whose last label is a number as an IPv4 address.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: Hosts whose parts are remembered: links lead to the same few. What is no host is not remembered.
_REMEMBERED_HOSTS = 256

#: The limit of DNS (RFC 1035). Checked before IDNA encoding, which is slow for long text.
_MAX_NAME_LENGTH = 253


@lru_cache(_REMEMBERED_HOSTS)
def parse_host(text: str) -> str | Address:
    """Return a host name in lower case ASCII without a final dot, or an address.

    Raises:
        ValueError: The text is not a host. The message may be shown to clients.
    """
    if text.startswith("["):
        return _parse_ipv6(text)
    if len(text) > _MAX_NAME_LENGTH + 1:
        raise ValueError("its host name is too long")
    name = (text if text.isascii() else _to_ascii(text)).lower().removesuffix(".")
    if len(name) > _MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise ValueError("its host is not a name that DNS knows")
    if _NUMERIC_LABEL.fullmatch(name.rpartition(".")[2]):
        return _parse_ipv4(name)
    return name


def _parse_ipv4(text: str) -> IPv4Address:
    """Parse four decimal numbers.

    Programs disagree about the address that octal, hexadecimal and shortened forms mean, so these are rejected.
    """
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise ValueError("an IPv4 address is written as four decimal numbers") from None


def _parse_ipv6(text: str) -> IPv6Address:
    """Parse an address in brackets. A zone (`%eth0`) names an interface of this machine and is rejected."""
    try:
        if "%" in text or not text.endswith("]"):
            raise AddressValueError
        return IPv6Address(text[1:-1])
    except AddressValueError:
        raise ValueError("its IPv6 address cannot be read") from None


def _to_ascii(text: str) -> str:
    """Encode an international name by IDNA 2008.

    Some programs map look-alikes to plain characters (`127。0。0。1` to 127.0.0.1) and ignore invisible characters.
    Names with either are rejected, because it is uncertain which host they mean.
    """
    has_look_alikes = unicodedata.normalize("NFKC", text) != text or "。" in text
    if has_look_alikes or any(unicodedata.category(character) == "Cf" for character in text):
        raise ValueError("its host name has letters that stand for others")
    try:
        # Label by label: `idna.encode` would also apply its rules to ASCII labels, which may have an underscore here.
        labels = (label if label.isascii() else idna.alabel(label).decode() for label in text.lower().split("."))
        return ".".join(labels)
    except UnicodeError:
        raise ValueError("its host name cannot be written in Punycode") from None


# The setting LIMNER_FETCH_ALLOW

_RULE = re.compile(r"(\[[^\]]*\]|[^\[\]:/]+)(?::([0-9]{1,5}))?")


def parse_allow(text: str) -> tuple[AllowRule, ...]:
    """Parse comma-separated networks, hosts, HOST:PORT and [IPv6]:PORT.

    Raises:
        ValueError: An entry cannot be parsed. The message is for the operator.
    """
    return tuple(_parse_rule(entry) for entry in map(str.strip, text.split(",")) if entry)


def _parse_rule(entry: str) -> AllowRule:
    try:
        if "/" in entry or (entry.count(":") > 1 and not entry.startswith("[")):
            return AllowRule(ip_network(entry))
        if (match := _RULE.fullmatch(entry)) is None:
            raise ValueError("it is none of these")
        host = parse_host(match[1])
        port = _parse_port(match[2]) if match[2] else None
        return AllowRule(host if isinstance(host, str) else ip_network(host), port)
    except ValueError as error:
        forms = "a network (10.0.0.0/8), a host (minio.example), host:port or [IPv6]:port"
        raise ValueError(f"each entry is {forms}; {entry[:100]!r} cannot be read: {error}") from None
