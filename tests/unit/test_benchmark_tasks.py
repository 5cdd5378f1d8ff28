"""The tasks of a benchmark on doubles, and the flow on a real Prefect: what is asked, compared, told, resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from core.benchmarks import Benchmark, BenchmarkState, Trigger
from core.endpoints import OnRegression
from core.engines import EnginePhase
from core.errors import Refused, Transient
from core.flow_runs import RunState
from core.ids import BenchmarkId, Digest, EndpointName, SubmissionId, VersionId
from core.submissions import SubmissionState
from core.versions import Decision
from flows.benchmark import benchmark
from flows.study import study
from infra.entrypoints.deployments import nightly
from tasks.alerts import raise_alert
from tasks.baselines import baseline_of
from tasks.benchmarks import (
    BenchmarkRequest,
    ask,
    bring_up,
    conclude,
    end_failed,
    enter_benchmarks,
    judge,
    mirror,
    mirror_missing,
    pin_plan,
)
from tasks.finish import close_gates
from tasks.gates import GateEnd, end_gate, gate_answers, gate_row, known_run
from tasks.recovery import recovery
from tasks.start import engine_spec
from tasks.study import StudyRequest
from tests.equipment.bench_yard import BenchYard, in_yard
from tests.equipment.rows import open_rollout, put_benchmark, put_submission
from tests.equipment.samples import CANDIDATE, CHAT, STABLE, a_benchmark, a_plan

SCHEDULED: dict[str, Any] = {"samples": 8, "temperature": "0.8", "trigger": Trigger.SCHEDULE}


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchYard]:
    with in_yard(tmp_path, monkeypatch) as yard:
        yield yard


class AlarmDouble:
    """A webhook that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.away = False

    def tell(self, delivery: str, document: dict[str, Any]) -> None:
        if self.away:
            raise Transient("the webhook is away")
        self.told.append((delivery, document))


def with_alarm(yard: BenchYard) -> AlarmDouble:
    alarm = AlarmDouble()
    vars(yard.here)["alarm"] = alarm
    return alarm


def drive(yard: BenchYard, row: Benchmark) -> Benchmark:
    """Go through the steps of one benchmark as the flow does, without Prefect."""
    pin_plan.fn(row.id)
    ask.fn(row.id, bring_up.fn(row.id))
    judge.fn(row.id)
    mirror.fn(row.id)
    raise_alert.fn(row.id)
    conclude.fn(row.id)
    yard.clock.wait(86_400)
    return yard.records.benchmarks.get(row.id)


def scheduled(yard: BenchYard, **fields: Any) -> Benchmark:
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT, **(SCHEDULED | fields)))
    return drive(yard, row)


def degraded(yard: BenchYard) -> Benchmark:
    """Two good runs, then a bad one."""
    yard.benchmark_runner.rates[STABLE] = 0.8
    scheduled(yard)
    scheduled(yard)
    yard.benchmark_runner.rates[STABLE] = 0.5
    return scheduled(yard)


def audited(yard: BenchYard, row: Benchmark) -> list[str]:
    return [entry.action for entry in yard.records.audit.find(subject=row.id)]


def test_a_run_by_hand_ends_with_numbers_rows_and_a_point_on_the_curve(yard: BenchYard):
    yard.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT, samples=2, temperature="0.2,0.8"))
    ended = drive(yard, row)
    assert (ended.state, ended.version, ended.endpoint, ended.progress) == (BenchmarkState.DONE, STABLE, CHAT, 1.0)
    assert ended.planned
    assert {"pass_at_1", "low", "high", "pass_at_1/t0.2-f0-p1-m512", "pass_at_1/t0.8-f0-p1-m512"} <= set(ended.numbers)
    assert len(yard.answers.read(ended)) == 160
    assert list(yard.history.points[CHAT, "harbour"]) == [0]
    assert ended.rows_uri
    assert ended.run_url


def test_a_target_is_an_endpoint_a_version_or_everything_that_is_served(yard: BenchYard):
    other = EndpointName("code")
    yard.serve(STABLE)
    yard.serve(CANDIDATE, other)
    yard.records.endpoints.ensure(EndpointName("empty"), 1.0)
    entered = enter_benchmarks(BenchmarkRequest())
    assert {(row.endpoint, row.version) for row in entered} == {(CHAT, STABLE), (other, CANDIDATE)}
    (by_prefix,) = enter_benchmarks(BenchmarkRequest(target=CANDIDATE[:10]))
    assert (by_prefix.endpoint, by_prefix.version) == (None, CANDIDATE)
    with pytest.raises(Refused, match="empty"):
        enter_benchmarks(BenchmarkRequest(target="empty"))


