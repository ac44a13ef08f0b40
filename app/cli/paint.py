"""`limner paint`: a small client of any Images API, which waits with the reader and writes the pictures into files."""

import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import httpx
import orjson
import pybase64

from app.config.settings import terminal_names
from app.protocol.data_url import decode_data_url
from app.protocol.image_format import sniff
from app.protocol.sse import Decoder, Event

#: By what a terminal calls itself in TERM or TERM_PROGRAM: the protocol in which it shows pictures.
TERMINAL_PROTOCOLS = {
    "xterm-kitty": "kitty",
    "xterm-ghostty": "kitty",
    "ghostty": "kitty",
    "iTerm.app": "iterm2",
    "WezTerm": "iterm2",
}

#: Width of a picture, in columns.
_IMAGE_COLUMNS = 60

#: The kitty protocol's limit for one piece of base64.
_KITTY_CHUNK = 4096


class Progress:
    """Seconds and what is being done: one line drawn over and over on a terminal, a line for each news elsewhere."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._started_at = clock()
        self._is_live = self._stream.isatty()
        self._message = ""

    @property
    def seconds(self) -> float:
        return self._clock() - self._started_at

    def update(self, news: str) -> None:
        self._message = news
        if self._is_live:
            self.draw()
        else:
            self._write(f"{self._line}\n")

    def draw(self) -> None:
        if self._is_live:
            self._write(f"\r\x1b[K{self._line}")

    def clear(self) -> None:
        if self._is_live:
            self._write("\r\x1b[K")

    @property
    def _line(self) -> str:
        return f"{self.seconds:6.1f} s  {self._message}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def show_image(picture: bytes, names: Iterable[str], stream: TextIO) -> None:
    """`names`: what the terminal calls itself. Nothing where it cannot show the picture."""
    protocol = next((TERMINAL_PROTOCOLS[name] for name in names if name in TERMINAL_PROTOCOLS), None)
    if not stream.isatty():
        return
    if protocol == "iterm2":
        stream.write(f"{iterm2_sequence(picture)}\n")
    elif protocol == "kitty" and picture.startswith(b"\x89PNG"):
        stream.writelines((*kitty_sequences(picture), "\n"))
    stream.flush()


def iterm2_sequence(picture: bytes) -> str:
    """https://iterm2.com/documentation-images.html"""
    data = pybase64.b64encode(picture).decode()
    return f"\x1b]1337;File=inline=1;width={_IMAGE_COLUMNS};size={len(picture)}:{data}\x07"


def kitty_sequences(picture: bytes) -> Iterator[str]:
    """https://sw.kovidgoyal.net/kitty/graphics-protocol/ shows PNG only; only the first piece tells what comes."""
    data = pybase64.b64encode(picture).decode()
    for start in range(0, len(data), _KITTY_CHUNK):
        control = f"a=T,f=100,q=2,c={_IMAGE_COLUMNS}," if start == 0 else ""
        more = int(start + _KITTY_CHUNK < len(data))
        yield f"\x1b_G{control}m={more};{data[start : start + _KITTY_CHUNK]}\x1b\\"


#: What an order says that says nothing of it; the time in seconds.
BASE_URL = "http://127.0.0.1:8000/v1"
MODEL = "gpt-image-2"
TIMEOUT = 900

#: Seconds between two drawings of the progress line.
_REDRAW_INTERVAL = 0.1

#: What an ending asks for; elsewhere the API's own default stands.
_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

#: What to do about a status.
_ADVICE = {401: " (--api-key-file names the file that holds your key)"}


class PaintError(Exception):
    """Why there is no picture, in one line."""


class UsageError(PaintError):
    """The command asks for what cannot be done; nothing was sent."""


@dataclass(frozen=True, slots=True)
class PaintOptions:
    """`timeout`: seconds of silence. With `images` it is an edit."""

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

    def fields(self) -> dict[str, Any]:
        """Only what was said: what an API does not know it may refuse. A stream is for one picture."""
        said = {
            "model": self.model,
            "prompt": self.prompt,
            "size": self.size,
            "quality": self.quality,
            "output_format": _FORMATS.get(self.out.suffix.lower()),
            "n": self.n if self.n > 1 else None,
        }
        if self.stream and self.n == 1:
            said |= {"stream": True, "partial_images": self.partial_images or None}
        return {name: value for name, value in said.items() if value is not None}


def paint(order: PaintOptions, progress: Progress | None = None) -> int:
    """The exit code: 0 well, 1 pictures are missing, 2 the command cannot be carried out, 130 Ctrl-C."""
    progress = progress or Progress()
    try:
        pictures = request_images(order, progress)
        progress.clear()
        write_images(order, pictures)
    except (PaintError, OSError) as reason:
        progress.clear()
        print(f"limner paint: {reason}", file=sys.stderr)
        return 2 if isinstance(reason, UsageError) else 1
    except KeyboardInterrupt:
        progress.clear()
        return 130
    if len(pictures) < order.n:
        print(f"limner paint: {len(pictures)} of {order.n} pictures came", file=sys.stderr)
        return 1
    return 0


def request_images(order: PaintOptions, progress: Progress) -> list[bytes]:
    question = build_request(order)
    progress.update(f"{order.base_url} paints")
    try:
        with live_progress(progress), open_client(order) as http:
            with http.stream("POST", **question) as response:
                items = read_response(response, progress)
            return [image_bytes(item, progress) for item in items]
    except httpx.ReadTimeout:
        raise PaintError(f"silence for {order.timeout:g} s; the picture may have been painted") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise UsageError(f"not an address: {order.base_url}") from None
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise PaintError(f"nobody answers at {order.base_url}") from None
    except httpx.HTTPError as error:
        raise PaintError(f"the connection broke ({type(error).__name__}); the picture may have been painted") from None


