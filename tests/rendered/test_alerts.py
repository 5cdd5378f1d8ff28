"""The alert rules by Prometheus' own promtool: that they are rules, and when they ring."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours

from infra.kubernetes.render import CHART
from tests.equipment.chart_objects import objects, of_kind

ENGINE = Path(__file__).parents[2] / "serving/engines/vllm/.venv"
ENDPOINT = 'endpoint="chat"'
VERSION = "ab" * 32
FAILS = f'seatrial_requests_total{{endpoint="chat",version="{VERSION[:12]}",outcome="engine_error"}}'
RECONCILED = "seatrial_reconcile_last_completed_timestamp_seconds"
REPLICAS = f'kube_deployment_spec_replicas{{namespace="seatrial",deployment="engine-{VERSION[:32]}"}}'


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Return the rules as the chart renders them, in a file."""
    (rule,) = of_kind(objects(), "PrometheusRule")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]), encoding="utf-8")
    return path


def test_the_rules_are_rules(rules: Path):
    promtool("check", "rules", str(rules))


@pytest.mark.parametrize(
    ("alert", "at", "series", "rings"),
    [
        ("SeatrialCandidateStays", "50m", {f"seatrial_candidate_share{{{ENDPOINT}}}": "0.05+0x20 0.25+0x40"}, True),
        ("SeatrialCandidateStays", "50m", {f"seatrial_candidate_share{{{ENDPOINT}}}": "0+0x20 0.25+0x40"}, False),
        ("SeatrialCandidateStays", "50m", {f"seatrial_candidate_share{{{ENDPOINT}}}": "1+0x10 0 1+0x40"}, False),
        ("SeatrialSpoolGrows", "20m", {"seatrial_spool_backlog": "3+0x30", "seatrial_spool_shipped_total": "7+0x30"}, True),
        ("SeatrialSpoolGrows", "20m", {"seatrial_spool_backlog": "3+0x30", "seatrial_spool_shipped_total": "7+5x30"}, False),
        ("SeatrialReconcileStopped", "30m", {RECONCILED: "0+60x10 600+0x30"}, True),
        ("SeatrialReconcileStopped", "20m", {RECONCILED: "0+60x10 600+0x30"}, False),
        ("SeatrialReconcileStopped", "30m", {RECONCILED: "0+60x40"}, False),
        ("SeatrialReconcileStopped", "30m", {f'{RECONCILED}{{pod="a"}}': "0+60x40", f'{RECONCILED}{{pod="b"}}': "0+60x10"}, False),
        ("SeatrialReconcileStopped", "30m", {RECONCILED: "0+0x40"}, True),
        ("SeatrialReconcileStopped", "20m", {}, True),
        ("SeatrialRequestsFail", "20m", {FAILS: "0+20x30"}, True),
        ("SeatrialRequestsFail", "20m", {FAILS: "0+20x30", REPLICAS: "1+0x30"}, True),
        ("SeatrialRequestsFail", "20m", {FAILS: "0+20x30", REPLICAS: "0+0x15 1+0x15"}, False),
        ("SeatrialRequestsFail", "40m", {FAILS: "0+20x50", REPLICAS: "0+0x15 1+0x35"}, True),
    ],
)
def test_an_alert_rings_when_it_should_and_not_else(rules: Path, alert: str, at: str, series: dict[str, str], rings: bool):
    promtool("check", "rules", str(rules))
    assert (alert in ringing(rules, at, series)) == rings


def test_the_rules_follow_the_deadline_the_release_and_the_namespace():
    (rule,) = of_kind(objects("settings.rollout_deadline_s=7200", namespace="ml", release="sea"), "PrometheusRule")
    text = yaml.safe_dump(rule["spec"], width=1000)
    (stays,) = [item for item in rule["spec"]["groups"][0]["rules"] if item["alert"] == "SeatrialCandidateStays"]
    assert stays["for"] == "5400s"
    assert 'namespace="ml",deployment=~"sea-(control' in text
    assert 'namespace="seatrial"' not in text


def test_a_longer_interval_of_reconcile_alerts_later():
    (rule,) = of_kind(objects("settings.reconcile_s=300"), "PrometheusRule")
    (stopped,) = [item for item in rule["spec"]["groups"][0]["rules"] if item["alert"] == "SeatrialReconcileStopped"]
    assert "> 960 " in stopped["expr"]


def test_the_services_of_gateway_and_control_api_are_scraped_once_each():
    found = objects()
    (monitor,) = of_kind(found, "ServiceMonitor")
    (wanted,) = monitor["spec"]["selector"]["matchExpressions"]
    chosen = [
        service
        for service in of_kind(found, "Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        and service["metadata"]["labels"][wanted["key"]] in wanted["values"]
    ]
    assert {service["metadata"]["name"] for service in chosen} == {"seatrial-gateway", "seatrial-control"}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert all(endpoint["port"] in {port["name"] for port in service["spec"]["ports"]} for service in chosen)


def test_prometheus_keeps_our_label_endpoint_and_finds_its_objects_by_the_labels_given():
    found = objects("metrics.labels.release=prom")
    (service,), (pod,) = of_kind(found, "ServiceMonitor"), of_kind(found, "PodMonitor")
    assert service["spec"]["endpoints"][0]["honorLabels"] is True
    assert pod["spec"]["podMetricsEndpoints"][0]["honorLabels"] is True
    for item in (service, pod, *of_kind(found, "PrometheusRule")):
        assert item["metadata"]["labels"]["release"] == "prom"


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
def test_every_metric_of_vllm_that_is_drawn_or_alerted_on_exists(file: str):
    found = sorted(ENGINE.glob("lib/python3*/site-packages/vllm/v1/metrics/loggers.py"))
    if not found:
        pytest.skip("NOT CHECKED: there is no vLLM; `make setup` brings it")
    known = set(re.findall(r'"(vllm:[a-z_]+)"', found[0].read_text(encoding="utf-8")))
    named = {name.removesuffix("_bucket") for name in re.findall("vllm:[a-z_]+", (CHART / "files" / file).read_text(encoding="utf-8"))}
    assert named
    assert named - known == set()


def ringing(rules: Path, at: str, series: dict[str, str]) -> str:
    """Return what promtool says it got where it is told to expect nothing: the alerts that ring at `at`, a sample a minute before."""
    given = [{"series": name, "values": values} for name, values in series.items()]
    names = [rule["alert"] for rule in yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"][0]["rules"]]
    silent: list[dict[str, Any]] = [{"eval_time": at, "alertname": name, "exp_alerts": []} for name in names]
    test = {"interval": "1m", "input_series": given, "alert_rule_test": silent}
    path = rules.with_name("test.yaml")
    document = {"rule_files": [rules.name], "evaluation_interval": "1m", "tests": [test]}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = _run("test", "rules", str(path))
    said = done.stdout + done.stderr
    assert done.returncode == 0 or "got:" in said, said
    return said


def promtool(*words: str) -> None:
    done = _run(*words)
    assert done.returncode == 0, done.stdout + done.stderr


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("NOT CHECKED: there is no promtool; infra/bin/install-equipment installs it (Debian's package prometheus)")
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=120, check=False)