def test_a_version_that_nobody_serves_is_started_dark_and_stopped_afterwards(yard: BenchYard):
    yard.serve(STABLE)
    yard.serve(CANDIDATE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=STABLE[:12]))
    assert yard.engines.state(STABLE).phase is EnginePhase.ABSENT
    drive(yard, row)
    assert yard.benchmark_runner.asked[0][1] == STABLE
    assert [version for version, _ in yard.engines.stops] == [STABLE]


def test_an_engine_that_serves_is_left_running(yard: BenchYard):
    yard.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    drive(yard, row)
    assert yard.engines.stops == []


def test_an_engine_that_sleeps_and_was_made_under_other_settings_is_woken_as_it_is(yard: BenchYard):
    yard.serve(STABLE)
    made = replace(engine_spec(yard.here, yard.records.versions.get(STABLE)), memory_bytes=7)
    yard.engines.apply(made)
    vars(yard.here).update(activator=yard.engines)
    yard.engines.sleep(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    assert drive(yard, row).state is BenchmarkState.DONE
    assert yard.engines.woken == [STABLE]


def test_a_model_that_does_not_start_is_a_failed_run_and_no_regression(yard: BenchYard):
    yard.serve(STABLE)
    yard.engines.fail(STABLE, "out of memory")
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT, **SCHEDULED))
    with pytest.raises(Refused, match="out of memory") as caught:
        bring_up.fn(row.id)
    end_failed(row.id, caught.value)
    ended = yard.records.benchmarks.get(row.id)
    assert (ended.state, ended.decision) == (BenchmarkState.FAILED, None)
    assert "out of memory" in ended.reason
    assert audited(yard, row) == ["benchmark failed"]


def test_answers_that_are_there_are_not_asked_for_again(yard: BenchYard):
    yard.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    pin_plan.fn(row.id)
    address = bring_up.fn(row.id)
    ask.fn(row.id, address)
    ask.fn(row.id, address)
    assert len(yard.benchmark_runner.asked) == 1


def test_a_cancelled_benchmark_stops_asking(yard: BenchYard):
    yard.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    pin_plan.fn(row.id)
    put_benchmark(yard.records, row.id, 1.0, state=BenchmarkState.FAILED, reason="cancelled by ann")
    with pytest.raises(Refused, match="cancelled"):
        ask.fn(row.id, "http://engine")
    assert yard.records.benchmarks.get(row.id).reason == "cancelled by ann"


def test_the_first_run_is_pinned_as_the_baseline_whatever_comes_between(yard: BenchYard):
    yard.serve(STABLE)
    first, second, third = (scheduled(yard) for _ in range(3))
    assert first.baseline is None
    assert first.decision is Decision.INCONCLUSIVE
    assert (second.baseline, third.baseline) == (first.id, first.id)
    assert third.decision is not Decision.FAIL


def test_a_run_of_another_plan_is_no_baseline(yard: BenchYard):
    yard.serve(STABLE)
    scheduled(yard)
    assert scheduled(yard, samples=4).baseline is None


def test_a_candidate_is_held_against_what_its_endpoint_serves(yard: BenchYard):
    yard.serve(STABLE)
    stable = scheduled(yard)
    row = replace(stable, id=BenchmarkId("bm-new"), version=CANDIDATE, started_at=yard.clock.now())
    found = baseline_of(yard.here, row)
    assert found is not None
    assert found.id == stable.id


def test_a_baseline_whose_rows_were_deleted_is_passed_over(yard: BenchYard):
    yard.serve(STABLE)
    first = scheduled(yard)
    yard.answers.packed(first.id).unlink()
    put_benchmark(yard.records, first.id, 1.0, rows_uri="fake:gone")
    assert scheduled(yard).baseline is None


def test_a_regression_is_told_once_with_numbers_and_without_text(yard: BenchYard):
    yard.serve(STABLE)
    alarm = with_alarm(yard)
    bad = degraded(yard)
    assert bad.decision is Decision.FAIL
    ((delivery, document),) = alarm.told
    assert delivery == bad.id
    assert (document["event"], document["endpoint"], document["action"]) == ("seatrial.benchmark.regression", CHAT, "alert")
    assert document["difference"] < -0.2
    assert "return 1" not in str(document)
    raise_alert.fn(bad.id)
    assert len(alarm.told) == 1
    assert audited(yard, bad) == ["regression told", "regression"]


def test_the_same_drop_found_by_hand_tells_nobody(yard: BenchYard):
    yard.serve(STABLE)
    alarm = with_alarm(yard)
    yard.benchmark_runner.rates[STABLE] = 0.8
    scheduled(yard, trigger=Trigger.HAND)
    yard.benchmark_runner.rates[STABLE] = 0.4
    assert scheduled(yard, trigger=Trigger.HAND).decision is Decision.FAIL
    assert alarm.told == []


