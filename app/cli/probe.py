"""`limner probe`: find the dialect of an upstream with a few small images, and print its `[[upstreams]]` table."""

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import Any, Literal

import click
import httpx
import orjson
from pydantic import SecretStr

from app.cli.key_files import UnusableKey, read_key_file
from app.cli.main import INTERRUPTED
from app.cli.messages import print_error
from app.cli.probe_report import ProbeRun, Sight, as_document, as_toml
from app.cli.settings import InvalidSettings, load_settings
from app.cli.tapped_stream import TappedStream
from app.cli.terminal import Progress, live_progress
from app.config.dialects import DialectTable
from app.config.settings import Settings
from app.config.upstreams import UpstreamEntry
from app.errors import ApiError, InvalidRequest, ModerationBlocked, NoImageInReply, UpstreamError
from app.images.blob import Spool
from app.jobs.job import Job, JobKey
from app.jobs.pipeline import Pipeline
from app.jobs.pipeline_interface import GenerationResult, Item, PipelinePolicy
from app.jobs.pipeline_io import JobIO
from app.protocol.dialect_probe import Answer, Question, names_modalities
from app.protocol.image_response import OutputImage
from app.protocol.parameters import Operation
from app.protocol.request_parser import read_json
from app.protocol.sizes import Size
from app.protocol.usage import NO_USAGE
from app.services.lifecycle import Services
from app.services.upstreams import build_spec
from app.upstream.error_body import AttemptFacts, UpstreamErrorBody, parse_error_body
from app.upstream.spec import UpstreamSpec
from app.upstream.transport import Transport, open_transport

#: Images that are paid for at most, unless `--max-images` says otherwise.
MAX_IMAGES = 6

#: What is kept of the beginning and of the end of a reply: the words of a refusal, and the cost.
_KEPT = 8 * 1024

_COST = re.compile(rb'"cost"\s*:\s*([0-9.]+(?:[eE]-?[0-9]+)?)')

#: Settings of a server that have no place in a probe. Nothing is stored, counted or repeated.
_QUIET = {
    "api_keys": (),
    "keys_file": None,
    "image_store": "memory:",
    "shared_state": "memory:",
    "ledger": None,
    "traces": None,
    "upstream_attempts": 1,
    "retry_ambiguous": False,
}


_FILE = click.Path(path_type=Path)


