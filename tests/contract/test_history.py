"""The contract of BenchmarkHistory, on a real MLflow server and on the double that unit tests use."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.benchmarks import BenchmarkState
from core.errors import Fault, NotFound, Transient
from core.ids import EndpointName
from core.ports.history import BenchmarkHistory
from registry.answers import PACKED, Answers
from registry.benchmarks import MlflowBenchmarks
from tests.equipment.fakes import FakeHistory
from tests.equipment.samples import a_benchmark, a_sample

SAMPLES = tuple(a_sample(problem, index, passed=index == 0) for problem in range(3) for index in range(2))
MODEL = "org/steady@1a2b3c4d"
DONE: dict[str, Any] = {"state": BenchmarkState.DONE, "ended_at": 1_700_000_100.0, "numbers": {"pass_at_1": 0.5, "none": float("nan")}}


@pytest.fixture(params=["fake", "mlflow"])
def history(request: pytest.FixtureRequest) -> BenchmarkHistory:
    return FakeHistory() if request.param == "fake" else MlflowBenchmarks(request.getfixturevalue("mlflow_url"))


def test_rows_come_back_from_the_history_as_they_were_packed(history: BenchmarkHistory, tmp_path: Path):
    row = a_benchmark(1, **DONE)
    packed = Answers(tmp_path / "here", history).pack(row.id, SAMPLES)
    recorded = history.record(row, MODEL, {"pass_at_1": 0.5}, {PACKED: packed}, order=0)
    elsewhere = Answers(tmp_path / "elsewhere", history)
    assert elsewhere.read(replace(row, rows_uri=recorded.rows_uri)) == SAMPLES


def test_recording_again_is_the_same_entry(history: BenchmarkHistory, tmp_path: Path):
    row = a_benchmark(2, **DONE)
    files = {PACKED: Answers(tmp_path, history).pack(row.id, SAMPLES)}
    first = history.record(row, MODEL, {"pass_at_1": 0.5}, files, order=0)
    assert history.record(row, MODEL, {"pass_at_1": 0.5}, files, order=0) == first


def test_rows_that_are_gone_are_not_found(history: BenchmarkHistory, tmp_path: Path):
    recorded = history.record(a_benchmark(3, **DONE), MODEL, {}, {}, order=0)
    with pytest.raises(NotFound):
        history.fetch(recorded.rows_uri, tmp_path / "rows")


def test_a_forgotten_benchmark_is_gone_and_forgetting_it_again_does_nothing(history: BenchmarkHistory, tmp_path: Path):
    row = a_benchmark(4, **DONE)
    recorded = history.record(row, MODEL, {}, {PACKED: Answers(tmp_path, history).pack(row.id, SAMPLES)}, order=0)
    for _ in range(2):
        history.forget(replace(row, rows_uri=recorded.rows_uri))
    if isinstance(history, MlflowBenchmarks):  # its files go when it is compacted
        assert history._client.get_run(recorded.page.rpartition("/")[2]).info.lifecycle_stage == "deleted"
        return
    with pytest.raises(NotFound):
        history.fetch(recorded.rows_uri, tmp_path / "rows")


def test_mlflow_draws_one_curve_per_endpoint_and_suite_with_a_point_per_benchmark(mlflow_url: str):
    history = MlflowBenchmarks(mlflow_url)
    for order, score in enumerate([0.5, 0.4, 0.4]):
        number = min(order, 1)
        row = a_benchmark(10 + number, endpoint=EndpointName("drawn"), **{**DONE, "ended_at": 1_700_000_000.0 + number})
        history.record(row, MODEL, {"pass_at_1/t0.2-f0-p1-m512": score}, {}, order=number)
    experiment = httpx.get(f"{mlflow_url}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": "drawn/benchmarks"}).json()[
        "experiment"
    ]
    body = {"experiment_ids": [experiment["experiment_id"]]}
    runs = httpx.post(f"{mlflow_url}/api/2.0/mlflow/runs/search", json=body).json()["runs"]
    curves = [run["info"]["run_id"] for run in runs if "over time" in run["info"]["run_name"]]
    assert (len(runs), len(curves)) == (3, 1)
    found = httpx.get(
        f"{mlflow_url}/api/2.0/mlflow/metrics/get-history", params={"run_id": curves[0], "metric_key": "pass at 1/t0.2-f0-p1-m512"}
    ).json()["metrics"]
    assert [(point["step"], point["value"]) for point in found] == [(0, 0.5), (1, 0.4)]


def test_mlflow_shows_the_plan_of_a_benchmark(mlflow_url: str):
    recorded = MlflowBenchmarks(mlflow_url).record(a_benchmark(20, **DONE), MODEL, {}, {}, order=0)
    run = httpx.get(f"{mlflow_url}/api/2.0/mlflow/runs/get", params={"run_id": recorded.page.rpartition("/")[2]}).json()["run"]
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    assert (params["suite"], params["prompt"], params["samples"], params["grid"]) == ("harbour", "completion@1", "2", "t0.2-f0-p1-m512")
    assert run["info"]["status"] == "FINISHED"
    assert [metric["key"] for metric in run["data"]["metrics"]] == ["pass at 1"]


@pytest.mark.parametrize(("state", "shown"), [(BenchmarkState.DONE, "FINISHED"), (BenchmarkState.FAILED, "FAILED")], ids=str)
def test_mlflow_shows_a_benchmark_with_its_own_state_start_and_end(mlflow_url: str, state: BenchmarkState, shown: str):
    row = a_benchmark(30 + len(shown), **{**DONE, "state": state}, endpoint=EndpointName("timed"))
    info = run_of(mlflow_url, MlflowBenchmarks(mlflow_url).record(row, MODEL, {}, {}, order=0).page)["info"]
    assert (info["status"], info["start_time"], info["end_time"]) == (shown, int(row.started_at * 1000), 1_700_000_100_000)
    assert info["run_name"].startswith("org/steady@1a2b3c4d -> timed, harbour, 20")


def test_mlflow_shows_a_benchmark_that_still_runs_as_running_and_later_as_finished(mlflow_url: str):
    history, row = MlflowBenchmarks(mlflow_url), a_benchmark(40, endpoint=EndpointName("two-looks"))
    page = history.record(row, MODEL, {"pass_at_1": 0.5}, {}, order=0).page
    assert run_of(mlflow_url, page)["info"]["status"] == "RUNNING"
    history.record(replace(row, **DONE), MODEL, {"pass_at_1": 0.5}, {}, order=0)
    assert run_of(mlflow_url, page)["info"]["status"] == "FINISHED"


def test_the_curve_of_mlflow_is_a_finished_run_that_ends_with_the_last_benchmark(mlflow_url: str):
    row = a_benchmark(41, **DONE, endpoint=EndpointName("curve"))
    run = run_of(mlflow_url, MlflowBenchmarks(mlflow_url).record(row, MODEL, {"pass_at_1": 0.5}, {}, order=0).page)
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    curve = run_of(mlflow_url, tags["seatrial.curve_run"])["info"]
    assert (curve["status"], curve["end_time"], curve["run_name"]) == ("FINISHED", 1_700_000_100_000, "harbour (completion) over time")
    assert curve["start_time"] == int(row.started_at * 1000)


def test_a_benchmark_whose_end_moved_adds_no_second_point(mlflow_url: str):
    history, row = MlflowBenchmarks(mlflow_url), a_benchmark(42, **DONE, endpoint=EndpointName("moved"))
    page = history.record(row, MODEL, {"pass_at_1": 0.5}, {}, order=0).page
    history.record(replace(row, ended_at=1_700_000_200.0), MODEL, {"pass_at_1": 0.5}, {}, order=0)
    points = httpx.get(
        f"{mlflow_url}/api/2.0/mlflow/metrics/get-history", params={"run_id": page.rpartition("/")[2], "metric_key": "pass at 1"}
    ).json()["metrics"]
    assert len(points) == 1


def test_an_experiment_of_an_earlier_release_is_renamed(mlflow_url: str):
    api = f"{mlflow_url}/api/2.0/mlflow/experiments"
    old = httpx.post(f"{api}/create", json={"name": "seatrial-benchmarks/older"}).json()["experiment_id"]
    page = MlflowBenchmarks(mlflow_url).record(a_benchmark(43, **DONE, endpoint=EndpointName("older")), MODEL, {}, {}, order=0).page
    assert f"/experiments/{old}/" in page
    assert httpx.get(f"{api}/get", params={"experiment_id": old}).json()["experiment"]["name"] == "older/benchmarks"


def run_of(mlflow_url: str, page: str) -> dict[str, Any]:
    """Return a run as MLflow has it, by its page or its id."""
    found = httpx.get(f"{mlflow_url}/api/2.0/mlflow/runs/get", params={"run_id": page.rpartition("/")[2]})
    return dict(found.raise_for_status().json()["run"])


def test_an_absent_mlflow_is_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        history = MlflowBenchmarks(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(Transient, match="MLflow"):
            history.record(a_benchmark(), MODEL, {}, {}, order=0)
        with pytest.raises(Transient, match="MLflow"):
            history.fetch("mlflow-run:abc/rows.jsonl.gz", tmp_path / "rows")


def test_an_address_that_is_none_of_ours_is_a_fault(tmp_path: Path):
    with pytest.raises(Fault, match="s3://"):
        MlflowBenchmarks("http://127.0.0.1:9").fetch("s3://bucket/x", tmp_path / "rows")
