"""The same walks while parts of the cluster and of the platform fail. Engines are fakes in pods; everything else is real."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import pytest

from core.submissions import StepName
from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.capacity import read_nodes
from tests.e2e.harness import within
from tests.equipment.kube_platform import KubePlatform

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]
GOOD, WORSE, LOOPING = ENDPOINTS = ("faults-good", "faults-worse", "faults-looping")
CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    GOOD: {"solves": 0.9},
    WORSE: {"solves": 0.2},
    LOOPING: {"solves": 0.9, "loops_in_chat": True},
}
ENDS = {GOOD: ("serving", ""), WORSE: ("refused", "benchmark_below_stable"), LOOPING: ("rolled_back", "rolled_back")}
GIB = 2**30
LIMIT_S = 300.0
API_AWAY_S = 30.0
DATABASE_AWAY_S = 20.0
SOME_STEPS = (StepName.TENSORIZE, StepName.BENCHMARK, StepName.REGISTER, StepName.ROLL_OUT)
"""One step of each part of a deployment. `tests/e2e/test_kills.py` kills at every step on one machine."""


@pytest.fixture(scope="module")
def serving(installed: KubePlatform) -> KubePlatform:
    """The platform with a stable version on each endpoint, so that each submission goes through a rollout."""
    model = installed.model("stable", solves=0.9)
    submitted = [installed.submit(model, endpoint).id for endpoint in ENDPOINTS]
    for submission in submitted:
        first = installed.finish(submission, LIMIT_S)
        assert first.state == "serving", (first.message, installed.said())
    return installed


_numbers = count(1)


def walk(on: KubePlatform, name: str, fault: Callable[[str], None]) -> None:
    """Let `fault` happen while a good, a worse and a looping model go their ways under traffic, and expect the ends of a quiet day.

    `fault` is given the good model's submission, whose steps tell it when to happen.
    """
    number = next(_numbers) / 1000  # makes each model another one
    with ExitStack() as users:
        traffic = {endpoint: users.enter_context(on.traffic(endpoint, 2)) for endpoint in ENDPOINTS}
        models = {endpoint: on.model(f"{name}-{endpoint}", **fake, start_s=number) for endpoint, fake in CANDIDATES.items()}
        submitted = {endpoint: on.submit(model, endpoint).id for endpoint, model in models.items()}
        fault(submitted[GOOD])
        ended = {endpoint: on.finish(submission, LIMIT_S) for endpoint, submission in submitted.items()}
    for endpoint, end in ended.items():
        took = (end.updated_at - end.created_at).total_seconds()
        print(f"{name}, {endpoint}: {end.state} after {took:.0f} s, {end.runs} runs; {traffic[endpoint].told()}")  # noqa: T201
    assert {endpoint: (end.state, end.reason) for endpoint, end in ended.items()} == ENDS, (
        {endpoint: end.message for endpoint, end in ended.items()},
        on.said(),
    )
    met = {endpoint: traffic[endpoint].by(end.version) for endpoint, end in ended.items()}
    assert met[GOOD] > 0
    assert met[WORSE] == 0
    for endpoint in (GOOD, WORSE):
        traffic[endpoint].expect_nobody_noticed()
    traffic[LOOPING].expect_only_moved_from(ended[LOOPING].version)


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def test_the_flows_worker_is_killed_at_four_steps(serving: KubePlatform) -> None:
    walk_while_the_worker_is_killed(serving, "worker-killed", SOME_STEPS)


@pytest.mark.release
def test_the_flows_worker_is_killed_at_each_step(serving: KubePlatform) -> None:
    walk_while_the_worker_is_killed(serving, "worker-killed-often", tuple(StepName))


def walk_while_the_worker_is_killed(serving: KubePlatform, name: str, steps: Sequence[StepName]) -> None:
    kills: list[int] = []

    def fault(submission: str) -> None:
        for step in steps:
            (worker,) = within(60, lambda: serving.pods("worker"), "the worker's pod")
            within(60, lambda: serving.processes(worker), "the worker's processes")  # noqa: B023 - called at once
            serving.reaches(submission, step, LIMIT_S)
            kills.append(serving.kill_pod(worker))

    walk(serving, name, fault)
    assert len(kills) == len(steps)
    assert all(kills), "no process of the worker was running when it was to be killed"


@pytest.mark.release
def test_the_api_server_is_down_for_thirty_seconds(serving: KubePlatform) -> None:
    def fault(submission: str) -> None:
        serving.reaches(submission, StepName.START, LIMIT_S)
        serving.cluster.stop("apiserver", kill=True)
        try:
            wait(API_AWAY_S)
        finally:
            serving.cluster.start("apiserver")

    walk(serving, "api-server-down", fault)


@pytest.mark.release
def test_etcd_is_restarted(serving: KubePlatform) -> None:
    def fault(submission: str) -> None:
        serving.reaches(submission, StepName.START, LIMIT_S)
        serving.cluster.restart("etcd")

    walk(serving, "etcd-restarted", fault)


@pytest.mark.release
def test_the_nodes_kubelet_is_restarted(serving: KubePlatform) -> None:
    def fault(submission: str) -> None:
        serving.reaches(submission, StepName.BENCHMARK, LIMIT_S)
        serving.cluster.restart("kubelet")

    walk(serving, "kubelet-restarted", fault)


@pytest.mark.release
def test_an_engines_pod_is_deleted(serving: KubePlatform) -> None:
    def fault(submission: str) -> None:
        serving.reaches(submission, StepName.ROLL_OUT, LIMIT_S)
        with serving.client() as client:
            stable = client.endpoints.get(GOOD).stable
        (pod,) = serving.pods("engine", version=stable)
        serving.delete_pod(pod)

    walk(serving, "engine-deleted", fault)


@pytest.mark.release
def test_postgresql_is_away_for_twenty_seconds(serving: KubePlatform) -> None:
    def fault(submission: str) -> None:
        serving.reaches(submission, StepName.ROLL_OUT, LIMIT_S)
        serving.postgres.stop()
        try:
            wait(DATABASE_AWAY_S)
        finally:
            serving.postgres.start()

    walk(serving, "postgresql-away", fault)


@pytest.mark.release
def test_a_bad_image_is_told_to_the_submitter_and_nobody_else_notices(serving: KubePlatform) -> None:
    with serving.worker_with(SEATRIAL_KUBERNETES_IMAGE="nowhere.invalid/engine@sha256:" + "0" * 64), serving.traffic(GOOD) as traffic:
        ended = serving.deploy(serving.model("bad-image", solves=0.9, start_s=0.5), GOOD, LIMIT_S)
    assert (ended.state, ended.reason) == ("refused", "engine_failed"), ended.message
    assert "its image cannot be pulled" in ended.message
    assert "SEATRIAL_KUBERNETES_IMAGE" in ended.message
    traffic.expect_nobody_noticed()
    expect_only_the_stable(serving)


@pytest.mark.release
def test_a_candidate_that_no_node_can_hold_is_refused_before_anything_is_touched(serving: KubePlatform) -> None:
    with serving.worker_with(SEATRIAL_MODELS_ENGINE_MEMORY_BYTES=str(2**50)), serving.traffic(GOOD) as traffic:
        ended = serving.deploy(serving.model("too-large", solves=0.9, start_s=0.6), GOOD, LIMIT_S)
    assert ended.state == "refused", ended.message
    assert "none ever fits it: it asks for 1048576.0 GiB of memory" in ended.message
    assert ended.rollout is None
    traffic.expect_nobody_noticed()
    expect_only_the_stable(serving)


@pytest.mark.release
def test_a_candidate_that_does_not_fit_is_queued_with_the_reason_and_starts_when_it_fits(serving: KubePlatform) -> None:
    with serving.worker_with(SEATRIAL_KUBERNETES_QUEUE_S="200"), serving.traffic(GOOD) as traffic:
        with filled(serving, but=2 * GIB):
            submission = serving.submit(serving.model("queued", solves=0.9, start_s=0.7), GOOD).id
            within(LIMIT_S, lambda: "none fits it now" in serving.message(submission, StepName.START), "the reason")
            assert [role for role in serving.engines(GOOD).values() if role != "stable"] == []
        ended = serving.finish(submission, LIMIT_S)
    assert ended.state == "serving", ended.message
    traffic.expect_nobody_noticed()


@contextmanager
def filled(on: KubePlatform, *, but: int) -> Iterator[None]:
    """Take all of the node's memory but so much, by a pod that asks for it and does nothing."""
    (node,) = read_nodes(on.api.list(kinds.NODES).items, on.api.list(kinds.PODS, everywhere=True).items)
    resources = {"requests": {"memory": str(int(node.free["memory"]) - but)}}
    filler = {"name": "filler", "image": on.image, "command": ["sleep", "600"], "resources": resources}
    spec = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "containers": [filler]}
    metadata = {"name": "filler", "namespace": "default"}
    on.kubectl.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}])
    try:
        on.kubectl("wait", "--for=condition=Ready", "pod/filler", "-n", "default", "--timeout=50s")
        yield
    finally:
        on.kubectl("delete", "pod/filler", "-n", "default", "--grace-period=0", "--force")


def expect_only_the_stable(on: KubePlatform) -> None:
    """No object of a refused candidate is left."""
    with on.client() as client:
        stable = (client.endpoints.get(GOOD).stable or "")[:32]
    within(60, lambda: on.engines(GOOD) == {stable: "stable"}, "only the stable version's Deployment is there")
