"""Which addresses may be fetched, IPv4 hidden in IPv6 included: decided without a socket."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urljoin

Address = IPv4Address | IPv6Address

_LABEL = "[a-z0-9_-]{1,63}"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

#: A last label like these makes browsers, curl and inet_aton read the whole host as an IPv4 address.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: What DNS carries (RFC 1035), checked first: the idna codec is slow on long text.
_MAX_NAME_LENGTH = 253


def parse_host(text: str) -> str | Address:
    """A name in lower case without the final dot, or an address. Raises ValueError with a reason fit for everyone."""
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
    """Octal, hexadecimal, short and decimal forms mean one address here and another there: none of them passes."""
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise ValueError("an IPv4 address is written as four decimal numbers") from None


def _parse_ipv6(text: str) -> IPv6Address:
    """A zone (%eth0) names an interface of this machine: refused."""
    try:
        if "%" in text or not text.endswith("]"):
            raise AddressValueError
        return IPv6Address(text[1:-1])
    except AddressValueError:
        raise ValueError("its IPv6 address cannot be read") from None


def _to_ascii(text: str) -> str:
    """An international name in Punycode. Full-width digits, ideographic dots and the like would become plain ones
    on the way (127。0。0。1), so a name must be its own normal form and survive the way back."""
    try:
        name = text.encode("idna").decode("ascii")
        unharmed = name.encode("ascii").decode("idna") == text.lower()
    except UnicodeError:
        raise ValueError("its host name cannot be written in Punycode") from None
    if not unharmed or "。" in text or unicodedata.normalize("NFKC", text) != text:
        raise ValueError("its host name has letters that stand for others")
    return name


#: Ports of image hosts. What else listens on a machine (SMTP, Redis, SSH) is not spoken to.
ALLOWED_PORTS = frozenset({80, 443, 8080, 8443})

#: Signed addresses reach 2 KiB; servers take 8 KiB for the whole request line.
MAX_URL_LENGTH = 8000


_HINT = "LIMNER_FETCH_ALLOW would open it"


class AddressBlocked(ValueError):
    """This may not be fetched. The text is fit for everyone, `detail` names addresses and is for the log."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.detail = detail or reason


@dataclass(frozen=True, slots=True)
class BlockedNetwork:
    """Addresses that are `value` under `mask`, and why none of them may be fetched."""

    notation: str
    value: int
    mask: int
    reason: str


def _blocked(written: str, why: str) -> BlockedNetwork:
    """`written` is a CIDR, or address/mask where the fixed bits are not the first ones."""
    address, _, mask = written.partition("/")
    if ":" in mask:
        return BlockedNetwork(written, int(ip_address(address)), int(ip_address(mask)), why)
    network = ip_network(written)
    return BlockedNetwork(written, int(network.network_address), int(network.netmask), why)


#: Sources: the IANA special-purpose registries and the clouds' own pages. The first row that fits gives the reason.
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
    # In any network; the second lowest bit of its first byte only tells who gave out the IPv4 address (RFC 5214).
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
    # Only 2000::/3 is given out (RFC 4291).
    _blocked("::/3", "not global unicast"),
    _blocked("4000::/2", "not global unicast"),
    _blocked("8000::/1", "not global unicast"),
)

#: The well-known prefix: what an IPv6-only network reaches IPv4 by, public hosts included.
_NAT64 = int(IPv6Address("64:ff9b::")) >> 32


def block_reason(address: Address) -> str | None:
    """None: a public address."""
    number = int(address)
    if isinstance(address, IPv6Address):
        if number >> 32 == _NAT64:
            hidden = block_reason(IPv4Address(number & 0xFFFFFFFF))
            return hidden and f"NAT64 of {hidden}"
        if address.scope_id is not None:
            return "an interface of this machine"
    for net in BLOCKED_V4 if isinstance(address, IPv4Address) else BLOCKED_V6:
        if number & net.mask == net.value:
            return f"{net.reason}, {net.notation}"
    return None


