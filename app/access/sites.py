"""Decide which web pages, and under which host names, may use a server that needs no key.

Without a key only the network protects a server, and a browser is inside the network: every page that a person opens
can send requests to the server. A page can even give its own host name the server's address (DNS rebinding), and then
reads the answers too. But browsers tell where a request comes from, in headers that pages cannot change.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers

from app.errors import Forbidden, InvalidRequest

#: The entry of LIMNER_ALLOWED_HOSTS that permits every name.
ANY_HOST = "*"

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/?#@\s]+)(?::([0-9]{0,5}))?", re.ASCII)
_ORIGIN = re.compile(r"(https?)://(.+)", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}

#: Characters of a header that are quoted in an error.
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """The names of a server that needs no key, and the pages that may use it besides its own and those of this machine.

    Attributes:
        hosts: Names and addresses besides those of the loopback interface; `ANY_HOST` stands for all.
        origins: Origins whose pages may use the server.
        is_local: Whether only this machine can connect. If not, an address in numbers is one of the server's names: a
            page can give another address to a host name, but not to an address.
    """

    hosts: frozenset[str]
    origins: frozenset[str]
    is_local: bool

    @classmethod
    def from_names(cls, hosts: Iterable[str], origins: Iterable[str], *, is_local: bool) -> "SitePolicy":
        """Return the policy for names as an operator writes them. `*` is the origin of no page."""
        named = frozenset(origin.lower().rstrip("/") for origin in origins if origin != "*")
        return cls(frozenset(host.lower().removesuffix(".").strip("[]") for host in hosts), named, is_local)

    def check(self, headers: Headers, *, is_page: bool = False) -> None:
        """Check where a request comes from. `is_page`: it asks for a page of this server, to which others may link.

        Raises:
            Forbidden: It comes from a page of another site, or names a host that is not this server.
        """
        # Browsers always send one. A client without it is no browser.
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        for host in hosts:
            if not self._is_own_host(_parse_host(host)[0]):
                raise Forbidden(_OTHER_HOST.format(host=host[:_SHOWN]), code="host_not_allowed")
        for origin in origins:
            if not self._may_use(origin.strip().lower(), "".join(hosts)):
                raise Forbidden(_OTHER_ORIGIN.format(origin=origin[:_SHOWN]), code="origin_not_allowed")
        site = headers.get("sec-fetch-site", "").strip().lower()
        if site and not origins and not is_page and site in self._other_sites(hosts):
            raise Forbidden(_OTHER_SITE, code="origin_not_allowed")

    def _other_sites(self, hosts: list[str]) -> frozenset[str]:
        """Return the values of `Sec-Fetch-Site` for other sites. The other ports of this machine are the same site."""
        is_loopback = all(_is_loopback(_parse_host(host)[0]) for host in hosts)
        return frozenset({"cross-site"} if is_loopback else {"cross-site", "same-site"})

    def _is_own_host(self, name: str) -> bool:
        if _is_loopback(name) or name in self.hosts or ANY_HOST in self.hosts:
            return True
        return not self.is_local and _is_address(name)

    def _may_use(self, origin: str, host: str) -> bool:
        """Return whether a page of this origin may use the server, which the request has addressed as `host`."""
        if origin in self.origins:
            return True
        parts = _ORIGIN.fullmatch(origin)
        if parts is None:
            return False
        scheme, authority = parts.groups()
        page = _parse_host(authority, _DEFAULT_PORTS[scheme])
        is_own_page = bool(page[0]) and page == _parse_host(host, _DEFAULT_PORTS[scheme])
        return is_own_page or _is_loopback(page[0]) or page[0] in self.hosts


#: The name or address of a host, and its port.
_Host = tuple[str, str]

#: Hosts whose parts are remembered: clients use the same few with every request.
_REMEMBERED_HOSTS = 64


@lru_cache(_REMEMBERED_HOSTS)
def _parse_host(text: str, default_port: str = "") -> _Host:
    """Parse HOST:PORT. The name is in lower case, without brackets and a final dot; empty if the text is not a host."""
    match = _HOST.fullmatch(text.strip().lower())
    return ("", "") if match is None else (match[1].strip("[]").removesuffix("."), match[2] or default_port)


@lru_cache(_REMEMBERED_HOSTS)
def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@lru_cache(_REMEMBERED_HOSTS)
def _is_loopback(name: str) -> bool:
    """Return whether a name or an address is always that of this machine. RFC 6761 reserves `localhost` and below."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if not _is_address(name):
        return False
    address = ip_address(name)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


_REMEDY = "or set LIMNER_API_KEYS."
_OTHER_HOST = (
    "This server needs no key, so it answers only under its own names, and '{host}' is not one of them: the page of "
    f"another site could have sent this request. Operator: name the host in LIMNER_ALLOWED_HOSTS, {_REMEDY}"
)
_OTHER_ORIGIN = (
    "This server needs no key, so pages of other sites may not use it, and '{origin}' is such a site. "
    f"Operator: name this origin in LIMNER_CORS_ORIGINS, {_REMEDY}"
)
_OTHER_SITE = (
    "This server needs no key, so pages of other sites may not use it, and the browser says that such a page has sent "
    f"this request. Operator: name the origin of that page in LIMNER_CORS_ORIGINS, {_REMEDY}"
)


def check_content_type(headers: Headers) -> None:
    """Refuse a body that does not say what it is.

    Browsers let pages of other sites send bodies without a content type, and do not ask the server before.

    Raises:
        InvalidRequest: The request has a body, but no content type.
    """
    has_body = headers.get("content-length", "0").strip() != "0" or "transfer-encoding" in headers
    if has_body and not headers.get("content-type", "").strip():
        raise InvalidRequest(
            "The request has a body, but no Content-Type header. Send 'application/json' or 'multipart/form-data'.",
        )
