"""The files of deploy/ fit the server: its variables, metrics, routes and times; the chart makes what it should."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import yaml  # type: ignore[import-untyped]

from app.config.settings import Settings, known_variables
from app.main import create_app
from app.observability.metrics import REGISTRY
from tests.support.helm import CHART, Chart, values

DEPLOY = CHART.parent
GRACE = Settings.model_fields["shutdown_grace"].default
PATIENCE = Settings.model_fields["upstream_timeout"].default
IDLE = Settings.model_fields["client_header_timeout"].default


def read(name: str) -> str:
    return (DEPLOY / name).read_text()


def test_the_readme_says_for_whom_each_file_is() -> None:
    told = set(re.findall(r"`([^`\s]+?)/?`", "".join(re.findall(r"(?m)^\| (`.+?) \|", read("README.md")))))
    assert told == {path.name for path in DEPLOY.iterdir()} - {"README.md"}


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        pytest.param("nginx.conf", r"proxy_read_timeout ([0-9]+)s", id="nginx"),
        pytest.param("Caddyfile", r"response_header_timeout ([0-9]+)s", id="Caddy, until the answer begins"),
        pytest.param("Caddyfile", r"read_timeout ([0-9]+)s", id="Caddy, within it"),
        pytest.param("chart/values.yaml", r'proxy-read-timeout: "([0-9]+)"', id="the ingress"),
    ],
)
def test_a_proxy_has_the_patience_of_limner(name: str, pattern: str) -> None:
    assert {int(seconds) for seconds in re.findall(pattern, read(name))} == {PATIENCE}


@pytest.mark.parametrize(("name", "pattern"), [("nginx.conf", r"keepalive_timeout ([0-9]+)s"), ("Caddyfile", r"keepalive ([0-9]+)s")])  # fmt: skip
def test_a_proxy_gives_up_an_idle_connection_before_limner_does(name: str, pattern: str) -> None:
    found = re.search(pattern, read(name))
    assert found
    assert int(found[1]) < IDLE


def test_systemd_waits_for_questions_under_way() -> None:
    stop = re.search(r"(?m)^TimeoutStopSec=([0-9]+)$", read("limner.service"))
    assert stop
    assert int(stop[1]) > GRACE


def test_systemd_finds_nothing_wrong_in_the_unit_and_little_that_it_may_do(tmp_path: Path) -> None:
    """An exposure of 1.5 of 10. The program is not installed where this is tested."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "limner.service"
    unit.write_text(read("limner.service").replace("/opt/limner/bin/limner", "/bin/true"))
    for command in (["verify", "--man=no"], ["security", "--no-pager", "--offline=true", "--threshold=15"]):
        done = subprocess.run(["systemd-analyze", *command, unit], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_memory_is_managed_alike_with_and_without_containers() -> None:
    given = [set(re.findall(r"MALLOC_\w+_=[0-9]+", text)) for text in (read("limner.service"), read("../Dockerfile"))]
    assert given[0] == given[1] != set()


def objects(**more: Any) -> dict[str, Any]:
    return {each["kind"]: each for each in Chart(values(**more)).objects()}


ALL = objects()
POD = ALL["Deployment"]["spec"]["template"]


def test_the_chart_has_all_parts() -> None:
    assert set(ALL) == {
        *("ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy"),
        *("PodDisruptionBudget", "Service", "ServiceMonitor"),
    }


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("autoscaling", "HorizontalPodAutoscaler"),
        ("ingress", "Ingress"),
        ("networkPolicy", "NetworkPolicy"),
        ("serviceMonitor", "ServiceMonitor"),
    ],
)
def test_a_part_can_be_left_out(part: str, kind: str) -> None:
    assert set(ALL) - set(objects(**{part: {"enabled": False}})) == {kind}


