"""What the chart renders: schema by the API server elsewhere; here the policies, with real helm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours
from prometheus_client.parser import text_string_to_metric_families

from core.conversations import Outcome
from core.errors import Refused
from core.settings import KubernetesPolicy, listing, read_settings
from infra.kubernetes.render import CHART, EXAMPLE, engine_example, render, write
from infra.services.dispatcher import read_template
from serving.engines.kubernetes.names import labels
from serving.engines.kubernetes.rights import CLUSTER_ROLE, ROLE
from serving.gateway.metrics import Metrics
from tests.kubernetes.chart_objects import Object, containers, need_helm, objects, of_kind, pods, tiny

VARIANTS = {
    "example": (),
    "secrets": ("weights.secret=s3", "weights.endpoint=http://store:9000", "images.pullSecret=pull"),
    "theirs": ("prefect.url=http://prefect.flows:4200/api", "mlflow.url=http://mlflow.flows:5000", "gateway.spool.ephemeral=true"),
    "jobs": ("worker.mode=kubernetes", "worker.image=r/x@sha256:" + "4" * 64),
}


@pytest.fixture(params=sorted(VARIANTS))
def found(request: pytest.FixtureRequest) -> list[Object]:
    return objects(*VARIANTS[request.param])


def test_every_pod_meets_the_restricted_standard(found: list[Object]):
    for name, pod, container in containers(found):
        inside = container["securityContext"]
        assert inside["allowPrivilegeEscalation"] is False, name
        assert inside["capabilities"] == {"drop": ["ALL"]}, name
        assert inside["readOnlyRootFilesystem"] is True, name
        assert not inside.get("privileged"), name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert not any("hostPort" in port for port in container.get("ports", ())), name


def test_no_pod_sees_a_folder_of_its_node(found: list[Object]):
    allowed = {"emptyDir", "configMap", "secret", "persistentVolumeClaim", "projected"}
    for name, pod in pods(found):
        for volume in pod.get("volumes", ()):
            assert set(volume) - {"name"} <= allowed, f"{name}: {volume}"


def test_every_container_has_requests_and_a_memory_limit_and_an_image_by_digest(found: list[Object]):
    for name, _, container in containers(found):
        assert set(container["resources"]["requests"]) >= {"cpu", "memory"}, name
        assert "memory" in container["resources"]["limits"], name
        assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), name


def test_every_service_has_probes_and_every_writable_place_is_a_bounded_volume(found: list[Object]):
    for name, pod, container in containers(found):
        if container.get("ports"):
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name
        for volume in pod["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": 1}), f"{name}: {volume}"


def test_no_role_has_a_wildcard_or_opens_secrets(found: list[Object]):
    roles = [*of_kind(found, "Role"), *of_kind(found, "ClusterRole")]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in json.dumps(rule), role["metadata"]["name"]
            assert "secrets" not in rule["resources"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_the_workers_role_is_exactly_what_the_adapter_needs():
    found = objects()
    roles = {role["metadata"]["name"]: role["rules"] for role in (*of_kind(found, "Role"), *of_kind(found, "ClusterRole"))}
    assert _set(roles["seatrial-worker"]) == _set(rule.document() for rule in ROLE)
    assert _set(roles["seatrial-seatrial-room"]) == _set(rule.document() for rule in CLUSTER_ROLE)


def test_only_who_asks_the_cluster_has_a_token(found: list[Object]):
    for name, pod in pods(found):
        with_token = pod["automountServiceAccountToken"]
        assert with_token == any(word in name for word in ("control", "worker", "doctor")), name


def test_every_pod_has_a_policy_that_denies_what_is_not_named(found: list[Object]):
    chosen = [policy["spec"]["podSelector"]["matchLabels"] for policy in of_kind(found, "NetworkPolicy")]
    for document in found:
        if document["kind"] in {"Deployment", "StatefulSet"}:
            marks = document["spec"]["template"]["metadata"]["labels"]
            assert any(selector.items() <= marks.items() for selector in chosen), document["metadata"]["name"]
    for policy in of_kind(found, "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_the_callers_of_engines_are_components_of_the_chart_and_engines_are_not_covered_by_its_policies():
    found = objects()
    components = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in of_kind(found, "Deployment") + of_kind(found, "StatefulSet")
    }
    assert set(KubernetesPolicy().callers.split(",")) <= components
    engine = labels("a" * 64)  # type: ignore[arg-type]
    for policy in of_kind(found, "NetworkPolicy"):
        assert not policy["spec"]["podSelector"]["matchLabels"].items() <= engine.items()


def test_services_choose_the_pods_that_they_name(found: list[Object]):
    pods_by_labels = [d["spec"]["template"]["metadata"]["labels"] for d in found if d["kind"] in {"Deployment", "StatefulSet"}]
    for service in of_kind(found, "Service"):
        assert any(service["spec"]["selector"].items() <= marks.items() for marks in pods_by_labels), service["metadata"]["name"]


def test_no_password_stands_in_a_manifest(found: list[Object]):
    assert of_kind(found, "Secret") == []
    for name, _, container in containers(found):
        for variable in container.get("env", ()):
            if re.search("KEY|TOKEN|PASSWORD|DATABASE|STORE_URI", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], f"{name}: {variable['name']}"


def test_every_setting_in_the_manifests_exists(found: list[Object]):
    known = {name for name, *_ in listing(read_settings({"HOME": "/nowhere"}))}
    settings = _settings(found)
    named = {name for name in settings["data"] if name.startswith("SEATRIAL_")}
    named |= {v["name"] for _, _, c in containers(found) for v in c.get("env", ()) if v["name"].startswith("SEATRIAL_")}
    assert named - known == set()
    read_settings({name: str(value) for name, value in settings["data"].items()})


def test_one_gateway_and_its_spool_outlives_the_pod():
    (gateway,) = of_kind(objects(), "StatefulSet")
    assert gateway["spec"]["replicas"] == 1
    assert gateway["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    assert {"name": "spool", "mountPath": "/var/lib/seatrial/spool"} in container["volumeMounts"]


def test_prefect_and_mlflow_that_exist_are_used_and_ours_are_not_made():
    found = objects(*VARIANTS["theirs"])
    assert not any(d["metadata"]["name"] in {"seatrial-prefect", "seatrial-mlflow"} for d in of_kind(found, "Deployment"))
    settings = _settings(found)["data"]
    assert settings["SEATRIAL_PREFECT_API_URL"] == "http://prefect.flows:4200/api"
    assert settings["MLFLOW_TRACKING_URI"] == "http://mlflow.flows:5000"


def test_a_changed_setting_rolls_the_pods():
    def marks(*settings: str) -> str:
        return str(of_kind(objects(*settings), "StatefulSet")[0]["spec"]["template"]["metadata"]["annotations"]["seatrial.dev/settings"])

    assert marks() == marks()
    assert marks() != marks("settings.rollout_step_s=300")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images.platform": ""}, "images.platform is required"),
        ({"images.engine": "r/e:v1"}, "pin it by digest"),
        ({"images.worker": "r/w:latest", "images.allowTags": "true"}, "latest is no version"),
        ({"weights.url": ""}, "weights.url is required"),
        ({"mlflow.artifacts": ""}, "mlflow.artifacts is required"),
        ({"worker.mode": "cron"}, "process"),
        ({"gateways": "3"}, "gateways"),
    ],
)
def test_values_that_cannot_work_are_refused_with_the_values_name(change: dict[str, str], words: str):
    need_helm()
    with pytest.raises(Refused, match=words):
        render((), settings=tiny(**change))


def test_the_values_file_fits_a_screen():
    assert len((CHART / "values.yaml").read_text(encoding="utf-8").splitlines()) <= 55


def test_the_rendered_folder_is_a_kustomization_without_helms_test_hook(tmp_path: Path):
    need_helm()
    target = write((Path(CHART).parent / "example-values.yaml",), tmp_path)
    kinds = [document["kind"] for document in yaml.safe_load_all(target.read_text(encoding="utf-8")) if document]
    assert "StatefulSet" in kinds
    assert "Pod" not in kinds
    assert yaml.safe_load((tmp_path / "kustomization.yaml").read_text())["resources"] == ["seatrial.yaml"]


def test_a_run_on_the_work_pool_is_a_job_that_is_tried_once_and_meets_the_same_standard(tmp_path: Path):
    found = objects(*VARIANTS["jobs"])
    (document,) = [item["data"]["job-template.json"] for item in of_kind(found, "ConfigMap") if item["metadata"]["name"] == "seatrial-job"]
    path = tmp_path / "job.json"
    path.write_text(document)
    template = read_template(path)
    job = template["job_configuration"]["job_manifest"]
    assert template["variables"]["properties"]["labels"]["default"] == {
        "app.kubernetes.io/part-of": "seatrial"
    }  # else Prefect writes its own
    assert job["spec"]["backoffLimit"] == 0
    (entry,) = list(containers([{**job, "metadata": {"name": "run"}}]))
    _, pod, container = entry
    assert pod["restartPolicy"] == "Never"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["args"] == "{{ command }}"
    assert container["name"] == "prefect-job"  # this and the next: prefect-kubernetes 0.8 refuses a manifest without them
    assert (pod["completions"], pod["parallelism"]) == (1, 1)
    marks = job["spec"]["template"]["metadata"]["labels"]
    assert any(policy["spec"]["podSelector"]["matchLabels"].items() <= marks.items() for policy in of_kind(found, "NetworkPolicy"))
    assert "run" in _settings(found)["data"]["SEATRIAL_KUBERNETES_CALLERS"].split(",")


@pytest.mark.parametrize("change", [{"backoffLimit": 6}, {"template": {"spec": {"restartPolicy": "OnFailure"}}}])
def test_a_job_template_that_would_be_retried_is_refused(tmp_path: Path, change: dict[str, Any]):
    spec = {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never"}}, **change}
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"job_configuration": {"job_manifest": {"spec": spec}}}))
    with pytest.raises(Refused, match="backoffLimit: 0"):
        read_template(path)


def test_the_engine_that_the_settings_would_make_meets_the_same_standard():
    need_helm()
    found = list(yaml.safe_load_all(engine_example(render((EXAMPLE,)), "seatrial")))
    assert [item["kind"] for item in found] == ["Deployment", "Service", "NetworkPolicy"]
    ((_, pod, container),) = containers(found)
    assert pod["serviceAccountName"] == "seatrial-engine"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
    assert "@sha256:" in container["image"]


def test_tags_that_the_values_allow_are_allowed_to_engines_too():
    told = _settings(objects("images.engine=r/e:v1", "images.allowTags=true"))["data"]
    assert told["SEATRIAL_KUBERNETES_ALLOW_TAGS"] == "1"
    assert "SEATRIAL_KUBERNETES_ALLOW_TAGS" not in _settings(objects())["data"]


def _set(rules: Iterable[Object]) -> set[str]:
    return {json.dumps(rule, sort_keys=True) for rule in rules}


def _settings(found: list[Object]) -> Object:
    return next(item for item in of_kind(found, "ConfigMap") if item["metadata"]["name"] == "seatrial-settings")


def _metric_names() -> set[str]:
    page = Metrics().page().decode()
    families = list(text_string_to_metric_families(page))
    names = {sample.name for family in families for sample in family.samples} | {family.name for family in families}
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return names | {family.name + end for family in families for end in kinds.get(family.type, ())}


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
def test_every_metric_that_is_drawn_or_alerted_on_exists(file: str):
    text = (CHART / "files" / file).read_text(encoding="utf-8")
    named = set(re.findall(r"seatrial_[a-z_]+", text))
    assert named
    assert named - _metric_names() == set()


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
def test_every_outcome_that_is_asked_for_exists(file: str):
    text = (CHART / "files" / file).read_text(encoding="utf-8")
    asked = {word for group in re.findall(r'outcome=~\\?"([a-z_|]+)', text) for word in group.split("|")}
    assert asked
    assert asked <= {outcome.value for outcome in Outcome}


def test_every_alert_says_what_and_what_next():
    groups = yaml.safe_load((CHART / "files/alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in groups[0]["rules"]:
        assert set(rule["annotations"]) == {"summary", "next"}
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_the_dashboards_panels_do_not_overlap():
    panels = json.loads((CHART / "files/dashboard.json").read_text(encoding="utf-8"))["panels"]
    taken = [(x, y) for p in panels for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
             for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]  # fmt: skip
    assert len(taken) == len(set(taken))
