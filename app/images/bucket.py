"""Store images in a bucket: Amazon S3 and compatible services, Google Cloud Storage, Azure Blob Storage."""

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
from app.protocol.redaction import redact_keys

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

#: The smallest part of a multipart upload that S3 accepts. One upload holds at most two parts in memory.
_PART_SIZE = 5 * 2**20

#: Concurrent uploads. Together with the size of a part, this limits the memory that they take.
_MAX_UPLOADS = 8

#: Short, because a client waits for its image: an object store that is down for longer counts as down.
_RETRIES: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}

#: Characters of an object store's error that are written to the log.
_MAX_LOGGED = 500

#: What may be a secret in an error text, besides the configured key. Credentials of roles are known to obstore only. A
#: service that rejects a signature repeats everything that was signed, the session token included. The URL of a failed
#: request may be signed, or belong to a service that issues credentials.
_CREDENTIALS = (
    re.compile(r"""(\?)[^\s"'<>)]+"""),
    re.compile(r"""(?i)([\w-]*(?:token|secret|signature|authorization)[\w-]*["']?\s*[:=>]\s*["']?)[^\s"'<,]+"""),
    re.compile(r"()[A-Za-z0-9+/=_.%~-]{100,}"),
)

Remote = S3Store | GCSStore | AzureStore


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """A parsed URL of a bucket.

    Attributes:
        config: Options of the provider, by obstore's names.
        endpoint: The address of the service, None for the provider's own.
        public_endpoint: Its address for clients, if that is another one.
        deletes_expired: Whether this server deletes expired images. Otherwise a lifecycle rule of the bucket has to.
    """

    scheme: str
    bucket: str
    prefix: str | None
    config: Mapping[str, str]
    endpoint: str | None
    public_endpoint: str | None
    deletes_expired: bool


@dataclass(frozen=True, slots=True)
class CloudProvider:
    """How buckets of one provider are configured.

    Attributes:
        url_format: How the URL is written, for error messages.
        endpoint: obstore's name for the address of the service.
        options: The options in the URL, with obstore's names for them.
        parse_key: Translates LIMNER_IMAGE_STORE_KEY into obstore's options, the secret one last. Raises OSError.
    """

    url_format: str
    connect: Callable[..., Remote]
    endpoint: str
    options: Mapping[str, str]
    parse_key: Callable[[str], Mapping[str, str]]


def _parse_key_pair(names: tuple[str, str], key: str) -> Mapping[str, str]:
    public, _, secret = key.partition(":")
    if not secret:
        raise OSError(f"LIMNER_IMAGE_STORE_KEY is not of the form {':'.join(names)}")
    return dict(zip(names, (public, secret), strict=True))


