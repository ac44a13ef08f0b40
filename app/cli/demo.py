"""`limner demo`: run the server in front of the demo upstream, with no key and no network."""

import errno
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import pybase64

from app.cli.messages import print_error
from app.cli.settings import load_settings
from app.config.settings import Settings
from app.config.upstreams import UpstreamEntry
from app.demo.app import create_demo
from app.demo.behaviors import EXAMPLES, MODEL, parse_model
from app.demo.server import serve
from app.main import create_app
from app.observability.logging import log, unblock_standard_error
from app.protocol.image_format import sniff
from app.server.descriptors import fill_standard_descriptors

PROMPT = "A lighthouse in a storm, oil on canvas"

_READY = """
Limner is ready at {url}/v1 and uses the demo upstream: no key, no network, no cost.
Open {url}/ in a browser, or paste this:

    curl {url}/v1/images/generations \\
      -H 'content-type: application/json' \\
      -d '{{"model": "gpt-image-2", "prompt": "{prompt}", "size": "1536x1024", "response_format": "url"}}'

In an existing client change two lines: base_url="{url}/v1", api_key="demo".
The model name "refuses-400", and others of {url}/v1/models, show what upstreams can do. Ctrl-C ends the demo.
"""


@click.command("demo")
@click.option(
    "--once",
    type=click.Path(),
    metavar="[DIR]",
    is_flag=False,
    flag_value="limner-demo",
    help="Generate one image and edit it, write both into DIR (limner-demo if none is named), and end.",
)
def command(once: str | None) -> int:
    """Run the server with a demo upstream: no key, no network.

    LIMNER_PORT and LIMNER_HOST choose where it listens, by default at 127.0.0.1:8000.
    """
    return run_demo(once)


def run_demo(once: str | None) -> int:
    """Run both servers until a signal, or with `once` for one generation and one edit into that folder.

    Returns the exit code: 1 if the demo cannot start or an image could not be made.
    """
    fill_standard_descriptors()
    unblock_standard_error()
    # Threads inherit the mask. It is set before any thread starts, so that the signals reach only `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with running(fixed_port=once is None) as url:
            if once is not None:
                return generate_once(url, Path(once))
            print(_READY.format(url=url.replace("0.0.0.0", "127.0.0.1"), prompt=PROMPT), flush=True)  # noqa: S104
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
            return 0
    except BrokenPipeError:
        # The output cannot be written, as in `limner demo | head -1`.
        raise
    except CannotListen as error:
        print_error("demo", str(error))
        return 1
    except OSError as error:
        print_error("demo", f"cannot start: {error}")
        return 1
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


class CannotListen(Exception):
    """The server cannot have its address. The message says why and what to do, in one line."""


@contextmanager
def running(*, fixed_port: bool, **more: Any) -> Iterator[str]:
    """Run both servers and yield the base URL of Limner, without `/v1`. `more` are settings.

    Raises:
        CannotListen: LIMNER_HOST and LIMNER_PORT are not an address of this machine, or are in use.
        OSError: Something else is missing, like a folder for temporary files.
    """
    with ExitStack() as stack:
        upstream = stack.enter_context(serve(create_demo(chunk_pause=0.2 if fixed_port else 0.0)))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="limner-demo-"))
        settings = load_settings(
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
        with_models = settings.model_copy(update={"upstreams": (demo_entry(settings),)})
        port = settings.port if fixed_port else 0
        app = create_app(with_models)
        try:
            url = stack.enter_context(serve(app, settings.host, port))
        except OSError as error:
            raise CannotListen(describe_address_error(error, settings.host, port)) from None
        yield url


def describe_address_error(error: OSError, host: str, port: int) -> str:
    """Return a line that says which setting to change."""
    # Python adds the address in its own notation.
    reason = str(error.strerror).partition(" (while attempting")[0]
    is_port = error.errno in {errno.EADDRINUSE, errno.EACCES}
    remedy = "Set LIMNER_PORT to a free port" if is_port else "Set LIMNER_HOST to an address of this machine"
    return f"cannot listen on {host} port {port}: {reason}. {remedy}"


def demo_entry(settings: Settings) -> UpstreamEntry:
    """Return the demo upstream with a model map: names of the demo's special behaviors stand for themselves.

    Any other name stands for LIMNER_UPSTREAM_MODEL if that is a behavior too, and else for the demo's default model:
    the setting may belong to another upstream, which the operator uses in production.
    """
    (upstream,) = settings.effective_upstreams
    known = parse_model(settings.upstream_model) is not None
    if not known:
        log.warning("demo_model_replaced", unknown=settings.upstream_model, instead=MODEL)
    return upstream.model_copy(
        update={
            "model": settings.upstream_model if known else MODEL,
            "models": {name: name for name in EXAMPLES if name != MODEL},
        }
    )


def generate_once(url: str, folder: Path) -> int:
    """Write both images and return the exit code. An error is one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        generate_and_edit(url, folder)
    except (OSError, httpx.HTTPError) as error:
        print_error("demo", f"--once: {str(error).splitlines()[0]}")
        return 1
    return 0


def generate_and_edit(url: str, folder: Path) -> None:
    """Send a generation and an edit as the official client does, write the images, and print their sizes."""
    body = {"model": "gpt-image-2", "prompt": PROMPT, "size": "1536x1024"}
    with httpx.Client(
        base_url=f"{url}/v1", headers={"authorization": "Bearer demo"}, timeout=120, trust_env=False
    ) as http:
        image = save_image(http.post("/images/generations", json=body), folder / "generated.png")
        form = {"model": "gpt-image-2", "prompt": "Make it night", "size": "1024x1536"}
        files = [("image[]", ("generated.png", image, "image/png"))]
        save_image(http.post("/images/edits", data=form, files=files), folder / "edited.png")


def save_image(response: httpx.Response, path: Path) -> bytes:
    """Write the image of a response into a file, print its size, and return its bytes."""
    response.raise_for_status()
    data = pybase64.b64decode(response.json()["data"][0]["b64_json"], validate=True)
    path.write_bytes(data)
    info = sniff(data)
    print(f"{path}: {info.size if info else 'not an image'}, {len(data):,} bytes")
    return data