def test_without_autoscaling_the_replicas_are_as_given() -> None:
    assert "replicas" not in ALL["Deployment"]["spec"]
    assert objects(autoscaling={"enabled": False}, replicas=5)["Deployment"]["spec"]["replicas"] == 5


def test_what_may_be_changed_is_used_and_checked() -> None:
    used = set(re.findall(r"\.Values\.([a-zA-Z.]+)", "".join(path.read_text() for path in CHART.glob("templates/*"))))
    schema, told = orjson.loads(read("chart/values.schema.json")), yaml.safe_load(read("chart/values.yaml"))
    assert {name.partition(".")[0] for name in used} == set(told) == set(schema["properties"]) - {"global"}
    for name in {name.partition(".")[0] for name in used if "." in name}:
        fields = {each.partition(".")[2] for each in used if each.startswith(f"{name}.")}
        assert fields == set(told[name]) == set(schema["properties"][name]["properties"])


def test_pods_are_added_by_what_fills_them() -> None:
    """Not by their processors, which are idle while an upstream paints."""
    (measured,) = ALL["HorizontalPodAutoscaler"]["spec"]["metrics"]
    metric, target = measured["pods"]["metric"], measured["pods"]["target"]
    assert metric == {"name": "limner_turns", "selector": {"matchLabels": {"state": "used"}}}
    assert int(target["averageValue"]) == round(0.7 * Settings.model_fields["max_concurrency"].default, -1)


