"""The demo upstream's routes: one paints, one lists the models, one serves what was painted."""

import asyncio
from collections.abc import Sequence
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

from app.demo import reply_forms as tellings
from app.demo.behaviours import BEHAVIOURS, Plan, Sketch, read_model
from app.demo.chat_request import Question, Refused, bad_picture, decode_picture, read_question
from app.demo.chat_response import Sleep, respond
from app.demo.drawing import NotAPicture, Scene, check_picture, paint
from app.demo.image_host import Exhibit
from app.demo.interruptions import Call
from app.demo.reply_forms import Painted
from app.demo.state import DemoState, SeenRequest

#: Hosts whose pictures are downloaded. The demo needs no network: other links hang in the picture as a label.
LOOPBACK = {"127.0.0.1", "localhost", "::1"}

#: Pictures painted at once. An own pool: the default one is the event loop's, for looking up names and the like.
PAINTERS = 2

_PAGE = b"<!doctype html><title>Please log in</title><h1>Please log in</h1>"
_EXTENSIONS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


def create_demo(
    *,
    public_url: str | None = None,
    pace: float = 0.0,
    api_key: str | None = None,
    sleep: Sleep = asyncio.sleep,
) -> Starlette:
    """`app.state.demo` of the app is its DemoState.

    `public_url`: where the links of pictures point, otherwise to the host that the client named. `pace`: seconds
    between the pieces of a stream. `api_key`: the one Bearer token it takes, otherwise it takes any or none.
    """
    demo = Demo(public_url, pace, api_key, sleep)
    routes = [
        *(Route(path, demo.complete, methods=["POST"]) for path in ("/v1/chat/completions", "/chat/completions")),
        *(Route(path, demo.list_models) for path in ("/v1/models", "/models")),
        Route("/images/{name}", demo.state.gallery.show),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Turnstile, state=demo.state)],
        exception_handlers={Refused: _refuse, HTTPException: _refuse},
    )
    app.state.demo = demo.state
    return app


class Turnstile:
    """Counts the requests under way, to the last byte of their answers."""

    def __init__(self, app: ASGIApp, state: DemoState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._state.move(+1)
        try:
            await self._app(scope, receive, send)
        finally:
            self._state.move(-1)


class Demo:
    def __init__(self, public_url: str | None, pace: float, api_key: str | None, sleep: Sleep) -> None:
        self.state = DemoState()
        self._public_url = public_url
        self._pace = pace
        self._api_key = api_key
        self._sleep = sleep
        self._painters = ThreadPoolExecutor(PAINTERS, "demo-painter")

    async def list_models(self, request: Request) -> Response:
        self._check_key(request)
        models = [{"id": row.title, "object": "model", "created": 0, "owned_by": "demo"} for row in BEHAVIOURS]
        return JSONResponse({"object": "list", "data": models})

    async def complete(self, request: Request) -> Response:
        body = await self._read_body(request)
        self._check_key(request)
        question = read_question(body)
        plan = _plan(question)
        for gate in plan.gates:
            instead = await gate(Call(question, self.state, self._sleep))
            if instead is not None:
                return instead
        pictures = await self._gather(question.pictures)
        painted = await self._paint(question, plan, pictures, self._public_url or str(request.base_url).rstrip("/"))
        telling = plan.telling or (tellings.images_field if question.openrouter else tellings.documented)
        reply = telling(painted, question.pictures)
        wire = replace(plan.wire, pace=plan.wire.pace or self._pace, progress=bool(painted) and reply.in_words)
        return respond(question, reply, wire, self.state.calls, self._sleep)

    async def _read_body(self, request: Request) -> Any:
        raw = await request.body()
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            body = None
        self.state.note(SeenRequest(request.url.path, dict(request.headers), body, len(raw)))
        return body

    def _check_key(self, request: Request) -> None:
        if self._api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Refused("You didn't provide an API key.", status=401)
        if not compare_digest(key.encode(), self._api_key.encode()):
            raise Refused("Incorrect API key provided.", status=401, code="invalid_api_key")

    async def _gather(self, urls: Sequence[str]) -> tuple[bytes | str, ...]:
        """The pictures of a question; a label for those that are not at hand."""
        pictures = [decode_picture(url) or await _download(url) for url in urls]
        loop = asyncio.get_running_loop()
        for picture in pictures:
            if isinstance(picture, bytes):
                try:
                    await loop.run_in_executor(self._painters, check_picture, picture)
                except NotAPicture:
                    raise bad_picture() from None
        return tuple(pictures)

    async def _paint(
        self, question: Question, plan: Plan, pictures: tuple[bytes | str, ...], url: str
    ) -> list[Painted]:
        scene = Scene(question.prompt, question.width, question.height, question.quality, pictures)
        painted = []
        variant = 0
        for sketch in plan.sketches:
            painted.append(await self._paint_one(replace(scene, variant=variant), sketch, url))
            variant += not sketch.draft
        return painted

    async def _paint_one(self, scene: Scene, sketch: Sketch, url: str) -> Painted:
        width, height = int(scene.width * sketch.scale), int(scene.height * sketch.scale)
        scaled = replace(scene, width=width, height=height)
        draw = partial(paint, scaled, sketch.encoding)
        data = _PAGE if sketch.page else await asyncio.get_running_loop().run_in_executor(self._painters, draw)
        media_type = "text/html" if sketch.page else sketch.media_type or f"image/{sketch.encoding.lower()}"
        extension = _EXTENSIONS[sketch.encoding] if sketch.extension is None else sketch.extension
        exhibit = Exhibit(data, media_type, sketch.absent, sketch.cuts, sketch.hops)
        self.state.painted += 1
        name = self.state.gallery.keep(exhibit, extension)
        return Painted(f"{url}/images/{name}{sketch.link}", data, media_type, sketch.draft)


def _plan(question: Question) -> Plan:
    plan = read_model(question.model)
    if plan is None:
        message = f"The model `{question.model}` does not exist or you do not have access to it."
        raise Refused(message, status=404, code="model_not_found")
    return plan


async def _download(url: str) -> bytes | str:
    """Raises Refused where a picture on this machine cannot be read."""
    try:
        link = httpx.URL(url)
        if link.scheme not in {"http", "https"}:
            raise bad_picture()
        if link.host not in LOOPBACK:
            return url
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            return (await client.get(link)).raise_for_status().content
    except (httpx.HTTPError, httpx.InvalidURL):
        raise Refused(f"Error while downloading {url}.", param="url", code="invalid_image_url") from None


async def _refuse(request: Request, error: Exception) -> Response:
    """The framework's own 404 and 405 look as the API's errors do."""
    if isinstance(error, HTTPException):
        message = f"Invalid URL ({request.method} {request.url.path})"
        error = Refused(message, status=error.status_code, headers=error.headers)
    assert isinstance(error, Refused)  # noqa: S101  the handler is registered for these two
    return JSONResponse(error.body, error.status, error.headers)
