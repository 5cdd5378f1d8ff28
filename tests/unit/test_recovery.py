"""A flow run that is only late is never called crashed, and one that starts too late changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.errors import Conflict
from core.flow_runs import RunState, RunType
from core.ids import SubmissionId
from core.services import RunnerBeat
from core.submissions import SubmissionState
from lifecycle.submissions import claim
from tasks.enter import DeployRequest, enter, held
from tasks.recovery import recovery
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.rows import put_submission
from tests.equipment.samples import a_request

RUN = "run-1"
HOUR_S = 3600.0


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        yield env


def submitted(env: BenchEnv, run: str, state: SubmissionState = SubmissionState.QUEUED) -> SubmissionId:
    """Enter a submission whose run in Prefect is in state `run` since now."""
    row = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
    put_submission(env.records, row.id, env.clock.now(), state=state, flow_run=RUN, runs=1)
    env.prefect.states[RUN] = RunState(RunType(run), run.title(), at=env.clock.now())
    return row.id


def beat(env: BenchEnv, started: float) -> None:
    env.records.runners.beat(RunnerBeat("here", 1, started, env.clock.now(), 10, full=True))


def resumed(env: BenchEnv, identity: SubmissionId) -> bool:
    return recovery(env.here).resume_submission(env.records.submissions.get(identity))


def test_a_scheduled_run_behind_a_runner_without_a_free_slot_waits_for_an_hour(env: BenchEnv) -> None:
    begun = env.clock.now()
    identity = submitted(env, "SCHEDULED")
    env.clock.wait(HOUR_S)
    beat(env, begun)
    assert not resumed(env, identity)
    assert env.prefect.crashed == []


def test_a_run_that_the_living_runner_started_has_more_time_than_a_busy_machine_needs(env: BenchEnv) -> None:
    begun = env.clock.now()
    identity = submitted(env, "PENDING")
    env.clock.wait(200)
    beat(env, begun)
    assert not resumed(env, identity)
    env.clock.wait(300)
    beat(env, begun)
    assert resumed(env, identity)


def test_a_run_that_continues_a_submission_is_not_called_crashed_before_it_claims(env: BenchEnv) -> None:
    identity = submitted(env, "CRASHED")
    claim(env.records, env.clock, SubmissionId(identity), RUN, "first", 1.0)
    env.clock.wait(HOUR_S)
    beat(env, env.clock.now())
    assert resumed(env, identity)
    (continued,) = env.prefect.submitted
    run = str(env.records.submissions.get(identity).flow_run)
    env.prefect.states[run] = RunState(RunType.RUNNING, "Running", at=env.clock.now())
    env.clock.wait(10)
    assert not recovery(env.here).left_alone(env.clock.now())
    assert not resumed(env, identity)
    assert (env.prefect.crashed, env.prefect.submitted) == ([RUN], [continued])
    claim(env.records, env.clock, SubmissionId(identity), run, "second", 1.0)
    env.clock.wait(2)
    assert resumed(env, identity)


def test_a_run_whose_runner_was_replaced_is_started_again_at_once(env: BenchEnv) -> None:
    identity = submitted(env, "PENDING")
    env.clock.wait(1)
    beat(env, env.clock.now())
    assert resumed(env, identity)
    assert env.prefect.crashed == [RUN]


def starts(monkeypatch: pytest.MonkeyPatch, *, run_count: int) -> None:
    monkeypatch.setattr("tasks.enter.flow_run", SimpleNamespace(id="run-late", run_count=run_count))


def asked(identity: SubmissionId) -> DeployRequest:
    return DeployRequest(model="org/model", endpoint="chat", submission=identity)


@pytest.mark.parametrize("state", [SubmissionState.CANCELLED, SubmissionState.REFUSED, SubmissionState.FAILED, SubmissionState.ROLLED_BACK])
def test_a_run_that_starts_after_its_submission_ended_makes_no_second_submission(
    env: BenchEnv, monkeypatch: pytest.MonkeyPatch, state: SubmissionState
) -> None:
    identity = submitted(env, "RUNNING", state)
    starts(monkeypatch, run_count=1)
    with pytest.raises(Conflict, match="too late"):
        enter(asked(identity))
    assert [row.id for row in env.records.submissions.find()] == [identity]


def test_a_run_that_a_person_retries_after_a_refusal_is_a_new_submission(env: BenchEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = submitted(env, "RUNNING", SubmissionState.REFUSED)
    starts(monkeypatch, run_count=2)
    assert enter(asked(identity)).id != identity


def test_a_run_that_starts_while_its_submission_is_cancelled_drives_nothing(env: BenchEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = submitted(env, "RUNNING", SubmissionState.CANCELLING)
    starts(monkeypatch, run_count=1)
    with pytest.raises(Conflict, match="being cancelled"), held(enter(asked(identity))):
        pytest.fail("the run took the submission")
    assert env.records.submissions.get(identity).state is SubmissionState.CANCELLING


def test_a_scheduled_run_waits_for_prefects_worker_however_long_it_is_down(env: BenchEnv) -> None:
    identity = submitted(env, "SCHEDULED")
    env.clock.wait(HOUR_S)
    assert not resumed(env, identity)


def test_a_run_that_was_being_cancelled_when_its_runner_died_is_not_started_again(env: BenchEnv) -> None:
    identity = submitted(env, "CANCELLING", SubmissionState.RUNNING)
    assert resumed(env, identity)
    assert env.records.submissions.get(identity).state is SubmissionState.CANCELLED
    assert env.prefect.submitted == []