def test_a_webhook_that_is_away_keeps_no_regression_secret(yard: BenchYard):
    yard.serve(STABLE)
    with_alarm(yard).away = True
    bad = degraded(yard)
    assert bad.state is BenchmarkState.DONE
    assert audited(yard, bad) == ["regression not told", "regression"]


def test_an_endpoint_that_says_so_goes_back_to_its_previous_version(yard: BenchYard):
    yard.serve(CANDIDATE)
    yard.serve(STABLE, on_regression=OnRegression.ROLLBACK)
    alarm = with_alarm(yard)
    bad = degraded(yard)
    document = alarm.told[0][1]
    assert document["action"] == "rollback"
    assert document["rollback"]["to"] == CANDIDATE
    assert yard.prefect.submitted == [document["rollback"]["submission"]]
    raise_alert.fn(bad.id)
    assert len(yard.prefect.submitted) == 1


@pytest.mark.parametrize("hindrance", ["a rollout is on its way", "the version before regressed too", "no earlier version"])
def test_an_endpoint_that_cannot_go_back_says_why(yard: BenchYard, hindrance: str):
    if hindrance != "no earlier version":
        yard.serve(CANDIDATE)
    yard.serve(STABLE, on_regression=OnRegression.ROLLBACK)
    if hindrance == "a rollout is on its way":
        open_rollout(yard.records, id="ro-open", submission="sub-open", candidate=VersionId("c" * 64))
    if hindrance == "the version before regressed too":
        failed = a_benchmark(version=CANDIDATE, trigger=Trigger.SCHEDULE, state=BenchmarkState.DONE, decision=Decision.FAIL)
        yard.records.benchmarks.create(failed)
    alarm = with_alarm(yard)
    degraded(yard)
    document = alarm.told[0][1]
    assert document["action"] == "alert"
    assert hindrance in document["rollback"]["not_rolled_back"]
    assert yard.prefect.submitted == []


def test_runs_that_were_alarms_do_not_count_as_noise(yard: BenchYard):
    yard.serve(STABLE)
    first = degraded(yard)
    again = scheduled(yard)
    assert (first.decision, again.decision) == (Decision.FAIL, Decision.FAIL)


def test_an_abandoned_benchmark_gets_the_next_run_and_after_too_many_its_end(yard: BenchYard):
    yard.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    for attempt in range(yard.here.settings.most_runs):
        (found,) = recovery(yard.here).abandoned_benchmarks()
        assert recovery(yard.here).resume_benchmark(found)
        assert yard.prefect.started[-1] == (row.id, attempt)
    assert recovery(yard.here).resume_benchmark(yard.records.benchmarks.get(row.id))
    assert yard.records.benchmarks.get(row.id).state is BenchmarkState.FAILED


def test_a_benchmark_that_is_driven_or_waits_for_a_runner_is_left_alone(yard: BenchYard):
    yard.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    put_benchmark(yard.records, row.id, yard.clock.now(), lease_until=yard.clock.now() + 10)
    assert recovery(yard.here).abandoned_benchmarks() == ()
    yard.clock.wait(11)
    waiting = put_benchmark(yard.records, row.id, yard.clock.now(), flow_run="run-1")
    yard.prefect.states["run-1"] = RunState("SCHEDULED", "Scheduled")
    assert not recovery(yard.here).resume_benchmark(waiting)
    yard.prefect.states["run-1"] = RunState("RUNNING", "Running")
    assert not recovery(yard.here).resume_benchmark(waiting), "it has begun and has not claimed the row yet"
    yard.prefect.states["run-1"] = RunState("CANCELLED", "Cancelled")
    recovery(yard.here).resume_benchmark(waiting)
    assert "cancelled on Prefect's page" in yard.records.benchmarks.get(row.id).reason


def test_what_mlflow_was_away_for_is_entered_later(yard: BenchYard):
    yard.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    pin_plan.fn(row.id)
    ask.fn(row.id, bring_up.fn(row.id))
    judge.fn(row.id)
    yard.history.away = True
    with pytest.raises(Transient):
        mirror.fn(row.id)
    conclude.fn(row.id)
    yard.history.away = False
    assert mirror_missing(yard.here) == (row.id,)
    assert mirror_missing(yard.here) == ()
    assert yard.records.benchmarks.get(row.id).rows_uri


