"""A real nginx in front of a test's server: the configuration of deploy/ with other addresses and another certificate."""

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from tests.support.certificates import CERTIFICATE, KEY
from tests.support.ports import free_ports

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
DEPLOY_CONFIG = (Path(__file__).parents[2] / "deploy" / "nginx.conf").read_text()

#: A configuration without our settings for proxies: addresses only.
MINIMAL_CONFIG = re.sub(r"(?m)^ +(?:proxy_(?!pass|set_header [HX])|send_|keepalive).+\n", "", DEPLOY_CONFIG)

#: The same, with HTTP/1.1, which nginx before 1.29.7 does not use by default.
HTTP_1_1_CONFIG = MINIMAL_CONFIG.replace(
    "proxy_pass http://limner;", "proxy_pass http://limner; proxy_http_version 1.1;"
)

#: The settings around a site, so that nginx writes nothing outside of `folder`.
_WRAPPER = """\
daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {site}
}}
"""


@contextmanager
def run_nginx(server: str, site: str = DEPLOY_CONFIG) -> Iterator[str]:
    """Run nginx in front of the server at this URL, and yield the https URL of nginx."""
    assert NGINX is not None
    tls, plain = free_ports(2)
    with TemporaryDirectory() as folder:
        replacements = {
            "127.0.0.1:8000": urlsplit(server).netloc,
            "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
            "listen 80;": f"listen 127.0.0.1:{plain};",
            "/etc/nginx/tls": folder,
        }
        for old, new in replacements.items():
            assert old in site
            site = site.replace(old, new)
        Path(folder, "fullchain.pem").write_text(CERTIFICATE)
        Path(folder, "privkey.pem").write_text(KEY)
        Path(folder, "nginx.conf").write_text(_WRAPPER.format(folder=folder, site=site))
        with (
            Path(folder, "out").open("wb") as out,
            subprocess.Popen([NGINX, "-p", folder, "-c", f"{folder}/nginx.conf"], stdout=out, stderr=out) as process,
        ):
            try:
                wait_for_port(process, tls, Path(folder, "out"))
                yield f"https://127.0.0.1:{tls}"
            finally:
                process.terminate()


def check_site(locations: str, folder: Path) -> str:
    """Return what nginx complains of in these locations of a site; empty if they are valid."""
    site = f"server {{ listen 127.0.0.1:9; {locations} }}"
    config = folder / "nginx.conf"
    config.write_text(_WRAPPER.format(folder=folder, site=site))
    command = (str(NGINX), "-t", "-q", "-p", str(folder), "-c", str(config), "-e", str(folder / "log"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stderr


def wait_for_port(process: subprocess.Popen[bytes], port: int, out: Path) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        # A pause that ends early if the process dies.
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    raise AssertionError(out.read_text())


def tls_context() -> ssl.SSLContext:
    """Trust the test's certificate, which is for another host name."""
    context = ssl.create_default_context(cadata=CERTIFICATE)
    context.check_hostname = False
    return context
