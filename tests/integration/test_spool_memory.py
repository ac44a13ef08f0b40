"""What images hold of LIMNER_SPOOL_MEMORY is given back, however a request ends."""

import gc
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.raw_http_lines import GENERATION, ListeningClient, limner_with_model, wait_for_jobs, wait_until
from tests.support.sample_images import gradient, saved
from tests.support.servers import RunningDemo, RunningLimner, run_demo

IMAGE = saved(gradient(), "PNG")


@pytest.fixture
def demo() -> Iterator[RunningDemo]:
    with run_demo() as running:
        yield running


def generate(limner: RunningLimner, **fields: object) -> int:
    body = {**GENERATION, **fields}
    return httpx.post(f"{limner.url}/v1/images/generations", json=body, trust_env=False, timeout=30).status_code


def edit(limner: RunningLimner, **fields: str) -> int:
    files = {"image": ("a.png", IMAGE, "image/png")}
    data = {**GENERATION, **fields}
    url = f"{limner.url}/v1/images/edits"
    return httpx.post(url, data=data, files=files, trust_env=False, timeout=30).status_code


def leave_in_the_middle_of_the_upload(limner: RunningLimner) -> None:
    host, port = urlsplit(limner.url).netloc.split(":")
    head = "POST /v1/images/edits HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n"
    head += "content-type: multipart/form-data; boundary=B\r\n\r\n"
    part = b'--B\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    with closing(socket.create_connection((host, int(port)))) as client:
        client.sendall(head.encode() + part + IMAGE)
        wait_until(lambda: limner.services.spool_memory.used > 0)


def leave_while_the_image_is_made(limner: RunningLimner) -> None:
    client = ListeningClient(limner, GENERATION)
    wait_for_jobs(limner, 1)
    client.disconnect()
    wait_for_jobs(limner, 0)


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    model: str
    ask: Callable[[RunningLimner], int | None]
    status: int | None
    kept: bool = True


WAYS = [
    Way("a link, downloaded and returned as base64", "markdown", generate, 200),
    Way("an image in the reply", "data-url", generate, 200),
    Way("a converted image", "data-url", lambda limner: generate(limner, output_format="webp"), 200),
    Way(
        "a stream with partial images", "previews", lambda limner: generate(limner, stream=True, partial_images=2), 200
    ),
    Way("an edit with a link", "markdown", lambda limner: edit(limner, response_format="url"), 200, False),
    Way("an edit that is returned as base64", "data-url", edit, 200),
    Way("an edit that the upstream refuses", "error-400", edit, 400, False),
    Way("an edit with a wrong parameter", "markdown", lambda limner: edit(limner, size="1x1"), 400, False),
    Way("a client that leaves in its upload", "markdown", leave_in_the_middle_of_the_upload, None, False),
    Way("a client that leaves while it waits", "data-url+slow-0.2", leave_while_the_image_is_made, None),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_memory_is_given_back(way: Way, demo: RunningDemo) -> None:
    with limner_with_model(demo, way.model) as limner:
        assert way.ask(limner) == way.status
        wait_for_jobs(limner, 0)
        memory = limner.services.spool_memory
        wait_until(lambda: (memory.used > 0) is way.kept)
        limner.services.registry.close()
        assert memory.used == 0


def test_a_job_that_is_dropped_is_freed_at_once(demo: RunningDemo) -> None:
    """And not only by the collector, which seldom runs: jobs would remain, in circles with their runs."""
    with limner_with_model(demo, "data-url") as limner:
        assert generate(limner) == 200
        jobs = limner.services.registry._by_id
        wait_until(lambda: bool(jobs) and not any(job.run.readers for job in jobs.values()))
        (run,) = [weakref.ref(job.run) for job in jobs.values()]
        gc.disable()
        try:
            limner.services.registry.close()
            wait_until(lambda: run() is None)
        finally:
            gc.enable()


@pytest.mark.parametrize("memory", ["0", "1MiB"])
def test_what_finds_no_memory_is_delivered_from_a_file(demo: RunningDemo, memory: str) -> None:
    with limner_with_model(demo, "data-url", spool_memory=memory) as limner:
        assert [generate(limner), edit(limner)] == [200, 200]
        wait_for_jobs(limner, 0)
        wait_until(lambda: len(limner.services.registry._by_id) == 2)
        assert (limner.services.spool_memory.used > 0) is (memory == "1MiB")
