"""A real Caddy before a server of a test: the configuration of deploy/, over plain HTTP."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from tests.support.nginx import wait
from tests.support.ports import free_ports

CADDY = shutil.which("caddy")
OURS = (Path(__file__).parents[2] / "deploy" / "Caddyfile").read_text()

#: No port for the administrator, who may be there already.
AROUND = "{\n\tadmin off\n}\n"


def own(folder: str | Path, **more: str) -> dict[str, str]:
    """The environment of a Caddy that keeps certificates and all else in that folder."""
    return os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)} | more


@contextmanager
def run_caddy(server: str) -> Iterator[str]:
    """Yields its URL. `server`: the URL behind it. An address with `http://` gets no certificate from Caddy."""
    assert CADDY is not None
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with TemporaryDirectory() as folder:
        Path(folder, "Caddyfile").write_text(AROUND + OURS)
        environment = own(folder, SITE_ADDRESS=url, SERVER_ADDRESS=urlsplit(server).netloc)
        command = [CADDY, "run", "--adapter", "caddyfile", "--config", f"{folder}/Caddyfile"]
        with (
            Path(folder, "out").open("wb") as out,
            subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process,
        ):
            try:
                wait(process, port, Path(folder, "out"))
                yield url
            finally:
                process.terminate()
