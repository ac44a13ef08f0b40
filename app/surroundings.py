"""What `limner check` asks beside the upstreams: the store of pictures, and the state that replicas share."""

import ssl
from contextlib import closing
from urllib.parse import urlsplit

import httpx

from app.config.settings import Settings
from app.errors import ApiError
from app.images.blob import Blob
from app.images.store import Store, Stored
from app.images.stores import open_store
from app.protocol.image_format import ImageInfo
from app.protocol.inline_images import stand_in
from app.services import store_config
from app.state.shared_state import redis_address
from app.steps import Failed, Step

#: A picture of some hundred bytes. Stores cannot remove one, so it stays for its time.
_SAMPLE = stand_in(0)

#: Seconds.
_PATIENCE = 5.0


def steps(settings: Settings) -> list[Step]:
    """Those for which there is something to ask."""
    keeps, shares = settings.rehost != "never", settings.shared_state != "memory:"
    return [*([Step("store", try_store)] if keeps else []), *([Step("state", try_state)] if shares else [])]


async def try_store(settings: Settings) -> str:
    try:
        store = open_store(store_config(settings))
    except OSError as error:
        raise Failed(f"LIMNER_IMAGE_STORE cannot be opened: {error}") from None
    with closing(store):
        try:
            name = await write(store, settings)
            stored = await store.find(name)
            data = b"" if stored is None else await read(stored)
            link = await store.link(name)
        except ApiError as error:
            raise Failed(error.detail or error.message) from None
    if data != _SAMPLE:
        raise Failed("what LIMNER_IMAGE_STORE was given cannot be read back")
    return f"a picture written and read; {await follow(link)}"


async def write(store: Store, settings: Settings) -> str:
    with closing(Blob(settings.spool_dir)) as blob:
        blob.write(_SAMPLE)
        return await store.keep(blob, ImageInfo("image/png", 8, 8, alpha=False))


async def read(stored: Stored) -> bytes:
    with closing(stored):
        return await stored.read(0, stored.size)


async def follow(link: str | None) -> str:
    """A link that only clients can reach is none that fails."""
    if link is None:
        return "served by this server"
    host = urlsplit(link).netloc
    try:
        tls = ssl.create_default_context()
        async with httpx.AsyncClient(trust_env=False, timeout=_PATIENCE, verify=tls) as http:
            response = await http.get(link)
    except httpx.HTTPError as error:
        return f"its link to {host} cannot be reached from here: {type(error).__name__}"
    if response.content != _SAMPLE:
        raise Failed(f"the link to {host} answers {response.status_code} in place of the picture")
    return f"its link to {host} works"


async def try_state(settings: Settings) -> str:
    """Without what is in front of the host: a password."""
    from redis.asyncio import Redis  # noqa: PLC0415  reason: seven megabytes for who shares nothing
    from redis.exceptions import RedisError  # noqa: PLC0415

    url = redis_address(settings.shared_state)
    parts = urlsplit(url)
    host = parts.path if parts.hostname is None else f"{parts.hostname}:{parts.port or 6379}"
    try:
        async with Redis.from_url(url, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE) as redis:
            await redis.ping()
    except (RedisError, OSError) as error:
        raise Failed(f"no answer from {host}: {error}. See LIMNER_SHARED_STATE") from None
    return f"{host} answers"
