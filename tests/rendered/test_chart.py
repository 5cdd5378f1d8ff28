"""What the chart renders: schema by the API server elsewhere; here the policies, with real helm."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours
from prometheus_client.parser import text_string_to_metric_families

from core.conversations import Outcome
from core.errors import Refused
from core.ids import VersionId
from core.settings import KubernetesPolicy, listing, read_settings
from infra.entrypoints.dispatcher import read_template
from infra.kubernetes.render import CHART, EXAMPLE, engine_example, render, write
from infra.kubernetes.schema import SCHEMA, schema
from seatrial.config import find_connection
from seatrial.transport import Transport
from serving.control.routes.metrics import page as control_page
from serving.engines.kubernetes.names import labels
from serving.engines.kubernetes.rbac import CLUSTER_ROLE, CONTROL_ROLE, ROLE
from serving.gateway.metrics import Metrics
from tests.equipment.chart_objects import (
    VARIANTS,
    Object,
    containers,
    kubectl_program,
    need_helm,
    notes,
    objects,
    of_kind,
    pods,
    tiny,
)


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


def test_a_checksum_is_a_string_whatever_its_digits_are():
    """Of 16 hexadecimal digits one in some hundreds reads as a number, and the API server takes none for an annotation."""
    need_helm()
    told = re.findall(r"seatrial\.dev/settings: (.*)", render((EXAMPLE,)))
    assert len(told) == 3, "gateway, control API and worker"
    assert all(re.fullmatch(r'"[0-9a-f]{16}"', one) for one in told), told


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


def test_the_roles_are_exactly_what_the_adapter_needs():
    found = objects()
    roles = {role["metadata"]["name"]: role["rules"] for role in (*of_kind(found, "Role"), *of_kind(found, "ClusterRole"))}
    assert _set(roles["seatrial-worker"]) == _set(rule.document() for rule in ROLE)
    assert _set(roles["seatrial-control"]) == _set(rule.document() for rule in CONTROL_ROLE)
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


def test_what_is_given_by_url_can_be_reached():
    urls = {
        "weights.endpoint": "http://store:9000",
        "prefect.url": "http://prefect.flows:4200/api",
        "mlflow.url": "http://mlflow.flows",
        "settings.hub_endpoint": "https://hub.example.org:8443",
        "settings.benchmarks_webhook_url": "http://alarms.flows:8081/seatrial",
    }
    for policy in of_kind(objects(*(f"{name}={url}" for name, url in urls.items())), "NetworkPolicy"):
        ports = [item["port"] for item in policy["spec"]["egress"][-1]["ports"]]
        assert ports == [443, 6443, 5432, 6379, 9000, 4200, 80, 8443, 8081], policy["metadata"]["name"]


def test_every_namespace_of_prometheus_is_let_in_to_the_gateway():
    found = objects("metrics.namespace=monitoring\\,keda", "network.callers[0].podSelector.matchLabels.app=shop")
    (gateway,) = [item for item in of_kind(found, "NetworkPolicy") if item["metadata"]["name"] == "seatrial-gateway"]
    peers = gateway["spec"]["ingress"][0]["from"]
    named = [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers if "namespaceSelector" in peer]
    assert named == ["monitoring", "keda"]


def test_the_example_lets_keda_in_to_the_engines_that_it_asks():
    need_helm()
    found = list(yaml.safe_load_all(engine_example(render((EXAMPLE,)), "seatrial")))
    (policy,) = of_kind(found, "NetworkPolicy")
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}} in policy["spec"]["ingress"][0]["from"]


def test_the_callers_of_engines_are_components_of_the_chart_and_engines_are_not_covered_by_its_policies():
    found = objects()
    components = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in of_kind(found, "Deployment") + of_kind(found, "StatefulSet")
    }
    assert set(KubernetesPolicy().callers.split(",")) <= components
    engine = labels("a" * 64, "seatrial")  # type: ignore[arg-type]
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


def test_what_is_set_goes_before_what_the_chart_would_write_and_stands_there_once():
    text = render((EXAMPLE,), settings=("settings.engine_fork_server=1", "engines.callers=gateway", *VARIANTS["jobs"]))
    assert text.count("SEATRIAL_ENGINE_FORK_SERVER:") == text.count("SEATRIAL_KUBERNETES_CALLERS:") == 1
    data = _settings([item for item in yaml.safe_load_all(text) if item])["data"]
    assert (data["SEATRIAL_ENGINE_FORK_SERVER"], data["SEATRIAL_KUBERNETES_CALLERS"], data["SEATRIAL_PICKUP_S"]) == ("1", "gateway", "600")
    assert all(isinstance(value, str) for value in data.values())


def test_the_schema_knows_the_settings_that_there_are():
    assert schema() == SCHEMA.read_text(encoding="utf-8"), "run `python -m infra.kubernetes.schema`"


def test_every_secret_among_the_settings_has_a_key_of_the_secret_for_the_worker_and_its_runs():
    secret = {name for name, *_ in listing(read_settings({"HOME": "/nowhere"})) if re.search("_(TOKEN|KEY|SECRET|PASSWORD)$", name)}
    secret -= {"SEATRIAL_KUBERNETES_PULL_SECRET", "SEATRIAL_KUBERNETES_WEIGHTS_SECRET"}  # names of Secrets
    found = objects(*VARIANTS["jobs"])
    (job,) = [item["data"]["job-template.json"] for item in of_kind(found, "ConfigMap") if "job-template.json" in item["data"]]
    run = json.loads(job)["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]
    (worker,) = [container for name, _, container in containers(found) if name == "Deployment/seatrial-worker/worker"]
    for container in (run, worker):
        assert secret <= {variable["name"] for variable in container["env"] if "secretKeyRef" in variable["valueFrom"]}


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
        ({"settings.rolout_step_s": "300"}, "rolout_step_s"),
        ({"engines.max_engine": "4"}, "max_engine"),
        ({"engines.max_engines": "four"}, "max_engines"),
        ({"settings.gateway_url": "http://elsewhere"}, "gateway_url"),
        ({"settings.hub_token": "hf_x"}, "put it into the Secret .seatrial. under the key hub-token"),
        ({"settings.operator_key": "st-x"}, "under the key operator-key"),
        ({"settings.synthetic_key": "st-x"}, "under the key synthetic-key"),
        ({"settings.benchmarks_webhook_secret": "x"}, "under the key webhook-secret"),
        ({"settings.benchmarks_ranker_key": "x"}, "under the key ranker-key"),
        ({"settings.hub_endpoint": "https://me:word@hub"}, "settings.hub_endpoint holds a password"),
        ({"engines.environ": "HF_TOKEN=hf_x"}, "engines.environ holds a password or a key"),
    ],
)
def test_values_that_cannot_work_are_refused_with_the_values_name(change: dict[str, str], words: str):
    need_helm()
    with pytest.raises(Refused, match=words):
        render((), settings=tiny(**change))


@pytest.mark.parametrize("publicly", ["", "publicUrl=https://models.example.org"])
def test_the_notes_and_the_docs_export_what_a_laptop_needs_to_reach_the_ports_they_forward(tmp_path: Path, publicly: str):
    page = (CHART.parents[2] / "docs/kubernetes-install.md").read_text(encoding="utf-8")
    ports = {item["metadata"]["name"]: item["spec"]["ports"][0]["port"] for item in of_kind(objects(), "Service")}
    for text in (notes(tmp_path, *filter(None, [publicly])), page):
        exports = dict(re.findall(r"^ *export (SEATRIAL_[A-Z_]+)=(\S+)", text, re.MULTILINE))
        connection = find_connection(environ={"HOME": "/nowhere", **exports})
        forwarded = {
            f"http://127.0.0.1:{port}" for name, port in re.findall(r"port-forward svc/(\S+) (\d+)", text) if ports[name] == int(port)
        }
        assert forwarded == {connection.url, connection.gateway_url}
        assert (
            Transport(connection).gateway() == connection.gateway_url
        )  # not the Service's name, which whoami tells where publicUrl is empty


def test_the_docs_tell_each_value():
    page = (CHART.parents[2] / "docs/kubernetes-install.md").read_text(encoding="utf-8")
    told = " ".join(re.findall(r"^\| (`.+?) \|", page, re.MULTILINE))
    for group, content in yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")).items():
        for name in content if isinstance(content, dict) and content and group not in {"settings", "engines"} else ("",):
            ways = (f"`{group}.{name}`", f"`{group}.*`", f"`*.{name}`") if name else (f"`{group}`", f"`{group}.*`")
            assert any(way in told for way in ways), f"{group}.{name}"


def test_engines_get_a_secret_of_their_own_where_there_is_one():
    def secret(*more: str) -> object:
        return _settings(objects("weights.secret=writes", *more))["data"]["SEATRIAL_KUBERNETES_WEIGHTS_SECRET"]

    assert secret() == "writes"
    assert secret("weights.engineSecret=reads") == "reads"


def test_whoever_downloads_asks_its_node_for_the_room(tmp_path: Path):
    def asked(container: Object) -> object:
        return container["resources"]["requests"].get("ephemeral-storage")

    workers = {name: container for name, _, container in containers(objects("worker.scratch=70Gi"))}
    assert asked(workers["Deployment/seatrial-worker/worker"]) == "70Gi"
    found = objects(*VARIANTS["jobs"], "worker.scratch=70Gi")
    dispatcher = {name: container for name, _, container in containers(found)}
    assert asked(dispatcher["Deployment/seatrial-worker/worker"]) is None
    (document,) = [item["data"]["job-template.json"] for item in of_kind(found, "ConfigMap") if item["metadata"]["name"] == "seatrial-job"]
    path = tmp_path / "job.json"
    path.write_text(document)
    (run,) = read_template(path)["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert asked(run) == "70Gi"


def test_prefects_own_worker_is_restarted_when_it_no_longer_asks_for_runs():
    found = {name: container for name, _, container in containers(objects(*VARIANTS["jobs"]))}
    worker = found["Deployment/seatrial-worker/prefect-worker"]
    given = {variable["name"]: variable.get("value") for variable in worker["env"]}
    assert "--with-healthcheck" in worker["command"]
    assert worker["livenessProbe"]["httpGet"] == {"path": "/health", "port": int(str(given["PREFECT_WORKER_WEBSERVER_PORT"]))}


def test_the_values_file_fits_a_screen():
    assert len((CHART / "values.yaml").read_text(encoding="utf-8").splitlines()) <= 55


def test_the_rendered_folder_is_a_kustomization_without_helms_test_hook(tmp_path: Path):
    need_helm()
    target = write((Path(CHART).parent / "example-values.yaml",), tmp_path)
    kinds = [document["kind"] for document in yaml.safe_load_all(target.read_text(encoding="utf-8")) if document]
    assert "StatefulSet" in kinds
    assert "Pod" not in kinds


def test_kubectl_makes_of_the_rendered_folder_what_helm_would_install(tmp_path: Path):
    write((EXAMPLE,), tmp_path)
    done = subprocess.run([kubectl_program(), "kustomize", str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    hooks = {"helm.sh/hook"}
    helms = [item for item in objects() if not hooks & set(item["metadata"].get("annotations", ()))]
    assert _set(item for item in yaml.safe_load_all(done.stdout) if item) == _set(helms)


def test_an_engine_alone_has_no_autoscaler_to_review():
    need_helm()
    found = yaml.safe_load_all(engine_example(render((EXAMPLE,), settings=("engines.max_engines=1",)), "seatrial"))
    assert "ScaledObject" not in {item["kind"] for item in found}


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
    assert [item["kind"] for item in found] == ["Deployment", "Service", "NetworkPolicy", "ScaledObject"]
    assert found[-1]["spec"]["maxReplicaCount"] == yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["engines"]["max_engines"]
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
    page = Metrics().page().decode() + control_page(None).decode()
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
    asked = {word for group in re.findall(r'outcome=~?\\?"([a-z_|]+)', text) for word in group.split("|")}
    assert asked
    assert asked <= {outcome.value for outcome in Outcome}


def test_every_alert_says_what_and_what_next_and_has_a_runbook():
    groups = yaml.safe_load((CHART / "files/alerts.yaml").read_text(encoding="utf-8"))["groups"]
    page = (CHART.parents[2] / "docs/kubernetes-operations.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (Seatrial\w+)$", page, re.MULTILINE)
    assert headings == [rule["alert"] for rule in groups[0]["rules"]]
    for rule in groups[0]["rules"]:
        assert rule["annotations"]["runbook"] == f"docs/kubernetes-operations.md#{rule['alert'].lower()}"
        assert set(rule["annotations"]) == {"summary", "next", "runbook"}
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_the_notes_and_the_docs_delete_the_engines_by_labels_that_engines_have(tmp_path: Path):
    page = (CHART.parents[2] / "docs/kubernetes-operations.md").read_text(encoding="utf-8")
    for text in (notes(tmp_path), page):
        (asked,) = set(re.findall(r"delete deployments -l ([^\s`]+)", text))
        wanted = dict(pair.split("=") for pair in asked.split(","))
        assert wanted.items() <= labels(VersionId("a" * 64), "seatrial").items()


@pytest.mark.parametrize("page", ["kubernetes-install", "kubernetes-operations"])
def test_every_value_and_object_that_the_docs_name_exists(page: str):
    text = (CHART.parents[2] / f"docs/{page}.md").read_text(encoding="utf-8")
    known = {name.removeprefix("SEATRIAL_").lower() for name, *_ in listing(read_settings({"HOME": "/nowhere"}))}
    named = {("kubernetes_" if group == "engines" else "") + name for group, name in re.findall(r"`(engines|settings)\.([a-z_]+)", text)}
    assert named
    assert named - known == set()
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for group, name in re.findall(
        r"`(images|weights|gateway|worker|network|metrics|prefect|mlflow|placement|serviceAccounts)\.([a-zA-Z]+)", text
    ):
        assert name in values[group], f"{group}.{name}"
    made = {(item["kind"].lower(), item["metadata"]["name"]) for item in objects()}
    asked = re.findall(r"(deployment|statefulset)[/ ](seatrial[-a-z]+)", text)
    assert set(asked) - made == set()


def test_the_dashboards_panels_do_not_overlap():
    panels = json.loads((CHART / "files/dashboard.json").read_text(encoding="utf-8"))["panels"]
    taken = [(x, y) for p in panels for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
             for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]  # fmt: skip
    assert len(taken) == len(set(taken))
