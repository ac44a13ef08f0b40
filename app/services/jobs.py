"""Build what accepts and runs jobs."""

from app.access.concurrency import FairSemaphore
from app.access.limits import KeyLimits
from app.config.settings import Settings
from app.jobs.pipeline_interface import PipelinePolicy
from app.jobs.pipeline_io import Backends
from app.jobs.registry import JobRegistry
from app.jobs.service import ImageService
from app.jobs.sharing import JobSharing
from app.services.images import build_capacity
from app.services.upstreams import max_in_flight
from app.state.shared_state import SharedState
from app.state.timings import SharingTimings


def build_service(settings: Settings, state: SharedState, backends: Backends, registry: JobRegistry) -> ImageService:
    """Return what accepts requests for images."""
    return ImageService(
        semaphore=FairSemaphore(max_in_flight(settings), settings.max_queue),
        limits=KeyLimits(state, settings.max_queue, currency=settings.currency),
        backends=backends,
        policy=pipeline_policy(settings),
        registry=registry,
        sharing=JobSharing(registry, backends.job_table, backends.store),
        capacity=build_capacity(settings, backends.spool_memory.spare_files, registry.make_room),
    )


def build_registry(settings: Settings, timings: SharingTimings) -> JobRegistry:
    """Return the empty registry of jobs."""
    return JobRegistry(
        ttl=settings.answer_ttl,
        key_ttl=settings.idempotency_ttl,
        max_retained=settings.max_answers,
        max_retained_bytes=settings.max_answers_bytes,
        delivered_ttl=timings.delivered,
    )


def pipeline_policy(settings: Settings) -> PipelinePolicy:
    """Return what the settings decide about each request."""
    return PipelinePolicy(
        stream=settings.upstream_stream,
        default_format=settings.default_response_format,
        rehost=settings.rehost,
        mask=settings.mask,
        credentials=settings.credentials,
        sign="never" if settings.sign_certificates is None else settings.sign,
        pass_links=settings.pass_image_urls,
        fetch_timeout=settings.fetch_timeout,
    )
