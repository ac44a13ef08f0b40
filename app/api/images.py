"""The image endpoints: JSON or form in, JSON or events out."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.access.auth import Authenticator
from app.api.body import read
from app.api.openapi import image_endpoint, result_endpoint
from app.config.settings import Settings
from app.errors import NotFound
from app.images.blob import Spool
from app.jobs.service import Studio
from app.jobs.usage_record import Books
from app.protocol.image_request import Operation

#: How Azure's paths end, and its rule for the name of a deployment.
_AZURE = {"generations": Operation.GENERATION, "edits": Operation.EDIT}
_DEPLOYMENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_RETIRED = (
    "The images/variations endpoint has been retired. Use /v1/images/edits with the image and a prompt that says what "
    "should differ."
)


def image_routes(settings: Settings, access: Authenticator, books: Books) -> APIRouter:
    """Route first, then the key, then the body: a stranger does not make the server read 256 MiB."""
    router = APIRouter()

    async def answer(operation: Operation, http: Request, deployment: str | None = None) -> Response:
        caller = access.authenticate(http.headers)
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
        return await studio.result(result_id, access.authenticate(http.headers), Spool(settings.spool_dir), http)

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


def retire_variations(router: APIRouter, access: Authenticator) -> None:
    @router.post("/images/variations", include_in_schema=False)
    async def variations(http: Request) -> Response:
        access.authenticate(http.headers)
        raise NotFound(_RETIRED, code="endpoint_retired")
