"""Pictures in a bucket of an object store: Amazon's S3 and all that speak it, Google's, Azure's."""

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from obstore import sign_async
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from app.images.blob import Blob
from app.images.store import (
    StoreConfig,
    StoredImage,
    cache_control,
    generate_name,
    is_name,
    media_type,
    store_failed,
    store_unreachable,
)
from app.protocol.image_format import ImageInfo

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

#: The smallest part of an upload in parts that S3 takes. One upload holds at most two of them.
_PART_SIZE = 5 * 2**20

#: Uploads at once; together with the size of a part that bounds the memory they take.
_MAX_UPLOADS = 8

#: An object store that is away for longer is away: the client waits for its picture.
_RETRIES: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}

#: How much of what an object store says goes into the log.
_MAX_LOGGED = 500

#: Keys of roles are known to obstore alone. A store that refuses a signature repeats all that was signed, the token of
#: the session among it; an address that was not reached may be signed, or be the one that gives out such keys.
_HIDDEN = "***"
_SECRETS = (
    re.compile(r"""(\?)[^\s"'<>)]+"""),
    re.compile(r"(?i)\b(bearer\s+)[^\s\"'<,]+"),
    re.compile(r"""(?i)([\w-]*(?:token|secret|signature|authorization)[\w-]*["']?\s*[:=>]\s*["']?)[^\s"'<,]+"""),
    re.compile(r"()[A-Za-z0-9+/=_.%~-]{100,}"),
)

Remote = S3Store | GCSStore | AzureStore


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """What the URL of a store says; `public`: how clients reach the service, where that is not how this server does."""

    scheme: str
    bucket: str
    prefix: str | None
    config: Mapping[str, str]
    endpoint: str | None
    public_endpoint: str | None
    deletes_expired: bool


@dataclass(frozen=True, slots=True)
class CloudProvider:
    """`options`: those of the URL, with obstore's names. `read_key`: LIMNER_IMAGE_STORE_KEY in obstore's names."""

    url_format: str
    connect: Callable[..., Remote]
    endpoint: str
    options: Mapping[str, str]
    parse_key: Callable[[str], Mapping[str, str]]


def _parse_key_pair(names: tuple[str, str], key: str) -> Mapping[str, str]:
    public, colon, secret = key.partition(":")
    if not colon:
        raise OSError(f"LIMNER_IMAGE_STORE_KEY is not of the form {':'.join(names)}")
    return dict(zip(names, (public, secret), strict=True))


CLOUD_PROVIDERS = {
    "s3": CloudProvider(
        "s3://bucket/prefix?endpoint=https://…&region=…",
        S3Store,
        # Among S3Store's names for it the one that wins.
        "aws_endpoint_url_s3",
        {"region": "region"},
        partial(_parse_key_pair, ("access_key_id", "secret_access_key")),
    ),
    "gs": CloudProvider("gs://bucket/prefix", GCSStore, "base_url", {}, lambda key: {"service_account_key": key}),
    "az": CloudProvider(
        "az://container/prefix?account=…",
        AzureStore,
        "endpoint",
        {"account": "account_name"},
        partial(_parse_key_pair, ("account_name", "account_key")),
    ),
}


