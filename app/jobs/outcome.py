"""What a job has brought, as the job table keeps it for other replicas.

An outcome is JSON with sizes, usage and the result or the error. Where a further run can deliver what was paid for, the
replies are a part of it. Images go into the shared image store, and the outcome names them. Prompts are never written.
Reading an outcome restores the images into a spool, as if the job had run here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import orjson

from app.errors import ApiError, ImageUnavailable, RetrySafety, TaskCanceled
from app.images.blob import Blob, Spool
from app.images.store import ImageStore, copy_stored
from app.jobs.job import Job
from app.jobs.pipeline_interface import Emit, GenerationResult
from app.observability.logging import log
from app.protocol.byte_sink import ByteSink
from app.protocol.chat_reply import ChatReply
from app.protocol.image_format import ImageInfo, read_info
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage
from app.protocol.json_stream import Base64String
from app.protocol.parameters import Operation
from app.protocol.size_fit import SizeMode
from app.protocol.sizes import parse_pixels
from app.protocol.stored_reply import dump_reply, load_reply
from app.protocol.usage import Usage

#: Fields of the request in an outcome: those that the response or the log shows, never the prompt.
_REQUEST_FIELDS = ("model", "n", "quality", "safety_identifier", "stream", "ignored", "asked_size", "size_mode")

#: Fields of an image in an outcome that are texts.
_IMAGE_FIELDS = ("form", "credentials", "ignored")

_NOT_SHARED = "The image was made, but this server cannot find it any more."


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """A finished job of another replica: a result, or an error.

    Attributes:
        stored_replies: The replies that were paid for, as they are written, where `can_retry_free`.
        paid_failures: See `Job`.
        can_retry_free: A further run, which gets the paid replies and the paid failures, costs nothing more.
    """

    request: ImagesRequest
    result: GenerationResult | None = None
    error: ApiError | None = None
    stored_replies: Sequence[Mapping[str, Any]] = ()
    paid_failures: tuple[ApiError, ...] = ()
    can_retry_free: bool = False

    async def emit(self, emit: Emit) -> None:
        """Emit the result as a run brings it. Raises the error."""
        if self.result is None:
            raise self.error or ApiError()
        emit(self.result)

    async def load_paid_replies(self, store: ImageStore, spool: Spool) -> list[ChatReply]:
        """Read the replies, their images into the spool. Raises `ImageUnavailable` for one that is not in the store."""
        replies = []
        for reply in self.stored_replies:
            images = {url: await _load_blob(name, store, spool) for url, name in reply["images"].items()}
            replies.append(load_reply(reply["text"], images))
        return replies


def has_spooled_images(job: Job) -> bool:
    """Return whether the outcome of a finished job has images, which have to be in its spool to be stored."""
    if job.run.result is not None:
        return True
    return job.needs_redelivery and any(reply.spooled_images for reply in job.paid_replies)


async def dump_outcome(job: Job, store: ImageStore) -> tuple[bytes, bool]:
    """Serialize a finished job; its images go into the store.

    Returns:
        The outcome, and whether other replicas can do with it what this one can: a failure tells those that wait, even
        if only this replica has what was paid for.

    Raises:
        ImageUnavailable: An image of a result cannot be stored.
    """
    result, is_whole = job.run.result, True
    document: dict[str, Any] = {"request": _dump_request(job.request, job.run.telemetry.ignored_of(job.request))}
    if result is not None:
        images = [await _dump_image(image, store) for image in result.images]
        document["result"] = {
            "images": images,
            "usage": astuple(result.usage),
            "failed": result.failed,
            "created": result.created,
        }
    else:
        error = job.run.error or ApiError()
        document["error"] = _dump_error(error)
        document["spent"] = [_dump_error(each) for each in job.paid_failures]
        replies = await _dump_replies(job, store)
        is_whole = replies is not None
        document |= {"paid_replies": replies, "can_retry_free": job.can_retry_free and is_whole}
    return orjson.dumps(document), is_whole


async def _dump_replies(job: Job, store: ImageStore) -> list[dict[str, Any]] | None:
    """Return the replies that a further run needs, their images in the store; None where that cannot be done."""
    replies = []
    for reply in job.paid_replies if job.needs_redelivery else ():
        text = dump_reply(reply)
        if text is None:
            return None
        try:
            names = {url: await _store(image, store) for url, image in reply.spooled_images.items()}
        except ImageUnavailable as error:
            log.warning("job_sharing_failed", job=job.id, error=error.detail or error.message)
            return None
        replies.append({"text": text, "images": names})
    return replies


async def _store(image: ByteSink, store: ImageStore) -> str:
    """Store an image that came with a reply, and return its name. Raises `ImageUnavailable`."""
    info = read_info(image.read_at)
    if not isinstance(image, Blob) or info is None:
        raise ImageUnavailable(_NOT_SHARED, detail="what has come as base64 is not an image")
    return await store.put(image, info)


def _dump_request(request: ImagesRequest, ignored: Sequence[str] = ()) -> dict[str, Any]:
    fields = {name: getattr(request, name) for name in _REQUEST_FIELDS} | {"ignored": ignored}
    return {**fields, "operation": request.operation, "size": request.size_text}


def is_canceled(outcome: bytes) -> bool:
    """Return whether an outcome says that the client has canceled the job."""
    error: dict[str, Any] = orjson.loads(outcome).get("error", {})
    return error.get("class") == TaskCanceled.__name__


async def _dump_image(image: OutputImage, store: ImageStore) -> dict[str, Any]:
    measured = {"info": image.info, "received": image.received}
    fields: dict[str, Any] = {name: getattr(image, name) for name in _IMAGE_FIELDS}
    fields |= {name: info and astuple(info) for name, info in measured.items()}
    if image.source is None and not isinstance(image.url, Base64String):
        return fields | {"url": image.url}
    name = image.stored or await store.put(*measured_blob(image))
    return fields | {"name": name, "prefix": image.url.prefix if isinstance(image.url, Base64String) else None}


def measured_blob(image: OutputImage) -> tuple[Blob, ImageInfo]:
    """Return the bytes of an image that is not only a link, and what they say about it."""
    source = image.delivered_source
    if not isinstance(source, Blob) or image.info is None:
        raise TypeError("an image of a result is a measured blob")
    return source, image.info


async def load_outcome(data: bytes, store: ImageStore, spool: Spool) -> JobOutcome:
    """Restore an outcome, its images into the spool. Raises `ImageUnavailable` for one that is not in the store."""
    document = orjson.loads(data)
    fields = document["request"]
    request = ImagesRequest(
        operation=Operation(fields.pop("operation")),
        prompt="",
        size=parse_pixels(fields.pop("size")),
        size_mode=SizeMode(fields.pop("size_mode", SizeMode.NATIVE)),
        **fields | {"ignored": tuple(fields["ignored"])},
    )
    if (result := document.get("result")) is not None:
        images = [await _load_image(image, store, spool) for image in result["images"]]
        return JobOutcome(
            request, GenerationResult(tuple(images), Usage(*result["usage"]), result["failed"], result["created"])
        )
    error = _load_error(document["error"])
    if not document["can_retry_free"]:
        return JobOutcome(request, error=error)
    return JobOutcome(
        request,
        error=error,
        stored_replies=document["paid_replies"],
        paid_failures=tuple(_load_error(each) for each in document["spent"]),
        can_retry_free=True,
    )


async def _load_image(fields: dict[str, Any], store: ImageStore, spool: Spool) -> OutputImage:
    info, received = (ImageInfo(*fields[name]) if fields.get(name) else None for name in ("info", "received"))
    credentials, ignored = fields.get("credentials"), tuple(fields.get("ignored", ()))
    image = OutputImage(fields["form"], info=info, received=received, credentials=credentials, ignored=ignored)
    if "url" in fields:
        return replace(image, url=fields["url"])
    blob = await _load_blob(fields["name"], store, spool)
    if fields["prefix"] is None:
        return replace(image, source=blob, info=read_info(blob.read_at), stored=fields["name"])
    return replace(image, url=Base64String(blob, fields["prefix"]), stored=fields["name"])


async def _load_blob(name: str, store: ImageStore, spool: Spool) -> Blob:
    stored = await store.get(name)
    if stored is None:
        raise ImageUnavailable(_NOT_SHARED, detail="LIMNER_IMAGE_STORE: not there; do all replicas share it?")
    blob = spool.new_blob()
    await copy_stored(stored, blob)
    return blob


def _dump_error(error: ApiError) -> dict[str, Any]:
    safety = None if error.retry_safety is None else error.retry_safety.name
    return {"class": type(error).__name__, "headers": error.headers, "retry_safety": safety, **error.body}


def _load_error(fields: dict[str, Any]) -> ApiError:
    """Restore an error of the class that it had."""
    classes = {each.__name__: each for each in _subclasses(ApiError)}
    error_class = classes.get(fields["class"], ApiError)
    error, extra = error_class.__new__(error_class), fields["error"]
    standard = {name: extra.pop(name) for name in ("param", "code", "type")}
    ApiError.__init__(error, extra.pop("message"), extra=extra, headers=fields["headers"], **standard)
    error.retry_safety = None if fields["retry_safety"] is None else RetrySafety[fields["retry_safety"]]
    return error


def _subclasses(error_class: type[ApiError]) -> Iterator[type[ApiError]]:
    yield error_class
    for child in error_class.__subclasses__():
        yield from _subclasses(child)


#: In place of a request that this replica has never seen.
NO_REQUEST = ImagesRequest(operation=Operation.GENERATION, prompt="")

#: The outcome of a job that its client has canceled. Nothing runs it again.
CANCELED_OUTCOME = orjson.dumps(
    {"request": _dump_request(NO_REQUEST), "error": _dump_error(TaskCanceled()), "can_retry_free": False}
)
