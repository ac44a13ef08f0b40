"""The image endpoints: JSON or form in, JSON or events out."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.access.auth import Access
from app.config.settings import Settings
from app.errors import BodyTimeout, InvalidRequest, NotFound, TooLarge, UserError
from app.forms import boundary_of, read_parts
from app.images.blob import Spool
from app.jobs.service import Studio
from app.jobs.usage_record import Books
from app.openapi import image_endpoint, result_endpoint
from app.protocol.image_request import ImagesRequest, Operation, read_form, read_json
from app.protocol.inline_images import Lifter

#: Bytes of JSON without its pictures: a hundred times the longest prompt.
_MAX_TEXT = 4 * 2**20

#: How Azure's paths end, and its rule for the name of a deployment.
_AZURE = {"generations": Operation.GENERATION, "edits": Operation.EDIT}
_DEPLOYMENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_RETIRED = (
    "The images/variations endpoint has been retired. Use /v1/images/edits with the image and a prompt that says what "
    "should differ."
)


def image_routes(settings: Settings, access: Access, books: Books) -> APIRouter:
    """Route first, then the key, then the body: a stranger does not make the server read 256 MiB."""
    router = APIRouter()

    async def answer(operation: Operation, http: Request, deployment: str | None = None) -> Response:
        caller = access.admit(http.headers)
        account = books.open(http.state.request_id, caller, operation, http.headers.get("traceparent"))
        http.state.account = account
        spool = Spool(settings.spool_dir)
        try:
            with account.trace.step("read"):
                request = await read(operation, http, spool, settings)
        except ClientDisconnect:
            spool.close()
            return Response(status_code=499)
        except BaseException:  # reason: tidied up, and raised again
            spool.close()
            raise
        studio: Studio = http.app.state.studio
        named = replace(request, model=request.model or deployment)
        return await studio.answer(named, caller, spool, http)

    @router.post("/images/generations", **image_endpoint(Operation.GENERATION, "Paint"))
    async def generations(http: Request) -> Response:
        return await answer(Operation.GENERATION, http)

    @router.post("/images/edits", **image_endpoint(Operation.EDIT, "Paint with pictures to start from"))
    async def edits(http: Request) -> Response:
        return await answer(Operation.EDIT, http)

    @router.get("/images/results/{result_id}", **result_endpoint())
    async def results(result_id: str, http: Request) -> Response:
        studio: Studio = http.app.state.studio
        return await studio.result(result_id, access.admit(http.headers), Spool(settings.spool_dir), http)

    add_azure(router, answer)
    retire_variations(router, access)
    return router


def add_azure(router: APIRouter, answer: Callable[[Operation, Request, str], Awaitable[Response]]) -> None:
    """The paths of Azure's clients, which name the model there and seldom in the body."""

    @router.post("/openai/deployments/{deployment}/images/{operation}", include_in_schema=False)
    async def azure(deployment: str, operation: str, http: Request) -> Response:
        if operation not in _AZURE or not _DEPLOYMENT.fullmatch(deployment):
            raise HTTPException(404)
        return await answer(_AZURE[operation], http, deployment)


def retire_variations(router: APIRouter, access: Access) -> None:
    @router.post("/images/variations", include_in_schema=False)
    async def variations(http: Request) -> Response:
        access.admit(http.headers)
        raise NotFound(_RETIRED, code="endpoint_retired")


async def read(operation: Operation, http: Request, spool: Spool, settings: Settings) -> ImagesRequest:
    """Raises InvalidRequest for what is neither JSON nor a form, TooLarge for more than the operator allows, and
    BodyTimeout.
    """
    content_type = http.headers.get("content-type", "application/json")
    body = counted(http, settings.max_request_bytes, settings.client_body_timeout)
    max_image = settings.max_image_bytes
    match content_type.partition(";")[0].strip().lower():
        case "multipart/form-data":
            boundary = boundary_of(content_type)
            parts = await read_parts(body, boundary, new_blob=spool.blob, max_part=max_image)
            return read_form(operation, parts)
        case "application/json" | "text/json" | "":
            return await read_lifting(operation, body, spool, max_image)
    raise InvalidRequest("Unsupported content type. Use 'application/json' or 'multipart/form-data'.")


async def read_lifting(operation: Operation, body: AsyncIterator[bytes], spool: Spool, max_image: int) -> ImagesRequest:
    """JSON whose large pictures go into blobs while they arrive."""
    lifter = Lifter(spool.blob)
    request = read_json(operation, parse(await read_text(body, lifter)))
    if lifter.dropped:
        message = "Invalid image file: the base64 of an image in the request is cut off, or no image."
        raise UserError(message, code="invalid_image_file")
    if any(blob.size > max_image for blob in lifter.lifted.values()):
        raise TooLarge(f"One image of the request is larger than the limit of {max_image} bytes.")
    images = tuple(picture.recover(lifter.lifted) for picture in request.images)
    mask = request.mask and request.mask.recover(lifter.lifted)
    recovered = [picture.source for picture in (*images, mask) if picture is not None]
    if any(blob not in recovered for blob in lifter.lifted.values()):
        raise InvalidRequest("The request holds base64 of an image where no image belongs.", code="invalid_value")
    return replace(request, images=images, mask=mask)


async def read_text(body: AsyncIterator[bytes], lifter: Lifter) -> bytearray:
    """What is left of JSON when the pictures have been lifted out: all of it is held, so it must be small."""
    text = bytearray()
    async for piece in body:
        text += lifter.feed(piece)
        if len(text) > _MAX_TEXT:
            raise TooLarge(f"The JSON of the request, without its pictures, is larger than {_MAX_TEXT} bytes.")
    return text


async def counted(http: Request, most: int, patience: float) -> AsyncIterator[bytes]:
    """The body. Raises TooLarge for more than `most` bytes, BodyTimeout after `patience` seconds without one."""
    announced = http.headers.get("content-length", "")
    # int() refuses numbers of more than 4,300 digits with a ValueError of its own.
    if len(announced) > 18 or (announced.isdecimal() and int(announced) > most):
        raise _too_large(most)
    read = 0
    pieces = aiter(http.stream())
    while (piece := await _next(pieces, patience)) is not None:
        read += len(piece)
        if read > most:
            raise _too_large(most)
        yield piece


async def _next(pieces: AsyncIterator[bytes], patience: float) -> bytes | None:
    try:
        async with asyncio.timeout(patience):
            return await anext(pieces, None)
    except TimeoutError:
        message = f"The body of the request did not come: no byte within {patience:g} s."
        raise BodyTimeout(message, headers={"connection": "close"}) from None


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"Maximum content size limit ({most}) exceeded.")


def parse(body: bytearray) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidRequest("We could not parse the JSON body of your request.") from None
