"""`limner paint`: a small client of any Images API, which shows how long it takes and writes the images into files."""

import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import orjson
import pybase64

from app.cli.key_files import UnusableKey, check_key, read_key_file
from app.cli.main import COMMANDS_PAGE, INTERRUPTED
from app.cli.messages import print_error
from app.cli.terminal import Progress, live_progress, show_image
from app.config.environment import openai_variables, terminal_names
from app.protocol.data_url import decode_data_url
from app.protocol.image_format import sniff
from app.protocol.sse import Decoder, Event

#: Defaults of the command line; the time in seconds.
BASE_URL = "http://127.0.0.1:8000/v1"
MODEL = "gpt-image-2"
TIMEOUT = 900

#: Seconds of silence at most: a day.
_MAX_TIMEOUT = 86_400

#: The `output_format` for the suffix of a file; for others the API's default is used.
_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

#: What to do about a status, behind the message of the error.
_REMEDIES = {401: " (set OPENAI_API_KEY to your key, or name its file with --api-key-file)"}


class PaintError(Exception):
    """There is no image. The message says why, in one line."""


class UsageError(PaintError):
    """The command cannot be carried out. No request was sent."""


@dataclass(frozen=True, slots=True)
class PaintOptions:
    """The command line, and for `base_url` and `api_key` also the environment.

    With `images` the request is an edit. `api_key_file` wins over `api_key`. `timeout` is in seconds without a byte of
    the reply.
    """

    prompt: str
    out: Path
    base_url: str = BASE_URL
    api_key_file: Path | None = None
    model: str = MODEL
    n: int = 1
    size: str | None = None
    quality: str | None = None
    images: tuple[Path, ...] = ()
    mask: Path | None = None
    stream: bool = True
    partial_images: int = 0
    timeout: float = TIMEOUT
    api_key: str = field(default="limner", repr=False)

    def fields(self) -> dict[str, Any]:
        """Return the fields of the request. What is not given is left out, since an API may refuse unknown fields."""
        fields = {
            "model": self.model,
            "prompt": self.prompt,
            "size": self.size,
            "quality": self.quality,
            "output_format": _FORMATS.get(self.out.suffix.lower()),
            "n": self.n if self.n > 1 else None,
        }
        if self.stream and self.n == 1:
            # The API streams a single image only.
            fields |= {"stream": True, "partial_images": self.partial_images or None}
        return {name: value for name, value in fields.items() if value is not None}


_FILE = click.Path(path_type=Path)


@click.command("paint")
@click.argument("prompt")
@click.option("-o", "out", type=_FILE, required=True, metavar="FILE", help="Where to write; out-1.png, … for several.")
@click.option("--size", metavar="WxH", help="Like 1536x1024, 16:9 or 2K.")
@click.option("--quality", metavar="Q", help="low, medium or high.")
@click.option("--image", "images", type=_FILE, multiple=True, metavar="FILE", help="An image to edit; repeatable.")
@click.option("--mask", type=_FILE, metavar="FILE", help="A PNG that is transparent where the first image is edited.")
@click.option("-n", type=click.IntRange(1, 10), metavar="COUNT", help="How many images. [default: 1]")
@click.option("--model", metavar="NAME", help=f"[default: {MODEL}]")
@click.option("--base-url", metavar="URL", help=f"[default: OPENAI_BASE_URL, else {BASE_URL}]")
@click.option(
    "--api-key-file",
    type=_FILE,
    metavar="FILE",
    help="Contains the key. [default: OPENAI_API_KEY, else the key 'limner']",
)
@click.option("--partial-images", type=click.IntRange(1, 3), metavar="COUNT", help="They may cost extra.")
@click.option("--no-stream", "stream", flag_value=False, default=True, help="For servers that cannot stream.")
@click.option("--timeout", type=float, metavar="SECONDS", help=f"The longest silence. [default: {TIMEOUT}]")
def command(**options: Any) -> int:
    """Generate or edit images with any server of the Images API.

    PROMPT says what to generate, or what to change.
    """
    given = {name: value for name, value in options.items() if value is not None}
    return paint(PaintOptions(**(openai_variables() | given)))


