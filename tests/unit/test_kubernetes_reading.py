"""From Deployments and pods to phases, in words; drift, quantities and free capacity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.engines import EngineCause, EnginePhase, EngineState
from core.ids import VersionId
from serving.engines.kubernetes.capacity import on_nodes, read_nodes, requested, tolerated, within_quotas
from serving.engines.kubernetes.drift import difference
from serving.engines.kubernetes.quantity import amount, quantity
from serving.engines.kubernetes.reading import Patience, read_state
from tests.equipment.kube_env import GIB

VERSION = VersionId("a" * 64)
T0 = "2026-11-21T10:00:00Z"
T1 = "2026-11-21T10:00:24Z"
NOW = 1795255230.0  # T0 + 30 s
PATIENCE = Patience(start_s=600, pull_s=300, scheduling_s=600)


def deployment(**more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "engine", "creationTimestamp": T0}, "spec": {"replicas": 1}, **more}


SERVED = deployment(status={"conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]})


def pod(status: dict[str, Any] | None = None, *, ready: bool = False, leaving: bool = False, **container: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": T1}]
    given = {"phase": "Running", "startTime": T0, "conditions": conditions, "containerStatuses": [{"name": "engine", **container}]}
    metadata = {"name": "pod", "creationTimestamp": T0, **({"deletionTimestamp": T1} if leaving else {})}
    return {"metadata": metadata, "status": {**given, **(status or {})}}


def ended(message: str = "", *, reason: str = "Error", seconds: int = 5, code: int = 1, **more: Any) -> dict[str, Any]:
    over = {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "startedAt": T0,
        "finishedAt": f"2026-11-21T10:{seconds // 60:02}:{seconds % 60:02}Z",
    }
    return {"lastState": {"terminated": over}, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, **more}


def read(live: dict[str, Any] | None, *pods: dict[str, Any], now: float = NOW) -> EngineState:
    return read_state(VERSION, live, pods, now, address="http://engine:8000", patience=PATIENCE)


def test_nothing_is_absent_and_pods_without_a_deployment_are_stopping() -> None:
    assert read(None).phase is EnginePhase.ABSENT
    assert read(None, pod(leaving=True)).phase is EnginePhase.STOPPING
    assert read(deployment(metadata={"deletionTimestamp": T1}), pod()).phase is EnginePhase.STOPPING


def test_a_ready_pod_is_a_ready_engine_with_its_address_and_load_time() -> None:
    state = read(deployment(), pod(ready=True, restartCount=2, state={"running": {"startedAt": T0}}))
    assert (state.phase, state.address, state.restarts, state.load_seconds) == (EnginePhase.READY, "http://engine:8000", 2, 24.0)


def test_one_ready_of_two_serves_and_says_so() -> None:
    state = read(deployment(spec={"replicas": 2}), pod(ready=True), pod(state={"running": {}}))
    assert state.phase is EnginePhase.READY
    assert state.detail == "1 of 2 engines are ready"


def test_a_ready_pod_that_is_on_its_way_out_does_not_serve() -> None:
    assert read(SERVED, pod(ready=True, leaving=True)).phase is EnginePhase.RESTARTING


def test_no_pod_yet_is_starting_and_a_pod_that_is_not_admitted_says_why() -> None:
    assert read(deployment()).detail == "waits for its pod"
    failure = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota'}
    state = read(deployment(status={"conditions": [failure]}))
    assert state.phase is EnginePhase.STARTING
    assert "exceeded quota" in state.detail
    assert read(deployment(status={"conditions": [failure]}), now=NOW + 600).phase is EnginePhase.FAILED


FORBIDDEN = 'pods "x" is forbidden: '


@pytest.mark.parametrize(
    "message",
    [
        FORBIDDEN + "failed quota: team: must specify limits.cpu for: engine",
        FORBIDDEN + "maximum memory usage per Container is 1Gi, but limit is 8Gi",
        FORBIDDEN + 'violates PodSecurity "restricted:latest": hostPath volumes',
        'admission webhook "policy" denied the request: no such registry',
    ],
)
def test_a_pod_that_is_forbidden_fails_in_seconds_with_the_servers_words(message: str) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message, "lastTransitionTime": T1}
    live = deployment(status={"conditions": [failure]})
    assert read(live).phase is EnginePhase.STARTING
    state = read(live, now=NOW + 10)
    assert (state.phase, state.detail) == (EnginePhase.FAILED, f"its pod is not admitted: {message}")


def test_a_pod_that_could_not_be_admitted_just_now_is_waited_for() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": "Internal error occurred: failed calling webhook: timeout"}
    assert read(deployment(status={"conditions": [failure]}), now=NOW + 100).phase is EnginePhase.STARTING


def test_a_pod_without_a_node_tells_the_schedulers_words_and_fails_when_the_wait_is_over() -> None:
    said = "0/3 nodes are available: 3 Insufficient memory."
    placed = {
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said, "lastTransitionTime": T0}]
    }
    waiting, late = read(deployment(), pod(placed)), read(deployment(), pod(placed), now=NOW + 700)
    assert (waiting.phase, late.phase) == (EnginePhase.STARTING, EnginePhase.FAILED)
    assert said in waiting.detail


def test_an_image_that_cannot_be_pulled_is_waited_for_and_one_with_a_wrong_name_is_not() -> None:
    pulling = pod(state={"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})
    assert read(deployment(), pulling).phase is EnginePhase.STARTING
    assert read(deployment(), pulling, now=NOW + 400).phase is EnginePhase.FAILED
    assert "image cannot be pulled" in read(deployment(), pulling).detail
    wrong = pod(state={"waiting": {"reason": "InvalidImageName", "message": "couldn't parse image"}})
    assert read(deployment(), wrong).phase is EnginePhase.FAILED


def test_refused_weights_fail_at_the_first_end_with_the_cause() -> None:
    state = read(deployment(), pod(restartCount=0, **ended("noise\nseatrial: weights refused: model.tensors: missing; tensorize again")))
    assert state.phase is EnginePhase.FAILED
    assert state.detail == "weights refused: model.tensors: missing; tensorize again"


def test_refused_weights_stay_failed_while_the_kubelet_tries_again() -> None:
    crash = ended("seatrial: weights refused: x", restartCount=1)
    assert read(deployment(), pod(**{**crash, "state": {"running": {"startedAt": T1}}})).phase is EnginePhase.FAILED


@pytest.mark.parametrize(("restarts", "phase"), [(0, EnginePhase.STARTING), (1, EnginePhase.STARTING), (2, EnginePhase.FAILED)])
def test_any_other_end_before_it_was_ever_ready_fails_at_the_third(restarts: int, phase: EnginePhase) -> None:
    state = read(deployment(), pod(restartCount=restarts, **ended("RuntimeError: the moon is full")))
    assert (state.phase, state.detail) == (phase, "RuntimeError: the moon is full")


def test_an_engine_that_served_is_restarting_and_fails_only_when_it_ends_at_once_again_and_again() -> None:
    assert read(SERVED, pod(restartCount=3, **ended("RuntimeError: x"))).phase is EnginePhase.RESTARTING
    assert read(SERVED, pod(restartCount=9, **ended("RuntimeError: x", seconds=120))).phase is EnginePhase.RESTARTING
    assert read(SERVED, pod(restartCount=9, **ended("RuntimeError: x"))).phase is EnginePhase.FAILED


def test_a_killed_container_is_told_to_be_out_of_memory() -> None:
    assert "out of memory" in read(deployment(), pod(restartCount=0, **ended(reason="OOMKilled"))).detail
    assert "exit code 1" in read(deployment(), pod(restartCount=0, **ended())).detail


@pytest.mark.parametrize(
    ("container", "cause", "words"),
    [
        ({"reason": "OOMKilled", "code": 137}, EngineCause.OUT_OF_MEMORY, "at its limit (the container's limit is 8.0 GiB)"),
        ({"code": 137}, EngineCause.KILLED, "killed (SIGKILL), probably because memory ran out: the container's limit is 8.0 GiB"),
        ({"code": 132}, EngineCause.ILLEGAL_INSTRUCTION, "ended by SIGILL (illegal instruction"),
        ({"code": 139}, EngineCause.SEGMENTATION_FAULT, "ended by SIGSEGV (segmentation fault"),
        ({"code": 135}, EngineCause.BUS_ERROR, "/dev/shm is full"),
        ({"code": 3}, EngineCause.EXITED, "exit code 3"),
        (
            {"code": 1, "message": "seatrial: process EngineCore_DP0 (pid 20) ended by SIGILL"},
            EngineCause.ILLEGAL_INSTRUCTION,
            "the process EngineCore_DP0 was ended by SIGILL",
        ),
    ],
)
def test_a_containers_end_is_given_in_the_same_words_as_a_process_s(container: dict[str, Any], cause: EngineCause, words: str) -> None:
    died = pod(restartCount=3, **ended(**container))
    died["spec"] = {"containers": [{"name": "engine", "resources": {"limits": {"memory": str(8 * 2**30)}}}]}
    state = read(deployment(), died)
    assert (state.phase, state.cause) == (EnginePhase.FAILED, cause)
    assert words in state.detail


def test_an_engine_that_never_gets_ready_fails_after_its_time() -> None:
    slow = pod(state={"running": {"startedAt": T0}})
    assert read(deployment(), slow).detail == "loads the weights"
    assert read(deployment(), slow, now=NOW + 700).phase is EnginePhase.FAILED


def test_what_the_node_and_the_image_took_is_not_counted_as_a_slow_start() -> None:
    started = pod(state={"running": {"startedAt": "2026-11-21T10:20:00Z"}})
    assert read(deployment(), started, now=NOW + 1700).phase is EnginePhase.STARTING
    assert read(deployment(), started, now=NOW + 1900).phase is EnginePhase.FAILED
    pulls = pod(state={"waiting": {"reason": "ContainerCreating"}})
    assert read(deployment(), pulls).detail == "waits for its container"
    assert read(deployment(), pulls, now=NOW + 700).detail == "its container was not made within 600 s"


@pytest.mark.parametrize("reason", ["ErrImagePull", "CreateContainerError"])
def test_a_container_that_cannot_be_made_again_after_long_service_is_waited_for_from_its_end_on(reason: str) -> None:
    """A day after its pod's start it ended, and the registry is away for a moment."""
    day = NOW + 86_400
    over = {"terminated": {"exitCode": 1, "startedAt": T0, "finishedAt": "2026-11-22T10:00:20Z"}}
    down = pod(lastState=over, state={"waiting": {"reason": reason, "message": "away"}}, restartCount=1)
    assert read(SERVED, down, now=day).phase is EnginePhase.RESTARTING
    assert read(SERVED, down, now=day + 400).phase is EnginePhase.FAILED
    unready = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-22T10:00:20Z"}
    lost = pod({"conditions": [unready]}, state={"waiting": {"reason": reason, "message": "away"}})
    assert read(SERVED, lost, now=day).phase is EnginePhase.RESTARTING


