"""The calls of Prefect's REST API, against a real Prefect server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from core.errors import NotFound, Refused, SeatrialError, Transient
from core.flow_runs import BENCHMARK, DEPLOY, STUDY, WAITS_FOR_A_SLOT, Deployment, LogLine
from core.ids import BenchmarkId, SubmissionId
from core.settings import read_settings
from infra.entrypoints.deployments import deployments, remove_former
from registry.flow_runs import PrefectRuns
from tests.equipment.prefect_api import prefect_api
from tests.equipment.prefect_server import prefect_server

REQUEST = {"submission": "sub-1", "model": "org/model", "endpoint": "chat"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        _deploy(url)
        yield url


def _deploy(url: str) -> None:
    with prefect_api(url) as prefect:
        for full_name in (DEPLOY, BENCHMARK, STUDY):
            flow_name, _, name = full_name.partition("/")
            flow = prefect.post("/flows/", json={"name": flow_name}).raise_for_status().json()
            prefect.post("/deployments/", json={"name": name, "flow_id": flow["id"]}).raise_for_status()


@pytest.fixture
def runs(server: str) -> Iterator[PrefectRuns]:
    flow_runs = PrefectRuns(server)
    yield flow_runs
    flow_runs.close()


pytestmark = pytest.mark.slow


def test_the_same_attempt_is_the_same_run_and_the_next_one_another(runs: PrefectRuns) -> None:
    first, again, second = (runs.start(SubmissionId("sub-a"), attempt, REQUEST) for attempt in (0, 0, 1))
    assert first == again != second


def test_a_run_is_named_by_model_and_endpoint_and_carries_the_submission_in_tags_and_parameters(runs: PrefectRuns, server: str) -> None:
    run = httpx.get(f"{server}/flow_runs/{runs.start(SubmissionId('sub-b'), 0, REQUEST)}").json()
    assert run["name"] == "org/model -> chat"
    assert run["parameters"] == {"request": REQUEST}
    assert set(run["tags"]) == {"seatrial", "sub-b"}


def test_the_run_of_a_folder_is_not_named_by_its_path(runs: PrefectRuns, server: str) -> None:
    request = {"submission": "sub-f", "model": "/home/ann/models/steady", "endpoint": "chat"}
    run = httpx.get(f"{server}/flow_runs/{runs.start(SubmissionId('sub-f'), 0, request)}").json()
    assert run["name"].startswith("steady (folder ")
    assert "/home" not in run["name"]


def test_benchmarks_and_studies_are_named_by_what_they_do(runs: PrefectRuns, server: str) -> None:
    asked = runs.start_benchmark(BenchmarkId("bm-1"), 0, {"suite": "/data/talk.jsonl", "target": "a" * 64})
    compared = runs.start_study("st-1", {"benchmark": "bm-1"})
    names = [httpx.get(f"{server}/flow_runs/{run}").json()["name"] for run in (asked, compared)]
    assert names == ["talk on aaaaaaaaaaaa", "policies on bm-1"]


def test_a_new_run_is_scheduled_and_a_cancelled_one_cancelling(runs: PrefectRuns) -> None:
    run = runs.start(SubmissionId("sub-c"), 0, REQUEST)
    state = runs.state(run)
    assert state is not None
    assert (state.type, state.ended) == ("SCHEDULED", False)
    runs.cancel(run)
    cancelled = runs.state(run)
    assert cancelled is not None
    assert cancelled.type in {"CANCELLING", "CANCELLED"}  # a scheduled run has no process to wait for


def test_a_crashed_run_has_ended_and_stays_so(runs: PrefectRuns) -> None:
    run = runs.start(SubmissionId("sub-d"), 0, REQUEST)
    runs.crash(run)
    runs.cancel(run)
    state = runs.state(run)
    assert state is not None
    assert (state.type, state.ended) == ("CRASHED", True)


def test_the_runs_before_a_run_are_those_that_have_not_ended(runs: PrefectRuns, server: str) -> None:
    before, pending, running, crashed, last = (runs.start(SubmissionId(f"sub-q{number}"), 0, REQUEST) for number in range(5))
    with prefect_api(server) as prefect:
        for run, kind in ((pending, "PENDING"), (running, "RUNNING")):
            body = {"state": {"type": kind}, "force": True}
            prefect.post(f"/flow_runs/{run}/set_state", json=body).raise_for_status()
    runs.crash(crashed)
    assert runs.ahead(last) - runs.ahead(before) == 3


@contextmanager
def limited(server: str, **limit: object) -> Iterator[None]:
    """Give `deploy-model/submit` a concurrency limit, as Prefect's page does, while the block runs."""
    with prefect_api(server) as prefect:
        deployment = f"/deployments/{prefect.get(f'/deployments/name/{DEPLOY}').raise_for_status().json()['id']}"
        prefect.patch(deployment, json={"concurrency_limit": 1}).raise_for_status()
        try:
            found = prefect.get(deployment).raise_for_status().json()["global_concurrency_limit"]
            prefect.patch(f"/v2/concurrency_limits/{found['id']}", json=limit).raise_for_status()
            yield
        finally:
            prefect.patch(deployment, json={"concurrency_limit": None}).raise_for_status()


