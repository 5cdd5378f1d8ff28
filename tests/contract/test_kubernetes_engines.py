"""Engines on Kubernetes against our own API server: what it costs, what it undoes, what it survives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.engine_memory import MIB
from core.engines import EnginePhase, Role
from core.errors import Conflict, Fault, Refused, Transient
from core.ids import EndpointName, VersionId
from core.ports import Activator
from core.ports.clock import VirtualClock
from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.activator import KubernetesActivator
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.engines import KubernetesEngines
from serving.engines.kubernetes.informer import Informer
from serving.engines.kubernetes.rbac import CLUSTER_ROLE, CONTROL_ROLE, ROLE, Rule
from tests.equipment.kube_api import Behaviour, KubeApi, KubeServer
from tests.equipment.kube_env import GIB, NAMESPACE, a_spec, adapter, cluster, eventually, pass_time, where

KINDS = ("deployments", "services", "networkpolicies", "scaledobjects", "horizontalpodautoscalers", "pods")
SPEC = a_spec(1)
DEMO = EndpointName("demo")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def kube_env(clock: VirtualClock, tmp_path: Path) -> Iterator[tuple[KubeApi, KubernetesEngines]]:
    with cluster(clock, tmp_path) as made:
        yield made


def serve(kube: KubeApi, engines: KubernetesEngines, clock: VirtualClock) -> None:
    engines.apply(SPEC)
    eventually(lambda: engines.state(SPEC.version).phase is EnginePhase.READY, partial(pass_time, kube, clock))


def phase(engines: KubernetesEngines) -> EnginePhase:
    return engines.state(SPEC.version).phase


def versions_of(kube: KubeApi) -> dict[str, str]:
    return {f"{kind}/{entry['metadata']['name']}": entry["metadata"]["resourceVersion"] for kind in KINDS for entry in kube.find(kind)}


def writes(kube: KubeApi) -> int:
    return sum(count for (verb, _), count in kube.calls.items() if verb in {"patch", "create", "update", "delete"})


def reads_and_writes(kube: KubeApi) -> int:
    return writes(kube) + sum(count for (verb, _), count in kube.calls.items() if verb in {"get", "list"})


def reasons(kube: KubeApi) -> set[str]:
    return {entry["reason"] for entry in kube.find("events")}


def test_the_same_version_applied_twice_changes_no_object_and_calls_nothing(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    before, calls = versions_of(kube), reads_and_writes(kube)
    for _ in range(3):
        engines.apply(SPEC)
        engines.state(SPEC.version)
        engines.list()
    assert versions_of(kube) == before
    assert reads_and_writes(kube) == calls


def test_another_process_that_applies_the_same_version_changes_no_object(clock: VirtualClock, tmp_path: Path) -> None:
    kube = KubeApi(clock)
    with KubeServer(kube) as server:
        first, second = (adapter(server, clock, tmp_path) for _ in range(2))
        serve(kube, first, clock)
        before = versions_of(kube)
        second.apply(SPEC)
        assert versions_of(kube) == before
        with pytest.raises(Conflict):
            second.apply(a_spec(1, max_model_len=99))


def test_a_deployment_edited_by_hand_is_put_right_and_an_event_says_so(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)

    def change(live: dict[str, Any]) -> None:
        live["spec"]["template"]["spec"]["containers"][0]["image"] = "other:latest"

    kube.edit("deployments", kube.find("deployments")[0]["metadata"]["name"], change)
    eventually(lambda: "PutRight" in reasons(kube), lambda: engines.apply(SPEC))
    (live,) = kube.find("deployments")
    assert live["spec"]["template"]["spec"]["containers"][0]["image"].startswith("engine@sha256")
    (told,) = [entry for entry in kube.find("events") if entry["reason"] == "PutRight"]
    assert "spec.template.spec.containers[engine].image was changed by hand" in told["message"]


def test_a_port_that_a_hand_opened_is_closed_again(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    (before,) = kube.find("networkpolicies")
    kube.edit("networkpolicies", before["metadata"]["name"], lambda live: live["spec"]["ingress"][0]["ports"].append({"port": 22}))
    eventually(lambda: "PutRight" in reasons(kube), lambda: engines.apply(SPEC))
    assert kube.find("networkpolicies")[0]["spec"] == before["spec"]


def test_what_a_hand_added_beside_our_fields_stays_and_is_reported(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)

    def change(live: dict[str, Any]) -> None:
        live["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "EXTRA", "value": "1"})

    kube.edit("deployments", kube.find("deployments")[0]["metadata"]["name"], change)
    eventually(lambda: "ChangedByHand" in reasons(kube), lambda: engines.apply(SPEC))
    (told,) = [entry for entry in kube.find("events") if entry["reason"] == "ChangedByHand"]
    assert "kubectl-edit" in told["message"]


def test_two_installations_in_one_namespace_leave_each_others_engines_alone(clock: VirtualClock, tmp_path: Path) -> None:
    kube = KubeApi(clock)
    with KubeServer(kube) as server:
        ours, theirs = (adapter(server, clock, tmp_path, installation=name) for name in ("blue", "green"))
        serve(kube, ours, clock)
        theirs.apply(a_spec(2))
        assert [state.version for state in theirs.list()] == [a_spec(2).version]
        assert phase(theirs) is EnginePhase.ABSENT
        before = versions_of(kube)
        theirs.mark(SPEC.version, DEMO, Role.STABLE)
        theirs.stop(SPEC.version, drain_s=1.0)
        with pytest.raises(Conflict, match="in the namespace models belongs to the installation 'blue'; give each installation"):
            theirs.apply(SPEC)
        assert versions_of(kube) == before
        assert phase(ours) is EnginePhase.READY
        ours.close()
        theirs.close()


def test_engines_of_a_release_that_named_no_installation_are_kept(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    for kind in ("deployments", "pods"):
        for entry in kube.find(kind):
            older = {**entry["metadata"]["labels"], "app.kubernetes.io/instance": f"engine-{SPEC.version[:32]}"}
            kube.put(kind, {**entry, "metadata": {**entry["metadata"], "labels": older}})
    later = KubernetesEngines(engines._api, engines._settings, clock)
    assert phase(later) is EnginePhase.READY
    later.stop(SPEC.version, drain_s=10.0)
    later.close()
    assert kube.find("deployments") == []


def test_replicas_belong_to_whoever_scales(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    (live,) = kube.find("deployments")
    kube.put("deployments", {**live, "spec": {**live["spec"], "replicas": 3}})
    eventually(lambda: len(kube.find("pods")) == 3, partial(pass_time, kube, clock))
    engines.apply(SPEC)
    assert kube.find("deployments")[0]["spec"]["replicas"] == 3


def test_a_service_or_a_policy_that_was_deleted_is_made_again(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    name = kube.find("services")[0]["metadata"]["name"]
    for kind in ("services", "networkpolicies"):
        kube.remove((kind, NAMESPACE, name))
    eventually(lambda: bool(kube.find("services") and kube.find("networkpolicies")), lambda: engines.apply(SPEC))


OTHER_SETTINGS = a_spec(1, max_model_len=99)


def keep_under_other_settings(engines: KubernetesEngines) -> None:
    with pytest.raises(Conflict, match="runs from another spec"):
        engines.apply(OTHER_SETTINGS)


def test_after_a_change_of_settings_an_engine_is_still_kept_as_it_was_made(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    before = kube.find("deployments")[0]["spec"]

    def change(live: dict[str, Any]) -> None:
        live["spec"]["template"]["spec"]["containers"][0]["image"] = "other:latest"

    name = kube.find("services")[0]["metadata"]["name"]
    kube.remove(("services", NAMESPACE, name))
    kube.edit("deployments", name, change)
    eventually(
        lambda: bool(kube.find("services")) and kube.find("deployments")[0]["spec"] == before, partial(keep_under_other_settings, engines)
    )


def test_after_a_change_of_settings_a_failed_engine_is_tried_again_as_it_was_made(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    kube.behave(SPEC.version, Behaviour(dies="RuntimeError: the moon is full"))
    engines.apply(SPEC)
    eventually(lambda: phase(engines) is EnginePhase.FAILED, partial(pass_time, kube, clock))
    before = kube.find("deployments")[0]["spec"]
    kube.behave(SPEC.version, Behaviour())
    keep_under_other_settings(engines)
    eventually(lambda: phase(engines) is EnginePhase.READY, partial(pass_time, kube, clock))
    assert kube.find("deployments")[0]["spec"] == before


def test_after_a_change_of_settings_an_engine_that_lost_its_memory_is_made_anew_from_its_own_spec(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    (live,) = kube.find("deployments")
    forgotten = {name: value for name, value in live["metadata"]["annotations"].items() if name != "seatrial.dev/applied"}
    kube.put("deployments", {**live, "metadata": {**live["metadata"], "annotations": forgotten}})
    eventually(lambda: "PutRight" in reasons(kube), partial(keep_under_other_settings, engines))
    (now,) = kube.find("deployments")
    assert now["spec"] == live["spec"]
    assert now["metadata"]["annotations"] == live["metadata"]["annotations"]


def test_a_stop_leaves_no_object_behind(clock: VirtualClock, tmp_path: Path) -> None:
    with cluster(clock, tmp_path, keda=True, max_engines=3) as (kube, engines):
        serve(kube, engines, clock)
        assert all(kube.find(kind) for kind in ("deployments", "services", "networkpolicies", "scaledobjects", "pods"))
        engines.stop(SPEC.version, drain_s=10.0)
        assert phase(engines) is EnginePhase.STOPPING
        engines.stop(SPEC.version, drain_s=10.0)
        eventually(lambda: phase(engines) is EnginePhase.ABSENT, partial(pass_time, kube, clock))
        assert versions_of(kube) == {}


def test_a_stop_with_less_drain_shortens_what_pods_get(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    engines.stop(SPEC.version, drain_s=3.0)
    assert kube.find("pods")[0]["metadata"]["deletionGracePeriodSeconds"] == 9, (
        "the pause before it is told to end, the drain, and a margin"
    )


def test_an_ordinary_stop_leaves_pods_the_time_that_they_were_made_with(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    made_with = kube.find("pods")[0]["spec"]["terminationGracePeriodSeconds"]
    engines.stop(SPEC.version, drain_s=10.0)
    engines.stop(SPEC.version, drain_s=10.0)
    assert kube.find("pods")[0]["metadata"]["deletionGracePeriodSeconds"] == made_with
    assert made_with > 1 + 10, "the pause before it is told to end, and the drain"


def test_applied_again_while_it_stops_it_starts_anew(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    engines.stop(SPEC.version, drain_s=10.0)
    engines.apply(a_spec(1, max_model_len=99))
    assert phase(engines) is EnginePhase.STARTING
    eventually(lambda: phase(engines) is EnginePhase.READY, partial(pass_time, kube, clock))


def test_a_version_that_sleeps_is_woken_and_its_autoscaler_comes_back_to_let_it_sleep_again(clock: VirtualClock, tmp_path: Path) -> None:
    kube = KubeApi(clock, keda=True)
    with KubeServer(kube) as server:
        engines = adapter(server, clock, tmp_path, min_engines=0, max_engines=2, prometheus_url="http://prometheus")
        activator: Activator = KubernetesActivator(Api(server.client(), NAMESPACE, clock))
        serve(kube, engines, clock)
        (live,) = kube.find("deployments")
        kube.put("deployments", {**live, "spec": {**live["spec"], "replicas": 0}})
        eventually(lambda: "asleep" in engines.state(SPEC.version).detail, partial(pass_time, kube, clock))
        assert activator.activate(SPEC.version)
        assert not kube.find("scaledobjects"), "it would put the engine to sleep again at once"
        eventually(lambda: phase(engines) is EnginePhase.READY, partial(pass_time, kube, clock))
        eventually(lambda: bool(kube.find("scaledobjects")), lambda: engines.apply(SPEC))
        assert "PutRight" not in reasons(kube)
        engines.close()


def test_what_is_awake_or_was_never_made_is_not_woken(clock: VirtualClock, tmp_path: Path) -> None:
    kube = KubeApi(clock, keda=True)
    with KubeServer(kube) as server:
        engines = adapter(server, clock, tmp_path, min_engines=0, max_engines=2, prometheus_url="http://prometheus")
        activator = KubernetesActivator(Api(server.client(), NAMESPACE, clock))
        serve(kube, engines, clock)
        before = writes(kube)
        assert not activator.activate(SPEC.version)
        assert not activator.activate(VersionId("f" * 64))
        assert writes(kube) == before
        engines.close()


@pytest.mark.parametrize("keda", [True, False])
def test_the_cluster_decides_which_autoscaler_is_made(clock: VirtualClock, tmp_path: Path, keda: bool) -> None:
    with cluster(clock, tmp_path, keda=keda, max_engines=3) as (kube, engines):
        engines.apply(SPEC)
        assert (len(kube.find("scaledobjects")), len(kube.find("horizontalpodautoscalers"))) == ((1, 0) if keda else (0, 1))


def test_an_autoscaler_that_was_made_before_keda_was_there_makes_place_for_kedas(clock: VirtualClock, tmp_path: Path) -> None:
    with cluster(clock, tmp_path, max_engines=3) as (kube, engines):
        engines.apply(SPEC)
        kube.keda = True
        later = KubernetesEngines(engines._api, engines._settings, clock)
        later.apply(SPEC)
        later.close()
        assert (len(kube.find("scaledobjects")), len(kube.find("horizontalpodautoscalers"))) == (1, 0)


@pytest.mark.parametrize("keda", [True, False])
def test_an_autoscaler_goes_when_autoscaling_is_turned_off(clock: VirtualClock, tmp_path: Path, keda: bool) -> None:
    with cluster(clock, tmp_path, keda=keda, max_engines=3) as (kube, engines):
        engines.apply(SPEC)
        later = KubernetesEngines(engines._api, where(max_engines=1), clock)
        later.apply(SPEC)
        later.close()
        assert kube.find("scaledobjects") + kube.find("horizontalpodautoscalers") == []


def test_more_than_one_engine_from_the_start_is_said_once_by_a_manager_of_its_own(clock: VirtualClock, tmp_path: Path) -> None:
    with cluster(clock, tmp_path, min_engines=2, max_engines=3) as (kube, engines):
        engines.apply(SPEC)
        (live,) = kube.find("deployments")
        owners = {entry["manager"] for entry in live["metadata"]["managedFields"] if ["spec", "replicas"] in entry["paths"]}
        assert live["spec"]["replicas"] == 2
        assert owners == {"seatrial-first-size"}


def test_a_first_size_that_was_lost_between_two_calls_is_said_by_the_next_apply(clock: VirtualClock, tmp_path: Path) -> None:
    with cluster(clock, tmp_path, min_engines=2, max_engines=2) as (kube, engines):
        dying = KubernetesEngines(engines._api, where(min_engines=1), clock)
        dying.apply(SPEC)
        dying.close()
        engines.apply(SPEC)
        assert kube.find("deployments")[0]["spec"]["replicas"] == 2
        before = versions_of(kube)
        engines.apply(SPEC)
        assert versions_of(kube) == before


def test_a_first_size_is_not_said_again_where_somebody_scaled(clock: VirtualClock, tmp_path: Path) -> None:
    with cluster(clock, tmp_path, min_engines=2, max_engines=2) as (kube, engines):
        engines.apply(SPEC)
        (live,) = kube.find("deployments")
        by_hand = {"manager": "kubectl", "operation": "Update", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        fields = [entry for entry in live["metadata"]["managedFields"] if entry["manager"] != "seatrial-first-size"]
        metadata = {**live["metadata"], "managedFields": [*fields, by_hand]}
        kube.put("deployments", {**live, "metadata": metadata, "spec": {**live["spec"], "replicas": 1}})
        later = KubernetesEngines(engines._api, engines._settings, clock)
        later.apply(SPEC)
        later.close()
        assert kube.find("deployments")[0]["spec"]["replicas"] == 1


@pytest.mark.parametrize(("status", "verb"), [(500, "patch"), (429, "patch"), (503, "list"), (-1, "list"), (-1, "patch")])
def test_a_server_that_is_away_for_a_moment_is_asked_again(
    kube_env: tuple[KubeApi, KubernetesEngines], status: int, verb: str, clock: VirtualClock
) -> None:
    kube, engines = kube_env
    kube.fail(status, times=3, verb=verb, retry_after="1")
    before = clock.now()
    engines.apply(SPEC)
    assert kube.find("deployments")
    assert clock.now() > before, "it paused between the attempts"


NONSENSE: dict[str, dict[str, Any]] = {
    "broken off": {"status": -2},
    "no json": {"status": 200, "body": "<html>one moment</html>"},
    "no object": {"status": 200, "body": "[]"},
}


@pytest.mark.parametrize("verb", ["list", "patch"])
@pytest.mark.parametrize("answer", NONSENSE)
def test_an_answer_that_cannot_be_read_is_asked_for_again(kube_env: tuple[KubeApi, KubernetesEngines], answer: str, verb: str) -> None:
    kube, engines = kube_env
    kube.fail(**NONSENSE[answer], times=3, verb=verb)
    engines.apply(SPEC)
    assert kube.find("deployments")


def test_a_server_that_answers_nothing_but_nonsense_is_a_transient_error(kube_env: tuple[KubeApi, KubernetesEngines]) -> None:
    kube, engines = kube_env
    kube.fail(**NONSENSE["no json"], times=1000)
    with pytest.raises(Transient, match="returned invalid JSON: b'<html>one moment"):
        engines.apply(SPEC)


def test_a_server_that_stays_away_is_a_transient_error(kube_env: tuple[KubeApi, KubernetesEngines]) -> None:
    kube, engines = kube_env
    kube.fail(503, times=1000)
    with pytest.raises(Transient, match="told to fail"):
        engines.apply(SPEC)


def granted(rules: Iterable[Rule], *, everywhere: bool = False) -> set[tuple[str, str, bool]]:
    return {(verb, resource, everywhere) for rule in rules for verb in rule.verbs for resource in rule.document()["resources"]}


def test_the_rights_are_all_that_keeping_engines_uses_and_no_more(clock: VirtualClock, tmp_path: Path) -> None:
    with cluster(clock, tmp_path, max_engines=3) as (kube, engines):
        kube.put("nodes", a_node("64Gi"))
        assert engines.fit(SPEC).fits
        serve(kube, engines, clock)
        kube.edit("deployments", kube.find("deployments")[0]["metadata"]["name"], lambda live: live["spec"].update(strategy={}))
        eventually(lambda: "PutRight" in reasons(kube), lambda: engines.apply(SPEC))
        engines.mark(SPEC.version, DEMO, Role.STABLE)
        assert engines.list()
        assert engines.logs(SPEC.version, 5)
        kube.keda = True
        later = KubernetesEngines(engines._api, engines._settings, clock)
        later.apply(SPEC)
        later.stop(SPEC.version, drain_s=0.0)
        later.stop(SPEC.version, drain_s=0.0)
        wanted = granted(ROLE) | granted(CLUSTER_ROLE, everywhere=True)
        eventually(lambda: kube.permissions >= wanted)
        later.close()
        assert kube.permissions == wanted


def test_the_rights_of_the_control_api_are_all_that_it_uses_and_no_more(clock: VirtualClock, tmp_path: Path) -> None:
    kube = KubeApi(clock)
    with KubeServer(kube) as server:
        engines = adapter(server, clock, tmp_path)
        serve(kube, engines, clock)
        engines.close()
        kube.permissions.clear()
        control = adapter(server, clock, tmp_path)
        assert phase(control) is EnginePhase.READY
        assert control.list()
        assert control.logs(SPEC.version, 5)
        eventually(lambda: kube.permissions >= granted(CONTROL_ROLE))
        control.close()
        assert kube.permissions == granted(CONTROL_ROLE)


def test_missing_rights_are_a_fault_that_says_which(kube_env: tuple[KubeApi, KubernetesEngines]) -> None:
    kube, engines = kube_env
    kube.fail(403, plural="deployments")
    with pytest.raises(Fault, match=r"deployments: told to fail; grant what serving/engines/kubernetes/rbac\.py lists"):
        engines.list()


def test_states_are_still_told_while_the_server_is_away(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    kube.fail(503, times=10_000)
    kube.cut_watches()
    assert phase(engines) is EnginePhase.READY
    assert len(engines.list()) == 1


def test_a_watch_that_was_cut_goes_on_where_it_was_without_another_list(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    kube.cut_watches()
    kube.remove(("pods", NAMESPACE, kube.find("pods")[0]["metadata"]["name"]))
    eventually(lambda: phase(engines) is not EnginePhase.READY)
    assert kube.calls["list", "pods"] == 1


def test_a_watch_whose_history_is_gone_lists_again(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    with kube.lock:
        kube.remove(("pods", NAMESPACE, kube.find("pods")[0]["metadata"]["name"]))
        kube.cut_watches(compact=True)
    eventually(lambda: phase(engines) is not EnginePhase.READY)
    eventually(lambda: kube.calls["list", "pods"] == 2)


@pytest.mark.parametrize("line", ["<html>one moment</html>\n", "[]\n", "{}\n", '{"type": "ADDED", "object": {}}\n'])
def test_a_watch_that_tells_nonsense_goes_on_where_it_was(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock, line: str
) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    kube.fail(200, body=line, verb="watch", plural="pods")
    kube.cut_watches()
    kube.remove(("pods", NAMESPACE, kube.find("pods")[0]["metadata"]["name"]))
    eventually(lambda: phase(engines) is not EnginePhase.READY)
    assert kube.calls["list", "pods"] == 1


def test_after_etcd_was_restored_all_is_listed_again(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    with kube.lock:
        kube.remove(("pods", NAMESPACE, kube.find("pods")[0]["metadata"]["name"]))
        kube.restore(1)
    eventually(lambda: phase(engines) is not EnginePhase.READY)


@pytest.fixture
def informer(clock: VirtualClock) -> Iterator[tuple[KubeApi, Informer]]:
    """Yield a copy of the pods that never pauses."""
    kube = KubeApi(clock)
    with KubeServer(kube) as server:
        pods = Informer(Api(server.client(), NAMESPACE, clock), kinds.PODS, "", clock, random=lambda: -0.5)
        pods.ensure()
        eventually(lambda: kube.calls["watch", "pods"] == 1)
        yield kube, pods
        pods.close()


def test_a_watch_that_said_nothing_all_along_is_not_believed(informer: tuple[KubeApi, Informer], clock: VirtualClock) -> None:
    kube, pods = informer
    eventually(lambda: kube.calls["watch", "pods"] >= 2, kube.cut_watches)
    assert pods.relists == 1, "it ended early, and goes on where it was"
    clock.wait(240.0)
    eventually(lambda: pods.relists == 2, kube.cut_watches)


def test_a_watch_that_fails_again_and_again_is_begun_anew_with_a_list(informer: tuple[KubeApi, Informer]) -> None:
    kube, pods = informer
    kube.fail(500, verb="watch", times=7)
    eventually(lambda: kube.calls["watch", "pods"] >= 9, kube.cut_watches)
    assert pods.relists == 1
    kube.fail(500, verb="watch", times=8)
    eventually(lambda: pods.relists == 2, kube.cut_watches)


def test_a_fleet_costs_one_list_per_kind_and_an_unchanged_pass_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    with cluster(clock, tmp_path) as (kube, engines):
        specs = [a_spec(number) for number in range(1, 41)]
        for spec in specs:
            engines.apply(spec)
        eventually(lambda: all(state.phase is EnginePhase.READY for state in engines.list()), partial(pass_time, kube, clock))
        engines.close()
        kube.calls.clear()
        fresh = KubernetesEngines(engines._api, engines._settings, clock)
        for _ in range(3):
            for spec in specs:
                fresh.apply(spec)
            assert len(fresh.list()) == 40
        lists = {plural: count for (verb, plural), count in kube.calls.items() if verb == "list"}
        assert lists == {"deployments": 1, "pods": 1, "services": 1, "networkpolicies": 1, "horizontalpodautoscalers": 1}
        assert writes(kube) == 0
        fresh.close()


def test_an_image_that_cannot_be_had_reaches_the_submitter_in_words(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    kube.behave(SPEC.version, Behaviour(waiting=("InvalidImageName", "couldn't parse image name")))
    engines.apply(SPEC)
    eventually(lambda: phase(engines) is EnginePhase.FAILED, partial(pass_time, kube, clock))
    assert "its image cannot be had: couldn't parse image name" in engines.state(SPEC.version).detail


def test_a_failed_engine_is_tried_again_with_fresh_pods_and_the_same_deployment(
    kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock
) -> None:
    kube, engines = kube_env
    kube.behave(SPEC.version, Behaviour(dies="RuntimeError: the moon is full"))
    engines.apply(SPEC)
    eventually(lambda: phase(engines) is EnginePhase.FAILED, partial(pass_time, kube, clock))
    before, old = kube.find("deployments")[0]["spec"], kube.find("pods")[0]["metadata"]["name"]
    kube.behave(SPEC.version, Behaviour())
    engines.apply(SPEC)
    assert phase(engines) is EnginePhase.STARTING
    eventually(lambda: phase(engines) is EnginePhase.READY, partial(pass_time, kube, clock))
    assert kube.find("deployments")[0]["spec"] == before
    assert kube.find("pods")[0]["metadata"]["name"] != old


def test_events_are_recorded_once_and_dropped_while_the_api_server_is_unavailable(kube_env: tuple[KubeApi, KubernetesEngines]) -> None:
    kube, engines = kube_env
    engines.apply(SPEC)
    for _ in range(3):
        engines.record(SPEC.version, "ShareChanged", "candidate of demo gets 25 % of new conversations")
    assert len([entry for entry in kube.find("events") if entry["reason"] == "ShareChanged"]) == 1
    kube.fail(503, times=1000)
    before = sum(kube.calls.values())
    engines.record(SPEC.version, "Promoted", "stable of demo")
    assert sum(kube.calls.values()) == before + 1, "nobody waits for an event"
    engines.record(VersionId("f" * 64), "Promoted", "no such engine")


def test_labels_tell_what_a_version_is_to_each_of_its_endpoints(kube_env: tuple[KubeApi, KubernetesEngines]) -> None:
    kube, engines = kube_env
    engines.apply(SPEC)
    engines.mark(SPEC.version, DEMO, Role.CANDIDATE)
    engines.mark(SPEC.version, EndpointName("other"), Role.STABLE)
    engines.mark(SPEC.version, DEMO, Role.STABLE)
    labels = kube.find("deployments")[0]["metadata"]["labels"]
    assert (labels["endpoint.seatrial.dev/demo"], labels["endpoint.seatrial.dev/other"]) == ("stable", "stable")
    engines.mark(SPEC.version, DEMO, None)
    labels = kube.find("deployments")[0]["metadata"]["labels"]
    assert "endpoint.seatrial.dev/demo" not in labels
    assert labels["endpoint.seatrial.dev/other"] == "stable"
    calls = writes(kube)
    engines.mark(SPEC.version, EndpointName("other"), Role.STABLE)
    engines.apply(SPEC)
    assert writes(kube) == calls, "marking again costs nothing, and marks are no drift"


def test_a_mark_never_makes_a_deployment(kube_env: tuple[KubeApi, KubernetesEngines]) -> None:
    kube, engines = kube_env
    engines.apply(SPEC)
    kube.remove(("deployments", NAMESPACE, kube.find("deployments")[0]["metadata"]["name"]))
    engines.mark(SPEC.version, DEMO, Role.STABLE)
    assert kube.find("deployments") == []


def a_node(memory: str) -> dict[str, Any]:
    status = {"allocatable": {"cpu": "8", "memory": memory, "pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": {"name": "n1"}, "spec": {}, "status": status}


def test_capacity_is_checked_before_anything_is_created(kube_env: tuple[KubeApi, KubernetesEngines]) -> None:
    kube, engines = kube_env
    kube.put("nodes", a_node("4Gi"))
    fit = engines.fit(SPEC)
    assert (fit.fits, fit.ever) == (False, False)
    assert kube.find("deployments") == []
    assert engines.fit(a_spec(2, memory_bytes=2 * GIB, weights_bytes=MIB)).fits
    engines.apply(SPEC)
    assert engines.fit(SPEC).fits, "a running engine fits"


def test_without_the_right_to_see_nodes_only_quotas_are_looked_at(kube_env: tuple[KubeApi, KubernetesEngines]) -> None:
    kube, engines = kube_env
    kube.fail(403, plural="nodes", times=2)
    assert engines.fit(SPEC).fits
    hard, used = {"requests.memory": "8Gi"}, {"requests.memory": "1Gi"}
    kube.put("resourcequotas", {"metadata": {"name": "team", "namespace": NAMESPACE}, "status": {"hard": hard, "used": used}})
    assert "the quota team leaves" in engines.fit(SPEC).reason


def test_the_log_of_a_stopped_engine_is_kept_where_it_was_stopped(kube_env: tuple[KubeApi, KubernetesEngines], clock: VirtualClock) -> None:
    kube, engines = kube_env
    serve(kube, engines, clock)
    assert engines.logs(SPEC.version, 5) == ("the engine says hello",)
    engines.stop(SPEC.version, drain_s=10.0)
    eventually(lambda: phase(engines) is EnginePhase.ABSENT, partial(pass_time, kube, clock))
    assert engines.logs(SPEC.version, 5) == ("the engine says hello",)


def test_a_name_that_is_no_version_is_refused(kube_env: tuple[KubeApi, KubernetesEngines]) -> None:
    with pytest.raises(Refused, match="is not a version id"):
        kube_env[1].state(VersionId("../x"))


def test_an_address_may_be_the_services_own(clock: VirtualClock, tmp_path: Path) -> None:
    with cluster(clock, tmp_path, address="ip") as (kube, engines):
        engines.apply(SPEC)
        (live,) = kube.find("services")
        kube.put("services", {**live, "spec": {**live["spec"], "clusterIP": "10.0.0.7"}})
        eventually(lambda: engines.state(SPEC.version).address == "http://10.0.0.7:8000", partial(pass_time, kube, clock))