def test_the_flow_runs_on_every_endpoint_and_leaves_a_table_and_a_picture(yard: BenchYard):
    yard.serve(STABLE)
    yard.serve(CANDIDATE, EndpointName("code"))
    yard.engines.fail(CANDIDATE, "out of memory")
    ended: State[Any] = benchmark(BenchmarkRequest(**nightly(yard.here.settings.benchmarks)), return_state=True)
    rows = {row.endpoint: row for row in yard.records.benchmarks.find()}
    assert ended.message == "1 of 2 benchmarks ran"
    assert (rows[CHAT].state, rows[EndpointName("code")].state) == (BenchmarkState.DONE, BenchmarkState.FAILED)
    assert rows[CHAT].lease_until == 0.0
    assert rows[CHAT].flow_run == str(ended.state_details.flow_run_id)
    found = httpx.post(f"{PREFECT_API_URL.value()}/artifacts/filter", json={}).json()
    kinds = {artifact["key"]: artifact for artifact in found}
    assert {"endpoint-chat-benchmark", "endpoint-chat-benchmark-history"} <= set(kinds)
    assert kinds["endpoint-chat-benchmark-history"]["data"].startswith("data:image/png;base64,")


def test_a_flow_run_of_a_benchmark_that_has_ended_does_nothing(yard: BenchYard):
    yard.serve(STABLE)
    yard.records.benchmarks.create(a_benchmark(state=BenchmarkState.DONE))
    ended: State[Any] = benchmark(BenchmarkRequest(benchmark="bm-1"), return_state=True)
    assert ended.is_completed()
    assert yard.benchmark_runner.asked == []


class SamplingStudyDouble:
    """Compares nothing; `fault` is raised instead."""

    fault: Refused | None = None

    def compare(self, samples: Any, _plan: Any, *, policies: Any, best_of: Any, ranker: Any) -> dict[str, Any]:
        if self.fault:
            raise self.fault
        return {"rows": [{"policy": name, "best_of": best_of[-1], "answers": len(samples)} for name in policies], "advice": f"{ranker}"}


@pytest.mark.parametrize("fault", [None, Refused("too few answers", reason="too_few_samples")], ids=["done", "failed"])
def test_a_study_stands_with_its_benchmark_whether_it_could_be_done_or_not(yard: BenchYard, fault: Refused | None):
    yard.serve(STABLE)
    row = scheduled(yard)
    double = SamplingStudyDouble()
    double.fault = fault
    vars(yard.here)["sampling_study"] = double
    ended: State[Any] = study(StudyRequest(benchmark=row.id, study="st-1", policies=["random"], best_of=[1, 4]), return_state=True)
    document = yard.records.benchmarks.get(row.id).studies["st-1"]
    assert ended.is_failed() == (fault is not None)
    assert document["state"] == ("failed" if fault else "done")
    assert document["asked"]["best_of"] == [1, 4]
    assert document["rows"] == ([] if fault else [{"policy": "random", "best_of": 4, "answers": 320}])


def test_a_gate_makes_a_benchmark_whose_history_begins_there(yard: BenchYard):
    yard.serve(STABLE)
    submission = SubmissionId("sub-1")
    plan = yard.benchmark_runner.pin(a_plan(suite_digest=Digest("")))
    row = gate_row(yard.here, submission, CHAT, STABLE, plan)
    assert gate_row(yard.here, submission, CHAT, STABLE, plan) == row
    samples = gate_answers(yard.here, row, "http://engine", lambda _part, _said: None)
    assert gate_answers(yard.here, row, "http://engine", lambda _part, _said: None) == samples
    assert len(yard.benchmark_runner.asked) == 1
    ended = end_gate(yard.here, row, samples, GateEnd(Decision.PASS, "as good"))
    assert (ended.trigger, ended.state, ended.decision, ended.submission) == (Trigger.GATE, BenchmarkState.DONE, Decision.PASS, submission)
    assert known_run(yard.here, STABLE, plan) == (yard.records.benchmarks.get(row.id), samples)
    assert known_run(yard.here, CANDIDATE, plan) is None


def test_a_submission_that_ends_takes_its_running_gate_along(yard: BenchYard):
    yard.serve(STABLE)
    (submission,) = yard.records.submissions.find()
    row = gate_row(yard.here, submission.id, CHAT, STABLE, a_plan())
    close_gates(yard.here, submission, Refused("the benchmark was cancelled", reason="cancelled"))
    assert (ended := yard.records.benchmarks.get(row.id)).state is BenchmarkState.FAILED
    assert ended.reason == "the benchmark was cancelled"


def test_a_gate_whose_submission_has_ended_is_closed_by_reconcile(yard: BenchYard):
    yard.serve(STABLE)
    (submission,) = yard.records.submissions.find()
    open_row = gate_row(yard.here, submission.id, CHAT, STABLE, a_plan())
    assert recovery(yard.here).abandoned_benchmarks() == ()
    put_submission(yard.records, submission.id, 1.0, state=SubmissionState.REFUSED)
    (found,) = recovery(yard.here).abandoned_benchmarks()
    recovery(yard.here).resume_benchmark(found)
    assert yard.records.benchmarks.get(open_row.id).state is BenchmarkState.FAILED