def taken(server: str, run: str) -> str:
    """Let a flow runner take a run and return the name of the run's state then."""
    with prefect_api(server) as prefect:
        prefect.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "PENDING"}}).raise_for_status()
        return str(prefect.get(f"/flow_runs/{run}").raise_for_status().json()["state"]["name"])


def cause(deployment: Deployment) -> str:
    return deployment.obstacle.cause if deployment.obstacle else ""


def test_a_deployment_without_limits_has_no_obstacle(runs: PrefectRuns, server: str) -> None:
    run = runs.start(SubmissionId("sub-free"), 0, REQUEST)
    assert (runs.deployment_of(run).name, cause(runs.deployment_of(run))) == (DEPLOY, "")
    assert [(found.name, found.registered, cause(found)) for found in runs.deployments()] == [
        (DEPLOY, True, ""),
        (BENCHMARK, True, ""),
        (STUDY, True, ""),
    ]
    assert taken(server, run) == "Pending"


def test_a_limit_of_0_is_an_obstacle_and_no_runner_gets_the_run(runs: PrefectRuns, server: str) -> None:
    with limited(server, limit=0):
        run = runs.start(SubmissionId("sub-zero"), 0, REQUEST)
        assert taken(server, run) == "Scheduled"
        assert cause(runs.deployment_of(run)) == cause(runs.deployments()[0]) == f"the concurrency limit of the deployment {DEPLOY} is 0"


def test_an_inactive_limit_is_an_obstacle_and_no_runner_gets_the_run(runs: PrefectRuns, server: str) -> None:
    with limited(server, active=False):
        run = runs.start(SubmissionId("sub-inactive"), 0, REQUEST)
        assert taken(server, run) == WAITS_FOR_A_SLOT
        assert cause(runs.deployment_of(run)) == f"the concurrency limit of the deployment {DEPLOY} is inactive and grants no slots"


def test_a_run_over_the_limit_waits_for_a_slot_and_has_no_obstacle(runs: PrefectRuns, server: str) -> None:
    with limited(server, limit=1):
        first, second = (runs.start(SubmissionId(f"sub-slot{number}"), 0, REQUEST) for number in range(2))
        assert [taken(server, run) for run in (first, second)] == ["Pending", WAITS_FOR_A_SLOT]
        found = runs.deployment_of(second)
        assert (found.limit, found.obstacle) == (1, None)


def test_a_paused_deployment_is_no_obstacle_as_runners_still_get_its_runs(runs: PrefectRuns, server: str) -> None:
    with prefect_api(server) as prefect:
        deployment = prefect.get(f"/deployments/name/{DEPLOY}").raise_for_status().json()["id"]
        prefect.post(f"/deployments/{deployment}/pause_deployment").raise_for_status()
        run = runs.start(SubmissionId("sub-paused"), 0, REQUEST)
        offered = _asked_for_work(prefect, deployment)
        found = runs.deployment_of(run)
        prefect.post(f"/deployments/{deployment}/resume_deployment").raise_for_status()
    assert run in offered
    assert found.obstacle is None
    assert taken(server, run) == "Pending"


def test_a_poll_of_a_runner_is_seen(runs: PrefectRuns, server: str) -> None:
    run = runs.start(SubmissionId("sub-polled"), 0, REQUEST)
    before = datetime.now(UTC).timestamp()
    with prefect_api(server) as prefect:
        _asked_for_work(prefect, prefect.get(f"/deployments/name/{DEPLOY}").raise_for_status().json()["id"])
    deadline = time.monotonic() + 20
    while (runs.deployment_of(run).polled or 0.0) < before and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    assert (runs.deployment_of(run).polled or 0.0) >= before
    assert (runs.deployments()[0].polled or 0.0) >= before


def _asked_for_work(prefect: httpx.Client, deployment: str) -> set[str]:
    """Ask for the runs of a deployment, as a flow runner does, and return their ids."""
    body = {"deployment_ids": [deployment], "scheduled_before": datetime.now(UTC).isoformat()}
    return {run["id"] for run in prefect.post("/deployments/get_scheduled_flow_runs", json=body).raise_for_status().json()}


