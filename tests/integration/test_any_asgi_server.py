"""The application under plain uvicorn, as any FastAPI service is started: no settings object, the environment alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import orjson
import pytest

from app.main import create_app, services_of
from tests.support.servers import run_demo

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", "0"]


def test_the_factory_takes_its_settings_from_the_environment(tmp_path: Path) -> None:
    with run_demo() as demo:
        variables = {
            "LIMNER_UPSTREAM_BASE_URL": f"{demo.url}/v1",
            "LIMNER_UPSTREAM_API_KEY": "sk-upstream",
            "LIMNER_FETCH_ALLOW": demo.url.removeprefix("http://"),
            "LIMNER_IMAGE_STORE": f"disk://{tmp_path}",
            "LIMNER_LOG_FORMAT": "json",
        }
        environment = {**os.environ, **variables}
        with subprocess.Popen(COMMAND, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                started = next(match for line in process.stderr if (match := re.search(r"http://127[.\d]+:\d+", line)))
                body = {"model": "gpt-image-2", "prompt": "a fox"}
                response = httpx.post(f"{started[0]}/v1/images/generations", json=body, timeout=20, trust_env=False)
            finally:
                process.terminate()
            log = [orjson.loads(line) for line in process.stderr.read().splitlines() if line.startswith("{")]
            assert process.wait(20) in {0, -15}
    assert response.status_code == 200
    assert response.json()["data"][0]["b64_json"]
    assert [record["path"] for record in log if record["event"] == "request"] == ["/v1/images/generations"]


def test_a_missing_setting_is_named() -> None:
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode != 0
    assert "LIMNER_UPSTREAM_BASE_URL" in done.stderr


def test_the_log_obeys_the_environment_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configured: list[tuple[str, str]] = []
    monkeypatch.setattr("app.main.configure_logging", lambda *given: configured.append(given))
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", "https://upstream.invalid/v1")
    monkeypatch.setenv("LIMNER_IMAGE_STORE", f"disk://{tmp_path}")
    monkeypatch.setenv("LIMNER_LOG_LEVEL", "warning")
    settings = services_of(create_app()).settings
    assert settings.upstream_base_url == "https://upstream.invalid/v1"
    assert configured == [("auto", "warning")]