def build_request(order: PaintOptions) -> dict[str, Any]:
    """What is sent, as arguments for httpx. Whatever could fail afterwards is tried before money is spent."""
    if order.mask and not order.images:
        raise UsageError("--mask needs an --image")
    if not order.out.parent.is_dir():
        raise UsageError(f"no such folder: {order.out.parent}")
    if not order.images:
        return {"url": "images/generations", "json": order.fields()}
    named = [("image[]" if len(order.images) > 1 else "image", path) for path in order.images]
    named += [("mask", order.mask)] if order.mask else []
    form = {name: str(value).lower() if value is True else str(value) for name, value in order.fields().items()}
    return {"url": "images/edits", "data": form, "files": [(name, file_part(path)) for name, path in named]}


def file_part(path: Path) -> tuple[str, bytes, str]:
    data = read_file(path)
    info = sniff(data)
    return path.name, data, info.media_type if info else "application/octet-stream"


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


@contextmanager
def open_client(order: PaintOptions) -> Iterator[httpx.Client]:
    """No proxy of the environment sees the key."""
    key = read_file(order.api_key_file).decode().strip() if order.api_key_file else "limner"
    with httpx.Client(
        base_url=order.base_url,
        headers={"authorization": f"Bearer {key}"},
        timeout=httpx.Timeout(order.timeout, connect=10),
        verify=ssl.create_default_context(),
        trust_env=False,
    ) as http:
        yield http


@contextmanager
def live_progress(progress: Progress) -> Iterator[None]:
    """Again and again while something is waited for."""
    done = threading.Event()

    def draw() -> None:
        while not done.wait(_REDRAW_INTERVAL):
            progress.draw()

    drawing = threading.Thread(target=draw, daemon=True)
    drawing.start()
    try:
        yield
    finally:
        done.set()
        drawing.join()


def read_response(response: httpx.Response, progress: Progress) -> list[Mapping[str, Any]]:
    """The items of the answer, which comes as events or, from those who know no streams, as JSON."""
    if response.is_success and response.headers.get("content-type", "").startswith("text/event-stream"):
        return [read_events(response, progress)]
    body = response.read()
    if not response.is_success:
        raise PaintError(f"{response.status_code} {error_text(body)}{_ADVICE.get(response.status_code, '')}")
    document = parse_object(body)
    items = document.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items) or not items:
        raise PaintError(f"an answer without pictures: {error_text(body)}")
    return items


def read_events(response: httpx.Response, progress: Progress) -> Mapping[str, Any]:
    partials = 0
    decoder = Decoder()
    for piece in response.iter_bytes():
        for event in decoder.feed(piece):
            kind, document = event_kind(event)
            if kind.endswith(".completed"):
                return document
            if kind == "error" or "error" in document:
                raise PaintError(error_text(event.data.encode()))
            if kind.endswith(".partial_image"):
                partials += 1
                progress.update(f"partial picture {partials}")
    raise PaintError("the stream ended without a picture")


def event_kind(event: Event) -> tuple[str, dict[str, Any]]:
    """The kind of an event, which stands beside its data or in it."""
    if event.data.strip() == "[DONE]":
        return "", {}
    document = parse_object(event.data.encode())
    return event.name if event.name != "message" else str(document.get("type", "")), document


def parse_object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise PaintError(f"an answer that is not JSON: {error_text(body)}") from None
    return document if isinstance(document, dict) else {}


def error_text(body: bytes) -> str:
    """The message of an error in OpenAI's form with its code, else what was said, in one line."""
    try:
        error = orjson.loads(body)["error"]
        words = f"{error.get('code') or error.get('type') or 'error'}: {error['message']}"
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        words = body.decode("utf-8", "replace") or "and no word"
    line = "".join(letter for letter in " ".join(words.split()) if letter.isprintable())
    return line if len(line) <= 500 else f"{line[:499]}…"


def image_bytes(item: Mapping[str, Any], progress: Progress) -> bytes:
    """A link is asked without the key: it may lead anywhere."""
    try:
        if isinstance(data := item.get("b64_json"), str):
            return decode_data_url(data) if data.startswith("data:") else pybase64.b64decode(data, validate=True)
        url = str(item.get("url") or "")
        if url.startswith("data:"):
            return decode_data_url(url)
    except ValueError:
        raise PaintError("a picture whose base64 cannot be read") from None
    if not url.startswith(("http://", "https://")):
        raise PaintError("an answer with neither b64_json nor url")
    progress.update("downloading")
    tls = ssl.create_default_context()
    with httpx.Client(verify=tls, trust_env=False, follow_redirects=True, timeout=60) as http:
        response = http.get(url)
    if not response.is_success:
        raise PaintError(f"the picture was painted, but its address answers {response.status_code}: {url}")
    return response.content


def write_images(order: PaintOptions, pictures: list[bytes]) -> None:
    for path, picture in zip(output_paths(order.out, len(pictures)), pictures, strict=True):
        path.write_bytes(picture)
        info = sniff(picture)
        print(f"{path}: {f'{info.size} {info.format}' if info else 'not an image'}, {len(picture):,} bytes")
        show_image(picture, terminal_names(), sys.stdout)


def output_paths(out: Path, count: int) -> Iterator[Path]:
    """`out.png`, or `out-1.png`, `out-2.png` where there are several."""
    if count == 1:
        yield out
    else:
        yield from (out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1))
