"""LiteLLM and Portkey: their versions, how they are installed, and how each is started in front of the upstream."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app import __version__
from bench.servers_under_test import BASELINE, LIMNER, NGINX, TRANSLATOR, ServerUnderTest
from bench.workloads import Workload

#: What is measured. The only place that names these versions.
LITELLM_VERSION, PORTKEY_VERSION = "1.108.6", "1.15.2"

#: Where both are installed: a virtual environment, and beside it `node_modules`.
FOLDER = Path(__file__).parents[1] / ".venv-peers"


# Installing


class InstallationFailed(Exception):
    """A peer cannot be installed. The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that is compared with Limner.

    Attributes:
        package: With its version, as its package manager wants it.
        version: The version that is measured.
        commands: Makes the commands that install the package into a folder.
        installed_version: Returns the version in that folder, None if it is not there.
        needs: Programs without which it cannot be installed.
    """

    name: str
    package: str
    version: str
    commands: Callable[[Path, str], Sequence[Sequence[str]]]
    installed_version: Callable[[Path], str | None]
    needs: tuple[str, ...] = ()


def _pip_commands(folder: Path, package: str) -> list[list[str]]:
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", package]
    return [[sys.executable, "-m", "venv", str(folder)], [str(folder / "bin" / "python"), *pip]]


def _npm_commands(folder: Path, package: str) -> list[list[str]]:
    """Install without the scripts of packages: what is measured runs without them."""
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
    return [["npm", "install", *options, "--prefix", str(folder), package]]


def _litellm_version(folder: Path) -> str | None:
    found = sorted(folder.glob("lib/python*/site-packages/litellm-*.dist-info"))
    return found[-1].name.removeprefix("litellm-").removesuffix(".dist-info") if found else None


def _portkey_version(folder: Path) -> str | None:
    try:
        text = (_portkey(folder) / "package.json").read_text()
    except FileNotFoundError:
        return None
    return str(json.JSONDecoder().decode(text)["version"])


def _portkey(folder: Path) -> Path:
    return folder / "node_modules" / "@portkey-ai" / "gateway"


_LITELLM, _PORTKEY_GATEWAY = f"litellm[proxy]=={LITELLM_VERSION}", f"@portkey-ai/gateway@{PORTKEY_VERSION}"
PEERS = {
    "litellm": Peer("LiteLLM", _LITELLM, LITELLM_VERSION, _pip_commands, _litellm_version),
    "portkey": Peer(
        "Portkey", _PORTKEY_GATEWAY, PORTKEY_VERSION, _npm_commands, _portkey_version, needs=("node", "npm")
    ),
}


def install(
    peers: Iterable[Peer], folder: Path = FOLDER, run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
) -> None:
    """Install each of the peers that is not there in its version.

    Raises:
        InstallationFailed: A program is missing, or a package cannot be downloaded.
    """
    for peer in peers:
        if peer.installed_version(folder) == peer.version:
            continue
        for program in peer.needs:
            if shutil.which(program) is None:
                others = ",".join(key for key, each in PEERS.items() if each is not peer)
                message = f"{peer.name} needs {' and '.join(peer.needs)}, and {program} was not found. Install Node.js"
                raise InstallationFailed(f"{message}, or leave {peer.name} out with ARGS=--peers={others}.")
        folder.mkdir(exist_ok=True)
        for command in peer.commands(folder, peer.package):
            done = run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise InstallationFailed(_explain(peer, command, done.stderr))


def _explain(peer: Peer, command: Sequence[str], output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if "err" in line.lower()] or output.splitlines()
    # npm says more in its second line than in its first, and ends with the name of a log.
    reason = "; ".join(lines[:2])[:300].rstrip(".") or f"{command[0]} failed"
    return f"{peer.package} could not be installed: {reason}. It comes from a package index, which needs the network."


# Servers

_KEY = "sk-client"


def _litellm(model: str, path: str) -> ServerUnderTest:
    def command(port: int, upstream_port: int, folder: Path) -> list[str]:
        settings = folder / "litellm.yaml"
        settings.write_text(litellm_settings(model, f"http://127.0.0.1:{upstream_port}{path}"))
        options = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        return [str(FOLDER / "bin" / "litellm"), "--config", str(settings), *options]

    return ServerUnderTest("LiteLLM", command, lambda _upstream_port, _folder: LITELLM_ENVIRONMENT)


#: As its documentation advises for production, with the key that the clients of the benchmark have, and no database.
LITELLM_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MASTER_KEY": _KEY,
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def litellm_settings(model: str, base_url: str) -> str:
    """Return its configuration as JSON, which is YAML."""
    parameters = {"model": model, "api_base": base_url, "api_key": "sk-upstream"}
    return json.dumps(
        {
            "model_list": [{"model_name": "gpt-image-2", "litellm_params": parameters}],
            "litellm_settings": {"drop_params": True, "telemetry": False},
        }
    )


def portkey_headers(upstream_port: int) -> tuple[str, ...]:
    """Return the headers with which a client chooses the upstream."""
    return "x-portkey-provider: openai", f"x-portkey-custom-host: http://127.0.0.1:{upstream_port}/v1"


_PORTKEY = ServerUnderTest(
    "Portkey",
    lambda port, _upstream_port, _folder: [
        "node", str(_portkey(FOLDER) / "build" / "start-server.js"), "--headless", f"--port={port}"
    ],
    lambda _upstream_port, _folder: {"NODE_ENV": "production"},
    headers=portkey_headers,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contender:
    """A server in the table.

    Attributes:
        does: `translates` a request of the Images API into a chat request, and its reply into a response; `forwards`
            to an upstream that speaks the Images API itself; or only `answers`.
        serves: Says whether it can answer a workload.
        peer: The key in `PEERS` of what must be installed.
    """

    server: ServerUnderTest
    does: Literal["translates", "forwards", "answers"]
    settings: str
    serves: Callable[[Workload], bool] = lambda _workload: True
    peer: str | None = None
    version: str = ""


def _has_image_in_reply(workload: Workload) -> bool:
    """Say whether the response is in the reply: nothing has to be downloaded."""
    return workload.form == "data" or not workload.output_bytes


def _is_image_behind_link(workload: Workload) -> bool:
    return not _has_image_in_reply(workload)


CONTENDERS = (
    Contender(LIMNER, "translates", "`limner serve`, as for `make bench`", version=__version__),
    Contender(
        _litellm("openrouter/gpt-image-2-chat", "/openrouter"),
        "translates",
        "`litellm --num_workers 1`, `LITELLM_MODE=PRODUCTION`, no database, `drop_params`; model `openrouter/…`",
        _has_image_in_reply,
        "litellm",
        LITELLM_VERSION,
    ),
    Contender(
        _litellm("openai/gpt-image-2", "/v1"),
        "forwards",
        "the same, model `openai/…`",
        _is_image_behind_link,
        "litellm",
        LITELLM_VERSION,
    ),
    Contender(
        _PORTKEY,
        "forwards",
        "`start-server.js --headless`, `NODE_ENV=production`; provider `openai`; answers edits with an error",
        lambda workload: workload.form == "link" and not workload.input_images,
        "portkey",
        PORTKEY_VERSION,
    ),
    Contender(NGINX, "forwards", "one process, as for `make bench`", lambda workload: workload.form == "link"),
    Contender(TRANSLATOR, "translates", "no checks, everything in memory"),
    Contender(BASELINE, "answers", "uvicorn alone", lambda workload: not workload.transferred_bytes),
)