def test_a_missing_secret_fails_after_a_minute_in_words() -> None:
    waiting = pod(state={"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "weights" not found'}})
    assert read(deployment(), waiting).phase is EnginePhase.STARTING
    state = read(deployment(), waiting, now=NOW + 100)
    assert state.phase is EnginePhase.FAILED
    assert 'secret "weights" not found' in state.detail


def test_an_engine_scaled_to_zero_is_asleep_and_not_failed() -> None:
    assert "asleep" in read(deployment(spec={"replicas": 0})).detail


def test_what_the_server_adds_is_no_drift_and_what_a_hand_changed_is_named() -> None:
    wanted = {
        "spec": {"containers": [{"name": "engine", "image": "a", "resources": {"limits": {"memory": "1073741824"}}, "args": ["x", "y"]}]}
    }
    live: dict[str, Any] = {
        "spec": {
            "replicas": 3,
            "containers": [
                {"name": "side"},
                {"name": "engine", "image": "a", "resources": {"limits": {"memory": "1Gi"}}, "args": ["x", "y"]},
            ],
        }
    }
    assert difference(wanted, live) is None
    live["spec"]["containers"][1]["image"] = "b"
    assert difference(wanted, live) == "spec.containers[engine].image"
    live["spec"]["containers"][1] |= {"image": "a", "args": ["x"]}
    assert difference(wanted, live) == "spec.containers[engine].args"
    assert difference(wanted, {"spec": {}}) == "spec.containers"


def a_policy() -> dict[str, Any]:
    peer = {
        "podSelector": {
            "matchLabels": {"part-of": "seatrial"},
            "matchExpressions": [{"key": "component", "operator": "In", "values": ["a"]}],
        }
    }
    return {"ingress": [{"from": [peer], "ports": [{"port": 8000, "protocol": "TCP"}]}], "egress": [{"ports": [{"port": 53}]}]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda live: live["ingress"][0]["ports"].append({"port": 22}), "ingress[0].ports"),
        (lambda live: live["ingress"][0]["ports"][0].update(endPort=65535), "ingress[0].ports[0].endPort"),
        (lambda live: live["ingress"][0]["from"].append({"podSelector": {}}), "ingress[0].from"),
        (lambda live: live["ingress"][0]["from"][0].update(namespaceSelector={}), "ingress[0].from[0].namespaceSelector"),
        (lambda live: live["ingress"][0]["from"][0]["podSelector"]["matchExpressions"].clear(), "podSelector.matchExpressions"),
        (lambda live: live["egress"][0].update(to=[]), "egress[0].to"),
        (lambda live: live["egress"].append({}), "egress"),
    ],
)
def test_whatever_a_policy_lets_through_beside_ours_is_drift(change: Callable[[dict[str, Any]], object], named: str) -> None:
    live = a_policy()
    assert difference(a_policy(), live) is None
    change(live)
    assert str(difference(a_policy(), live)).endswith(named)


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("2", 2), ("1Gi", 2**30), ("1e3", 1000), ("1E", 1e18), ("3Ei", 3 * 2**60), ("1.5G", 1.5e9), ("12k", 12_000)],
)
def test_quantities_are_numbers(text: str, value: float) -> None:
    assert amount(text) == value