@pytest.mark.parametrize(
    ("pool", "queue", "expected"),
    [
        ({}, {}, ""),
        ({"is_paused": True}, {}, "the work pool jobs is paused"),
        ({"concurrency_limit": 0}, {}, "the concurrency limit of the work pool jobs is 0"),
        ({}, {"is_paused": True}, "the work queue held of the work pool jobs is paused"),
        ({}, {"concurrency_limit": 0}, "the concurrency limit of the work queue held of the work pool jobs is 0"),
    ],
)
def test_a_closed_work_pool_or_queue_is_an_obstacle(
    runs: PrefectRuns, server: str, pool: dict[str, object], queue: dict[str, object], expected: str
) -> None:
    with prefect_api(server) as prefect:
        deployment = f"/deployments/{prefect.get(f'/deployments/name/{BENCHMARK}').raise_for_status().json()['id']}"
        prefect.post("/work_pools/", json={"name": "jobs", "type": "process"}).raise_for_status()
        try:
            prefect.post("/work_pools/jobs/queues", json={"name": "held", **queue}).raise_for_status()  # 3.8 on SQLite cannot pause one
            prefect.patch(deployment, json={"work_pool_name": "jobs", "work_queue_name": "held"}).raise_for_status()
            prefect.patch("/work_pools/jobs", json=pool).raise_for_status()
            found = runs.deployment_of(runs.start_benchmark(BenchmarkId(f"bm-{expected}"), 0, {}))
        finally:
            prefect.delete("/work_pools/jobs").raise_for_status()
    assert (found.pool, cause(found)) == ("jobs", expected)


def test_the_deployment_of_an_unknown_run_is_not_found(runs: PrefectRuns) -> None:
    with pytest.raises(NotFound):
        runs.deployment_of("00000000-0000-0000-0000-000000000000")


def test_logs_come_oldest_first_and_from_a_time_on(runs: PrefectRuns, server: str) -> None:
    run = runs.start(SubmissionId("sub-e"), 0, REQUEST)
    times = [datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC) for second in range(3)]
    lines = [
        {"name": "x", "level": 20 + 10 * n, "message": f"line {n}", "timestamp": at.isoformat(), "flow_run_id": run}
        for n, at in enumerate(times)
    ]
    with prefect_api(server) as prefect:
        prefect.post("/logs/", json=lines).raise_for_status()
    found = _logs(runs, run, 3)
    assert [(line.level, line.message) for line in found] == [("INFO", "line 0"), ("WARNING", "line 1"), ("ERROR", "line 2")]
    assert [line.message for line in runs.logs(run, times[1].timestamp())] == ["line 1", "line 2"]


def _logs(runs: PrefectRuns, run: str, count: int) -> tuple[LogLine, ...]:
    deadline = time.monotonic() + 20
    while len(found := runs.logs(run)) < count and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    return found


def test_a_run_that_is_not_there_is_not_found(runs: PrefectRuns) -> None:
    with pytest.raises(NotFound):
        runs.state("00000000-0000-0000-0000-000000000000")


def test_what_is_no_id_of_prefects_is_refused(runs: PrefectRuns) -> None:
    with pytest.raises(Refused):
        runs.state("no-uuid")


def test_a_deployment_that_is_not_registered_yet_is_not_found(runs: PrefectRuns, server: str) -> None:
    with prefect_api(server) as prefect:
        deployment = prefect.get(f"/deployments/name/{STUDY}").raise_for_status().json()
        prefect.delete(f"/deployments/{deployment['id']}").raise_for_status()
    with pytest.raises(NotFound, match="flow runner"):
        runs.start_study("st-1", {})
    found = runs.deployments()[-1]
    assert (found.name, found.registered, cause(found)) == (STUDY, False, f"Prefect has no deployment {STUDY}")


def test_prefect_away_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error: SeatrialError
    with pytest.raises(Transient) as caught:
        PrefectRuns(f"http://127.0.0.1:{port}/api", timeout_s=2).start_study("st-1", {})
    error = caught.value
    assert "doctor" in error.hint


def test_deployments_of_an_earlier_release_are_removed_and_those_of_this_one_stay(server: str, tmp_path: Path) -> None:
    entries = tuple(deployments(read_settings({"HOME": str(tmp_path)})))
    with prefect_api(server) as prefect:
        for flow_name in ("deploy-model", "benchmark", "study"):
            flow = prefect.post("/flows/", json={"name": flow_name}).raise_for_status().json()
            prefect.post("/deployments/", json={"name": "seatrial", "flow_id": flow["id"]}).raise_for_status()
        with temporary_settings({PREFECT_API_URL: server}):
            for _ in range(2):  # a second start finds nothing to remove
                asyncio.run(remove_former(entries))
        names = {found["name"] for found in prefect.post("/deployments/filter", json={}).raise_for_status().json()}
        gone = [prefect.get(f"/deployments/name/{name}/seatrial").status_code for name in ("deploy-model", "benchmark", "study")]
    assert gone == [404, 404, 404]
    assert {"submit", "on-demand"} <= names


def test_every_deployment_is_named_by_what_it_does_and_describes_itself(tmp_path: Path) -> None:
    shown = {entry.full_name: str(entry.options.get("description", "")) for entry in deployments(read_settings({"HOME": str(tmp_path)}))}
    expected = {DEPLOY: "| `model` |", BENCHMARK: "`seatrial bench", "benchmark/nightly": "schedule", STUDY: "`seatrial bench study"}
    assert all(part in shown[name] for name, part in expected.items())
