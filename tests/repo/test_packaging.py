"""Package, locks, Makefile, image and Compose files agree with each other."""

import datetime
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from app import __version__
from app.config.settings import Settings
from app.config.variables import known_variables
from tests.support.metadata import PROJECT

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock", "requirements-c2pa.lock")
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def read(name: str) -> str:
    return (ROOT / name).read_text()


def locked(name: str) -> dict[str, Requirement]:
    lines = re.findall(r"^([a-z0-9][^\\\n]*) \\$", read(name), re.MULTILINE)
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_and_hashes_everything_and_names_no_index(name: str) -> None:
    text = read(name)
    assert "#    make lock\n" in text
    assert not re.search("://|^ *-", re.sub("^ +--hash=sha256:[0-9a-f]{64}( \\\\)?$", "", text, flags=re.MULTILINE))
    for block in re.split(r"^(?=\S)", re.sub("^ *#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]:
        assert re.match(r"[a-z0-9._-]+==\S+( ; .+)? \\\n", block), block
        assert "--hash=sha256:" in block, block


def test_the_locks_hold_what_the_project_asks_for() -> None:
    run, dev, build, signing = map(locked, LOCKS)
    extras = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    assert names(PROJECT["dependencies"]) <= set(run)
    assert names(extras) <= set(dev)
    assert names(PROJECT["optional-dependencies"]["otel"]) <= set(run), "the image could not send traces"
    assert {*run, *names(PROJECT["optional-dependencies"]["c2pa"])} <= set(signing), "the image could not sign images"
    assert "hatchling" in build
    for text in [*PROJECT["dependencies"], *extras]:
        requirement = Requirement(text)
        pin = next(iter(dev[canonicalize_name(requirement.name)].specifier))
        assert requirement.specifier.contains(pin.version), f"{requirement} is locked as {pin}: run make lock"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock", "requirements-c2pa.lock"])
def test_the_tested_releases_are_those_that_run(name: str) -> None:
    """The development lock has the same releases as the lock of the image."""
    dev = locked("requirements-dev.lock")
    assert {package: str(pin) for package, pin in locked(name).items()} == {
        package: str(dev[package]) for package in locked(name)
    }


def wheel(folder: Path, name: str, version: str, *metadata: str) -> Path:
    """Write the smallest wheel that pip installs."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata, ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


def install_lock(folder: Path, *locked: Path, offered: Path) -> subprocess.CompletedProcess[str]:
    """Run the Makefile's own rule for a virtual environment, with a lock and an index of the test."""
    hashes = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in locked}
    pins = ["{}=={}".format(*path.name.split("-")[:2]) + f" --hash=sha256:{digest}" for path, digest in hashes.items()]
    (folder / "requirements-docs.lock").write_text("\n".join(pins))
    (folder / "Makefile").write_text(read("Makefile"))
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(offered), "PIP_CONFIG_FILE": os.devnull}
    command = ["make", f"PYTHON={sys.executable}", ".venv-docs/.installed"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | offline)


def test_a_lock_installs_although_a_newer_release_of_a_package_required_with_an_extra_is_out(tmp_path: Path) -> None:
    """With a resolver in between, the pip of Python 3.11 stops: "all requirements must have their versions pinned"."""
    plugin = wheel(tmp_path, "plugin", "1.0", "Requires-Dist: cover[toml]>=1")
    cover = wheel(tmp_path, "cover", "1.0", "Provides-Extra: toml")
    wheel(tmp_path, "cover", "1.1", "Provides-Extra: toml")
    done = install_lock(tmp_path, plugin, cover, offered=tmp_path)
    assert done.returncode == 0, done.stderr
    python = tmp_path / ".venv-docs/bin/python"
    installed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    assert installed.split() == ["cover==1.0", "plugin==1.0"]


def test_a_lock_that_lacks_a_package_is_refused(tmp_path: Path) -> None:
    plugin = wheel(tmp_path, "plugin", "1.0", "Requires-Dist: cover[toml]>=1")
    done = install_lock(tmp_path, plugin, offered=tmp_path)
    assert done.returncode == 2
    assert "plugin 1.0 requires cover, which is not installed" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile", ".ci/run", ".github/workflows/tests.yml"])
def test_locks_are_installed_without_resolving(name: str) -> None:
    commands = re.findall(r"pip .*install .*--require-hashes.*|pip .*install .*-r .*", read(name))
    assert all("--no-deps" in command for command in commands)


RELEASES = re.findall(r"^## \[(.+?)\](.*)$", read("CHANGELOG.md"), re.MULTILINE)


def test_the_changelog_begins_with_this_version_or_with_what_is_unreleased() -> None:
    (newest, *_), *older = RELEASES
    assert newest == __version__ or (newest == "Unreleased" and older[0][0] == __version__)


