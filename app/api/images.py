"""The image endpoints: generations, edits, results, tasks, and the paths of Azure's clients."""

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.access.auth import Authenticator, Caller
from app.api.body import announced_bytes, read_image_request
from app.api.context import RequestContext, context_of
from app.api.delivery import KeepAlive, accepted_response, deliver, server_url_of, task_receipt_response, task_response
from app.api.disconnects import DisconnectWatcher
from app.api.openapi import image_endpoint, result_endpoint, task_endpoint, task_submission_endpoint
from app.api.request_headers import forget_headers
from app.api.responses import OrjsonResponse
from app.api.route_table import RouteTable
from app.api.size_rules import size_mode_of
from app.api.webhook_requests import with_webhook
from app.config.settings import Settings
from app.errors import NotFound, UserError
from app.images.blob import Spool
from app.jobs.dry_run import DRY_RUN_HEADER, dry_run, is_dry_run
from app.jobs.service import ClientLeft, ImageService, JobReader, Submission
from app.jobs.tasks import ImageTasks
from app.jobs.usage_record import UsageRecord, UsageRecorder
from app.jobs.webhooks import Webhooks
from app.protocol.image_request import ImagesRequest
from app.protocol.parameters import Operation
from app.protocol.size_fit import SIZE_HEADER, SizeMode, parse_size_header
from app.upstream.token_check import TokenCheck

#: How Azure's paths end, and its rule for the name of a deployment.
_AZURE = {"generations": Operation.GENERATION, "edits": Operation.EDIT}
_DEPLOYMENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")

#: Headers that say that a request is a retry, with the values that do: of the SDKs that Stainless generates (OpenAI's),
#: of Envoy, which counts attempts from 1, of the AWS SDKs and their signing proxies, and of gRPC gateways.
_RETRY_MARKS = {
    "x-stainless-retry-count": re.compile("0*[1-9][0-9]*"),
    "x-envoy-attempt-count": re.compile("0*([2-9]|[1-9][0-9]+)"),
    "amz-sdk-request": re.compile("(.*[; ])?attempt=0*([2-9]|[1-9][0-9]+)(;.*)?"),
    "grpc-previous-rpc-attempts": re.compile("0*[1-9][0-9]*"),
}

_RETIRED = (
    "The images/variations endpoint has been retired. Use /v1/images/edits with the image and a prompt that says what "
    "should differ."
)

_NO_STREAM = "A task cannot be streamed: it is polled, and has one result."


