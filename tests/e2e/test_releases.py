"""Wheel and sdist work: they are built, installed beside the locked dependencies, and generate an image."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from app import __version__

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
BUILD = ("build", "--quiet", "--offline", "--no-build-isolation", "--python", sys.executable)
NAME = f"limner-{__version__}"
WHEEL, SDIST = f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"
METADATA = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD")}  # fmt: skip

#: Contents of the sdist: enough to run the tests, without files that tools have written.
SHIPPED = {
    *(".ci", ".dockerignore", ".editorconfig", ".github", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile"),
    *("LICENSE", "Makefile", "PKG-INFO", "README.md", "README.zh-CN.md", "SECURITY.md", "app", "bench", "deploy", "docs", "fuzz", "mkdocs.yml"),
    "simulate",
    *("pyproject.toml", "tests", "requirements.lock", "requirements-build.lock", "requirements-dev.lock"),
    *("requirements-c2pa.lock", "requirements-docs.lock"),
}  # fmt: skip


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Run a command without the developer's settings and packages, and return its output."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LIMNER_", "PYTHON"))}
    done = subprocess.run(
        command, cwd=folder, env=own | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build as `make build` does: the sdist, and the wheel from it."""
    folder: Path = tmp_path_factory.mktemp("dist")
    run(UV, *BUILD, "--out-dir", folder, ROOT, folder=folder)
    return folder


def test_the_wheel_holds_only_the_package_its_page_and_its_license(dist: Path) -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "app").rglob("*") if path.is_file()}
    with zipfile.ZipFile(dist / WHEEL) as wheel:
        assert set(wheel.namelist()) == {name for name in sources if "__pycache__" not in name} | METADATA
        assert "app/web/index.html" in wheel.namelist()
        assert wheel.read(f"{NAME}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_has_its_metadata(dist: Path) -> None:
    with zipfile.ZipFile(dist / WHEEL) as wheel:
        metadata = wheel.read(f"{NAME}.dist-info/METADATA").decode()
    head, _, body = metadata.partition("\n\n")
    for line in (
        f"Version: {__version__}",
        "License-Expression: MIT",
        "Requires-Python: >=3.11",
        "Provides-Extra: otel",
    ):
        assert line in head.splitlines()
    assert body == (ROOT / "README.md").read_text()


def test_the_sdist_holds_what_the_tests_need_and_no_leftovers(dist: Path) -> None:
    with tarfile.open(dist / SDIST) as sdist:
        names = [Path(name).relative_to(NAME) for name in sdist.getnames()]
    assert {name.parts[0] for name in names} == SHIPPED
    assert not {part for name in names for part in name.parts} & {"node_modules", "__pycache__", ".env", ".installed"}


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_sources_byte_by_byte(dist: Path, tmp_path: Path) -> None:
    run(UV, *BUILD, "--wheel", "--out-dir", tmp_path, ROOT, folder=tmp_path)
    assert (dist / WHEEL).read_bytes() == (tmp_path / WHEEL).read_bytes()


@dataclass(frozen=True, slots=True)
class Installation:
    home: Path

    def limner(self, *arguments: str, **environment: str) -> str:
        return run(self.home / "bin" / "limner", *arguments, folder=self.home, **environment)

    @property
    def package(self) -> Path:
        (folder,) = self.home.glob("lib/python3.*/site-packages/app")
        return folder


def link_dependencies(venv: Path) -> None:
    """Give a venv the dependencies that are installed here, so that no registry is used. Its own packages come first."""
    (packages,) = venv.glob("lib/python3.*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"))


@pytest.fixture(scope="module", params=[WHEEL, SDIST])
def installed(request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Install the package into a venv of its own."""
    home = tmp_path_factory.mktemp("venv")
    run(UV, "venv", "--quiet", "--offline", "--clear", "--python", sys.executable, home, folder=home)
    link_dependencies(home)
    install = ("pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python", home)
    run(UV, *install, dist / request.param, folder=home)
    return Installation(home)


def test_it_prints_its_version(installed: Installation) -> None:
    assert installed.limner("--version") == f"limner {__version__}\n"


def test_it_generates_and_edits(installed: Installation, tmp_path: Path) -> None:
    output = installed.limner("demo", "--once", str(tmp_path))
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}
    assert len(list(tmp_path.iterdir())) == 2, output


@pytest.fixture
def run_installed_demo(installed: Installation) -> Iterator[str]:
    """Run `limner demo` and yield the address that it prints."""
    command = (installed.home / "bin" / "limner", "demo")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LIMNER_", "PYTHON"))}
    with subprocess.Popen(
        command, cwd=installed.home, env=own | {"LIMNER_PORT": "0"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            yield next(found[1] for line in process.stdout if (found := re.search("ready at (http://.+)/v1", line)))
        finally:
            process.terminate()


def test_its_page_is_included(installed: Installation, run_installed_demo: str) -> None:
    with httpx.Client(base_url=run_installed_demo, trust_env=False) as client:
        page = client.get("/").raise_for_status()
        assert page.content == (installed.package / "web" / "index.html").read_bytes()
        for name in re.findall(r'(?:src|href)="(/?[\w./-]+\.(?:js|css|svg))"', page.text):
            client.get(name if name.startswith("/") else f"/{name}").raise_for_status()


def test_uv_installs_it_as_a_tool(dist: Path, tmp_path: Path) -> None:
    """Its dependencies would come from a registry, so they are linked instead."""
    others = tmp_path / "dependencies.txt"
    others.write_text("\n".join(Requirement(text).name for text in PROJECT["dependencies"]))
    folders = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    install = ("tool", "install", "--quiet", "--offline", "--no-index", "--excludes", others)
    run(UV, *install, "--python", sys.executable, dist / WHEEL, folder=tmp_path, **folders)
    link_dependencies(tmp_path / "tools" / "limner")
    assert run(tmp_path / "bin" / "limner", "--version", folder=tmp_path) == f"limner {__version__}\n"
