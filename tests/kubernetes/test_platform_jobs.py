"""Flow runs as Jobs of Prefect's Kubernetes work pool (`worker.mode: kubernetes`): the same walk, each run in a pod of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from core.ids import SubmissionId
from core.submissions import StepName
from infra.testcluster.cluster import Cluster
from tests.e2e.harness import kill, within
from tests.equipment.clusters import own_folder
from tests.equipment.kube_platform import KubePlatform
from tests.equipment.prefect_worker import prefect_worker

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow, pytest.mark.release]
ENDPOINT = "jobs"
LIMIT_S = 400.0


@pytest.fixture(scope="module")
def serving(cluster: Cluster) -> Iterator[KubePlatform]:
    """The platform whose runs are Jobs, with a stable version."""
    with own_folder("/tmp/st-kj-") as folder:
        folder.chmod(0o755)  # pods are not root
        with KubePlatform(cluster, folder, jobs=prefect_worker()) as platform:
            first = platform.deploy(platform.model("stable", solves=0.9), ENDPOINT, LIMIT_S)
            assert first.state == "serving", (first.message, platform.said())
            yield platform


def test_a_model_is_promoted_by_a_run_that_is_a_job(serving: KubePlatform) -> None:
    with serving.traffic(ENDPOINT) as traffic:
        ended = serving.deploy(serving.model("better", solves=0.9, start_s=0.1), ENDPOINT, LIMIT_S)
    assert (ended.state, ended.runs) == ("serving", 1), (ended.message, serving.said())
    traffic.expect_nobody_noticed()
    assert traffic.by(ended.version) > 0
    run = run_of(serving, ended.id)
    (job,) = jobs_of(serving, "deploy-model", run)
    assert job["spec"]["backoffLimit"] == 0
    within(60, lambda: jobs_of(serving, "deploy-model", run)[0]["status"].get("succeeded") == 1, "its Job has succeeded")


def test_a_job_that_is_killed_is_not_tried_again_but_resumed_by_another(serving: KubePlatform) -> None:
    with serving.traffic(ENDPOINT) as traffic:
        submission = serving.submit(serving.model("killed", solves=0.9, start_s=0.2), ENDPOINT).id
        serving.reaches(submission, StepName.BENCHMARK, LIMIT_S)
        first = run_of(serving, submission)
        (pod,) = pods_of(serving, jobs_of(serving, "deploy-model", first)[0])
        kill(*serving.processes(pod))
        ended = serving.finish(submission, LIMIT_S)
    assert (ended.state, ended.reason) == ("serving", ""), (ended.message, serving.said())
    assert ended.runs >= 2
    assert run_of(serving, submission) != first
    traffic.expect_nobody_noticed()
    (killed,) = jobs_of(serving, "deploy-model", first)
    assert killed["status"]["failed"] == 1
    assert len(pods_of(serving, killed)) == 1


def test_a_benchmark_by_hand_is_a_job_too(serving: KubePlatform) -> None:
    ran = serving.cli("bench", ENDPOINT, "-n", "1", "--watch", "--json")
    assert ran.returncode == 0, (ran.stdout, ran.stderr, serving.said())
    assert len(jobs_of(serving, "benchmark")) == 1


def run_of(on: KubePlatform, submission: str) -> str | None:
    """The flow run that drives, or last drove, a submission."""
    return on.platform.records.submissions.get(SubmissionId(submission)).flow_run


def jobs_of(on: KubePlatform, flow: str, run: str | None = None) -> list[dict[str, Any]]:
    """The Jobs of a flow's runs, by the labels that Prefect's worker writes."""
    selector = f"prefect.io/flow-name={flow}" + (f",prefect.io/flow-run-id={run}" if run else "")
    found: list[dict[str, Any]] = json.loads(on.words("get", "jobs", "-l", selector, "-o", "json"))["items"]
    return found


def pods_of(on: KubePlatform, job: dict[str, Any]) -> list[str]:
    found = json.loads(on.words("get", "pods", "-l", f"batch.kubernetes.io/job-name={job['metadata']['name']}", "-o", "json"))
    return [pod["metadata"]["name"] for pod in found["items"]]
