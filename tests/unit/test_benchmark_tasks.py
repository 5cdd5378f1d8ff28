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

from core.benchmarks import Benchmark, BenchmarkState, Form, Trigger
from core.endpoints import OnRegression
from core.engines import EnginePhase
from core.errors import Refused, Transient
from core.flow_runs import RunState, RunType
from core.ids import BenchmarkId, Digest, EndpointName, SubmissionId, VersionId
from core.reasons import Reason
from core.submissions import SubmissionState
from core.versions import Decision
from flows.benchmark import benchmark
from flows.study import study
from infra.entrypoints.deployments import nightly
from lifecycle.ending import close_gates
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
    pin_plan,
    record_in_mlflow,
    record_missing,
)
from tasks.gates import GateEnd, end_gate, gate_answers, gate_row, known_run
from tasks.recovery import recovery
from tasks.start import engine_spec
from tasks.study import StudyRequest
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.rows import open_rollout, put_benchmark, put_submission
from tests.equipment.samples import CANDIDATE, CHAT, STABLE, a_benchmark, a_plan, a_version

SCHEDULED: dict[str, Any] = {"samples": 8, "temperature": "0.8", "trigger": Trigger.SCHEDULE}


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        yield env


class AlarmDouble:
    """A webhook that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.away = False

    def tell(self, delivery: str, document: dict[str, Any]) -> None:
        if self.away:
            raise Transient("the webhook is away")
        self.told.append((delivery, document))


def with_alarm(env: BenchEnv) -> AlarmDouble:
    alarm = AlarmDouble()
    vars(env.here)["alarm"] = alarm
    return alarm


def drive(env: BenchEnv, row: Benchmark) -> Benchmark:
    """Go through the steps of one benchmark as the flow does, without Prefect."""
    pin_plan.fn(row.id)
    ask.fn(row.id, bring_up.fn(row.id))
    judge.fn(row.id)
    record_in_mlflow.fn(row.id)
    raise_alert.fn(row.id)
    conclude.fn(row.id)
    env.clock.wait(86_400)
    return env.records.benchmarks.get(row.id)


def scheduled(env: BenchEnv, **fields: Any) -> Benchmark:
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT, **(SCHEDULED | fields)))
    return drive(env, row)


def degraded(env: BenchEnv) -> Benchmark:
    """Two good runs, then a bad one."""
    env.benchmark_runner.rates[STABLE] = 0.8
    scheduled(env)
    scheduled(env)
    env.benchmark_runner.rates[STABLE] = 0.5
    return scheduled(env)


def audited(env: BenchEnv, row: Benchmark) -> list[str]:
    return [entry.action for entry in env.records.audit.find(subject=row.id)]


def test_a_run_by_hand_ends_with_numbers_rows_and_a_point_on_the_curve(env: BenchEnv):
    env.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT, samples=2, temperature="0.2,0.8"))
    ended = drive(env, row)
    assert (ended.state, ended.version, ended.endpoint, ended.progress) == (BenchmarkState.DONE, STABLE, CHAT, 1.0)
    assert ended.planned
    assert {"pass_at_1", "low", "high", "pass_at_1/t0.2-f0-p1-m512", "pass_at_1/t0.8-f0-p1-m512"} <= set(ended.numbers)
    assert len(env.answers.read(ended)) == 160
    assert list(env.history.points[CHAT, "harbour"]) == [0]
    assert ended.rows_uri
    assert ended.run_url


def test_a_target_is_an_endpoint_a_version_or_everything_that_is_served(env: BenchEnv):
    other = EndpointName("code")
    env.serve(STABLE)
    env.serve(CANDIDATE, other)
    env.records.endpoints.ensure(EndpointName("empty"), 1.0)
    entered = enter_benchmarks(BenchmarkRequest())
    assert {(row.endpoint, row.version) for row in entered} == {(CHAT, STABLE), (other, CANDIDATE)}
    (by_prefix,) = enter_benchmarks(BenchmarkRequest(target=CANDIDATE[:10]))
    assert (by_prefix.endpoint, by_prefix.version) == (None, CANDIDATE)
    with pytest.raises(Refused, match="empty"):
        enter_benchmarks(BenchmarkRequest(target="empty"))


def test_a_version_that_nobody_serves_is_started_dark_and_stopped_afterwards(env: BenchEnv):
    env.serve(STABLE)
    env.serve(CANDIDATE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=STABLE[:12]))
    assert env.engines.state(STABLE).phase is EnginePhase.ABSENT
    drive(env, row)
    assert env.benchmark_runner.asked[0][1] == STABLE
    assert [version for version, _ in env.engines.stops] == [STABLE]


def test_an_engine_that_serves_is_left_running(env: BenchEnv):
    env.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    drive(env, row)
    assert env.engines.stops == []


def test_an_engine_that_sleeps_and_was_made_under_other_settings_is_woken_as_it_is(env: BenchEnv):
    env.serve(STABLE)
    made = replace(engine_spec(env.here, env.records.versions.get(STABLE)), memory_bytes=7)
    env.engines.apply(made)
    vars(env.here).update(activator=env.engines)
    env.engines.sleep(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    assert drive(env, row).state is BenchmarkState.DONE
    assert env.engines.woken == [STABLE]


def test_a_model_that_does_not_start_is_a_failed_run_and_no_regression(env: BenchEnv):
    env.serve(STABLE)
    env.engines.fail(STABLE, "out of memory")
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT, **SCHEDULED))
    with pytest.raises(Refused, match="out of memory") as caught:
        bring_up.fn(row.id)
    end_failed(row.id, caught.value)
    ended = env.records.benchmarks.get(row.id)
    assert (ended.state, ended.decision) == (BenchmarkState.FAILED, None)
    assert "out of memory" in ended.reason
    assert audited(env, row) == ["benchmark failed"]


def test_answers_that_are_there_are_not_asked_for_again(env: BenchEnv):
    env.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    pin_plan.fn(row.id)
    address = bring_up.fn(row.id)
    ask.fn(row.id, address)
    ask.fn(row.id, address)
    assert len(env.benchmark_runner.asked) == 1


def test_a_cancelled_benchmark_stops_asking(env: BenchEnv):
    env.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    pin_plan.fn(row.id)
    put_benchmark(env.records, row.id, 1.0, state=BenchmarkState.FAILED, reason="cancelled by ann")
    with pytest.raises(Refused, match="cancelled"):
        ask.fn(row.id, "http://engine")
    assert env.records.benchmarks.get(row.id).reason == "cancelled by ann"


def test_the_first_run_is_pinned_as_the_baseline_whatever_comes_between(env: BenchEnv):
    env.serve(STABLE)
    first, second, third = (scheduled(env) for _ in range(3))
    assert first.baseline is None
    assert first.decision is Decision.INCONCLUSIVE
    assert (second.baseline, third.baseline) == (first.id, first.id)
    assert third.decision is not Decision.FAIL


def test_a_run_of_another_plan_is_no_baseline(env: BenchEnv):
    env.serve(STABLE)
    scheduled(env)
    assert scheduled(env, samples=4).baseline is None


def test_a_candidate_is_held_against_what_its_endpoint_serves(env: BenchEnv):
    env.serve(STABLE)
    stable = scheduled(env)
    row = replace(stable, id=BenchmarkId("bm-new"), version=CANDIDATE, started_at=env.clock.now())
    found = baseline_of(env.records, env.here.answers, row)
    assert found is not None
    assert found.id == stable.id


def test_a_baseline_whose_rows_were_deleted_is_passed_over(env: BenchEnv):
    env.serve(STABLE)
    first = scheduled(env)
    env.answers.packed(first.id).unlink()
    put_benchmark(env.records, first.id, 1.0, rows_uri="fake:gone")
    assert scheduled(env).baseline is None


def test_a_regression_is_told_once_with_numbers_and_without_text(env: BenchEnv):
    env.serve(STABLE)
    alarm = with_alarm(env)
    bad = degraded(env)
    assert bad.decision is Decision.FAIL
    ((delivery, document),) = alarm.told
    assert delivery == bad.id
    assert (document["event"], document["endpoint"], document["action"]) == ("seatrial.benchmark.regression", CHAT, "alert")
    assert document["difference"] < -0.2
    assert "return 1" not in str(document)
    raise_alert.fn(bad.id)
    assert len(alarm.told) == 1
    assert audited(env, bad) == ["regression told", "regression"]


def test_the_same_drop_found_by_hand_tells_nobody(env: BenchEnv):
    env.serve(STABLE)
    alarm = with_alarm(env)
    env.benchmark_runner.rates[STABLE] = 0.8
    scheduled(env, trigger=Trigger.HAND)
    env.benchmark_runner.rates[STABLE] = 0.4
    assert scheduled(env, trigger=Trigger.HAND).decision is Decision.FAIL
    assert alarm.told == []


def test_a_webhook_that_is_away_keeps_no_regression_secret(env: BenchEnv):
    env.serve(STABLE)
    with_alarm(env).away = True
    bad = degraded(env)
    assert bad.state is BenchmarkState.DONE
    assert audited(env, bad) == ["regression not told", "regression"]


def test_an_endpoint_that_says_so_goes_back_to_its_previous_version(env: BenchEnv):
    env.serve(CANDIDATE)
    env.serve(STABLE, on_regression=OnRegression.ROLLBACK)
    alarm = with_alarm(env)
    bad = degraded(env)
    document = alarm.told[0][1]
    assert document["action"] == "rollback"
    assert document["rollback"]["to"] == CANDIDATE
    assert env.prefect.submitted == [document["rollback"]["submission"]]
    raise_alert.fn(bad.id)
    assert len(env.prefect.submitted) == 1


@pytest.mark.parametrize("hindrance", ["a rollout is on its way", "the version before regressed too", "no earlier version"])
def test_an_endpoint_that_cannot_go_back_says_why(env: BenchEnv, hindrance: str):
    if hindrance != "no earlier version":
        env.serve(CANDIDATE)
    env.serve(STABLE, on_regression=OnRegression.ROLLBACK)
    if hindrance == "a rollout is on its way":
        open_rollout(env.records, id="ro-open", submission="sub-open", candidate=VersionId("c" * 64))
    if hindrance == "the version before regressed too":
        failed = a_benchmark(version=CANDIDATE, trigger=Trigger.SCHEDULE, state=BenchmarkState.DONE, decision=Decision.FAIL)
        env.records.benchmarks.create(failed)
    alarm = with_alarm(env)
    degraded(env)
    document = alarm.told[0][1]
    assert document["action"] == "alert"
    assert hindrance in document["rollback"]["not_rolled_back"]
    assert env.prefect.submitted == []


def test_runs_that_were_alarms_do_not_count_as_noise(env: BenchEnv):
    env.serve(STABLE)
    first = degraded(env)
    again = scheduled(env)
    assert (first.decision, again.decision) == (Decision.FAIL, Decision.FAIL)


def test_an_abandoned_benchmark_gets_the_next_run_and_after_too_many_its_end(env: BenchEnv):
    env.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    for attempt in range(env.here.settings.most_runs):
        (found,) = recovery(env.here).abandoned_benchmarks()
        assert recovery(env.here).resume_benchmark(found)
        assert env.prefect.started[-1] == (row.id, attempt)
    assert recovery(env.here).resume_benchmark(env.records.benchmarks.get(row.id))
    assert env.records.benchmarks.get(row.id).state is BenchmarkState.FAILED


def test_a_benchmark_that_is_driven_or_waits_for_a_runner_is_left_alone(env: BenchEnv):
    env.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    put_benchmark(env.records, row.id, env.clock.now(), lease_until=env.clock.now() + 10)
    assert recovery(env.here).abandoned_benchmarks() == ()
    env.clock.wait(11)
    waiting = put_benchmark(env.records, row.id, env.clock.now(), flow_run="run-1")
    env.prefect.states["run-1"] = RunState(RunType.SCHEDULED, "Scheduled")
    assert not recovery(env.here).resume_benchmark(waiting)
    env.prefect.states["run-1"] = RunState(RunType.RUNNING, "Running")
    assert not recovery(env.here).resume_benchmark(waiting), "it has begun and has not claimed the row yet"
    env.prefect.states["run-1"] = RunState(RunType.CANCELLED, "Cancelled")
    recovery(env.here).resume_benchmark(waiting)
    assert "cancelled on Prefect's page" in env.records.benchmarks.get(row.id).reason


def test_what_mlflow_was_away_for_is_entered_later(env: BenchEnv):
    env.serve(STABLE)
    (row,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    pin_plan.fn(row.id)
    ask.fn(row.id, bring_up.fn(row.id))
    judge.fn(row.id)
    env.history.away = True
    with pytest.raises(Transient):
        record_in_mlflow.fn(row.id)
    conclude.fn(row.id)
    env.history.away = False
    assert record_missing(env.records, env.here.answers, env.clock) == (row.id,)
    assert record_missing(env.records, env.here.answers, env.clock) == ()
    assert env.records.benchmarks.get(row.id).rows_uri


def test_the_flow_runs_on_every_endpoint_and_leaves_a_table_and_a_picture(env: BenchEnv):
    env.serve(STABLE)
    env.serve(CANDIDATE, EndpointName("code"))
    env.engines.fail(CANDIDATE, "out of memory")
    ended: State[Any] = benchmark(BenchmarkRequest(**nightly(env.here.settings.benchmarks)), return_state=True)
    rows = {row.endpoint: row for row in env.records.benchmarks.find()}
    assert ended.message == "1 of 2 benchmarks ran"
    assert (rows[CHAT].state, rows[EndpointName("code")].state) == (BenchmarkState.DONE, BenchmarkState.FAILED)
    assert rows[CHAT].lease_until == 0.0
    assert rows[CHAT].flow_run == str(ended.state_details.flow_run_id)
    found = httpx.post(f"{PREFECT_API_URL.value()}/artifacts/filter", json={}).json()
    kinds = {artifact["key"]: artifact for artifact in found}
    assert {"endpoint-chat-benchmark", "endpoint-chat-benchmark-history"} <= set(kinds)
    assert kinds["endpoint-chat-benchmark-history"]["data"].startswith("data:image/png;base64,")


def test_a_flow_run_of_a_benchmark_that_has_ended_does_nothing(env: BenchEnv):
    env.serve(STABLE)
    env.records.benchmarks.create(a_benchmark(state=BenchmarkState.DONE))
    ended: State[Any] = benchmark(BenchmarkRequest(benchmark="bm-1"), return_state=True)
    assert ended.is_completed()
    assert env.benchmark_runner.asked == []


class SamplingStudyDouble:
    """Compares nothing; `fault` is raised instead."""

    fault: Refused | None = None

    def compare(self, samples: Any, _plan: Any, *, policies: Any, best_of: Any, ranker: Any) -> dict[str, Any]:
        if self.fault:
            raise self.fault
        return {"rows": [{"policy": name, "best_of": best_of[-1], "answers": len(samples)} for name in policies], "advice": f"{ranker}"}


@pytest.mark.parametrize("fault", [None, Refused("too few answers", reason=Reason.TOO_FEW_SAMPLES)], ids=["done", "failed"])
def test_a_study_stands_with_its_benchmark_whether_it_could_be_done_or_not(env: BenchEnv, fault: Refused | None):
    env.serve(STABLE)
    row = scheduled(env)
    double = SamplingStudyDouble()
    double.fault = fault
    vars(env.here)["sampling_study"] = double
    ended: State[Any] = study(StudyRequest(benchmark=row.id, study="st-1", policies=["random"], best_of=[1, 4]), return_state=True)
    document = env.records.benchmarks.get(row.id).studies["st-1"]
    assert ended.is_failed() == (fault is not None)
    assert document["state"] == ("failed" if fault else "done")
    assert document["asked"]["best_of"] == [1, 4]
    assert document["rows"] == ([] if fault else [{"policy": "random", "best_of": 4, "answers": 320}])


def test_a_gate_makes_a_benchmark_whose_history_begins_there(env: BenchEnv):
    env.serve(STABLE)
    submission = SubmissionId("sub-1")
    plan = env.benchmark_runner.pin(a_plan(suite_digest=Digest("")), Form.COMPLETION)
    row = gate_row(env.records, env.clock, submission, CHAT, STABLE, plan)
    assert gate_row(env.records, env.clock, submission, CHAT, STABLE, plan) == row
    samples = gate_answers(env.here.answers, env.here.benchmark_runner, row, "http://engine", lambda _part, _said: None)
    assert gate_answers(env.here.answers, env.here.benchmark_runner, row, "http://engine", lambda _part, _said: None) == samples
    assert len(env.benchmark_runner.asked) == 1
    ended = end_gate(env.records, env.clock, env.here.answers, row, samples, GateEnd(Decision.PASS, "as good"))
    assert (ended.trigger, ended.state, ended.decision, ended.submission) == (Trigger.GATE, BenchmarkState.DONE, Decision.PASS, submission)
    assert known_run(env.records, env.here.answers, STABLE, plan) == (env.records.benchmarks.get(row.id), samples)
    assert known_run(env.records, env.here.answers, CANDIDATE, plan) is None


def test_a_submission_that_ends_takes_its_running_gate_along(env: BenchEnv):
    env.serve(STABLE)
    (submission,) = env.records.submissions.find()
    row = gate_row(env.records, env.clock, submission.id, CHAT, STABLE, a_plan())
    close_gates(env.records, env.clock, submission, Refused("the benchmark was cancelled", reason=Reason.CANCELLED))
    assert (ended := env.records.benchmarks.get(row.id)).state is BenchmarkState.FAILED
    assert ended.reason == "the benchmark was cancelled"


def test_a_gate_whose_submission_has_ended_is_closed_by_reconcile(env: BenchEnv):
    env.serve(STABLE)
    (submission,) = env.records.submissions.find()
    open_row = gate_row(env.records, env.clock, submission.id, CHAT, STABLE, a_plan())
    assert recovery(env.here).abandoned_benchmarks() == ()
    put_submission(env.records, submission.id, 1.0, state=SubmissionState.REFUSED)
    (found,) = recovery(env.here).abandoned_benchmarks()
    recovery(env.here).resume_benchmark(found)
    assert env.records.benchmarks.get(open_row.id).state is BenchmarkState.FAILED


def test_a_chat_model_is_compared_with_the_base_model_that_serves_each_in_its_own_form(env: BenchEnv):
    env.serve(STABLE)
    (base,) = enter_benchmarks(BenchmarkRequest(target=CHAT))
    stable = drive(env, base)
    env.records.versions.put(a_version(id=CANDIDATE, commit="2" * 40, chat_template=Digest("7" * 64)))
    (asked,) = enter_benchmarks(BenchmarkRequest(target=CANDIDATE))
    ended = replace(drive(env, asked), endpoint=CHAT)
    found = baseline_of(env.records, env.here.answers, ended)
    assert (stable.plan.form, ended.plan.form) == (Form.COMPLETION, Form.CHAT)
    assert found is not None
    assert found.id == stable.id