@dataclass(frozen=True, slots=True)
class AllowRule:
    """One entry of LIMNER_FETCH_ALLOW: a name, or a network; without `port` the usual PORTS."""

    host: str | IPv4Network | IPv6Network
    port: int | None = None

    def permits(self, name: str, address: Address, port: int) -> bool:
        """A name opens whatever it resolves to, for itself alone; a network opens its addresses under every name."""
        if port != self.port and (self.port is not None or port not in ALLOWED_PORTS):
            return False
        if isinstance(self.host, str):
            return name == self.host
        return address in self.host


_RULE = re.compile(r"(\[[^\]]*\]|[^\[\]:/]+)(?::([0-9]{1,5}))?")


def parse_allow(text: str) -> tuple[AllowRule, ...]:
    """Comma-separated networks, hosts, host:port, [v6]:port. Raises ValueError with a sentence for the operator."""
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


@dataclass(frozen=True, slots=True)
class FetchTarget:
    """A URL that was read: `url` is ASCII without the fragment, `name` the host as `url` has it, brackets off."""

    url: str
    name: str
    port: int
    address: Address | None


#: No control characters, nothing that cannot be encoded.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.ASCII | re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:@]*)(?::([0-9]{0,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: What RFC 3986 knows besides letters and digits.
_URL_SAFE = "!$%&'()*+,-./:;=?@[]_~"


def check_url(url: str, allow: tuple[AllowRule, ...] = ()) -> FetchTarget:
    """Raises Refused for all that the text of a URL can decide. A name's answers are left to `check_answers`."""
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
    if port not in ALLOWED_PORTS and all(entry.port != port for entry in allow):
        raise AddressBlocked(
            f"its port is not one of {', '.join(map(str, sorted(ALLOWED_PORTS)))}", f"port {port} ({_HINT})"
        )
    target = _target(scheme, host, port, parts[3])
    if target.address is not None:
        check_addresses(target, (target.address,), allow)
    return target


def check_redirect(target: FetchTarget, location: str, allow: tuple[AllowRule, ...] = ()) -> FetchTarget:
    """`location` as the header has it, mostly relative. Raises Refused as `check_url` does."""
    try:
        url = urljoin(target.url, location)
    except ValueError:
        raise AddressBlocked("its redirect cannot be read") from None
    return check_url(url, allow)


def _target(scheme: str, host: str | Address, port: int, rest: str) -> FetchTarget:
    """Escapes stay as they are, a signature counts each of them; only what no URL may hold is escaped."""
    authority = f"[{host}]" if isinstance(host, IPv6Address) else str(host)
    if port != _DEFAULT_PORTS[scheme]:
        authority += f":{port}"
    path = quote(rest if rest.startswith("/") else f"/{rest}", safe=_URL_SAFE)
    address = None if isinstance(host, str) else host
    return FetchTarget(f"{scheme}://{authority}{path}", str(host), port, address)


def _parse_port(text: str) -> int:
    if not 0 < int(text) < 65536:
        raise ValueError("its port is out of range")
    return int(text)


def check_addresses(target: FetchTarget, addresses: Sequence[Address], allow: tuple[AllowRule, ...]) -> bool:
    """Whether some answer is open only by the allow list, and so is nothing to tell strangers about.

    Raises Refused where a single answer may not be fetched: a name with public and inner answers is an attack or a
    mistake, and which of them is tried first is luck.
    """
    if not addresses:
        raise AddressBlocked("its host has no address")
    inner = False
    for address in addresses:
        why = block_reason(address)
        if why is None and target.port in ALLOWED_PORTS:
            continue
        if not any(entry.permits(target.name, address, target.port) for entry in allow):
            what = why or "public, but not on a usual port"
            raise AddressBlocked(
                "its address is not open to this server", f"{address} port {target.port}: {what} ({_HINT})"
            )
        inner = True
    return inner
