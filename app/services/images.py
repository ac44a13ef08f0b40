"""Build what downloads, converts, signs and stores images, and what refuses them for lack of room."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from app import __version__
from app.access.capacity import Capacity, count_open_descriptors, descriptor_limit
from app.config.settings import Settings
from app.images.blob import Blob, SpoolMemory
from app.images.disk import free_bytes, parse_disk_url
from app.images.expiry_clock import ExpiryClock, steady_clock
from app.images.fetch import Fetcher
from app.images.signer import Signer, SigningKey, load_signing_key
from app.images.spare_files import MAX_SPARE_BYTES, SpareFiles
from app.images.store import ImageStore, StoreConfig
from app.images.transcode import Transcoder
from app.jobs.job import Job
from app.jobs.pipeline_io import Backends
from app.observability.logging import log
from app.services.upstreams import build_pool, proxy_address
from app.state.job_table import JobTable
from app.upstream.transport import Transport


def build_store_config(settings: Settings) -> StoreConfig:
    """Return where stored images are kept, and for how long."""
    return StoreConfig(
        url=settings.image_store,
        ttl=settings.image_ttl,
        max_bytes=settings.image_store_max_bytes,
        key=settings.image_store_key,
        serve=settings.store_serve,
        now=steady_clock() if settings.image_store == "memory:" else ExpiryClock(settings.image_ttl),
    )


def build_backends(
    settings: Settings, transport: Transport | None, store: ImageStore, table: JobTable[Job]
) -> Backends:
    """Return what all jobs share."""
    memory = SpoolMemory(settings.spool_memory, spare_files=SpareFiles(MAX_SPARE_BYTES))
    new_blob = partial(Blob, settings.spool_dir, memory=memory)
    pool = build_pool(settings, transport)
    specs = [member.spec for member in pool.members]
    fetcher = Fetcher(
        new_blob=new_blob,
        certificates={spec.base_url: spec.tls_ca for spec in specs if spec.tls_ca is not None},
        allow=settings.fetch_allow,
        proxy=download_proxy(settings),
        timeout=settings.fetch_timeout,
        max_bytes=settings.max_image_bytes,
        own_host=own_host(settings),
    )
    transcoder = Transcoder(new_blob=new_blob, memory=settings.image_memory)
    limits, strips_location = settings.shrink_inputs, settings.strip_location
    signer = build_signer(settings, new_blob)
    return Backends(pool, fetcher, transcoder, store, table, limits, strips_location, signer, memory)


def signing_key(settings: Settings) -> SigningKey | None:
    """Return the key that signs converted images, if there is one, after it has signed a sample.

    Raises:
        InvalidSigner: The certificate or the key cannot be used.
    """
    if settings.sign_certificates is None or settings.sign_key is None:
        return None
    return load_signing_key(settings.sign_certificates, settings.sign_key.get_secret_value())


def build_signer(settings: Settings, new_blob: Callable[[], Blob] = Blob) -> Signer | None:
    """Return what signs converted images, None if there is no certificate.

    Raises:
        InvalidSigner: The certificate or the key cannot be used.
    """
    key = signing_key(settings)
    if key is None:
        return None
    log.info("signing_ready", subject=key.subject, algorithm=key.algorithm, until=key.until.isoformat())
    return Signer(
        key,
        version=__version__,
        timestamps=settings.sign_timestamps,
        new_blob=new_blob,
        memory=settings.image_memory,
    )


def build_capacity(settings: Settings, spare_files: SpareFiles, make_room: Callable[[int], bool]) -> Capacity:
    """Return what refuses work for which this machine has no room, and calls `make_room` before that."""
    folder = Path(tempfile.gettempdir()) if settings.spool_dir is None else settings.spool_dir
    return Capacity(
        free_bytes=lambda: free_bytes(folder) + spare_files.size,
        open_descriptors=count_open_descriptors,
        descriptor_limit=descriptor_limit,
        max_uploads=settings.max_upload_bytes,
        max_image_bytes=settings.max_image_bytes,
        stores_in_spool=stores_in(settings, folder),
        make_room=make_room,
    )


def stores_in(settings: Settings, folder: Path) -> bool:
    """Return whether images are stored on the disk of that folder."""
    is_disk = settings.image_store.startswith("disk:")
    return is_disk and parse_disk_url(settings.image_store).stat().st_dev == folder.stat().st_dev


def download_proxy(settings: Settings) -> str | None:
    """Return the address of the proxy through which images are downloaded."""
    return proxy_address(settings.fetch_proxy or settings.upstream_proxy)


def own_host(settings: Settings) -> str | None:
    """Return the host under which clients reach this server, if it is known."""
    return None if settings.public_url is None else urlsplit(settings.public_url).hostname
