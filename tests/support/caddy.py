"""A real Caddy in front of a test's server: the configuration of deploy/, over plain HTTP."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from tests.support.nginx import wait_for_port
from tests.support.ports import free_ports

CADDY = shutil.which("caddy")
DEPLOY_CONFIG = (Path(__file__).parents[2] / "deploy" / "Caddyfile").read_text()

#: No admin endpoint, because its port may be in use by another Caddy.
_GLOBAL_OPTIONS = "{\n\tadmin off\n}\n"


def caddy_environment(folder: str | Path, **more: str) -> dict[str, str]:
    """Return the environment of a Caddy that stores its certificates and all other files in that folder."""
    return os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)} | more


@contextmanager
def run_caddy(server: str) -> Iterator[str]:
    """Run Caddy in front of the server at this URL, and yield the URL of Caddy.

    For a site address with `http://` Caddy obtains no certificate.
    """
    assert CADDY is not None
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with TemporaryDirectory() as folder:
        Path(folder, "Caddyfile").write_text(_GLOBAL_OPTIONS + DEPLOY_CONFIG)
        environment = caddy_environment(folder, SITE_ADDRESS=url, SERVER_ADDRESS=urlsplit(server).netloc)
        command = [CADDY, "run", "--adapter", "caddyfile", "--config", f"{folder}/Caddyfile"]
        with (
            Path(folder, "out").open("wb") as out,
            subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process,
        ):
            try:
                wait_for_port(process, port, Path(folder, "out"))
                yield url
            finally:
                process.terminate()