@click.command("probe")
@click.option("--upstream", metavar="NAME", help="Which one of [[upstreams]]. [default: the first]")
@click.option("--base-url", metavar="URL", help="Another upstream than that of the settings.")
@click.option("--api-key-file", type=_FILE, metavar="FILE", help="Contains its key. [default: that of the settings]")
@click.option("--model", metavar="NAME", help="[default: that of the settings]")
@click.option("--max-images", type=click.IntRange(1, 20), default=MAX_IMAGES, metavar="N", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask before spending money.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def command(
    *,
    upstream: str | None,
    base_url: str | None,
    api_key_file: Path | None,
    model: str | None,
    max_images: int,
    yes: bool,
    as_json: bool,
) -> int:
    """Find the dialect of an upstream with a few small images.

    They cost money. Prints the finished [[upstreams]] table.
    """
    settings, entry = choose_upstream(upstream, base_url, api_key_file, model)
    if entry.api_key is None:
        print_error("probe", "there is no key to pay with. Name its file with --api-key-file")
        return 2
    question = f"Generate up to {max_images} small images with {entry.model} at {entry.base_url}? They cost money."
    try:
        if not yes and not click.confirm(question, err=True):
            return 1
    except click.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        print_error("probe", "the question cannot be asked here. Say --yes to spend money without it")
        return 2
    run = ProbeRun(entry)
    code = run_probe(settings, run, max_images, Progress())
    if as_json:
        print(orjson.dumps(as_document(run), option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(as_toml(run, api_key_file)))
    return code


def choose_upstream(
    name: str | None, base_url: str | None, api_key_file: Path | None, model: str | None
) -> tuple[Settings, UpstreamEntry]:
    """Return the settings, and the upstream to probe: one of theirs, changed by the options.

    Raises:
        InvalidSettings: A setting is wrong, there is no upstream of this name, or the key cannot be read.
    """
    # The key and the headers of the settings are for the address of the settings.
    own: dict[str, Any] = {"upstreams": (), "upstream_api_key": None, "upstream_headers": {}, "upstream_prices": ()}
    overrides = {} if base_url is None else {**own, "upstream_base_url": base_url}
    settings = load_settings(**overrides)
    entries = [entry for entry in settings.effective_upstreams if name in {None, entry.name}]
    if not entries:
        names = ", ".join(entry.name for entry in settings.effective_upstreams)
        raise InvalidSettings(f"--upstream {name}: there is no such upstream, only {names}")
    entry = entries[0]
    key = entry.api_key if api_key_file is None else read_secret_key(api_key_file)
    known = entry.model_map.default or next(iter(entry.models.values()))
    return settings, entry.model_copy(update={"model": model or known, "models": {}, "api_key": key})


def read_secret_key(path: Path) -> SecretStr:
    """Return the key in a file. Raises `InvalidSettings`, without the key in its message."""
    try:
        return SecretStr(read_key_file(path))
    except UnusableKey as error:
        raise InvalidSettings(str(error)) from None


def run_probe(settings: Settings, run: ProbeRun, max_images: int, progress: Progress) -> int:
    """Ask until the dialect is found or as many images are paid for, and return the exit code.

    That is 1 if no image has come, and 130 after Ctrl-C.
    """
    try:
        with live_progress(progress):
            asyncio.run(ask_all(settings, run, max_images, progress))
    except KeyboardInterrupt:
        run.stopped = "it was interrupted; the last image may have been paid for."
        return INTERRUPTED
    finally:
        progress.clear()
    return 1 if run.finding is None else 0


async def ask_all(settings: Settings, run: ProbeRun, max_images: int, progress: Progress) -> None:
    """Ask one question after the other. Each may cost one image, so none is asked that could cost one too many."""
    while (question := run.probe.next_question()) is not None:
        if run.images == max_images:
            images = "1 image was" if max_images == 1 else f"{max_images} images were"
            run.stopped = f"{images} paid for, and no more was announced."
            return
        progress.update(f"image {run.images + 1} of at most {max_images}: size at {', '.join(question.sizes)}")
        run.is_asking = True
        sight, error = await ask(settings, run.entry, question)
        run.is_asking = False
        run.sights.append(sight)
        if error is not None and not is_about_question(error, sight.answer.words):
            run.stopped = sight.message
            return
        run.probe.note(sight.answer)


async def ask(settings: Settings, entry: UpstreamEntry, question: Question) -> tuple[Sight, ApiError | None]:
    """Ask for one image as the server does, and return what was seen of the answer, with the error if it is one."""
    stream: Literal["always", "never"] = "always" if question.stream else "never"
    single = entry.model_copy(update={"dialect": DialectTable(**question.table), "stream": stream})
    spec = build_spec(single, settings, 1)
    tap = ReplyTap(open_transport(spec))
    services = Services.build(settings.model_copy(update={**_QUIET, "upstreams": (single,)}), transport=tap)
    request = read_json(Operation.GENERATION, {"prompt": question.prompt, "response_format": "b64_json"})
    job = Job("probe", JobKey("probe", ""), request, Spool(settings.spool_dir))
    policy = PipelinePolicy(stream=stream, fetch_timeout=settings.fetch_timeout)
    started_at, image, error = time.monotonic(), None, None
    async with services.running():
        try:
            items: list[Item] = []
            await Pipeline(request, JobIO(services.backends, job, None), policy).run(items.append)
            (image,) = [item.images[0] for item in items if isinstance(item, GenerationResult)]
        except ApiError as caught:
            error = caught
        finally:
            job.spool.close()
    is_failure = error is not None and not isinstance(error, NoImageInReply)
    facts = AttemptFacts(now=0, secrets=secrets_of(spec), client_texts=(question.prompt,))
    refusal = tap.read_refusal(facts) if is_failure else None
    answer = Answer(
        question,
        None if image is None else size_of(image),
        "" if image is None else image.form,
        "" if refusal is None else " ".join((refusal.searchable, refusal.param or "", *refusal.named_fields)),
        is_reply=isinstance(error, NoImageInReply),
        may_have_cost=job.may_have_cost,
    )
    usage = sum((reply.usage for reply in job.paid_replies), NO_USAGE)
    own_words = "" if refusal is None else refusal.public_message
    message = own_words or ("" if error is None else error.message)
    return Sight(answer, time.monotonic() - started_at, usage, tap.cost, tap.is_stream, message), error


def size_of(image: OutputImage) -> Size | None:
    """Return the pixels of an image, None where its bytes do not say them."""
    info = image.info
    return None if info is None or info.width is None or info.height is None else Size(info.width, info.height)


def secrets_of(spec: UpstreamSpec) -> tuple[str, ...]:
    """Return what must not be shown: the key, and the values of headers."""
    secrets = [*([] if spec.api_key is None else [spec.api_key]), *spec.headers.values()]
    return tuple(secret.get_secret_value() for secret in secrets)


def is_about_question(error: ApiError, words: str) -> bool:
    """Return whether another question may fare better. Keys, credit, limits and outages concern all of them."""
    if isinstance(error, ModerationBlocked):
        return False
    if isinstance(error, InvalidRequest) or error.code == "upstream_dialect":
        return True
    if error.code == "upstream_model":
        return names_modalities(words)
    # Sloppy relays answer 500 to a field that they do not know.
    return type(error) is UpstreamError and error.code == UpstreamError.code


class ReplyTap(httpx.AsyncBaseTransport):
    """Keep the beginning and the end of the reply that passes through, and whether it is a stream."""

    def __init__(self, transport: Transport) -> None:
        self.is_stream = False
        self._status, self._head, self._tail = 200, b"", b""
        self._transport = transport

    def read_refusal(self, facts: AttemptFacts) -> UpstreamErrorBody | None:
        """Return the error object of an answer, whatever its status; None if it has none."""
        body = parse_error_body(self._status, {}, self._head, facts)
        return body if body.is_api_error else None

    @property
    def cost(self) -> float | None:
        """What the upstream says that the image has cost; the last one counts."""
        found = _COST.findall(self._tail)
        return float(found[-1]) if found else None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        response = await self._transport.handle_async_request(request)
        self._status, self._head, self._tail = response.status_code, b"", b""
        self.is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        response.stream = TappedStream(response, self._keep)
        return response

    def _keep(self, chunk: bytes) -> None:
        self._head = (self._head + chunk)[:_KEPT] if len(self._head) < _KEPT else self._head
        self._tail = (self._tail + chunk)[-_KEPT:]

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()