def test_a_node_can_be_emptied() -> None:
    """Also with a single replica, which `minAvailable: 1` would hold forever."""
    assert ALL["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in ALL["PodDisruptionBudget"]["spec"]


def test_alerts_ask_for_the_job_that_prometheus_makes_of_the_pods() -> None:
    label = ALL["ServiceMonitor"]["spec"]["jobLabel"]
    assert f'job="{ALL["Service"]["metadata"]["labels"][label]}"' in read("alerts.yaml")


def test_all_that_selects_pods_selects_these() -> None:
    labels = POD["metadata"]["labels"].items()
    selected = [
        ALL["Deployment"]["spec"]["selector"]["matchLabels"],
        ALL["Service"]["spec"]["selector"],
        ALL["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        ALL["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(len(each) == 2 and each.items() <= labels for each in selected)
    assert (
        ALL["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items() <= ALL["Service"]["metadata"]["labels"].items()
    )


def test_a_pod_may_do_little() -> None:
    (container,) = POD["spec"]["containers"]
    assert POD["spec"]["securityContext"]["runAsNonRoot"] is True
    assert f"USER {POD['spec']['securityContext']['runAsUser']}:" in (DEPLOY.parent / "Dockerfile").read_text()
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_what_a_pod_writes_lies_where_it_may_write() -> None:
    (container,) = POD["spec"]["containers"]
    spool = re.search(r"LIMNER_SPOOL_DIR=(\S+)", (DEPLOY.parent / "Dockerfile").read_text())
    assert spool
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {spool[1], "/tmp"}
    assert POD["spec"]["volumes"] == [{"name": "spool", "emptyDir": {"sizeLimit": "10Gi"}}]


@pytest.mark.parametrize("grace", [300, 900])
def test_a_pod_ends_after_its_questions(grace: int) -> None:
    made = objects(shutdownGrace=grace)
    pod = made["Deployment"]["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert made["ConfigMap"]["data"]["LIMNER_SHUTDOWN_GRACE"] == str(grace)
    assert pod["terminationGracePeriodSeconds"] >= before + grace + 30


def test_other_settings_make_other_pods() -> None:
    other = objects(settings={"LIMNER_IMAGE_TTL": "60"})["Deployment"]["spec"]["template"]
    assert other["metadata"]["annotations"] != POD["metadata"]["annotations"]


def test_probes_ask_for_what_is_there(tmp_path: Path) -> None:
    (container,) = POD["spec"]["containers"]
    asked = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    asked.add(ALL["ServiceMonitor"]["spec"]["endpoints"][0]["path"])
    settings = Settings(upstream_base_url="http://127.0.0.1:1/v1", image_store=f"disk://{tmp_path}")
    assert asked == {"/healthz", "/readyz", "/metrics"}
    assert asked <= {getattr(route, "path", "") for route in every_route(create_app(settings).routes)}


def every_route(routes: Any) -> Any:
    for route in routes:
        yield route
        yield from every_route(getattr(getattr(route, "original_router", None), "routes", ()))


def test_the_settings_of_the_chart_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ALL["ConfigMap"]["data"]
    assert set(data) <= set(known_variables())
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    assert Settings().image_store.startswith("s3://")


@pytest.mark.parametrize(
    ("settings", "well"),
    [
        ({}, True),
        ({"LIMNER_IMAGE_STORE": "disk:///var/lib/limner/images"}, False),
        ({"LIMNER_UPSTREAM_API_KEY": "sk-in-a-config-map"}, False),
        ({"LIMNER_IMAGE_TTL": 60}, False),
        ({"OTHER": "x"}, False),
    ],
)
def test_helm_refuses_what_cannot_work(settings: dict[str, Any], well: bool) -> None:
    schema = orjson.loads(read("chart/values.schema.json"))
    assert jsonschema_rs.is_valid(schema, values(settings=settings)) is well


@pytest.mark.parametrize("wrong", [{"replica": 3}, {"image": {"version": "1"}}, {"autoscaling": {"cpu": 60}}])
def test_helm_refuses_what_is_misspelt(wrong: dict[str, Any]) -> None:
    schema = orjson.loads(read("chart/values.schema.json"))
    assert not jsonschema_rs.is_valid(schema, values(**wrong))


def test_helm_refuses_a_chart_that_was_told_nothing() -> None:
    schema = orjson.loads(read("chart/values.schema.json"))
    assert not jsonschema_rs.is_valid(schema, yaml.safe_load(read("chart/values.yaml")))


METRICS = {
    sample + suffix
    for family in REGISTRY.collect()
    for sample, suffix in [(family.name, each) for each in {"counter": ["_total"], "histogram": ["_bucket"]}.get(family.type, [""])]
}  # fmt: skip
ALERTS = [rule for group in yaml.safe_load(read("alerts.yaml"))["groups"] for rule in group["rules"]]
PANELS = orjson.loads(read("dashboard.json"))["panels"]
QUERIES = [rule["expr"] for rule in ALERTS] + [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_metrics_that_exist(query: str) -> None:
    assert set(re.findall(r"\blimner_[a-z_]+", query)) <= METRICS
    assert all(query.count(left) == query.count(right) for left, right in ("()", "{}", "[]"))


def test_alerts_say_what_is_wrong_and_how_urgent_it_is() -> None:
    assert all(rule["labels"]["severity"] in {"page", "ticket"} and rule["annotations"]["summary"] for rule in ALERTS)
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_operators_are_told_what_to_do_about_each_alert() -> None:
    told = re.findall(r"(?m)^\| `(Limner\w+)` \|", read("../docs/operations.md"))
    assert told == [rule["alert"] for rule in ALERTS]


def test_alerts_know_the_codes_of_errors() -> None:
    told = set(re.findall(r"`([a-z_]+)`", (DEPLOY.parent / "docs" / "errors.md").read_text()))
    asked = {code for query in QUERIES for codes in re.findall('outcome=~?"(.+?)"', query) for code in codes.split("|")}
    assert asked - {"upstream_.*", "server_error"} <= told


def test_every_metric_of_limner_is_looked_at() -> None:
    looked_at = set(re.findall(r"\blimner_[a-z_]+", " ".join(QUERIES)))
    assert {name for name in METRICS if name.startswith("limner_")} == looked_at


def test_panels_do_not_lie_on_each_other() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len(set(places)) == len({panel["id"] for panel in PANELS}) == len(PANELS)