def test_the_changelog_goes_from_new_to_old() -> None:
    dated = [(Version(version), date) for version, date in RELEASES if version != "Unreleased"]
    assert [version for version, _ in dated] == sorted({version for version, _ in dated}, reverse=True)
    days = [datetime.date.fromisoformat(date.removeprefix(" - ")) for _, date in dated]
    assert days == sorted(days, reverse=True)
    kinds = set(re.findall(r"^### (.+)$", read("CHANGELOG.md"), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_changelog_tells_nothing_twice_and_stays_readable() -> None:
    """A merge that keeps both sides brings back what was shortened: take the newest file, and add your entry to it again."""
    unreleased = read("CHANGELOG.md").partition("## [Unreleased]")[2].partition("\n## [")[0]
    entries = [" ".join(entry.split()) for entry in re.split(r"\n\s*- ", unreleased)[1:]]
    assert len({entry[:60] for entry in entries}) == len(entries)
    assert unreleased.count("\n") <= 330


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/compose.yaml", "deploy/compose.demo.yaml"])
def test_image_tags_have_this_version(name: str) -> None:
    assert re.findall(r'(?:limner:|image\.version=")([0-9]+\.[^"\s]*)', read(name)) == [__version__]


def test_every_documented_python_can_be_installed() -> None:
    versions = [line.split(" :: ")[-1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert versions[0] == PROJECT["requires-python"].removeprefix(">=")


def test_the_license_is_the_declared_one() -> None:
    assert PROJECT["license"] == "MIT"
    assert read("LICENSE").startswith("MIT License\n\nCopyright (c) 2026 The Limner authors\n")


def test_make_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)
    assert phony
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\S+) +\S", listed, re.MULTILINE) == phony[1].split()


PAGES = [path.relative_to(ROOT).as_posix() for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])]


@pytest.mark.parametrize("document", [*PAGES, ".ci/run", "deploy/README.md", "deploy/compose.yaml"])
def test_every_documented_target_exists(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    # In prose a command stands in backquotes, in a block it begins a line.
    named = set(re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )*([a-z-]+)", read(document), re.MULTILINE))
    assert named <= targets


def test_ci_runs_the_same_checks_as_a_developer() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)
    assert re.search("^make check", read(".ci/run"), re.MULTILINE)


DEPLOYED = [
    "Dockerfile",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()),
]
DOCUMENTS = [*PAGES, "Makefile", ".ci/run"]


@pytest.mark.parametrize("name", [*DEPLOYED, *DOCUMENTS])
def test_every_documented_variable_is_a_setting(name: str) -> None:
    named = set(re.findall(r"\bLIMNER_[A-Z0-9_]*[A-Z0-9]\b(?!_)", read(name)))
    assert named <= set(known_variables())


