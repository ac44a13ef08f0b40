"""What `limner serve` needs to start, which an operator pays for in memory and a container in seconds."""

import gc
import os
import ssl
import subprocess
import sys
from pathlib import Path

import click
import pytest

from app.cli import main as cli
from tests.support.certificates import CERTIFICATE

ROOT = Path(__file__).parents[2]

#: Serve until the server is ready, then print the modules that are there. Print first how many objects the collector of
#: garbage has been told to pass over, and how many certificates are in aiohttp's two contexts.
CODE = """
import gc
import sys
from app.cli.main import limner
limner.get_command(None, "serve")
from aiohttp import connector
contexts = connector._SSL_CONTEXT_VERIFIED, connector._SSL_CONTEXT_UNVERIFIED
print(gc.get_freeze_count(), *(context.cert_store_stats()["x509"] for context in contexts))
from app.config.settings import Settings
from app.server.draining import DrainingServer
class Server(DrainingServer):
    def _on_started(self, loop):
        print(*sys.modules)
        self.should_exit = True
Server(Settings(upstream_base_url="http://127.0.0.1:9/v1", port=0, image_store=f"disk://{sys.argv[1]}")).run()
import app.api.zstd_body
"""

#: Modules that a plain server does without until a request needs them, and what needs them.
NEEDED_LATER = {
    "fastapi": "the OpenAPI document",
    "pydantic.v1": "FastAPI, for parameters in paths",
    "opentelemetry": "FastAPI, and LIMNER_TRACES",
    "limits": "a client key with limits",
    "redis": "LIMNER_SHARED_STATE",
    "obstore": "a bucket as the image store",
    "PIL": "nothing in this process: decoders have their own",
    "backports.zstd": "a request in zstd; aiohttp, for responses in it, which are not asked for",
    "pygments": "the command of httpx, which is not used",
    "rich": "structlog's colored tracebacks, which are not used",
    "greenlet": "structlog's contexts of greenlets, which are not used",
    "watchfiles": "uvicorn's reloader, which is not used",
    "app.demo": "limner demo",
    "app.cli.check": "limner check",
    "app.server.supervisor": "LIMNER_WORKERS",
    "unittest": "nothing",
}


def test_a_server_that_waits_for_its_first_request_has_imported_nothing_that_only_some_need(tmp_path: Path) -> None:
    certificates = tmp_path / "certificates.pem"
    certificates.write_text(CERTIFICATE)
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    environment = {**os.environ, "SSL_CERT_FILE": str(certificates)}
    output = subprocess.check_output(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, text=True)
    frozen, verified, unverified, *loaded = output.split()
    assert {"uvicorn", "starlette", "aiohttp", "app.main"} <= {*loaded}
    assert {*NEEDED_LATER} & {*loaded} == set()
    assert int(frozen) > 100_000
    assert (verified, unverified) == ("1", "0")


def test_what_is_hidden_from_libraries_can_be_imported_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rich", raising=False)
    monkeypatch.setitem(sys.modules, "watchfiles", click)
    with cli._lean_imports():
        assert [sys.modules[name] for name in ("rich", "watchfiles")] == [None, click]
        assert not gc.isenabled()
    assert gc.isenabled()
    assert "rich" not in sys.modules
    assert sys.modules["watchfiles"] is click


def test_a_command_that_cannot_be_imported_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rich", raising=False)
    with pytest.raises(ImportError), cli._lean_imports():
        import app.cli.nothing  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
    assert "rich" not in sys.modules


def test_only_contexts_that_verify_load_the_certificates_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    loading: list[ssl.VerifyMode] = []

    def load(context: ssl.SSLContext) -> None:
        loading.append(context.verify_mode)

    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", load)
    with cli._certificates_where_needed():
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_default_verify_paths()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_default_verify_paths()
    assert loading == [ssl.CERT_REQUIRED]
    assert ssl.SSLContext.set_default_verify_paths is load