@dataclass(frozen=True, slots=True)
class ImageEndpoints:
    """What the image endpoints do, and what they need for it.

    `public_path` is the path below which clients reach this server.
    """

    settings: Settings
    authenticator: Authenticator
    token_check: TokenCheck
    recorder: UsageRecorder
    service: ImageService
    tasks: ImageTasks
    webhooks: Webhooks
    keepalive: KeepAlive
    new_spool: Callable[[], Spool]
    public_path: str = ""

    async def handle(
        self, operation: Operation, http: Request, deployment: str | None = None, *, as_task: bool = False
    ) -> Response:
        """Answer a request for images; `deployment` is the model that an Azure path names.

        `as_task`: the client wants a task, as the path says; the body may say so, too.

        The order is route, then key, then body: a stranger must not make the server read 256 MiB, or download links.
        A key that is passed through is known to the upstream only, which is asked first.
        """
        headers = http.headers
        caller = self.authenticator.authenticate(headers)
        context = context_of(http.scope)
        is_dry = is_dry_run(headers.get(DRY_RUN_HEADER, ""))
        usage = self.recorder.start(context.id, caller, operation, headers.get("traceparent"))
        if not is_dry:
            context.usage = usage
            await self.token_check.check(caller.id, caller.token)
        spool = self.new_spool()
        try:
            request = await self._read(http, headers, spool, usage, as_task=as_task)
        except ClientDisconnect:
            return Response(status_code=499)
        if "origin" in headers or (deployment and request.model is None):
            request = replace(request, model=request.model or deployment, from_page="origin" in headers)
        if is_dry:
            return self._plan(request, caller, spool, context)
        watcher = DisconnectWatcher.of(http)
        submission = _submission(headers, request, usage, spool, watcher)
        del headers
        forget_headers(http.scope)
        return await self._answer(submission, watcher, http)

    async def _read(
        self, http: Request, headers: Headers, spool: Spool, usage: UsageRecord, *, as_task: bool
    ) -> ImagesRequest:
        """Return the request that the body makes; where it makes none, close the spool."""
        try:
            mode = requested_size_mode(headers, usage.caller, self.settings.size)
            announced = announced_bytes(http, self.settings.max_request_bytes)
            with usage.trace.step("read"), self.service.capacity.upload(usage.caller.id, announced) as upload:
                request = await read_image_request(usage.operation, http, spool, self.settings, upload, size_mode=mode)
            return await self._with_webhook(_as_task(request, as_task), headers, usage.caller)
        except BaseException:  # reason: tidied up, and raised again
            spool.close()
            raise

    async def _with_webhook(self, request: ImagesRequest, headers: Headers, caller: Caller) -> ImagesRequest:
        return await with_webhook(
            request,
            headers,
            caller,
            self.webhooks,
            is_allowed=self.settings.webhooks,
            is_async=_is_async(request, headers),
        )

    def _plan(self, request: ImagesRequest, caller: Caller, spool: Spool, context: RequestContext) -> Response:
        """Answer what the request would do. Nothing is charged, recorded or sent anywhere."""
        context.log_fields["dry_run"] = True
        backends = self.service.backends
        with closing(spool):
            plan = dry_run(request, caller, backends.pool, self.service.policy, backends.input_limits)
        return OrjsonResponse(plan, headers={DRY_RUN_HEADER: "true"})

    async def _answer(self, submission: Submission, watcher: DisconnectWatcher, http: Request) -> Response:
        """Submit a request and answer its client."""
        try:
            reader = await self.service.submit(submission)
        except ClientLeft:
            watcher.cancel()
            return Response(status_code=499)
        except BaseException:  # reason: tidied up, and raised again
            watcher.cancel()
            raise
        if submission.is_async:
            watcher.cancel()
            if submission.request.webhook_url is not None:
                server_url = server_url_of(http, self.settings.public_url)
                await self.webhooks.register(reader.job, submission.request.webhook_url, server_url)
            if submission.request.as_task:
                return task_receipt_response(reader.job.id, self._expires_at(reader), http, self.public_path)
            return accepted_response(reader.job.id, http, self.public_path)
        return await self._deliver(reader, watcher, http)

    async def _deliver(self, reader: JobReader, watcher: DisconnectWatcher, http: Request) -> Response:
        context = context_of(http.scope)
        return await deliver(reader, http, context, self.keepalive, watcher, public_url=self.settings.public_url)

    def _expires_at(self, reader: JobReader) -> int:
        return self.tasks.expires_at(self.service.registry.seconds_left(reader.job))

    async def task(self, task_id: str, http: Request) -> Response:
        """Answer a client that polls a task."""
        caller = self.authenticator.authenticate(http.headers)
        view = await self.tasks.view(task_id, caller, server_url_of(http, self.settings.public_url))
        return task_response(view, http, context_of(http.scope))

    async def cancel_task(self, task_id: str, http: Request) -> Response:
        """Cancel a task, and return it."""
        await self.tasks.cancel(task_id, self.authenticator.authenticate(http.headers))
        return await self.task(task_id, http)

    async def result(self, result_id: str, http: Request) -> Response:
        """Answer a client that comes back for the result of a request that it did not wait for."""
        caller = self.authenticator.authenticate(http.headers)
        reader, _ = await self.service.view(result_id, caller, self.new_spool())
        if reader is None:
            return accepted_response(result_id, http, self.public_path)
        return await self._deliver(reader, DisconnectWatcher.of(http), http)


def image_routes(endpoints: ImageEndpoints) -> RouteTable:
    """Return the routes of the image endpoints."""
    router = RouteTable()

    @router.add("/images/generations", ("POST",), **image_endpoint(Operation.GENERATION, "Generate images"))
    async def generations(http: Request) -> Response:
        return await endpoints.handle(Operation.GENERATION, http)

    @router.add("/images/edits", ("POST",), **image_endpoint(Operation.EDIT, "Generate images from input images"))
    async def edits(http: Request) -> Response:
        return await endpoints.handle(Operation.EDIT, http)

    @router.add("/images/results/{result_id}", ("GET",), **result_endpoint())
    async def results(result_id: str, http: Request) -> Response:
        return await endpoints.result(result_id, http)

    add_task_routes(router, endpoints)
    add_azure_routes(router, endpoints)
    add_retired_routes(router, endpoints.authenticator)
    return router


def _submission(
    headers: Headers, request: ImagesRequest, usage: UsageRecord, spool: Spool, watcher: DisconnectWatcher
) -> Submission:
    return Submission(
        usage.request_id,
        request,
        usage.caller,
        spool,
        usage,
        idempotency_key=headers.get("idempotency-key"),
        is_retry=is_client_retry(headers),
        counts_attempts=any(map(headers.get, _RETRY_MARKS)),
        is_async=_is_async(request, headers),
        is_connected=watcher.is_connected,
    )


