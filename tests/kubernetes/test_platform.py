"""The main job on a real cluster: our chart's platform, real vLLM in pods, and users who never stop asking while models come and go."""

from __future__ import annotations

import json
from dataclasses import dataclass

import httpx
import pytest

from seatrial.types import Submission
from tests.e2e.harness import SEATRIAL, within
from tests.equipment.kube_platform import KubePlatform
from tests.equipment.marked_traffic import MarkedTraffic

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow, pytest.mark.vllm]
LIMIT_S = 400.0


@dataclass(frozen=True)
class MainJob:
    """What became of the models that were submitted to one endpoint, and what its users saw meanwhile."""

    first: Submission
    better: Submission
    worse: Submission
    looping: Submission
    traffic: MarkedTraffic


@pytest.fixture(scope="module")
def job(installed: KubePlatform) -> MainJob:
    first = installed.deploy(installed.model("steady"), "chat", LIMIT_S)
    assert first.state == "serving", (first.message, installed.said())
    with installed.traffic("chat") as traffic:
        better = installed.deploy(installed.model("better", seed=1), "chat", LIMIT_S)
        worse = installed.deploy(installed.model("worse", "clumsy"), "chat", LIMIT_S)
        looping = installed.deploy(installed.model("looping", "parrot"), "chat", LIMIT_S)
    print(f"main job on vLLM: {traffic.told()}")  # noqa: T201 - seen with -s and when a test fails
    return MainJob(first, better, worse, looping, traffic)


def test_a_model_is_promoted_under_live_traffic(job: MainJob) -> None:
    assert (job.better.state, job.better.reason) == ("serving", ""), job.better.message
    assert job.traffic.by(job.first.version) > 0
    assert job.traffic.by(job.better.version) > 0


def test_a_worse_model_is_refused_and_nobody_meets_it(job: MainJob) -> None:
    assert (job.worse.state, job.worse.reason) == ("refused", "benchmark_below_stable"), job.worse.message
    assert job.traffic.by(job.worse.version) == 0


def test_a_looping_model_is_rolled_back(installed: KubePlatform, job: MainJob) -> None:
    assert job.looping.state == "rolled_back", (job.looping.state, job.looping.message)
    assert job.traffic.by(job.looping.version) < job.traffic.by(job.better.version) / 10, "more than a few met it"
    with installed.client() as client:
        endpoint = client.endpoints.get("chat")
    assert (endpoint.stable, endpoint.candidate) == (job.better.version, None)


def test_not_one_request_failed_hung_or_changed_model(job: MainJob) -> None:
    assert job.traffic.failed == []
    assert job.traffic.changed == []
    assert job.traffic.slowest_s < 30
    assert job.traffic.longest_silence_s < 10  # two cores share themselves between two engines that start and everything else


def test_only_conversations_of_the_looping_model_were_moved(job: MainJob) -> None:
    assert all((job.looping.version or "").startswith(version) for version in job.traffic.withdrawn)


def test_kubectl_tells_what_serves_and_what_the_rollout_did(installed: KubePlatform, job: MainJob) -> None:
    found = json.loads(installed.words("get", "deployments", "-l", "app.kubernetes.io/component=engine", "-o", "json"))["items"]
    assert [item["metadata"]["labels"]["seatrial.dev/version"] for item in found] == [(job.better.version or "")[:32]]
    assert found[0]["metadata"]["labels"]["endpoint.seatrial.dev/chat"] == "stable"
    events = json.loads(installed.words("get", "events", "-o", "json"))["items"]
    told = {event["reason"] for event in events if event.get("source", {}).get("component") == "seatrial"}
    assert {"Made", "ShareChanged", "Promoted", "RollingBack"} <= told


def test_an_endpoint_that_is_removed_leaves_no_object_behind(installed: KubePlatform, job: MainJob) -> None:
    assert installed.cli("endpoints", "remove", "chat", "--yes").returncode == 0
    kinds = "deployments,replicasets,pods,services,networkpolicies,horizontalpodautoscalers"
    selector = f"seatrial.dev/version={(job.better.version or '')[:32]}"
    within(
        120,
        lambda: installed.words("get", kinds, "-l", selector, "-o", "name", "--ignore-not-found") == "",
        "nothing of its engine is left",
    )
    headers = {"Authorization": f"Bearer {installed.key}"}
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
    assert httpx.post(f"{installed.gateway_url}/v1/chat/completions", json=body, headers=headers).status_code == 404


def test_the_doctor_finds_nothing_wrong_from_inside(installed: KubePlatform) -> None:
    told = json.loads(
        installed.words("exec", "deploy/seatrial-worker", "-c", "worker", "--", str(SEATRIAL), "doctor", "--kubernetes", "--json")
    )
    assert [finding for finding in told["findings"] if not finding["ok"]] == []
