"""`limner demo`: the server with a painter of its own, so that nothing but this machine is needed."""

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pybase64
from pydantic import ValidationError

from app.config.settings import Settings
from app.config.upstreams import UpstreamEntry
from app.config.validation import describe_errors
from app.demo.app import create_demo
from app.demo.behaviours import EXAMPLES, MODEL, parse_model
from app.demo.server import serve
from app.main import create_app
from app.observability.logging import configure_logging, log
from app.protocol.image_format import sniff

PROMPT = "A lighthouse in a storm, oil on canvas"

_READY = """
Limner is ready at {url}/v1 and paints with the demo upstream: no key, no network, no cost.
Open {url}/ in a browser, or paste this:

    curl {url}/v1/images/generations \\
      -H 'content-type: application/json' \\
      -d '{{"model": "gpt-image-2", "prompt": "{prompt}", "size": "1536x1024", "response_format": "url"}}'

In an existing client change two lines: base_url="{url}/v1", api_key="demo".
Name a model of {url}/v1/models to see what upstreams can do, like "refuses-400". Ctrl-C ends it.
"""


def run_demo(once: str | None) -> int:
    """The exit code. `once`: the folder for one generation and one edit; without it the servers run until a signal."""
    # Before any thread starts: they inherit the mask, so that the signals reach `sigwait` alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with running(fixed_port=once is None) as url:
            if once is not None:
                return generate_once(url, Path(once))
            print(_READY.format(url=url.replace("0.0.0.0", "127.0.0.1"), prompt=PROMPT), flush=True)  # noqa: S104
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
            return 0
    except ValidationError as error:
        print(*describe_errors(error), sep="\n", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"limner demo: cannot listen: {error.strerror}. Set LIMNER_PORT to a free port.", file=sys.stderr)
        return 1
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


@contextmanager
def running(*, fixed_port: bool, **more: Any) -> Iterator[str]:
    """Both servers; the base URL of Limner without `/v1`. `more` are settings."""
    with ExitStack() as stack:
        upstream = stack.enter_context(serve(create_demo(chunk_pause=0.2 if fixed_port else 0.0)))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="limner-demo-"))
        settings = Settings(
            upstreams=(),
            upstream_base_url=f"{upstream}/v1",
            upstream_api_key="demo",
            upstream_dialect="gpt-image-2-chat",
            api_keys="",
            keys_file=None,
            allow_anonymous=True,
            fetch_allow=upstream.removeprefix("http://"),
            image_store=f"disk://{folder}",
            rehost="always",
            **more,
        )
        configure_logging(settings.log_format, settings.log_level)
        shown = settings.model_copy(update={"upstreams": (demo_entry(settings),)})
        port = settings.port if fixed_port else 0
        yield stack.enter_context(serve(create_app(shown), settings.host, port))


def demo_entry(settings: Settings) -> UpstreamEntry:
    """A client that names one of the demo's oddities gets it. Any other name stands for LIMNER_UPSTREAM_MODEL, which
    may be any oddity, but is left aside where it belongs to a real upstream.
    """
    (alone,) = settings.effective_upstreams
    known = parse_model(settings.upstream_model) is not None
    if not known:
        log.warning("demo_model_replaced", unknown=settings.upstream_model, instead=MODEL)
    return alone.model_copy(
        update={
            "model": settings.upstream_model if known else MODEL,
            "models": {name: name for name in EXAMPLES if name != MODEL},
        }
    )


def generate_once(url: str, folder: Path) -> int:
    """The exit code. What cannot be written or painted is told in one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        generate_and_edit(url, folder)
    except (OSError, httpx.HTTPError) as error:
        print(f"limner demo --once: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


def generate_and_edit(url: str, folder: Path) -> None:
    """One generation and one edit in the wire form of the official client; writes the pictures, prints their sizes."""
    asked = {"model": "gpt-image-2", "prompt": PROMPT, "size": "1536x1024"}
    with httpx.Client(
        base_url=f"{url}/v1", headers={"authorization": "Bearer demo"}, timeout=120, trust_env=False
    ) as http:
        painted = save_image(http.post("/images/generations", json=asked), folder / "generated.png")
        form = {"model": "gpt-image-2", "prompt": "Make it night", "size": "1024x1536"}
        files = [("image[]", ("generated.png", painted, "image/png"))]
        save_image(http.post("/images/edits", data=form, files=files), folder / "edited.png")


def save_image(response: httpx.Response, path: Path) -> bytes:
    response.raise_for_status()
    data = pybase64.b64decode(response.json()["data"][0]["b64_json"], validate=True)
    path.write_bytes(data)
    info = sniff(data)
    print(f"{path}: {info.size if info else 'not an image'}, {len(data):,} bytes")
    return data