def _as_task(request: ImagesRequest, as_task: bool) -> ImagesRequest:
    """Return the request, as one that is answered with a task if its path or its body says so.

    Raises:
        UserError: It wants a stream, too.
    """
    if (as_task or request.as_task) and request.stream:
        raise UserError(_NO_STREAM, param="stream", code="unsupported_parameter")
    return replace(request, as_task=True) if as_task and not request.as_task else request


def _is_async(request: ImagesRequest, headers: Headers) -> bool:
    prefers_receipt = not request.stream and "respond-async" in headers.get("prefer", "").lower()
    return request.as_task or prefers_receipt


def is_client_retry(headers: Headers) -> bool:
    """Return whether the client, or a proxy, says that it is repeating a request. Many are silent about it."""
    marks = [(pattern, headers.get(name)) for name, pattern in _RETRY_MARKS.items()]
    return any(pattern.fullmatch(value.strip()) for pattern, value in marks if value)


def requested_size_mode(headers: Headers, caller: Caller, default: SizeMode) -> SizeMode:
    """Return the size mode of a request: what its header says, or its client key, or the server's `default`.

    Raises:
        UserError: The header has another value than those that are known.
    """
    if value := headers.get(SIZE_HEADER):
        return parse_size_header(value)
    return size_mode_of(caller.key, default)


def add_task_routes(router: RouteTable, endpoints: ImageEndpoints) -> None:
    """Add the endpoints of asynchronous tasks."""

    @router.add(
        "/images/generations/async",
        ("POST",),
        **task_submission_endpoint(Operation.GENERATION, "Generate images as a task"),
    )
    async def generations_as_task(http: Request) -> Response:
        return await endpoints.handle(Operation.GENERATION, http, as_task=True)

    @router.add("/images/edits/async", ("POST",), **task_submission_endpoint(Operation.EDIT, "Edit images as a task"))
    async def edits_as_task(http: Request) -> Response:
        return await endpoints.handle(Operation.EDIT, http, as_task=True)

    @router.add("/images/tasks/{task_id}", ("GET",), **task_endpoint("Get a task", "image_task"))
    async def task(task_id: str, http: Request) -> Response:
        return await endpoints.task(task_id, http)

    @router.add(
        "/images/tasks/{task_id}",
        ("DELETE",),
        **task_endpoint("Cancel a task that has cost nothing yet", "image_task_cancel", may_conflict=True),
    )
    async def cancel_task(task_id: str, http: Request) -> Response:
        return await endpoints.cancel_task(task_id, http)


def add_azure_routes(router: RouteTable, endpoints: ImageEndpoints) -> None:
    """Add the paths of Azure's clients, which name the model there and seldom in the body."""

    @router.add("/openai/deployments/{deployment}/images/{operation}", ("POST",))
    async def azure(deployment: str, operation: str, http: Request) -> Response:
        if operation not in _AZURE or not _DEPLOYMENT.fullmatch(deployment):
            raise HTTPException(404)
        return await endpoints.handle(_AZURE[operation], http, deployment)

    @router.add("/openai/deployments/{deployment}/images/{operation}/async", ("POST",))
    async def azure_as_task(deployment: str, operation: str, http: Request) -> Response:
        if operation not in _AZURE or not _DEPLOYMENT.fullmatch(deployment):
            raise HTTPException(404)
        return await endpoints.handle(_AZURE[operation], http, deployment, as_task=True)

    @router.add("/openai/deployments/{deployment}/images/tasks/{task_id}", ("GET",))
    async def azure_task(task_id: str, http: Request) -> Response:
        return await endpoints.task(task_id, http)

    @router.add("/openai/deployments/{deployment}/images/tasks/{task_id}", ("DELETE",))
    async def azure_cancel_task(task_id: str, http: Request) -> Response:
        return await endpoints.cancel_task(task_id, http)

    @router.add("/openai/deployments/{deployment}/images/results/{result_id}", ("GET",))
    async def azure_result(result_id: str, http: Request) -> Response:
        return await endpoints.result(result_id, http)


def add_retired_routes(router: RouteTable, authenticator: Authenticator) -> None:
    """Add the endpoints that OpenAI has retired, with an error that says what to use instead."""

    @router.add("/images/variations", ("POST",))
    async def variations(http: Request) -> Response:
        authenticator.authenticate(http.headers)
        raise NotFound(_RETIRED, code="endpoint_retired")