CLOUD_PROVIDERS = {
    "s3": CloudProvider(
        "s3://bucket/prefix?endpoint=https://…&region=…",
        S3Store,
        # Of the names that S3Store has for it, the one that takes precedence.
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
    """An image store in a bucket. The first request to the object store is sent when the first image is stored.

    Without a configured key, obstore looks for credentials in the usual places of the provider. This is the one
    exception to the rule that only the settings read the environment, because roles of machines and pods can be found
    in no other way.
    """

    def __init__(self, config: StoreConfig) -> None:
        """Prepare the connection without using it.

        Raises:
            OSError: obstore does not accept the key or the address.
        """
        location = parse_bucket_url(config.url)
        key = {} if config.key is None else CLOUD_PROVIDERS[location.scheme].parse_key(config.key.get_secret_value())
        self._remote = connect(location, location.endpoint, key)
        # A signature covers the address, so URLs are signed for the one that clients use.
        public = location.public_endpoint
        self._signer = self._remote if public is None else connect(location, public, key)
        self._secrets = tuple(key.values())[-1:]
        self._deletes_expired = location.deletes_expired
        self._ttl = config.ttl
        self._serve = config.serve
        self._now = config.now
        self._uploads = asyncio.Semaphore(_MAX_UPLOADS)

    async def put(self, blob: Blob, info: ImageInfo) -> str:
        name = generate_name(info)
        headers = {"Content-Type": media_type(name), "Cache-Control": cache_control(self._ttl)}
        try:
            async with self._uploads:
                # Chunks are read by a thread of obstore when they are sent.
                data = blob.read_at(0, blob.size) if blob.size <= _PART_SIZE else blob.chunks(_PART_SIZE)
                await self._remote.put_async(name, data, attributes=headers, chunk_size=_PART_SIZE, max_concurrency=1)
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
        if self._is_expired(modified):
            return None
        return StoredImage(name, meta["size"], modified, partial(self._read, name))

    async def free_bytes(self) -> int | None:
        return None

    async def delete_expired(self) -> int:
        """Delete expired images, if the URL of the bucket demands it: listing a large bucket costs money.

        Raises:
            ServiceUnavailable: The object store cannot be reached.
        """
        if not self._deletes_expired:
            return 0
        deleted = 0
        try:
            async for page in self._remote.list(chunk_size=1000):
                names = [meta["path"] for meta in page if is_name(meta["path"]) and self._is_expired(_modified(meta))]
                if names:
                    await self._remote.delete_async(names)
                    deleted += len(names)
        except (BaseError, OSError) as error:
            raise store_unreachable(self._describe_error(error)) from None
        return deleted

    def close(self) -> None:
        """Do nothing, since obstore closes its connections itself."""

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
    """Return the error's text for the log, without obstore's internals and without anything that may be a secret."""
    text = redact_keys(str(error).partition("\n\nDebug source")[0], secrets)
    for pattern in _CREDENTIALS:
        text = pattern.sub(r"\1[key]", text)
    return text[:_MAX_LOGGED]


def _modified(meta: "ObjectMeta") -> float:
    return meta["last_modified"].timestamp()


def parse_bucket_url(url: str) -> BucketLocation:
    """Parse the URL of a bucket whose scheme is one of `CLOUD_PROVIDERS`.

    Raises:
        ValueError: The URL is not understood. The message gives the format, and does not repeat the URL.
    """
    parts = urlsplit(url)
    provider = CLOUD_PROVIDERS[parts.scheme]
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {*provider.options, "endpoint", "public", "sweep"}
    sweep = options.get("sweep", "false")
    if not parts.hostname or "@" in parts.netloc or parts.fragment or not options.keys() <= known:
        raise ValueError(f"{provider.url_format} with the options {', '.join(sorted(known))}; keys belong elsewhere")
    if sweep not in {"true", "false"} or not all(_is_address(options.get(name)) for name in ("endpoint", "public")):
        raise ValueError(
            f"{provider.url_format}, where endpoint and public are http(s) addresses, sweep is true or false"
        )
    return BucketLocation(
        parts.scheme,
        parts.netloc,
        parts.path.strip("/") or None,
        {provider.options[name]: value for name, value in options.items() if name in provider.options},
        options.get("endpoint"),
        options.get("public"),
        sweep == "true",
    )


def _is_address(value: str | None) -> bool:
    parts = urlsplit(value or "https://default")
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc


def connect(location: BucketLocation, endpoint: str | None, key: Mapping[str, str]) -> Remote:
    """Return obstore's client of the bucket at `endpoint`, by default the provider's own.

    Raises:
        OSError: obstore does not accept the key or the address. The message does not contain the key.
    """
    provider = CLOUD_PROVIDERS[location.scheme]
    address = {} if endpoint is None else {provider.endpoint: endpoint.rstrip("/")}
    options: ClientConfig = {"allow_http": endpoint is not None and endpoint.startswith("http:")}
    try:
        config = {**key, **location.config, **address}
        return provider.connect(
            location.bucket, prefix=location.prefix, config=config, client_options=options, retry_config=_RETRIES
        )
    except (BaseError, ValueError) as error:
        raise OSError(describe_error(error, tuple(key.values())[-1:])) from None