def test_what_is_no_quantity_is_none() -> None:
    assert quantity("much") is None
    assert quantity(None) is None
    assert amount(None) == 0


def node(name: str = "n1", *, cpu: str = "4", memory: str = "16Gi", taints: tuple[dict[str, str], ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": more.get("labels", {})},
        "spec": {"taints": list(taints), "unschedulable": more.get("cordoned", False)},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def taken(on: str, cpu: str, memory: str, phase: str = "Running") -> dict[str, Any]:
    return {
        "spec": {"nodeName": on, "containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]},
        "status": {"phase": phase},
    }


ASKED = {"cpu": 2.0, "memory": 8.0 * GIB}


def test_an_engine_fits_on_a_free_node() -> None:
    assert on_nodes(ASKED, {}, read_nodes([node()], []), grows=False).fits


def test_an_engine_may_fit_on_a_full_node_later_and_the_numbers_are_given() -> None:
    fit = on_nodes(ASKED, {}, read_nodes([node()], [taken("n1", "1", "10Gi"), taken("n1", "3", "1Gi", "Succeeded")]), grows=False)
    assert (fit.fits, fit.ever) == (False, True)
    assert "asks for 8.0 GiB of memory, the largest has 6.0 GiB of memory free" in fit.reason


def test_an_engine_never_fits_on_a_node_that_is_too_small_when_empty() -> None:
    fit = on_nodes(ASKED, {}, read_nodes([node(memory="4Gi")], []), grows=False)
    assert (fit.fits, fit.ever) == (False, False)
    assert fit.reason.startswith("1 of 1 nodes may run it, none ever fits it: it asks for 8.0 GiB of memory")


def test_selectors_and_taints_leave_nodes_out_and_tolerations_let_them_in() -> None:
    gpu = {"key": "gpu", "effect": "NoSchedule"}
    nodes = read_nodes([node(taints=(gpu,), labels={"pool": "gpu"})], [])
    assert not on_nodes(ASKED, {}, nodes, grows=False).ever
    assert on_nodes(ASKED, {"tolerations": [{"key": "gpu", "operator": "Exists"}]}, nodes, grows=False).fits
    assert "the selector pool=cpu" in on_nodes(ASKED, {"nodeSelector": {"pool": "cpu"}}, nodes, grows=False).reason
    assert not tolerated({"key": "a", "value": "b", "effect": "NoExecute"}, [{"key": "a", "value": "c"}])


def test_an_engine_fits_on_a_cordoned_node_once_it_is_open_again_and_always_on_a_cluster_that_grows() -> None:
    nodes = read_nodes([node(cordoned=True)], [])
    assert (on_nodes(ASKED, {}, nodes, grows=False).fits, on_nodes(ASKED, {}, nodes, grows=False).ever) == (False, True)
    assert on_nodes(ASKED, {}, (), grows=True).fits


def test_a_pod_takes_its_containers_or_its_largest_init_container() -> None:
    containers = [{"resources": {"requests": {"cpu": "1"}}}, {"resources": {"limits": {"cpu": "500m"}}}]
    assert requested({"containers": containers, "initContainers": [{"resources": {"requests": {"cpu": "4"}}}]}) == {"cpu": 4.0}
    assert requested({"containers": containers}) == {"cpu": 1.5}


def test_a_quota_that_is_used_up_is_named_and_one_that_is_too_small_never_fits() -> None:
    quota = {"metadata": {"name": "team"}, "status": {"hard": {"requests.memory": "16Gi"}, "used": {"requests.memory": "10Gi"}}}
    fit = within_quotas(ASKED, [quota])
    assert (fit.fits, fit.ever) == (False, True)
    assert "the quota team leaves 6.0 GiB of requests.memory" in fit.reason
    small = {"metadata": {"name": "team"}, "status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}
    assert not within_quotas(ASKED, [small]).ever
    assert within_quotas(ASKED, []).fits


def a_quota(hard: str = "0", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "team"}, "spec": spec, "status": {"hard": {"pods": hard}, "used": {"pods": "0"}}}


def by_priority(operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ({"scopes": ["BestEffort"]}, False),
        ({"scopes": ["Terminating"]}, False),
        ({"scopes": ["CrossNamespacePodAffinity"]}, False),
        ({"scopes": ["NotBestEffort", "NotTerminating"]}, True),
        ({"scopeSelector": by_priority("In", "batch")}, False),
        ({"scopeSelector": by_priority("In", "models")}, True),
        ({"scopeSelector": by_priority("NotIn", "models")}, False),
        ({"scopeSelector": by_priority("Exists")}, True),
        ({"scopeSelector": by_priority("DoesNotExist")}, False),
    ],
)
def test_a_quota_counts_only_what_its_scopes_name(spec: dict[str, Any], counts: bool) -> None:
    assert within_quotas(ASKED, [a_quota(**spec)], priority="models").fits is not counts


def test_capacity_is_checked_for_all_the_engines_that_a_version_starts_with() -> None:
    assert within_quotas(ASKED, [a_quota("2")], engines=2).fits
    assert not within_quotas(ASKED, [a_quota("1")], engines=2).ever
    nodes = read_nodes([node("n1", memory="12Gi"), node("n2", memory="12Gi")], [taken("n2", "1", "6Gi")])
    assert on_nodes(ASKED, {}, nodes, grows=False, engines=1).fits
    fit = on_nodes(ASKED, {}, nodes, grows=False, engines=2)
    assert (fit.fits, fit.ever) == (False, True)
    assert "they fit 1 of the 2 engines" in fit.reason
    assert not on_nodes(ASKED, {}, nodes, grows=False, engines=3).ever


def test_a_pod_that_is_ready_just_now_serves_once_its_service_leads_there() -> None:
    just_now = read(deployment(), pod(ready=True), now=NOW - 5)
    assert (just_now.phase, just_now.detail) == (EnginePhase.STARTING, "is ready; its Service follows")
    assert read(SERVED, pod(ready=True), now=NOW - 5).phase is EnginePhase.RESTARTING
    assert read(SERVED, pod(ready=True), now=NOW - 2).phase is EnginePhase.READY
