"""Run SeaweedFS, a real S3 server, in one process and on free ports."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import orjson

from tests.support.ports import free_ports

#: Installed by a Python package, and therefore beside the interpreter.
WEED = Path(sys.executable).with_name("weed")

PORTS = ("master", "volume", "filer", "s3", "admin")


@dataclass(frozen=True, slots=True)
class RunningWeed:
    """A running server. Buckets are created when they are first used.

    Attributes:
        key: ID:SECRET of a user with all rights.
        guest: ID:SECRET of a user who may only read.
    """

    endpoint: str
    key: str = "limner:a-secret-of-tests"
    guest: str = "guest:another-secret"


def identity(key: str, *actions: str) -> dict[str, object]:
    name, _, secret = key.partition(":")
    return {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions}


@contextmanager
def run_weed() -> Iterator[RunningWeed]:
    ports = free_ports(2 * len(PORTS))
    http, grpc = ports[: len(PORTS)], ports[len(PORTS) :]
    weed = RunningWeed(f"http://127.0.0.1:{http[PORTS.index('s3')]}")
    with TemporaryDirectory() as folder, ExitStack() as stack:
        users = [identity(weed.key, "Admin"), identity(weed.guest, "Read", "List")]
        Path(folder, "s3.json").write_bytes(orjson.dumps({"identities": users}))
        command = [
            str(WEED),
            "mini",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.config={folder}/s3.json",
        ]
        command += [f"-{name}.port={port}" for name, port in zip(PORTS, http, strict=True)]
        command += [f"-{name}.port.grpc={port}" for name, port in zip(PORTS, grpc, strict=True)]
        command += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        log = stack.enter_context(Path(folder, "log").open("wb"))
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            wait(process, weed.endpoint, Path(folder, "log"))
            yield weed
        finally:
            # Killed, because an orderly shutdown takes seconds and nothing has to be kept.
            process.kill()
            process.wait()
            for port in ports:
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink(missing_ok=True)


def wait(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    with httpx.Client(trust_env=False, timeout=5) as http:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if http.get(f"{endpoint}/healthz").is_success:
                    return
            # A pause that ends early if the server exits.
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
    raise AssertionError(log.read_text()[-2000:])
