"""A real nginx before a server of a test: the configuration of deploy/, its addresses and certificate replaced."""

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
OURS = (Path(__file__).parents[2] / "deploy" / "nginx.conf").read_text()

#: What somebody writes who has not read our file: addresses only.
BARE = re.sub(r"(?m)^ +(?:proxy_(?!pass|set_header [HX])|send_|keepalive).+\n", "", OURS)

#: The same, with the version of HTTP that nginx before 1.29.7 does not speak by itself.
NEARLY_BARE = BARE.replace("proxy_pass http://limner;", "proxy_pass http://limner; proxy_http_version 1.1;")

#: All that a configuration needs around it where nothing may be written outside of `folder`.
AROUND = """\
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
def run_nginx(server: str, site: str = OURS) -> Iterator[str]:
    """Yields its https URL. `server`: the URL behind it."""
    assert NGINX is not None
    tls, plain = free_ports(2)
    with TemporaryDirectory() as folder:
        put = {
            "127.0.0.1:8000": urlsplit(server).netloc,
            "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
            "listen 80;": f"listen 127.0.0.1:{plain};",
            "/etc/nginx/tls": folder,
        }
        for old, new in put.items():
            assert old in site
            site = site.replace(old, new)
        Path(folder, "fullchain.pem").write_text(CERTIFICATE)
        Path(folder, "privkey.pem").write_text(KEY)
        Path(folder, "nginx.conf").write_text(AROUND.format(folder=folder, site=site))
        with (
            Path(folder, "out").open("wb") as out,
            subprocess.Popen([NGINX, "-p", folder, "-c", f"{folder}/nginx.conf"], stdout=out, stderr=out) as process,
        ):
            try:
                wait(process, tls, Path(folder, "out"))
                yield f"https://127.0.0.1:{tls}"
            finally:
                process.terminate()


def wait(process: subprocess.Popen[bytes], port: int, out: Path) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        # A pause that ends early where nginx dies.
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    raise AssertionError(out.read_text())


def trust() -> ssl.SSLContext:
    """The certificate is for another name."""
    context = ssl.create_default_context(cadata=CERTIFICATE)
    context.check_hostname = False
    return context
