"""What stands beside Limner in deploy/compose.yaml does its work as it is started there: by its own command, in its own
environment, but on ports and in a folder of the test.
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
    """Yields where it speaks S3."""
    store = SERVICES["store"]
    assert store["entrypoint"] == ["/usr/bin/weed"]
    ports = free_ports(2 * len(PARTS))
    http, grpc = ports[: len(PARTS)], ports[len(PARTS) :]
    here = {"-dir=/data": f"-dir={folder}", "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1"}
    command = [str(WEED), *(here.get(word, word) for word in store["command"]), "-ip=127.0.0.1"]
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
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink(missing_ok=True)


def test_the_store_makes_its_bucket_and_keeps_pictures_for_who_has_the_key(tmp_path: Path) -> None:
    told = SERVICES["limner"]["environment"]
    with run_store(tmp_path) as endpoint, run_demo() as demo:
        (check,) = (word for word in SERVICES["store"]["healthcheck"]["test"] if word.startswith("http"))
        assert httpx.get(endpoint + urlsplit(check).path, trust_env=False).status_code == 200
        options = {
            "image_store": told["LIMNER_IMAGE_STORE"].replace("http://store:8333", endpoint),
            "store_serve": told["LIMNER_STORE_SERVE"],
            "rehost": "always",
        }
        user = told["LIMNER_IMAGE_STORE_KEY"].partition(":")[0]
        assert [ask(demo.url, image_store_key=f"{user}:{secret}", **options) for secret in (SECRET, "w")] == [200, 500]


def ask(demo: str, **options: Any) -> int:
    with run_limner(demo, **options) as limner, httpx.Client(base_url=limner.url, trust_env=False, timeout=30) as http:
        answer = http.post("/v1/images/generations", json={"prompt": "a fox", "response_format": "url"})
        if answer.status_code == 200:
            assert http.get(answer.json()["data"][0]["url"]).headers["content-type"] == "image/png"
        return answer.status_code
