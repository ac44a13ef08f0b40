"""The image store of deploy/compose.yaml works with the command and the environment of that file.

Only its ports and its folder are those of the test.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml  # type: ignore[import-untyped]

from tests.support.ports import free_ports
from tests.support.seaweedfs import WEED, wait
from tests.support.servers import run_demo, run_limner

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "deploy" / "compose.yaml").read_text()
)["services"]
SECRET = "a-secret-of-tests"
PARTS = ("master", "volume", "filer", "s3")


@contextmanager
def run_store(folder: Path) -> Iterator[str]:
    """Run the store and yield the address of its S3 API."""
    store = SERVICES["store"]
    assert store["entrypoint"] == ["/usr/bin/weed"]
    ports = free_ports(2 * len(PARTS))
    http, grpc = ports[: len(PARTS)], ports[len(PARTS) :]
    replacements = {"-dir=/data": f"-dir={folder}", "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1"}
    command = [str(WEED), *(replacements.get(word, word) for word in store["command"]), "-ip=127.0.0.1"]
    command += [f"-{part}.port={port}" for part, port in zip(PARTS, http, strict=True)]
    command += [f"-{part}.port.grpc={port}" for part, port in zip(PARTS, grpc, strict=True)]
    keys = {name: SECRET if value.startswith("${") else value for name, value in store["environment"].items()}
    endpoint = f"http://127.0.0.1:{http[PARTS.index('s3')]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=os.environ | keys)
        try:
            wait(process, endpoint, folder / "log")
            yield endpoint
        finally:
            process.kill()
            process.wait()
            for port in ports:
                for leftover in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    leftover.unlink(missing_ok=True)


def test_the_store_creates_its_bucket_and_stores_images_with_the_right_key(tmp_path: Path) -> None:
    environment = SERVICES["limner"]["environment"]
    with run_store(tmp_path) as endpoint, run_demo() as demo:
        (check,) = (word for word in SERVICES["store"]["healthcheck"]["test"] if word.startswith("http"))
        assert httpx.get(endpoint + urlsplit(check).path, trust_env=False).status_code == 200
        options = {
            "image_store": environment["LIMNER_IMAGE_STORE"].replace("http://store:8333", endpoint),
            "store_serve": environment["LIMNER_STORE_SERVE"],
            "rehost": "always",
        }
        user = environment["LIMNER_IMAGE_STORE_KEY"].partition(":")[0]
        assert [generate(demo.url, image_store_key=f"{user}:{secret}", **options) for secret in (SECRET, "w")] == [
            200,
            500,
        ]


def generate(demo: str, **options: Any) -> int:
    with run_limner(demo, **options) as limner, httpx.Client(base_url=limner.url, trust_env=False, timeout=30) as http:
        response = http.post("/v1/images/generations", json={"prompt": "a fox", "response_format": "url"})
        if response.status_code == 200:
            assert http.get(response.json()["data"][0]["url"]).headers["content-type"] == "image/png"
        return response.status_code