def instructions(stage: str) -> list[tuple[str, str]]:
    """Each instruction of a stage with its arguments, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", stage, flags=re.MULTILINE))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


STAGES = [instructions(stage) for stage in re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]]
LAST = dict(STAGES[-1])


def test_the_image_runs_as_an_unprivileged_user() -> None:
    user, group = map(int, LAST["USER"].split(":"))
    assert min(user, group) >= 10_000
    assert [word for word, _ in STAGES[-1]].index("USER") < [word for word, _ in STAGES[-1]].index("ENTRYPOINT")


def test_the_image_has_labels() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', LAST["LABEL"]))
    assert set(labels) == {"title", "description", "version", "licenses"}
    assert labels["licenses"] == PROJECT["license"]


def test_the_image_installs_only_what_is_locked() -> None:
    """Wheels with hashes from the locks, then the project itself without an index."""
    installs = re.findall(
        r"pip (?:--python \S+ )?install (.+?)(?= &&|$)", "\n".join(rest for _, rest in STAGES[1]), re.MULTILINE
    )
    assert len(installs) == 3
    for arguments in installs:
        hashed = "--no-deps --require-hashes --only-binary :all: -r requirements"
        assert arguments.startswith((hashed, "--no-deps --no-index")), arguments


def test_the_last_stage_has_no_build_tools() -> None:
    runs = [rest for word, rest in STAGES[-1] if word == "RUN"]
    assert not re.findall(r"\b(?:pip|apt-get|apk|gcc|curl|git)\b", " ".join(runs))
    copies = [rest for word, rest in STAGES[-1] if word in {"COPY", "ADD"}]
    assert copies == ["--from=build /opt/limner /opt/limner"]


def test_every_stage_uses_the_same_slim_python() -> None:
    images = [rest for stage in STAGES for word, rest in stage if word == "FROM"]
    assert images[1:] == ["python AS build", "python"]
    assert re.fullmatch(r"python:3\.13-slim@sha256:[0-9a-f]{64} AS python", images[0])
    assert "Programming Language :: Python :: 3.13" in PROJECT["classifiers"]


def test_the_image_starts_the_server_without_a_shell() -> None:
    """A shell would not forward SIGTERM."""
    assert orjson.loads(LAST["ENTRYPOINT"]) == ["limner"]
    assert orjson.loads(LAST["CMD"]) == ["serve"]
    assert "limner" in PROJECT["scripts"]


def test_the_image_is_reachable_and_has_a_health_check() -> None:
    assert {"LIMNER_HOST=0.0.0.0", "LIMNER_PORT=8000"} <= set(LAST["ENV"].split())
    assert LAST["EXPOSE"] == "8000"
    program = orjson.loads(LAST["HEALTHCHECK"].partition("CMD ")[2])
    assert program[:2] == ["python", "-c"]
    assert "'/healthz'" in program[2]
    compile(program[2], "HEALTHCHECK", "exec")


def test_the_image_writes_only_to_its_volume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = dict(pair.split("=", 1) for pair in LAST["ENV"].split() if pair.startswith("LIMNER_"))
    assert variables["LIMNER_IMAGE_STORE"].startswith(f"disk://{LAST['VOLUME']}/")
    assert variables["LIMNER_SPOOL_DIR"].startswith(f"{LAST['VOLUME']}/")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LIMNER_SPOOL_DIR", str(tmp_path))
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", "https://upstream.invalid/v1")
    assert Settings().host == "0.0.0.0"


def test_the_image_is_built_from_the_sources_only() -> None:
    """Files that are not listed, such as .env, never reach the builder."""
    ignored = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    listed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {name for word, rest in STAGES[1] if word == "COPY" for name in rest.split()[:-1]}
    assert listed == copied
    assert all((ROOT / name).exists() for name in listed)


def services(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(read(f"deploy/{name}"))["services"]
    return found


def service(name: str) -> dict[str, Any]:
    return dict(services(name)["limner"])


@pytest.mark.parametrize("name", ["compose.yaml", "compose.demo.yaml"])
def test_a_container_has_few_privileges_and_is_reachable_only_from_this_machine(name: str) -> None:
    for container in services(name).values():
        assert container["read_only"] is True
        assert container["cap_drop"] == ["ALL"]
        assert container["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in container
        assert all(port.startswith("127.0.0.1:") for port in container.get("ports", ()))
    assert not service("compose.yaml").keys() & {"ports", "cap_add"}


def test_containers_start_in_order_and_have_pinned_versions() -> None:
    found = services("compose.yaml")
    assert list(found) == ["limner", "caddy", "redis", "store"]
    for container in found.values():
        assert re.search(r":[0-9][0-9a-z.-]*(@sha256:[0-9a-f]{64})?$", container["image"])
        for needed, how in container.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in found[needed]


def test_volumes_are_declared_and_used() -> None:
    declared = set(yaml.safe_load(read("deploy/compose.yaml"))["volumes"])
    mounted = {mount.split(":")[0] for each in services("compose.yaml").values() for mount in each.get("volumes", ())}
    assert {name for name in mounted if not name.startswith(".")} == declared
    assert all((ROOT / "deploy" / name).is_file() for name in mounted - declared)


def test_the_other_servers_are_reached_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = service("compose.yaml")["environment"]
    for name, value in environment.items():
        monkeypatch.setenv(name, re.sub(r"\$\{(?:\w+:-(\w+)|\w+:\?[^}]+)\}", lambda found: found[1] or "secret", value))
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", "https://upstream.invalid/v1")
    settings = Settings()
    assert settings.shared_state == "redis://redis:6379"
    assert "endpoint=http://store:8333" in settings.image_store
    assert services("compose.yaml")["caddy"]["environment"]["SERVER_ADDRESS"] == "limner:8000"
    used = set(re.findall(r"\$\{(\w+)", read("deploy/compose.yaml")))
    assert used <= set(re.findall(r"(?m)^(\w+)=", read("deploy/.env.example")))


def test_the_server_keeps_its_state_and_has_time_to_finish() -> None:
    limner = service("compose.yaml")
    assert limner["volumes"] == [f"state:{LAST['VOLUME']}"]
    grace = Settings.model_fields["shutdown_grace"].default
    assert grace < 60 * int(limner["stop_grace_period"].removesuffix("m"))
    assert (ROOT / "deploy" / f"{limner['env_file']}.example").is_file()


def test_the_demo_needs_no_configuration() -> None:
    demo = service("compose.demo.yaml")
    assert demo["command"] == ["demo"]
    assert not demo.keys() & {"env_file", "environment", "secrets"}
    assert "${" not in read("deploy/compose.demo.yaml")


def test_the_example_of_the_settings_is_complete_but_for_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.partition("=") for line in read("deploy/.env.example").splitlines() if line.startswith("LIMNER_")]
    assert {name for name, _, value in lines if not value} == {"LIMNER_UPSTREAM_API_KEY", "LIMNER_API_KEYS"}
    for name, _, value in lines:
        monkeypatch.setenv(name, value or "a-key")
    assert Settings(host="0.0.0.0").upstream_api_key is not None
