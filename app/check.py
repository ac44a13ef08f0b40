"""`limner check`: asks the configured upstream step by step, and stops at the first step that fails."""

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from app.main import create_app
from app.settings import Settings


class Failed(Exception):
    """Why a step failed and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    run: Callable[[Settings], Coroutine[Any, Any, str]]


def check(settings: Settings, *, paint: bool) -> int:
    """The exit code. One line a step, with the milliseconds it took."""
    steps = [*STEPS, Step("paint", paint_one)] if paint else STEPS
    if not all(take(step, settings) for step in steps):
        return 1
    if not paint:
        print("      No picture was asked for: limner check --paint does that, and costs one picture.")
    return 0


def take(step: Step, settings: Settings) -> bool:
    """Whether it went well."""
    began = time.perf_counter()
    try:
        said = asyncio.run(step.run(settings))
    except Failed as reason:
        print(f"FAIL  {step.name:<8} {reason}")
        return False
    print(f"ok    {step.name:<8} {said} ({(time.perf_counter() - began) * 1000:.0f} ms)")
    return True


async def reach(settings: Settings) -> str:
    url = httpx.URL(settings.upstream_base_url)
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    try:
        async with asyncio.timeout(settings.upstream_connect_timeout):
            _, writer = await asyncio.open_connection(url.host, port)
    except TimeoutError:
        raise Failed(f"no answer from {url.host}:{port} within LIMNER_UPSTREAM_CONNECT_TIMEOUT") from None
    except ConnectionRefusedError:
        raise Failed(f"nothing listens at {url.host}:{port}. See LIMNER_UPSTREAM_BASE_URL") from None
    except OSError as error:
        raise Failed(f"cannot reach {url.host}:{port}: {error}. See LIMNER_UPSTREAM_BASE_URL") from None
    peer = writer.get_extra_info("peername")[0]
    writer.close()
    await writer.wait_closed()
    return f"{url.host}:{port} is {peer}"


async def shake_hands(settings: Settings) -> str:
    url = httpx.URL(settings.upstream_base_url)
    if url.scheme == "http":
        return "none: plain http, the key travels unencrypted"
    try:
        async with asyncio.timeout(settings.upstream_connect_timeout):
            _, writer = await asyncio.open_connection(url.host, url.port or 443, ssl=ssl.create_default_context())
    except (TimeoutError, OSError) as error:
        raise Failed(f"no TLS with {url.host}: {error}") from None
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    await writer.wait_closed()
    return f"{version}, certificate good for {url.host}"


async def list_models(settings: Settings) -> str:
    """Few upstreams document the list; where there is none, only a picture can tell."""
    key = settings.upstream_api_key
    if key is None:
        return "none: LIMNER_UPSTREAM_API_KEY is unset, callers bring their own"
    headers = {"authorization": f"Bearer {key.get_secret_value()}"}
    try:
        # The same certificates as for the questions, not those that come with httpx.
        tls = ssl.create_default_context()
        patience = settings.upstream_connect_timeout + 10
        async with httpx.AsyncClient(trust_env=False, timeout=patience, verify=tls) as http:
            response = await http.get(f"{settings.upstream_base_url}/models", headers=headers)
    except httpx.HTTPError as error:
        raise Failed(f"no answer to GET /models: {type(error).__name__}") from None
    if response.status_code in {401, 403}:
        raise Failed(f"the upstream refuses LIMNER_UPSTREAM_API_KEY with status {response.status_code}")
    if not response.is_success:
        return f"not known: GET /models answers {response.status_code}"
    return f"accepted; {judge_model(response.content, settings.upstream_model)}"


def judge_model(body: bytes, model: str) -> str:
    """A relay may sell models that it does not list, so a missing name is said, not held against it."""
    try:
        names = {entry["id"] for entry in orjson.loads(body)["data"]}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "its list of models cannot be read"
    return f"{model} is {'' if model in names else 'NOT '}among its {len(names)} models"


async def paint_one(settings: Settings) -> str:
    """Through the whole server, so that download and conversion are tried too."""
    if settings.upstream_api_key is None:
        raise Failed("LIMNER_UPSTREAM_API_KEY is unset: only callers have keys, so nobody is here to pay")
    try:
        # Without the keys of clients, which may be known as digests only: nobody else can reach this server.
        app = create_app(settings.model_copy(update={"api_keys": ()}))
    except OSError as error:
        raise Failed(f"LIMNER_IMAGE_STORE cannot be opened: {error}") from None
    asked = {"prompt": "A small lighthouse", "size": "1024x1024", "quality": "low", "response_format": "b64_json"}
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://limner", timeout=None) as http:  # noqa: S113
            response = await http.post("/v1/images/generations", json=asked)
    answer = response.json()
    if not response.is_success:
        raise Failed(answer["error"]["message"])
    form = response.headers["x-limner-reply-form"]
    return f"{answer['size']} {answer['output_format']}, found as {form}"


STEPS = [Step("address", reach), Step("tls", shake_hands), Step("key", list_models)]
