"""What an engine's objects say: security, probes, patience, resources, and what they do not say."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours

from core.engine_memory import MIB
from core.errors import Refused
from serving.engines.kubernetes.autoscaling import METRIC, TOKEN_METRIC, autoscaled, horizontal_autoscaler, scaled_object
from serving.engines.kubernetes.manifests import applied, decode_spec, deployment, encode_spec, network_policy, service
from serving.engines.kubernetes.names import endpoint_label, object_name, version_label
from tests.equipment.kube_env import GIB, IMAGE, a_spec, where

ROOT = Path(__file__).parents[2]
OWNER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "engine", "uid": "u1"}


def pod_of(**settings: Any) -> dict[str, Any]:
    return dict(deployment(a_spec(), where(**settings))["spec"]["template"]["spec"])


def container_of(**settings: Any) -> dict[str, Any]:
    return dict(pod_of(**settings)["containers"][0])


def flags_of(**settings: Any) -> dict[str, str]:
    arguments = container_of(**settings)["args"]
    return {name: value for name, value in pairwise(arguments) if name.startswith("--")}


def test_a_pod_passes_the_restricted_standard() -> None:
    pod, container = pod_of(), container_of()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
    assert all("hostPath" not in volume for volume in pod["volumes"]), "a node's folders only where a test cluster asks for them"


def test_a_start_does_not_walk_through_the_cache_to_change_its_owner() -> None:
    assert pod_of(cache_claim="cache")["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_what_an_engine_writes_goes_to_folders_of_its_own() -> None:
    mounts = {mount["mountPath"] for mount in container_of()["volumeMounts"]}
    assert mounts == {"/tmp", "/dev/shm", "/model"}
    environ = {entry["name"]: entry["value"] for entry in container_of()["env"]}
    written = {environ[name] for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME", "VLLM_CACHE_ROOT")}
    assert all(path.startswith("/tmp") for path in written)


def test_the_image_is_the_pinned_one_and_a_place_without_one_is_refused() -> None:
    assert container_of()["image"] == IMAGE
    with pytest.raises(Refused, match="SEATRIAL_KUBERNETES_IMAGE"):
        where(image="")


def test_an_image_by_tag_is_refused_unless_the_settings_allow_tags() -> None:
    for name in ("engine:v1", "engine@sha256:1234"):
        with pytest.raises(Refused, match="SEATRIAL_KUBERNETES_IMAGE"):
            where(image=name)
    assert container_of(image="engine:v1", allow_tags=1)["image"] == "engine:v1"


def test_answers_in_flight_have_time_before_the_pod_is_killed() -> None:
    pod = pod_of(pre_stop_s=5.0)
    drain = int(flags_of(pre_stop_s=5.0)["--shutdown-timeout"])
    pause = container_of(pre_stop_s=5.0)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drain == 10
    assert pod["terminationGracePeriodSeconds"] > pause + drain


def test_a_start_is_given_its_time_and_readiness_asks_for_a_real_completion() -> None:
    container = container_of()
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "status"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}


def test_weights_come_straight_from_the_store_by_the_loader() -> None:
    flags = flags_of()
    assert json.loads(flags["--model-loader-extra-config"]) == {
        "tensors": "s3://bucket/bundles/tensors",
        "tensors_manifest_sha256": "d" * 64,
    }
    assert flags["--model"].startswith("s3://bucket/bundles/")
    assert "initContainers" not in pod_of()


def test_credentials_come_from_a_secret_or_a_workload_identity_and_never_from_the_manifest() -> None:
    assert container_of(weights_secret="weights")["envFrom"] == [{"secretRef": {"name": "weights"}}]
    assert pod_of(service_account="engine")["serviceAccountName"] == "engine"
    assert "envFrom" not in container_of()


def test_on_a_cpu_memory_is_bounded_and_the_cache_leaves_room_below_the_bound() -> None:
    container, flags = container_of(cpu=1.5), flags_of(cpu=1.5)
    assert container["resources"] == {"requests": {"cpu": "1500m", "memory": str(8 * GIB)}, "limits": {"memory": str(8 * GIB)}}
    assert int(flags["--kv-cache-memory-bytes"]) + 2 * GIB + 3 * GIB < 8 * GIB
    assert "--tensor-parallel-size" not in flags


@pytest.mark.parametrize(("budget", "weights"), [(GIB, 860_000), (192 * MIB, MIB), (8 * GIB, 6 * GIB), (8 * GIB, 0)])
def test_a_pod_has_memory_for_vllm_itself_beside_weights_and_cache(budget: int, weights: int) -> None:
    container = deployment(a_spec(memory_bytes=budget, weights_bytes=weights), where())["spec"]["template"]["spec"]["containers"][0]
    memory = int(container["resources"]["limits"]["memory"])
    cache = int(container["args"][container["args"].index("--kv-cache-memory-bytes") + 1])
    assert memory >= max(budget, weights + cache + 3 * GIB)
    assert container["resources"]["requests"]["memory"] == str(memory)


def test_a_pod_with_gpus_has_memory_for_vllm_itself_and_not_for_what_the_gpus_hold() -> None:
    place = where(gpu_resource="nvidia.com/gpu", gpu_memory_bytes=80 * GIB)
    pods = [deployment(a_spec(memory_bytes=budget, weights_bytes=60 * GIB), place)["spec"]["template"]["spec"] for budget in (GIB, 8 * GIB)]
    small, large = (int(pod["containers"][0]["resources"]["limits"]["memory"]) for pod in pods)
    assert 3 * GIB < small < 4 * GIB
    assert large == 8 * GIB


def test_a_model_larger_than_one_gpu_is_split_over_a_power_of_two() -> None:
    place = where(gpu_resource="nvidia.com/gpu", gpu_memory_bytes=80 * GIB)
    pod = deployment(a_spec(weights_bytes=140 * GIB, quantization="fp8"), place)["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert container["args"][container["args"].index("--tensor-parallel-size") + 1] == "4"
    assert container["args"][container["args"].index("--quantization") + 1] == "fp8"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert "--enforce-eager" not in container["args"]


def test_a_model_that_no_node_can_hold_is_refused_in_words() -> None:
    place = where(gpu_resource="nvidia.com/gpu", gpu_memory_bytes=80 * GIB, most_gpus=8)
    with pytest.raises(Refused, match="1000 GiB of weights, which 8 GPUs do not hold"):
        deployment(a_spec(weights_bytes=1000 * GIB), place)


def test_a_model_whose_heads_do_not_divide_among_its_gpus_is_refused_before_vllm_would() -> None:
    place = where(gpu_resource="nvidia.com/gpu", gpu_memory_bytes=80 * GIB)
    assert place.gpus(a_spec(weights_bytes=140 * GIB, attention_heads=28)) == 4
    with pytest.raises(Refused, match="needs 8 GPUs, and its 28 attention heads do not divide"):
        place.gpus(a_spec(weights_bytes=300 * GIB, attention_heads=28))


def test_settings_choose_nodes_tolerations_cache_and_host_folders() -> None:
    pod = pod_of(
        node_selector="pool=gpu",
        tolerations="spot,team=a:NoExecute",
        priority_class="models",
        pull_secret="registry",
        cache_claim="cache",
        host_paths="/usr,/opt/engine",
        claims="models=/models",
        environ="PYTHONPATH=/opt/engine",
    )
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "spot", "operator": "Exists"}, {"key": "team", "value": "a", "effect": "NoExecute"}]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts["/usr"]["readOnly"] is True
    (models,) = [volume for volume in pod["volumes"] if volume["name"] == mounts["/models"]["name"]]
    assert models["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    assert mounts["/cache"]["name"] == "cache"
    environ = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert environ["PYTHONPATH"] == "/opt/engine"
    assert environ["SEATRIAL_WEIGHTS_CACHE"] == "/cache"


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"node_selector": "pool"}, "NODE_SELECTOR"), ({"address": "x"}, "ADDRESS"), ({"min_engines": 3}, "MIN_ENGINES")],
)
def test_a_setting_that_cannot_be_read_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named):
        where(**settings)


def test_a_deployment_says_nothing_of_replicas_and_replaces_pods_new_one_first() -> None:
    body = deployment(a_spec(), where())
    assert "replicas" not in body["spec"]
    assert body["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_deployment_remembers_its_spec_and_itself() -> None:
    spec = a_spec(7)
    body = deployment(spec, where())
    memory = applied(body)
    assert memory is not None
    assert memory["spec"] == body["spec"]
    assert decode_spec(memory["metadata"]["annotations"]["seatrial.dev/spec"]) == spec
    assert decode_spec("no spec") is None
    assert decode_spec(encode_spec(spec).replace("dtype", "other")) is None


def test_all_objects_share_a_name_and_labels_and_are_owned_by_the_deployment() -> None:
    spec, place = a_spec(3), where()
    objects = [service(spec.version, place, OWNER), network_policy(spec.version, place, OWNER), scaled_object(spec.version, place, OWNER)]
    for body in objects:
        assert body["metadata"]["name"] == object_name(spec.version)
        assert body["metadata"]["ownerReferences"] == [OWNER]
        assert body["metadata"]["labels"]["app.kubernetes.io/part-of"] == "seatrial"
        assert all(len(value) <= 63 for value in body["metadata"]["labels"].values())


def test_only_our_own_callers_reach_an_engine_and_it_reaches_only_names_and_the_store() -> None:
    body = network_policy(a_spec().version, where(metrics_namespace="monitoring, logging"), OWNER)["spec"]
    peers = body["ingress"][0]["from"]
    assert peers[0]["podSelector"]["matchExpressions"][0]["values"] == ["gateway", "worker"]
    assert _namespaces(body) == ["monitoring", "logging"]
    assert body["ingress"][0]["ports"] == [{"port": 8000, "protocol": "TCP"}]
    assert {port["port"] for rule in body["egress"] for port in rule["ports"]} == {53, 443}


@pytest.mark.parametrize(
    ("policy", "namespaces"),
    [
        ({"max_engines": 4, "metrics_namespace": "monitoring"}, ["monitoring", "keda"]),
        ({"max_engines": 4, "scaler_namespace": "scaling"}, ["scaling"]),
        ({"max_engines": 4, "prometheus_url": "http://prometheus"}, []),
        ({"max_engines": 1}, []),
    ],
)
def test_keda_reaches_the_engines_that_it_asks_itself(policy: dict[str, Any], namespaces: list[str]) -> None:
    assert _namespaces(network_policy(a_spec().version, where(**policy), OWNER)["spec"]) == namespaces


def test_an_autoscaler_goes_down_slowly_and_no_value_is_no_health() -> None:
    place = where(max_engines=4, prometheus_url="http://prometheus", scale_down_s=120.0, target_token_s=0.05)
    body = scaled_object(a_spec(1).version, place, OWNER)["spec"]
    assert (body["minReplicaCount"], body["maxReplicaCount"]) == (1, 4)
    assert body["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 120
    load, token = body["triggers"]
    assert a_spec(1).version in load["metadata"]["query"]
    assert load["metadata"]["query"].startswith("sum(")
    assert load["metadata"]["ignoreNullValues"] == "false"
    assert token["metricType"] == "Value"
    assert token["metadata"]["threshold"] == "0.05"


def queries(**settings: Any) -> dict[str, str]:
    place = where(max_engines=2, prometheus_url="http://prometheus", target_token_s=0.05, scale_down_s=600.0, **settings)
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in scaled_object(a_spec(1).version, place, OWNER)["spec"]["triggers"]}


UNASKED = f'(sum(increase(seatrial_requests_total{{namespace="models",version="{a_spec(1).version[:12]}"}}[600s])) == 0)'


def test_a_version_that_may_sleep_wakes_by_what_gateways_turned_away_while_an_engine_could_have_started() -> None:
    turned_away = f'seatrial_requests_total{{namespace="models",version="{a_spec(1).version[:12]}",outcome="engine_error"}}[600s]'
    assert queries(min_engines=0)["wake"] == f"sum(increase({turned_away})) > bool 0"


def test_a_version_falls_asleep_only_when_its_engines_or_the_gateways_say_that_nobody_asks() -> None:
    found = queries(min_engines=0)
    assert all("vector(" not in query for query in found.values()), "no value is no zero"
    assert found["load"].endswith(f" or {UNASKED}")
    assert found["token"].endswith(f" or {UNASKED}")


def test_engines_that_cannot_be_scraped_have_neither_load_nor_a_time_per_token() -> None:
    found = queries()
    assert found["load"].startswith("sum(")
    assert " or " not in found["load"]
    assert "_count" in found["token"].partition(" or ")[2], "0 only where the engines themselves say that they generate nothing"
    assert all("vector(" not in query for query in found.values())


def test_every_query_names_the_namespace_because_another_may_serve_the_same_version() -> None:
    for query in queries(min_engines=0).values():
        assert query.count('namespace="models"') == query.count("{"), query


def test_a_version_that_may_sleep_needs_what_wakes_it() -> None:
    with pytest.raises(Refused, match="nothing could wake an engine"):
        where(min_engines=0)


def test_without_prometheus_keda_asks_the_engines_themselves() -> None:
    triggers = scaled_object(a_spec(1).version, where(max_engines=2), OWNER)["spec"]["triggers"]
    assert [trigger["type"] for trigger in triggers] == ["metrics-api", "metrics-api"]
    assert all(trigger["metadata"]["aggregateFromKubeServiceEndpoints"] == "true" for trigger in triggers)


def test_the_horizontal_autoscaler_reads_one_series_per_version() -> None:
    spec = horizontal_autoscaler(a_spec(1).version, where(max_engines=3, target_token_s=0.05), OWNER)["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 3)
    load, token = (entry["external"] for entry in spec["metrics"])
    assert load["metric"]["selector"]["matchLabels"] == token["metric"]["selector"]["matchLabels"] == {"version": a_spec(1).version[:32]}
    assert token["target"] == {"type": "Value", "value": "50m"}


def test_the_adapters_rules_make_every_metric_that_a_horizontal_autoscaler_reads() -> None:
    folder = ROOT / "infra" / "kubernetes" / "prometheus-adapter"
    rules = yaml.safe_load((folder / "rules.yaml").read_text(encoding="utf-8"))["spec"]["groups"][0]["rules"]
    assert {rule["record"] for rule in rules} == {METRIC, TOKEN_METRIC}
    for rule in rules:
        cut = re.search(r'"model_name", "(.+?)"', rule["expr"])
        assert cut is not None
        digits = re.fullmatch(cut[1], a_spec(1).version)
        assert digits is not None
        assert digits[1] == version_label(a_spec(1).version)
        assert "by (namespace, version" in rule["expr"]
    (served,) = yaml.safe_load((folder / "values.yaml").read_text(encoding="utf-8"))["rules"]["external"]
    named = re.search(r'__name__=~"(.+?)"', served["seriesQuery"])
    assert named is not None
    assert all(re.fullmatch(named[1], name) for name in (METRIC, TOKEN_METRIC))


@pytest.mark.parametrize(("fewest", "most", "moves"), [(1, 1, False), (1, 2, True), (0, 1, True), (2, 2, False)])
def test_an_autoscaler_is_made_only_where_the_number_moves(fewest: int, most: int, moves: bool) -> None:
    assert autoscaled(where(min_engines=fewest, max_engines=most, prometheus_url="http://prometheus")) is moves


def test_a_label_of_an_endpoint_keeps_to_what_labels_may_be() -> None:
    assert endpoint_label("demo") == "endpoint.seatrial.dev/demo"  # type: ignore[arg-type]
    assert not endpoint_label("demo-").endswith("-")  # type: ignore[arg-type]


def _namespaces(spec: dict[str, Any]) -> list[str]:
    peers = spec["ingress"][0]["from"]
    return [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers if "namespaceSelector" in peer]
