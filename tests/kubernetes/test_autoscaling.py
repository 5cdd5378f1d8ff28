"""Autoscaling with real KEDA: under load a second engine comes, in quiet it goes, and no user of the gateway notices but by the speed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.kinds import SCALED_OBJECTS
from serving.engines.kubernetes.names import PORT
from tests.e2e.harness import within
from tests.equipment.kube_platform import KubePlatform

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow, pytest.mark.release]
ENDPOINT = "busy"
LIMIT_S = 240.0
MANY, FEW = 10, 2
TOKEN_S = 0.4
"""An answer in a chat then takes seconds: whenever an engine leaves, some are under way."""
SCALED = {
    "SEATRIAL_KUBERNETES_MAX_ENGINES": "2",
    "SEATRIAL_KUBERNETES_TARGET_REQUESTS": "4",
    "SEATRIAL_KUBERNETES_SCALE_DOWN_S": "15",
}


@pytest.fixture
def busy(installed: KubePlatform) -> Iterator[KubePlatform]:
    """The platform with an endpoint whose engines may be two."""
    installed.cluster.add("keda")
    with installed.worker_with(**SCALED):
        first = installed.deploy(installed.model("busy", solves=0.9, chat_token_s=TOKEN_S), ENDPOINT, LIMIT_S)
        assert first.state == "serving", (first.message, installed.said())
        yield installed
        assert installed.cli("endpoints", "remove", ENDPOINT, "--yes").returncode == 0
        within(
            120, lambda: not installed.engines(ENDPOINT) and not installed.api.list(SCALED_OBJECTS).items, "nothing of its engines is left"
        )


def engine_pods(on: KubePlatform) -> dict[str, str]:
    """The address of each engine's pod, those that are on their way out too."""
    pods = json.loads(on.words("get", "pods", "-l", "app.kubernetes.io/component=engine", "-o", "json"))["items"]
    return {pod["metadata"]["name"]: pod["status"].get("podIP", "") for pod in pods}


def replicas(on: KubePlatform) -> int:
    return int(on.api.list(kinds.DEPLOYMENTS, selector="app.kubernetes.io/component=engine").items[0]["spec"]["replicas"])


def test_load_brings_a_second_engine_and_quiet_takes_it_away_and_no_request_fails(busy: KubePlatform) -> None:
    (scaled,) = busy.api.list(SCALED_OBJECTS).items
    assert scaled["spec"]["triggers"][0]["type"] == "metrics-api"
    within(LIMIT_S, lambda: replicas(busy) == len(engine_pods(busy)) == 1, "quiet after its benchmark, which may have been load enough")
    (first,) = engine_pods(busy)
    with busy.traffic(ENDPOINT, FEW) as few:
        with busy.traffic(ENDPOINT, MANY) as many:
            within(LIMIT_S, lambda: replicas(busy) == 2, "a second engine is asked for")
            (second,) = within(LIMIT_S, lambda: [name for name in engine_pods(busy) if name != first], "its pod")
            within(LIMIT_S, lambda: _answered(busy, second) > MANY, "the second engine takes its part of the load")
        within(LIMIT_S, lambda: replicas(busy) == 1, "one engine is enough")
        within(LIMIT_S, lambda: len(engine_pods(busy)) == 1, "the other one is gone")
        seen = len(few.marks)
        within(60, lambda: len(few.marks) > seen + 4 * FEW, "those who stayed go on")
    print(f"scaled to two and back: {few.told()}; under load: {many.told()}")  # noqa: T201 - seen with -s and when a test fails
    few.expect_nobody_noticed()
    many.expect_nobody_noticed()


def _answered(on: KubePlatform, pod: str) -> float:
    """How many answers a pod's engine has given, by its own count."""
    try:
        page = httpx.get(f"http://{engine_pods(on)[pod]}:{PORT}/metrics", timeout=5).text
    except (httpx.HTTPError, httpx.InvalidURL, KeyError):
        return 0.0  # it is not there yet
    return next(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith("vllm:request_success_total{"))
