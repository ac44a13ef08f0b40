"""The HTTP proxy through which images are downloaded where nothing else leads out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL


@dataclass(frozen=True, slots=True)
class DownloadProxy:
    """An HTTP proxy. `authorization`: the value of its header, which only the proxy may see."""

    url: URL
    host: str
    authorization: str | None

    def options(self, target: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return the options with which aiohttp sends a request for `target` through the proxy.

        The proxy reads the header of a plain request itself; for https it gets one of its own, with CONNECT.
        """
        own = {} if self.authorization is None else {"Proxy-Authorization": self.authorization}
        if target.startswith("https:"):
            return {"proxy": self.url, "proxy_headers": own, "headers": headers}
        return {"proxy": self.url, "headers": {**headers, **own}}


def read_proxy(address: str) -> DownloadProxy:
    """Return the proxy at an address like `http://user:password@proxy.example:3128`."""
    url = URL(address)
    has_user = url.user is not None or url.password is not None
    authorization = aiohttp.encode_basic_auth(url.user or "", url.password or "") if has_user else None
    return DownloadProxy(url.with_user(None), url.host or "", authorization)