class BucketStore:
    """Asks nothing of the object store until a picture comes.

    Where no key is set, obstore looks for one in the places usual for its provider: that is the one exception to the
    rule that only the settings read the environment, since roles of machines and pods are found in no other way.
    """

    def __init__(self, config: StoreConfig) -> None:
        """Raises OSError for a key or an address that obstore cannot use."""
        place = parse_bucket_url(config.url)
        key = {} if config.key is None else CLOUD_PROVIDERS[place.scheme].parse_key(config.key.get_secret_value())
        self._remote = connect(place, place.endpoint, key)
        # The address is part of what is signed.
        self._signer = self._remote if place.public_endpoint is None else connect(place, place.public_endpoint, key)
        self._secrets = tuple(key.values())[-1:]
        self._deletes_expired = place.deletes_expired
        self._ttl = config.ttl
        self._serve = config.serve
        self._now = config.now
        self._uploads = asyncio.Semaphore(_MAX_UPLOADS)

    async def put(self, blob: Blob, info: ImageInfo) -> str:
        name = generate_name(info)
        told = {"Content-Type": media_type(name), "Cache-Control": cache_control(self._ttl)}
        try:
            async with self._uploads:
                # Pieces are read when they are sent, by a thread of obstore's.
                data = blob.read_at(0, blob.size) if blob.size <= _PART_SIZE else blob.chunks(_PART_SIZE)
                await self._remote.put_async(name, data, attributes=told, chunk_size=_PART_SIZE, max_concurrency=1)
        except (BaseError, OSError, ValueError) as error:
            raise store_failed(self._describe_error(error)) from None
        return name

    async def url_for(self, name: str) -> str | None:
        if self._serve == "proxy":
            return None
        try:
            return await sign_async(self._signer, "GET", name, timedelta(seconds=self._ttl))
        except (BaseError, OSError, ValueError) as error:
            raise store_failed(self._describe_error(error)) from None

    async def get(self, name: str) -> StoredImage | None:
        if not is_name(name):
            return None
        try:
            meta = await self._remote.head_async(name)
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise store_unreachable(self._describe_error(error)) from None
        modified = _modified(meta)
        return (
            None if self._is_expired(modified) else StoredImage(name, meta["size"], modified, partial(self._read, name))
        )

    async def delete_expired(self) -> int:
        """Nothing where it is left to the rules of the bucket: listing a large one costs."""
        if not self._deletes_expired:
            return 0
        removed = 0
        try:
            async for page in self._remote.list(chunk_size=1000):
                over = [meta["path"] for meta in page if is_name(meta["path"]) and self._is_expired(_modified(meta))]
                if over:
                    await self._remote.delete_async(over)
                    removed += len(over)
        except (BaseError, OSError) as error:
            raise store_unreachable(self._describe_error(error)) from None
        return removed

    def close(self) -> None:
        """Connections end by themselves."""

    async def _read(self, name: str, offset: int, size: int) -> bytes:
        try:
            return bytes(await self._remote.get_range_async(name, start=offset, length=size))
        except (BaseError, OSError) as error:
            raise store_unreachable(self._describe_error(error)) from None

    def _is_expired(self, modified: float) -> bool:
        return modified + self._ttl < self._now()

    def _describe_error(self, error: Exception) -> str:
        return describe_error(error, self._secrets)


def describe_error(error: Exception, secrets: Collection[str]) -> str:
    """What happened, without obstore's inside, and without what nobody may read."""
    said = str(error).partition("\n\nDebug source")[0]
    for secret in secrets:
        said = said.replace(secret, _HIDDEN)
    for pattern in _SECRETS:
        said = pattern.sub(rf"\1{_HIDDEN}", said)
    return said[:_MAX_LOGGED]


def _modified(meta: "ObjectMeta") -> float:
    return meta["last_modified"].timestamp()


def parse_bucket_url(url: str) -> BucketLocation:
    """Raises ValueError."""
    parts = urlsplit(url)
    cloud = CLOUD_PROVIDERS[parts.scheme]
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {*cloud.options, "endpoint", "public", "sweep"}
    sweep = options.get("sweep", "false")
    if not parts.hostname or "@" in parts.netloc or parts.fragment or not options.keys() <= known:
        raise ValueError(f"{cloud.url_format} with the options {', '.join(sorted(known))}; keys belong elsewhere")
    if sweep not in {"true", "false"} or not all(_is_address(options.get(name)) for name in ("endpoint", "public")):
        raise ValueError(f"{cloud.url_format}, where endpoint and public are http(s) addresses, sweep is true or false")
    return BucketLocation(
        parts.scheme,
        parts.netloc,
        parts.path.strip("/") or None,
        {cloud.options[name]: value for name, value in options.items() if name in cloud.options},
        options.get("endpoint"),
        options.get("public"),
        sweep == "true",
    )


def _is_address(value: str | None) -> bool:
    parts = urlsplit(value or "https://default")
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc


def connect(place: BucketLocation, endpoint: str | None, key: Mapping[str, str]) -> Remote:
    """Raises OSError."""
    cloud = CLOUD_PROVIDERS[place.scheme]
    address = {} if endpoint is None else {cloud.endpoint: endpoint.rstrip("/")}
    options: ClientConfig = {"allow_http": endpoint is not None and endpoint.startswith("http:")}
    try:
        config = {**key, **place.config, **address}
        return cloud.connect(
            place.bucket, prefix=place.prefix, config=config, client_options=options, retry_config=_RETRIES
        )
    except (BaseError, ValueError) as error:
        raise OSError(describe_error(error, tuple(key.values())[-1:])) from None
