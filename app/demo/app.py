"""The routes of the demo upstream: chat completions, the list of models, and the images it has drawn."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hmac import compare_digest
from typing import Any

import httpx
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.demo import reply_forms
from app.demo.behaviors import BEHAVIORS, ImageSpec, ReplyPlan, parse_model
from app.demo.chat_request import (
    DemoApiError,
    DemoChatRequest,
    decode_data_url,
    parse_chat_request,
    read_anywhere,
    read_model,
    unsupported_image,
)
from app.demo.chat_response import Sleep, respond
from app.demo.drawing import InvalidImage, Scene, check_image, draw
from app.demo.image_host import HostedImage
from app.demo.interruptions import InterruptionContext
from app.demo.reply_forms import DemoImage
from app.demo.state import DemoState, SeenRequest

#: Hosts from which input images are downloaded. Other URLs are drawn as a label, so the demo needs no network.
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}

#: Images drawn at once. A pool of its own, because the event loop needs the default one for DNS look-ups.
MAX_DRAWING_THREADS = 2

#: Returns the file of a scene in an encoding.
Draw = Callable[[Scene, str], bytes]

_HTML_PAGE = b"<!doctype html><title>Please log in</title><h1>Please log in</h1>"
_EXTENSIONS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


def create_demo(
    *,
    public_url: str | None = None,
    chunk_pause: float = 0.0,
    api_key: str | None = None,
    sleep: Sleep = asyncio.sleep,
    draw: Draw = draw,
) -> Starlette:
    """Create the app. Its `app.state.demo` is the DemoState.

    Args:
        public_url: Base of the URLs of images; by default the host that the client named.
        chunk_pause: Seconds between the chunks of a stream.
        api_key: The only Bearer token that is accepted; by default any or none.
        sleep: Replaced by tests.
        draw: Replaced where the time that drawing takes would be in the way. Called in a thread.
    """
    demo = _Demo(public_url, chunk_pause, api_key, sleep, draw)
    routes = [
        *(
            Route(path, demo.create_completion, methods=["POST"])
            for path in ("/v1/chat/completions", "/chat/completions")
        ),
        *(Route(path, demo.list_models) for path in ("/v1/models", "/models")),
        Route("/images/{name}", demo.state.image_host.serve),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(InFlightCounter, state=demo.state)],
        exception_handlers={DemoApiError: _handle_error, HTTPException: _handle_error},
    )
    app.state.demo = demo.state
    return app


class InFlightCounter:
    """ASGI middleware that counts the requests in flight, up to the last byte of their responses."""

    def __init__(self, app: ASGIApp, state: DemoState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._state.change_in_flight(+1)
        try:
            await self._app(scope, receive, send)
        finally:
            self._state.change_in_flight(-1)


class _Demo:
    def __init__(
        self, public_url: str | None, chunk_pause: float, api_key: str | None, sleep: Sleep, draw: Draw
    ) -> None:
        self.state = DemoState()
        self._public_url = public_url
        self._chunk_pause = chunk_pause
        self._api_key = api_key
        self._sleep = sleep
        self._draw = draw
        self._drawing_pool = ThreadPoolExecutor(MAX_DRAWING_THREADS, "demo-drawing")

    async def list_models(self, request: Request) -> Response:
        self._check_key(request)
        models = [{"id": row.title, "object": "model", "created": 0, "owned_by": "demo"} for row in BEHAVIORS]
        return JSONResponse({"object": "list", "data": models})

    async def create_completion(self, request: Request) -> Response:
        body = await self._read_body(request)
        self._check_key(request)
        plan = _plan(read_model(body))
        chat_request = parse_chat_request(body, read_anywhere if plan.family is None else plan.family.read)
        if plan.family is not None and plan.family.needs_modality and not chat_request.has_image_modality:
            plan = replace(plan, images=(), build_reply=reply_forms.text_only)
        for interrupt in plan.interruptions:
            response = await interrupt(InterruptionContext(chat_request, self.state, self._sleep))
            if response is not None:
                return response
        input_images = await self._load_input_images(chat_request.image_urls)
        base_url = self._public_url or str(request.base_url).rstrip("/")
        images = await self._draw_images(chat_request, plan, input_images, base_url)
        default_form = reply_forms.images_field if chat_request.has_image_modality else reply_forms.documented
        reply = (plan.build_reply or default_form)(images, chat_request.image_urls)
        transport = replace(
            plan.transport,
            chunk_pause=plan.transport.chunk_pause or self._chunk_pause,
            with_progress=bool(images) and reply.has_text_content,
        )
        return respond(chat_request, reply, transport, self.state.calls, self._sleep)

    async def _read_body(self, request: Request) -> Any:
        raw = await request.body()
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            body = None
        self.state.record_request(SeenRequest(request.url.path, dict(request.headers), body, len(raw)))
        return body

    def _check_key(self, request: Request) -> None:
        if self._api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise DemoApiError("You didn't provide an API key.", status=401)
        if not compare_digest(key.encode(), self._api_key.encode()):
            raise DemoApiError("Incorrect API key provided.", status=401, code="invalid_api_key")

    async def _load_input_images(self, urls: Sequence[str]) -> tuple[bytes | str, ...]:
        """Return the bytes of each input image, or the URL itself where it is not downloaded."""
        images = [decode_data_url(url) or await _download(url) for url in urls]
        loop = asyncio.get_running_loop()
        for image in images:
            if isinstance(image, bytes):
                try:
                    await loop.run_in_executor(self._drawing_pool, check_image, image)
                except InvalidImage:
                    raise unsupported_image() from None
        return tuple(images)

    async def _draw_images(
        self, chat_request: DemoChatRequest, plan: ReplyPlan, input_images: tuple[bytes | str, ...], base_url: str
    ) -> list[DemoImage]:
        """Draw the images of a plan. A draft and the final image after it show the same scene."""
        scene = Scene(chat_request.prompt, chat_request.width, chat_request.height, chat_request.quality, input_images)
        images = []
        variant = 0
        for spec in plan.images:
            images.append(await self._draw_image(replace(scene, variant=variant), spec, base_url))
            variant += not spec.is_draft
        return images

    async def _draw_image(self, scene: Scene, spec: ImageSpec, base_url: str) -> DemoImage:
        width, height = int(scene.width * spec.scale), int(scene.height * spec.scale)
        if spec.is_html_page:
            data, media_type = _HTML_PAGE, "text/html"
        else:
            draw_file = partial(self._draw, replace(scene, width=width, height=height), spec.encoding)
            data = await asyncio.get_running_loop().run_in_executor(self._drawing_pool, draw_file)
            media_type = spec.media_type or f"image/{spec.encoding.lower()}"
        extension = _EXTENSIONS[spec.encoding] if spec.extension is None else spec.extension
        hosted = HostedImage(data, media_type, spec.not_found_count, spec.truncated_count, spec.redirect_count)
        self.state.images_drawn += 1
        name = self.state.image_host.add(hosted, extension)
        suffix = spec.url_suffix.format(width=width, height=height)
        return DemoImage(f"{base_url}/images/{name}{suffix}", data, media_type, spec.is_draft)


def _plan(model: str) -> ReplyPlan:
    plan = parse_model(model)
    if plan is None:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise DemoApiError(message, status=404, code="model_not_found")
    return plan


async def _download(url: str) -> bytes | str:
    """Download an image from this machine; return the URL itself for other hosts.

    Raises:
        DemoApiError: The URL is invalid, or the image cannot be downloaded.
    """
    try:
        link = httpx.URL(url)
        if link.scheme not in {"http", "https"}:
            raise unsupported_image()
        if link.host not in LOOPBACK_HOSTS:
            return url
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            return (await client.get(link)).raise_for_status().content
    except (httpx.HTTPError, httpx.InvalidURL):
        raise DemoApiError(f"Error while downloading {url}.", param="url", code="invalid_image_url") from None


async def _handle_error(request: Request, error: Exception) -> Response:
    """Give the framework's own 404 and 405 the form of the API's errors."""
    if isinstance(error, HTTPException):
        message = f"Invalid URL ({request.method} {request.url.path})"
        error = DemoApiError(message, status=error.status_code, headers=error.headers)
    assert isinstance(error, DemoApiError)  # noqa: S101  the handler is registered for these two
    return JSONResponse(error.body, error.status, error.headers)
