"""The configuration of one upstream, as the pool and the client need it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from app.protocol.dialects import DIALECTS, Dialect
from app.protocol.prices import NO_PRICES, PriceList

#: The name in `ModelMap.names` that stands for all names that are not listed.
WILDCARD = "*"

#: The model, and the dialect, of an upstream that is configured without them.
DEFAULT_MODEL = "gpt-image-2-chat"


@dataclass(frozen=True, slots=True)
class ModelMap:
    """Map the model that a client names to the name that the upstream uses.

    Attributes:
        default: Requested for any name that `names` does not list. `None`: the upstream has no such model.
        names: The upstream's name by the client's name.
    """

    default: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, name: str | None) -> str | None:
        """Return the upstream's name for `name`, `None` if the upstream has no such model.

        `name` is `None` if the client named no model.
        """
        return self.default if name is None or name == WILDCARD else self.names.get(name, self.default)


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """One upstream: its address, its protocol, and its share of the requests. Times are in seconds.

    Attributes:
        alias: Stands for the name where strangers may read it, like in metrics.
        api_key: `None` passes each caller's own key through.
        priority: Lower goes first; upstreams of equal priority share requests in proportion to `weight`.
        max_concurrency: Requests in flight at once; `None` is no limit.
        timeout: For one request with all its attempts, or with `has_own_timeout` for one attempt.
        idle_timeout: For silence inside a reply.
        headers: Sent with each request, below those that Limner writes.
        proxy: The address of an HTTP proxy, perhaps with user name and password.
        tls_ca: The certificates to trust in place of the system's.
        stream: Whether a stream is requested; None leaves that to the chat request.
        max_reply_bytes: Of one reply, all of its images included.
        max_images_bytes: The most bytes of input images that one request may have; None is no limit.
        origin_downloads_with_key: Images at this upstream's own address may be downloaded with its key.
        prices: What replies cost, where the upstream itself does not say it.
        origin: Where the operator has set `base_url`, `api_key`, `model` and `dialect`, to name that in the log.
    """

    base_url: str
    api_key: SecretStr | None = None
    name: str = "default"
    alias: str = "upstream-1"
    models: ModelMap = ModelMap(DEFAULT_MODEL)
    dialect: Dialect = DIALECTS[DEFAULT_MODEL]
    priority: int = 0
    weight: float = 1.0
    max_concurrency: int | None = None
    timeout: float = 600
    connect_timeout: float = 5
    idle_timeout: float = 300
    max_reply_bytes: int = 4 * 64 * 2**20 * 4 // 3
    user_agent: str = "limner"
    has_own_timeout: bool = False
    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    proxy: SecretStr | None = None
    tls_ca: Path | None = None
    stream: Literal["auto", "always", "never"] | None = None
    max_images_bytes: int | None = None
    origin_downloads_with_key: bool = True
    prices: PriceList = NO_PRICES
    origin: Mapping[str, str] = field(default_factory=dict)
