"""The files of deploy/ match the server: variables, metrics, routes and times; the chart renders the right objects."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import yaml  # type: ignore[import-untyped]

from app.config.settings import Settings
from app.config.variables import known_variables
from app.main import create_app
from app.observability.metrics import REGISTRY
from tests.support.helm import CHART, Chart, values

DEPLOY = CHART.parent
GRACE = Settings.model_fields["shutdown_grace"].default
UPSTREAM_TIMEOUT = Settings.model_fields["upstream_timeout"].default
IDLE_TIMEOUT = Settings.model_fields["client_header_timeout"].default


def read(name: str) -> str:
    return (DEPLOY / name).read_text()


def test_the_readme_lists_every_file() -> None:
    documented = set(re.findall(r"`([^`\s]+?)/?`", "".join(re.findall(r"(?m)^\| (`.+?) \|", read("README.md")))))
    assert documented == {path.name for path in DEPLOY.iterdir()} - {"README.md"}


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        pytest.param("nginx.conf", r"proxy_read_timeout ([0-9]+)s", id="nginx"),
        pytest.param("Caddyfile", r"response_header_timeout ([0-9]+)s", id="Caddy, until the response begins"),
        pytest.param("Caddyfile", r"read_timeout ([0-9]+)s", id="Caddy, within the response"),
        pytest.param("chart/values.yaml", r'proxy-read-timeout: "([0-9]+)"', id="the ingress"),
    ],
)
def test_a_proxy_waits_as_long_as_limner(name: str, pattern: str) -> None:
    assert {int(seconds) for seconds in re.findall(pattern, read(name))} == {UPSTREAM_TIMEOUT}


@pytest.mark.parametrize(("name", "pattern"), [("nginx.conf", r"keepalive_timeout ([0-9]+)s"), ("Caddyfile", r"keepalive ([0-9]+)s")])  # fmt: skip
def test_a_proxy_closes_an_idle_connection_before_limner(name: str, pattern: str) -> None:
    match = re.search(pattern, read(name))
    assert match
    assert int(match[1]) < IDLE_TIMEOUT


def test_systemd_waits_for_requests_in_flight() -> None:
    stop = re.search(r"(?m)^TimeoutStopSec=([0-9]+)$", read("limner.service"))
    assert stop
    assert int(stop[1]) > GRACE


def test_systemd_accepts_the_unit_and_rates_its_exposure_as_low(tmp_path: Path) -> None:
    """The exposure is at most 1.5 of 10. /bin/true replaces the program, which is not installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "limner.service"
    unit.write_text(read("limner.service").replace("/opt/limner/bin/limner", "/bin/true"))
    for command in (["verify", "--man=no"], ["security", "--no-pager", "--offline=true", "--threshold=15"]):
        done = subprocess.run(["systemd-analyze", *command, unit], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_memory_settings_are_the_same_with_and_without_containers() -> None:
    settings = [
        set(re.findall(r"MALLOC_\w+_=[0-9]+|PYTHONMALLOC=\w+", text))
        for text in (read("limner.service"), read("../Dockerfile"))
    ]
    assert settings[0] == settings[1] != set()


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
def test_a_part_can_be_disabled(part: str, kind: str) -> None:
    assert set(ALL) - set(objects(**{part: {"enabled": False}})) == {kind}


def test_without_autoscaling_the_number_of_replicas_is_the_configured_one() -> None:
    assert "replicas" not in ALL["Deployment"]["spec"]
    assert objects(autoscaling={"enabled": False}, replicas=5)["Deployment"]["spec"]["replicas"] == 5


def test_every_value_of_the_chart_is_used_and_in_its_schema() -> None:
    used = set(re.findall(r"\.Values\.([a-zA-Z.]+)", "".join(path.read_text() for path in CHART.glob("templates/*"))))
    schema, documented = orjson.loads(read("chart/values.schema.json")), yaml.safe_load(read("chart/values.yaml"))
    assert {name.partition(".")[0] for name in used} == set(documented) == set(schema["properties"]) - {"global"}
    for name in {name.partition(".")[0] for name in used if "." in name}:
        fields = {each.partition(".")[2] for each in used if each.startswith(f"{name}.")}
        assert fields == set(documented[name]) == set(schema["properties"][name]["properties"])


def test_pods_are_scaled_by_their_slots_in_use() -> None:
    """Not by CPU, which is idle while an upstream generates."""
    (measured,) = ALL["HorizontalPodAutoscaler"]["spec"]["metrics"]
    metric, target = measured["pods"]["metric"], measured["pods"]["target"]
    assert metric == {"name": "limner_turns", "selector": {"matchLabels": {"state": "used"}}}
    assert int(target["averageValue"]) == round(0.7 * Settings.model_fields["max_concurrency"].default, -1)


def test_a_node_can_be_drained() -> None:
    """This includes a single replica, which `minAvailable: 1` would keep from being evicted."""
    assert ALL["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in ALL["PodDisruptionBudget"]["spec"]


def test_alerts_use_the_job_label_that_prometheus_gives_the_pods() -> None:
    label = ALL["ServiceMonitor"]["spec"]["jobLabel"]
    assert f'job="{ALL["Service"]["metadata"]["labels"][label]}"' in read("alerts.yaml")


def test_all_selectors_match_the_pods() -> None:
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


def test_a_pod_has_few_privileges() -> None:
    (container,) = POD["spec"]["containers"]
    assert POD["spec"]["securityContext"]["runAsNonRoot"] is True
    assert f"USER {POD['spec']['securityContext']['runAsUser']}:" in (DEPLOY.parent / "Dockerfile").read_text()
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_writes_only_to_mounted_volumes() -> None:
    (container,) = POD["spec"]["containers"]
    spool = re.search(r"LIMNER_SPOOL_DIR=(\S+)", (DEPLOY.parent / "Dockerfile").read_text())
    assert spool
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {spool[1], "/tmp"}
    assert POD["spec"]["volumes"] == [{"name": "spool", "emptyDir": {"sizeLimit": "10Gi"}}]


@pytest.mark.parametrize("grace", [300, 900])
def test_a_pod_has_time_to_finish_its_requests(grace: int) -> None:
    rendered = objects(shutdownGrace=grace)
    pod = rendered["Deployment"]["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert rendered["ConfigMap"]["data"]["LIMNER_SHUTDOWN_GRACE"] == str(grace)
    assert pod["terminationGracePeriodSeconds"] >= before + grace + 30


def test_changed_settings_replace_the_pods() -> None:
    other = objects(settings={"LIMNER_IMAGE_TTL": "60"})["Deployment"]["spec"]["template"]
    assert other["metadata"]["annotations"] != POD["metadata"]["annotations"]


def test_probes_use_existing_routes(tmp_path: Path) -> None:
    (container,) = POD["spec"]["containers"]
    paths = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    paths.add(ALL["ServiceMonitor"]["spec"]["endpoints"][0]["path"])
    settings = Settings(upstream_base_url="http://127.0.0.1:1/v1", image_store=f"disk://{tmp_path}")
    assert paths == {"/healthz", "/readyz", "/metrics"}
    assert paths <= {getattr(route, "path", "") for route in every_route(create_app(settings).routes)}


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
    ("more", "count"),
    [
        pytest.param({"autoscaling": {"enabled": False}, "replicas": 3}, "3", id="three pods"),
        pytest.param({"autoscaling": {"enabled": False}, "replicas": 1}, "1", id="one pod"),
        pytest.param({"autoscaling": {"enabled": True, "maxReplicas": 7}}, "7", id="up to seven pods"),
    ],
)
def test_each_pod_knows_how_many_there_may_be(more: dict[str, Any], count: str) -> None:
    """Several do not start without shared state: see tests/unit/config/test_cross_field_rules.py."""
    assert objects(**more)["ConfigMap"]["data"]["LIMNER_REPLICAS"] == count


@pytest.mark.parametrize(
    ("settings", "is_valid"),
    [
        pytest.param({}, True, id="no settings"),
        pytest.param(
            {"LIMNER_IMAGE_STORE": "disk:///var/lib/limner/images"}, False, id="a folder that pods do not share"
        ),
        pytest.param({"LIMNER_UPSTREAM_API_KEY": "sk-in-a-config-map"}, False, id="a key outside the Secret"),
        pytest.param({"LIMNER_IMAGE_TTL": 60}, False, id="a number that is no text"),
        pytest.param({"OTHER": "x"}, False, id="a variable of something else"),
    ],
)
def test_helm_rejects_settings_that_cannot_work(settings: dict[str, Any], is_valid: bool) -> None:
    schema = orjson.loads(read("chart/values.schema.json"))
    assert jsonschema_rs.is_valid(schema, values(settings=settings)) is is_valid


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"replica": 3}, id="at the top"),
        pytest.param({"image": {"version": "1"}}, id="in the image"),
        pytest.param({"autoscaling": {"cpu": 60}}, id="in the autoscaling"),
    ],
)
def test_helm_rejects_misspelled_values(changes: dict[str, Any]) -> None:
    schema = orjson.loads(read("chart/values.schema.json"))
    assert not jsonschema_rs.is_valid(schema, values(**changes))


