"""Limner and its peers are measured with the same requests, a peer that is missing is named, and the chart is of the table."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import peers
from bench.chart import CHART, PAGE, Bar, draw, read_table
from bench.load import Sample
from bench.peer_servers import (
    CONTENDERS,
    FOLDER,
    PEERS,
    Contender,
    InstallationFailed,
    install,
    litellm_settings,
    portkey_headers,
)
from bench.peers import (
    COLUMNS,
    PEER_WORKLOADS,
    SERVER_COLUMNS,
    Extent,
    choose_contenders,
    measure_all,
    peer_rows,
    server_row,
)
from bench.process import Process
from bench.servers_under_test import LIMNER, TRANSLATOR
from bench.table import write_table
from bench.upstream import images_json, openrouter_json, read_instruction
from bench.workloads import SMALL, WORKLOADS, Workload

LIMNER_ROW, TRANSLATOR_ROW = (
    next(each for each in CONTENDERS if each.server is server) for server in (LIMNER, TRANSLATOR)
)
KINDS = [each.name for each in WORKLOADS if "2 MiB" in each.name or each is SMALL]


def peer(name: str, does: str) -> Contender:
    return next(each for each in CONTENDERS if (each.server.name, each.does) == (name, does))


# Which peers are measured, and with what


@pytest.mark.parametrize(
    ("name", "does", "served"),
    [
        ("limner", "translates", KINDS),
        ("LiteLLM", "translates", ["url", "data URL 2 MiB", "edit 2 MiB", "edit 16 x 2 MiB"]),
        ("LiteLLM", "forwards", ["base64 2 MiB"]),
        ("Portkey", "forwards", ["url", "base64 2 MiB"]),
        ("baseline", "answers", ["url"]),
    ],
)
def test_each_server_is_measured_with_what_it_can_do(name: str, does: str, served: list[str]) -> None:
    contender = peer(name, does)
    assert [each.name for each in WORKLOADS if each.name in KINDS and contender.serves(each)] == served


def test_every_workload_has_limner_and_at_least_one_peer() -> None:
    for workload in PEER_WORKLOADS:
        serving = [each for each in CONTENDERS if each.serves(workload)]
        assert serving[0] is LIMNER_ROW
        assert any(each.peer for each in serving), workload.name
        assert 8 in workload.concurrency


def test_only_chosen_peers_are_measured() -> None:
    chosen = choose_contenders(["portkey"])
    assert {each.peer for each in chosen} == {None, "portkey"}
    assert LIMNER_ROW in choose_contenders([])


def test_a_peer_with_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--peers", "litellm,kong"])
    assert "unknown peers: kong; known are litellm, portkey" in capsys.readouterr().err


def test_litellm_translates_for_the_upstream_that_is_named(tmp_path: Path) -> None:
    command = peer("LiteLLM", "translates").server.command(4000, 9000, tmp_path)
    assert command[0] == str(FOLDER / "bin" / "litellm")
    assert [*command[-2:]] == ["--num_workers", "1"]
    settings = json.JSONDecoder().decode((tmp_path / "litellm.yaml").read_text())
    assert settings == json.JSONDecoder().decode(
        litellm_settings("openrouter/gpt-image-2-chat", "http://127.0.0.1:9000/openrouter")
    )
    (model,) = settings["model_list"]
    assert model["model_name"] in SMALL.request()[1].decode()
    assert (
        peer("LiteLLM", "translates").server.environment(9000, tmp_path)["LITELLM_MASTER_KEY"]
        in SMALL.request()[0].decode()
    )


def test_portkey_gets_its_upstream_in_the_head_of_each_request(tmp_path: Path) -> None:
    server = peer("Portkey", "forwards").server
    assert "--port=4000" in server.command(4000, 9000, tmp_path)
    assert server.headers(9000) == portkey_headers(9000)
    for workload in (SMALL, Workload("edit", input_bytes=2000, input_images=1)):
        head, *body = workload.request(server.headers(9000))
        assert b"\r\nx-portkey-custom-host: http://127.0.0.1:9000/v1\r\n\r\n" in head
        assert body == workload.request()[1:]


# The upstream answers peers in the form that each of them reads


@pytest.mark.parametrize(
    ("name", "body", "instruction"),
    [
        ("a generation", b'{"prompt": "bench 300 50 data"}', (300, 0.05, "data")),
        (
            "an edit whose prompt comes after the images, as JSON",
            b'{"url": "data:image/png;base64,iVBO',
            (0, 0.0, "link"),
        ),
        (
            "an edit whose prompt comes after the images, as a form",
            b"content-type: image/png\r\n\r\n\x89PNG",
            (0, 0.0, "link"),
        ),
        ("another request", b'{"prompt": "a fox"}', None),
    ],
)
def test_the_upstream_reads_what_it_should_answer(name: str, body: bytes, instruction: Any) -> None:
    assert read_instruction(body) == instruction


def test_responses_for_servers_that_forward_are_as_large_as_those_of_limner() -> None:
    base64 = Workload("base64", output_bytes=3000)
    assert base64.accepts_body_of(len(images_json(3000)))
    assert SMALL.accepts_body_of(len(images_json(0)))


def test_replies_for_litellm_have_the_image_in_a_field_of_its_own() -> None:
    for form, start in (("link", "http://93.184.216.34/"), ("data", "data:image/png;base64,")):
        (choice,) = json.JSONDecoder().decode(openrouter_json(3000, form).decode())["choices"]
        assert choice["message"]["images"][0]["image_url"]["url"].startswith(start)


# Installing


class FakeRun:
    """Takes the place of `subprocess.run`."""

    def __init__(self, returncode: int = 0, errors: str = "") -> None:
        self.commands: list[Sequence[str]] = []
        self._result = returncode, errors

    def __call__(self, command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        return subprocess.CompletedProcess(command, self._result[0], "", self._result[1])


def test_peers_are_installed_in_the_versions_of_one_place_from_the_index_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    run = FakeRun()
    install(PEERS.values(), tmp_path, run)
    words = [word for command in run.commands for word in command]
    assert [word for word in words if "litellm" in word or "portkey" in word] == [
        each.package for each in PEERS.values()
    ]
    for each in PEERS.values():
        assert each.package.endswith(each.version)
    assert not [word for word in words if "://" in word or "index" in word or "registry" in word]
    assert "--ignore-scripts" in words


def test_what_is_there_in_its_version_is_not_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    (tmp_path / "lib" / "python3.11" / "site-packages" / f"litellm-{PEERS['litellm'].version}.dist-info").mkdir(
        parents=True
    )
    package = tmp_path / "node_modules" / "@portkey-ai" / "gateway"
    package.mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": PEERS["portkey"].version}))
    run = FakeRun()
    install(PEERS.values(), tmp_path, run)
    assert run.commands == []
    (package / "package.json").write_text('{"version": "1.0.0"}')
    with pytest.raises(InstallationFailed):
        install(PEERS.values(), tmp_path, run)


def test_the_message_names_node_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(InstallationFailed) as raised:
        install([PEERS["portkey"]], tmp_path, FakeRun())
    assert (
        str(raised.value)
        == "Portkey needs node and npm, and node was not found. Install Node.js, or leave Portkey out with ARGS=--peers=litellm."
    )


@pytest.mark.parametrize(
    ("name", "errors", "reason"),
    [
        (
            "the lines with an error",
            "warning\nERROR: no route\nERROR: nothing found\nERROR: see the log",
            "ERROR: no route; ERROR: nothing found",
        ),
        ("lines without one", "one\ntwo.", "one; two"),
        ("silence", "", "npm failed"),
    ],
)
def test_a_package_that_cannot_be_downloaded_is_named(
    name: str, errors: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: program)
    with pytest.raises(InstallationFailed) as raised:
        install([PEERS["portkey"]], tmp_path / "new", FakeRun(1, errors))
    package = PEERS["portkey"].package
    assert (
        str(raised.value)
        == f"{package} could not be installed: {reason}. It comes from a package index, which needs the network."
    )


def test_the_run_ends_with_the_reason_where_a_peer_cannot_be_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_peers: object) -> None:
        raise InstallationFailed("no node")

    monkeypatch.setattr(peers, "install", fail)
    assert peers.main([]) == 1
    assert capsys.readouterr() == ("", "no node\n")


# Measuring


def test_limner_is_measured_where_no_peer_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure_all([LIMNER_ROW, TRANSLATOR_ROW], [PEER_WORKLOADS[0]], Extent(1, 0.0, warm_up_seconds=0.0)) == 0
    lines = [line.strip("| ").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[0] == list(SERVER_COLUMNS)
    assert list(COLUMNS) in cells
    measured = cells[cells.index(list(COLUMNS)) + 2 :]
    assert [row[2] for row in measured] == ["limner", "translator"] * len(PEER_WORKLOADS[0].concurrency)
    assert {row[-1] for row in measured} == {"0"}


def test_the_cost_of_a_server_has_that_of_the_processes_it_starts() -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        running = Process(process.pid, 0, 0.0).cpu_seconds
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert running >= 0.19


def test_a_peer_is_compared_with_limner_at_the_same_number_of_connections() -> None:
    litellm = peer("LiteLLM", "translates")
    samples = {
        (8, LIMNER_ROW): [Sample(10, 0, 0.02, 1.0, 4.0)],
        (8, litellm): [Sample(10, 0, 0.07, 1.0, 40.0), Sample(10, 0, 0.09, 1.0, 50.0), Sample(10, 0, 0.08, 1.0, 30.0)],
        (32, LIMNER_ROW): [Sample(10, 0, 0.01, 1.0, 4.0)],
        (32, litellm): [Sample(10, 1, 0.08, 1.0, 50.0)],
    }
    rows = peer_rows(SMALL, samples)
    assert rows == [
        ["url", "8", "limner", "translates", "2.00", "1.00", "-", "4", "0"],
        ["url", "8", "LiteLLM", "translates", "8.00", "4.00", "-", "50", "0"],
        ["url", "32", "limner", "translates", "1.00", "1.00", "-", "4", "0"],
        ["url", "32", "LiteLLM", "translates", "8.00", "-", "-", "50", "1"],
    ]
    assert server_row(litellm, [(4.0, 300.0), (5.0, 340.0), (6.0, 330.0)])[:5] == [
        "LiteLLM",
        litellm.version,
        "translates",
        "5.00",
        "330",
    ]


# The chart

ROWS = [
    ["url", "8", "limner", "translates", "9.00", "1.00", "-", "4", "0"],
    ["url", "32", "limner", "translates", "1.00", "1.00", "-", "5", "0"],
    ["url", "32", "LiteLLM", "translates", "7.00", "7.00", "-", "40", "0"],
    ["url", "32", "Portkey", "forwards", "1.80", "1.80", "-", "60", "0"],
    ["url", "32", "nginx", "forwards", "0.01", "0.01", "-", "0", "0"],
    ["edit", "8", "limner", "translates", "2.00", "1.00", "9", "5", "0"],
    ["edit", "8", "LiteLLM", "translates", "2.00", "-", "9", "5", "3"],
]


def as_page(rows: Sequence[Sequence[str]]) -> str:
    lines: list[str] = []
    write_table(COLUMNS, rows, lines.append)
    return "\n".join(["# Page", "", *lines, "", "| another | table |"])


def test_the_chart_has_the_rows_with_the_most_connections_without_failures() -> None:
    groups = read_table(as_page(ROWS))
    assert groups == {
        ("url", "32"): [
            Bar("limner", "translates", "1.00", "5"),
            Bar("LiteLLM", "translates", "7.00", "40"),
            Bar("Portkey", "forwards", "1.80", "60"),
        ],
        ("edit", "8"): [Bar("limner", "translates", "2.00", "5")],
    }


def test_the_bars_are_as_long_as_their_numbers() -> None:
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(draw(read_table(as_page(ROWS))))
    widths = [int(bar.attrib["width"]) for bar in root.iter(f"{svg}rect")]
    assert widths == [round(widths[1] / 7), widths[1], round(widths[1] * 1.8 / 7), widths[1]]
    texts = [text.text for text in root.iter(f"{svg}text")]
    assert texts[:3] == ["url, 32 connections", "Limner", "1.00 ms, 5 MiB"]
    assert "1.80 ms, 60 MiB, forwards only" in texts


def test_a_page_without_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no table"):
        read_table("# Page\n\n| workload | server |\n")


def test_the_chart_in_the_documentation_is_of_the_table_in_the_benchmarks_page() -> None:
    drawn = draw(read_table(PAGE.read_text()))
    assert CHART.read_text() == drawn, "docs/images/peers.svg is behind bench/README.md: run python -m bench.chart"


def test_the_versions_of_the_page_are_those_that_are_measured() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith(("| L", "| Portkey"))]
    versions = {cells[1].strip(): cells[2].strip() for cells in (line.split("|") for line in lines)}
    assert versions == {each.name: each.version for each in PEERS.values()}
