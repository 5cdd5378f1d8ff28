"""The calls of Prefect's REST API, against a real Prefect server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from core.errors import NotFound, Refused, SeatrialError, Transient
from core.flow_runs import BENCHMARK, DEPLOY, STUDY, LogLine
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
