"""Benchmarks on the embedded stack with fake engines: by hand, killed half way, each night on what is served, told when it became worse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.benchmarks import Benchmark, BenchmarkState, Trigger
from core.ids import BenchmarkId, EndpointName
from core.versions import Decision
from tests.e2e.harness import FAKE_ENGINE, QUICK, Stack, kill, within
from tests.equipment.receiver import Receiver, receiving

pytestmark = pytest.mark.e2e
ENDPOINT = EndpointName("benched")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture(scope="module")
def stack(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    told = {"SEATRIAL_BENCHMARKS_WEBHOOK_URL": receiver.url, "SEATRIAL_BENCHMARKS_WEBHOOK_SECRET": "shared"}
    with Stack(tmp_path_factory.mktemp("home"), {**FAKE_ENGINE, **QUICK, **told}) as running:
        assert running.finish(running.submit(running.model("benched", seed=70, change=unhurried), ENDPOINT).id).state == "serving"
        yield running


def unhurried(folder: Path) -> None:
    skill(folder / "config.json", ttft_s=0.2)


def skill(config: Path, **fields: float) -> None:
    document = json.loads(config.read_text())
    config.chmod(0o644)
    config.write_text(json.dumps({**document, "seatrial_fake": {**document.get("seatrial_fake", {}), **fields}}))


def row(stack: Stack, benchmark: str) -> Benchmark:
    return stack.platform.records.benchmarks.get(BenchmarkId(benchmark))


def ended(stack: Stack, benchmark: str) -> Benchmark:
    within(240, lambda: row(stack, benchmark).ended, f"the end of {benchmark}", pause_s=0.5)
    return row(stack, benchmark)


def by_night(stack: Stack) -> Benchmark:
    """Start the scheduled deployment as its schedule does, and return the endpoint's benchmark at its end."""
    with stack.prefect() as prefect:
        nightly = prefect.get("/deployments/name/benchmark/nightly").raise_for_status().json()
        run = prefect.post(f"/deployments/{nightly['id']}/create_flow_run", json={}).raise_for_status().json()["id"]

    def found() -> Any:
        rows = stack.platform.records.benchmarks.find(endpoint=ENDPOINT, trigger=Trigger.SCHEDULE)
        return next((one.id for one in rows if one.flow_run == run), None)

    return ended(stack, within(120, found, "the scheduled run has begun", pause_s=0.5))


def test_the_gate_of_a_submission_is_a_benchmark_that_can_be_read(stack: Stack):
    submission = stack.platform.records.submissions.find(endpoint=ENDPOINT)[0]
    gate = stack.platform.records.benchmarks.find(submission=submission.id, trigger=Trigger.GATE)[0]
    assert f"seatrial bench show {gate.id}" in stack.cli("status", submission.id).stdout
    assert stack.cli("bench", "show", gate.id).returncode == 0


def test_a_benchmark_whose_run_is_killed_half_way_goes_on_where_it_stopped(stack: Stack):
    made = stack.cli("bench", ENDPOINT, "-n", "4", "--temperature", "0.2,0.8").stdout.strip()
    growing = stack.home / "benchmarks" / f"{made}.jsonl"
    within(120, lambda: growing.exists() and len(growing.read_bytes().splitlines()) > 40, "answers come")
    kill(*stack.flow_processes())
    done = ended(stack, made)
    assert (done.state, done.runs) == (BenchmarkState.DONE, 2)
    samples = stack.platform.answers.read(done)
    assert len(samples) == 48 * 4 * 2
    assert len({sample.seed for sample in samples}) == len(samples)
    assert stack.cli("bench", "show", made).returncode == 0


def test_the_schedule_shows_its_cron_and_its_parameters(stack: Stack):
    with stack.prefect() as prefect:
        nightly = prefect.get("/deployments/name/benchmark/nightly").json()
    assert nightly["schedules"][0]["schedule"]["cron"] == "0 3 * * *"
    assert nightly["parameters"]["request"]["suite"] == "harbour"
    assert nightly["parameters"]["request"]["trigger"] == "schedule"


def test_an_endpoint_that_became_worse_is_told_once(stack: Stack, receiver: Receiver):
    good = by_night(stack)
    assert (good.state, good.baseline) == (BenchmarkState.DONE, None)
    skill(stack.home / "weights/bundles" / good.version / "config.json", solves=0.5)
    kill(*stack.engine_processes())
    bad = by_night(stack)
    assert (bad.state, bad.baseline, bad.decision) == (BenchmarkState.DONE, good.id, Decision.FAIL)
    ((headers, body),) = receiver.got
    assert headers["X-Seatrial-Delivery"] == bad.id
    assert headers["X-Seatrial-Signature"].startswith("t=")
    assert json.loads(body)["endpoint"] == ENDPOINT
    asked = {"filter": {"event": {"name": ["seatrial.benchmark.regression"]}}}
    with stack.prefect() as prefect:
        events = within(60, lambda: prefect.post("/events/filter", json=asked).json()["events"], "the event", pause_s=0.5)
    assert [event["resource"]["prefect.resource.id"] for event in events] == [f"seatrial.endpoint.{ENDPOINT}"]
    compared = stack.cli("bench", "compare", bad.id, good.id, "--json")
    assert json.loads(compared.stdout)["found"]["decision"] == "fail"
