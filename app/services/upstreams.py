"""Build what reaches upstreams: their pool, with a transport for each route to them."""

from pydantic import SecretStr

from app import __version__
from app.config.connections import DIRECT
from app.config.settings import Settings
from app.config.upstreams import UpstreamEntry
from app.protocol.prices import PriceList
from app.upstream.client import UpstreamClient
from app.upstream.pool import PoolMember, UpstreamPool
from app.upstream.spec import UpstreamSpec
from app.upstream.token_check import TokenCheck
from app.upstream.transport import Transport, open_transport


def build_pool(settings: Settings, transport: Transport | None = None) -> UpstreamPool:
    """Return the pool of all upstreams. Those with the same proxy and certificates share a transport.

    `transport` replaces all of them.
    """
    specs = [build_spec(entry, settings, number) for number, entry in enumerate(settings.effective_upstreams, 1)]
    routes = {(spec.proxy, spec.tls_ca): spec for spec in specs}
    transports = {route: open_transport(spec) if transport is None else transport for route, spec in routes.items()}
    return UpstreamPool(
        [PoolMember(spec, UpstreamClient(spec, transports[spec.proxy, spec.tls_ca])) for spec in specs],
        timeout=settings.upstream_timeout,
        attempts=settings.upstream_attempts,
        retry_ambiguous=settings.retry_ambiguous,
    )


def build_spec(entry: UpstreamEntry, settings: Settings, number: int) -> UpstreamSpec:
    """Return one `[[upstreams]]` table as the pool needs it, with the settings that hold for all upstreams.

    `number` is its number in the list, from 1.
    """
    return UpstreamSpec(
        name=entry.name,
        alias=f"upstream-{number}",
        models=entry.model_map,
        dialect=entry.dialect.build(),
        priority=entry.priority,
        weight=entry.weight,
        max_concurrency=entry.max_concurrency,
        base_url=entry.base_url,
        api_key=entry.api_key,
        timeout=entry.timeout or settings.upstream_timeout,
        has_own_timeout=entry.timeout is not None,
        connect_timeout=settings.upstream_connect_timeout,
        idle_timeout=entry.idle_timeout or settings.upstream_idle_timeout,
        headers=entry.headers,
        proxy=proxy_of(entry, settings),
        tls_ca=entry.tls_ca or settings.upstream_tls_ca,
        stream=entry.stream,
        max_images_bytes=entry.max_images_bytes or settings.upstream_max_images_bytes,
        origin_downloads_with_key=settings.upstream_origin_downloads_with_key
        if entry.origin_downloads_with_key is None
        else entry.origin_downloads_with_key,
        # Four of the largest images, in base64, which is a third longer.
        max_reply_bytes=4 * settings.max_image_bytes * 4 // 3,
        user_agent=entry.user_agent or settings.upstream_user_agent or f"limner/{__version__}",
        prices=PriceList(settings.currency, tuple(row.build() for row in entry.prices)),
        origin={field: settings.location_of(entry, field) for field in ("base_url", "api_key", "model", "dialect")},
    )


def max_in_flight(settings: Settings) -> int:
    """Return how many upstream requests may be in flight: no more than all upstreams take together.

    All others wait in the queue, which is fair between callers.
    """
    limits = [entry.max_concurrency for entry in settings.effective_upstreams]
    total = sum(limit for limit in limits if limit is not None)
    return settings.max_concurrency if None in limits else min(settings.max_concurrency, total)


def proxy_of(entry: UpstreamEntry, settings: Settings) -> SecretStr | None:
    """Return the proxy through which an upstream is reached."""
    proxy = entry.proxy or settings.upstream_proxy
    return None if proxy_address(proxy) is None else proxy


def proxy_address(proxy: SecretStr | None) -> str | None:
    """Return the address of a proxy; None for none, and where the setting says `none`."""
    address = None if proxy is None else proxy.get_secret_value()
    return None if address == DIRECT else address


def build_token_check(settings: Settings, pool: UpstreamPool) -> TokenCheck:
    """Return what checks the keys that callers bring for upstreams. Callers with a key of ours are known already."""
    is_needed = settings.pass_through and not settings.has_client_keys
    return TokenCheck([member.client for member in pool.members] if is_needed else [])