def paint(options: PaintOptions) -> int:
    """Request and write the images, and return the exit code.

    That is 1 if images are missing, 2 if the command cannot be carried out, and 130 after Ctrl-C.
    """
    progress = Progress()
    try:
        images = request_images(options, progress)
        progress.clear()
        write_images(options, images)
    except (PaintError, OSError) as error:
        progress.clear()
        is_usage = isinstance(error, UsageError)
        print_error("paint", str(error), COMMANDS_PAGE if is_usage else None)
        return 2 if is_usage else 1
    except KeyboardInterrupt:
        progress.clear()
        return INTERRUPTED
    if len(images) < options.n:
        print_error("paint", f"the server sent {len(images)} of {options.n} images")
        return 1
    return 0


def request_images(options: PaintOptions, progress: Progress) -> list[bytes]:
    """Return the bytes of all images of the response.

    Raises:
        PaintError: There are no images, or one of them cannot be read.
    """
    request, key = build_request(options), read_key(options)
    progress.update(f"waiting for {options.base_url}")
    try:
        with live_progress(progress), open_client(options, key) as http:
            with http.stream("POST", **request) as response:
                items = read_response(response, progress)
            return [image_bytes(item, progress) for item in items]
    except httpx.ReadTimeout:
        raise PaintError(f"no data for {options.timeout:g} s; the image may have been generated") from None
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise PaintError(
            f"no server answers at {options.base_url}. Name another one with --base-url or OPENAI_BASE_URL"
        ) from None
    except httpx.HTTPError as error:
        broken = f"the connection broke ({type(error).__name__})"
        raise PaintError(f"{broken}; the image may have been generated") from None


def build_request(options: PaintOptions) -> dict[str, Any]:
    """Return the arguments for httpx. What could fail after the request is checked here, before it costs money."""
    if not is_address(options.base_url):
        raise UsageError(f"not an http(s) address: {options.base_url}")
    if options.mask and not options.images:
        raise UsageError("--mask needs an --image")
    if not 1 <= options.timeout <= _MAX_TIMEOUT:
        raise UsageError(f"--timeout: expected 1 to {_MAX_TIMEOUT} seconds")
    if not options.out.parent.is_dir():
        raise UsageError(f"no such folder: {options.out.parent}")
    for path in output_paths(options.out, options.n):
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UsageError(f"{path}: cannot be written")
    if not options.images:
        return {"url": "images/generations", "json": options.fields()}
    files = [("image[]" if len(options.images) > 1 else "image", path) for path in options.images]
    files += [("mask", options.mask)] if options.mask else []
    form = {name: str(value).lower() if value is True else str(value) for name, value in options.fields().items()}
    return {"url": "images/edits", "data": form, "files": [(name, file_part(path)) for name, path in files]}


