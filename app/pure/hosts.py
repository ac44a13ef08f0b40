"""How a host may be written: a name in ASCII, or an address in its one canonical form."""

import re
import unicodedata
from ipaddress import AddressValueError, IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

_LABEL = "[a-z0-9_-]{1,63}"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

#: A last label like these makes browsers, curl and inet_aton read the whole host as an IPv4 address.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: What DNS carries (RFC 1035), checked first: the idna codec is slow on long text.
_LONGEST = 253


def read_host(text: str) -> str | Address:
    """A name in lower case without the final dot, or an address. Raises ValueError with a reason fit for everyone."""
    if text.startswith("["):
        return _read_ipv6(text)
    if len(text) > _LONGEST + 1:
        raise ValueError("its host name is too long")
    name = (text if text.isascii() else _to_ascii(text)).lower().removesuffix(".")
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise ValueError("its host is not a name that DNS knows")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return _read_ipv4(name)
    return name


def _read_ipv4(text: str) -> IPv4Address:
    """Octal, hexadecimal, short and decimal forms mean one address here and another there: none of them passes."""
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise ValueError("an IPv4 address is written as four decimal numbers") from None


def _read_ipv6(text: str) -> IPv6Address:
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