def test_helm_rejects_a_chart_without_values() -> None:
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
def test_a_query_uses_existing_metrics(query: str) -> None:
    assert set(re.findall(r"\blimner_[a-z_]+", query)) <= METRICS
    assert all(query.count(left) == query.count(right) for left, right in ("()", "{}", "[]"))


def test_alerts_have_a_summary_and_a_severity() -> None:
    assert all(rule["labels"]["severity"] in {"page", "ticket"} and rule["annotations"]["summary"] for rule in ALERTS)
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_each_alert_is_in_the_operations_page() -> None:
    documented = re.findall(r"(?m)^\| `(Limner\w+)` \|", read("../docs/operations.md"))
    assert documented == [rule["alert"] for rule in ALERTS]


def test_alerts_use_documented_outcomes() -> None:
    pages = [(DEPLOY.parent / "docs" / name).read_text() for name in ("errors.md", "webhooks.md")]
    documented = set(re.findall(r"`([a-z_]+)`", "".join(pages)))
    used = {code for query in QUERIES for codes in re.findall('outcome=~?"(.+?)"', query) for code in codes.split("|")}
    assert used - {"upstream_.*", "server_error"} <= documented


def test_every_metric_of_limner_is_in_an_alert_or_a_panel() -> None:
    used = set(re.findall(r"\blimner_[a-z_]+", " ".join(QUERIES)))
    assert {name for name in METRICS if name.startswith("limner_")} == used


def test_panels_do_not_overlap() -> None:
    positions = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len(set(positions)) == len({panel["id"] for panel in PANELS}) == len(PANELS)