def is_address(text: str) -> bool:
    """Return whether requests can be sent to an address."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in {"http", "https"} and bool(url.host)


def file_part(path: Path) -> tuple[str, bytes, str]:
    """Return name, content and media type of a file, as httpx takes a part of a form."""
    data = read_file(path)
    info = sniff(data)
    return path.name, data, info.media_type if info else "application/octet-stream"


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def read_key(options: PaintOptions) -> str:
    """Return the key of the command line or the environment.

    Raises:
        UsageError: The file cannot be read, or its content cannot be a key. The message does not contain the key.
    """
    try:
        if options.api_key_file is not None:
            return read_key_file(options.api_key_file)
        return check_key(options.api_key.encode("utf-8", "surrogateescape"), "OPENAI_API_KEY")
    except UnusableKey as error:
        raise UsageError(str(error)) from None


@contextmanager
def open_client(options: PaintOptions, key: str) -> Iterator[httpx.Client]:
    """Open a client that sends the key. Proxies of the environment are not used, so that they do not see it."""
    with httpx.Client(
        base_url=options.base_url,
        headers={"authorization": f"Bearer {key}"},
        timeout=httpx.Timeout(options.timeout, connect=10),
        verify=ssl.create_default_context(),
        trust_env=False,
    ) as http:
        yield http


def read_response(response: httpx.Response, progress: Progress) -> list[Mapping[str, Any]]:
    """Return the items with images: of events or, from a server that cannot stream, of JSON.

    Raises:
        PaintError: The response is an error or has no images.
    """
    if response.is_success and response.headers.get("content-type", "").startswith("text/event-stream"):
        return [read_events(response, progress)]
    body = response.read()
    if not response.is_success:
        raise PaintError(f"{response.status_code} {error_text(body)}{_REMEDIES.get(response.status_code, '')}")
    items = parse_object(body).get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items) or not items:
        raise PaintError(f"the response has no images: {error_text(body)}")
    return items


def read_events(response: httpx.Response, progress: Progress) -> Mapping[str, Any]:
    """Return the data of the event with the complete image.

    Raises:
        PaintError: An event is an error, or the stream ends early.
    """
    partial_images = 0
    decoder = Decoder()
    for chunk in response.iter_bytes():
        for event in decoder.feed(chunk):
            kind, data = event_kind(event)
            if kind.endswith(".completed"):
                return data
            if kind == "error" or "error" in data:
                raise PaintError(error_text(event.data.encode()))
            if kind.endswith(".partial_image"):
                partial_images += 1
                progress.update(f"partial image {partial_images}")
    raise PaintError("the stream ended without an image")


def event_kind(event: Event) -> tuple[str, dict[str, Any]]:
    """Return the type of an event, from beside its data or from within, and the data."""
    if event.data.strip() == "[DONE]":
        return "", {}
    data = parse_object(event.data.encode())
    return event.name if event.name != "message" else str(data.get("type", "")), data


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse JSON; what is not an object becomes an empty one."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise PaintError(f"the response is not JSON: {error_text(body)}") from None
    return document if isinstance(document, dict) else {}


def error_text(body: bytes) -> str:
    """Return code and message of an error in OpenAI's form, or else the body, as one line of at most 500 characters."""
    try:
        error = orjson.loads(body)["error"]
        text = f"{error.get('code') or error.get('type') or 'error'}: {error['message']}"
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        text = body.decode("utf-8", "replace") or "without a message"
    line = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return line if len(line) <= 500 else f"{line[:499]}…"


def image_bytes(item: Mapping[str, Any], progress: Progress) -> bytes:
    """Return the bytes of an item's image. A link may lead anywhere, so it is requested without the key."""
    try:
        if isinstance(data := item.get("b64_json"), str):
            return decode_data_url(data) if data.startswith("data:") else pybase64.b64decode(data, validate=True)
        url = str(item.get("url") or "")
        if url.startswith("data:"):
            return decode_data_url(url)
    except ValueError:
        raise PaintError("the image is not valid base64") from None
    if not url.startswith(("http://", "https://")):
        raise PaintError("the response has neither b64_json nor url")
    progress.update("downloading")
    tls = ssl.create_default_context()
    with httpx.Client(verify=tls, trust_env=False, follow_redirects=True, timeout=60) as http:
        try:
            response = http.get(url)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise PaintError(f"the image was generated, but its address cannot be used: {url}") from None
    if not response.is_success:
        raise PaintError(f"the image was generated, but its address answers {response.status_code}: {url}")
    return response.content


def write_images(options: PaintOptions, images: list[bytes]) -> None:
    """Write each image into its file, print what it is, and show it if the terminal can."""
    for path, image in zip(output_paths(options.out, len(images)), images, strict=True):
        path.write_bytes(image)
        info = sniff(image)
        print(f"{path}: {f'{info.size} {info.format}' if info else 'not an image'}, {len(image):,} bytes")
        show_image(image, terminal_names(), sys.stdout)


def output_paths(out: Path, count: int) -> Iterator[Path]:
    """Yield `out.png`, or `out-1.png`, `out-2.png`, … for several images."""
    if count == 1:
        yield out
    else:
        yield from (out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1))
