"""A flow run that is only late is never called crashed, and one that starts too late changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.errors import Conflict
from core.flow_runs import RunState
from core.ids import SubmissionId
from core.services import RunnerBeat
from core.submissions import SubmissionState
from lifecycle.submissions import claim
from tasks.enter import DeployRequest, enter, held
from tasks.recovery import recovery
from tests.equipment.bench_yard import BenchYard, in_yard
from tests.equipment.rows import put_submission
from tests.equipment.samples import a_request

RUN = "run-1"
HOUR_S = 3600.0


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchYard]:
    with in_yard(tmp_path, monkeypatch) as yard:
        yield yard


def submitted(yard: BenchYard, run: str, state: SubmissionState = SubmissionState.QUEUED) -> SubmissionId:
    """Enter a submission whose run in Prefect is in state `run` since now."""
    row = yard.records.submissions.create(a_request(), yard.records.access.principal("ann", 1.0).id, yard.clock.now())
    put_submission(yard.records, row.id, yard.clock.now(), state=state, flow_run=RUN, runs=1)
    yard.prefect.states[RUN] = RunState(run, run.title(), at=yard.clock.now())
    return row.id


def beat(yard: BenchYard, started: float) -> None:
    yard.records.runners.beat(RunnerBeat("here", 1, started, yard.clock.now(), 10, full=True))


def resumed(yard: BenchYard, identity: SubmissionId) -> bool:
    return recovery(yard.here).resume_submission(yard.records.submissions.get(identity))


def test_a_scheduled_run_behind_a_runner_without_a_free_slot_waits_for_an_hour(yard: BenchYard) -> None:
    begun = yard.clock.now()
    identity = submitted(yard, "SCHEDULED")
    yard.clock.wait(HOUR_S)
    beat(yard, begun)
    assert not resumed(yard, identity)
    assert yard.prefect.crashed == []


def test_a_run_that_the_living_runner_started_has_more_time_than_a_busy_machine_needs(yard: BenchYard) -> None:
    begun = yard.clock.now()
    identity = submitted(yard, "PENDING")
    yard.clock.wait(200)
    beat(yard, begun)
    assert not resumed(yard, identity)
    yard.clock.wait(300)
    beat(yard, begun)
    assert resumed(yard, identity)


def test_a_run_that_continues_a_submission_is_not_called_crashed_before_it_claims(yard: BenchYard) -> None:
    identity = submitted(yard, "CRASHED")
    claim(yard.records, yard.clock, SubmissionId(identity), RUN, "first", 1.0)
    yard.clock.wait(HOUR_S)
    beat(yard, yard.clock.now())
    assert resumed(yard, identity)
    (continued,) = yard.prefect.submitted
    run = str(yard.records.submissions.get(identity).flow_run)
    yard.prefect.states[run] = RunState("RUNNING", "Running", at=yard.clock.now())
    yard.clock.wait(10)
    assert not recovery(yard.here).left_alone(yard.clock.now())
    assert not resumed(yard, identity)
    assert (yard.prefect.crashed, yard.prefect.submitted) == ([RUN], [continued])
    claim(yard.records, yard.clock, SubmissionId(identity), run, "second", 1.0)
    yard.clock.wait(2)
    assert resumed(yard, identity)


def test_a_run_whose_runner_was_replaced_is_started_again_at_once(yard: BenchYard) -> None:
    identity = submitted(yard, "PENDING")
    yard.clock.wait(1)
    beat(yard, yard.clock.now())
    assert resumed(yard, identity)
    assert yard.prefect.crashed == [RUN]


def starts(monkeypatch: pytest.MonkeyPatch, *, run_count: int) -> None:
    monkeypatch.setattr("tasks.enter.flow_run", SimpleNamespace(id="run-late", run_count=run_count))


def asked(identity: SubmissionId) -> DeployRequest:
    return DeployRequest(model="org/model", endpoint="chat", submission=identity)


@pytest.mark.parametrize("state", [SubmissionState.CANCELLED, SubmissionState.REFUSED, SubmissionState.FAILED, SubmissionState.ROLLED_BACK])
def test_a_run_that_starts_after_its_submission_ended_makes_no_second_submission(
    yard: BenchYard, monkeypatch: pytest.MonkeyPatch, state: SubmissionState
) -> None:
    identity = submitted(yard, "RUNNING", state)
    starts(monkeypatch, run_count=1)
    with pytest.raises(Conflict, match="too late"):
        enter(asked(identity))
    assert [row.id for row in yard.records.submissions.find()] == [identity]


def test_a_run_that_a_person_retries_after_a_refusal_is_a_new_submission(yard: BenchYard, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = submitted(yard, "RUNNING", SubmissionState.REFUSED)
    starts(monkeypatch, run_count=2)
    assert enter(asked(identity)).id != identity


def test_a_run_that_starts_while_its_submission_is_cancelled_drives_nothing(yard: BenchYard, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = submitted(yard, "RUNNING", SubmissionState.CANCELLING)
    starts(monkeypatch, run_count=1)
    with pytest.raises(Conflict, match="being cancelled"), held(enter(asked(identity))):
        pytest.fail("the run took the submission")
    assert yard.records.submissions.get(identity).state is SubmissionState.CANCELLING


def test_a_scheduled_run_waits_for_prefects_worker_however_long_it_is_down(yard: BenchYard) -> None:
    identity = submitted(yard, "SCHEDULED")
    yard.clock.wait(HOUR_S)
    assert not resumed(yard, identity)


def test_a_run_that_was_being_cancelled_when_its_runner_died_is_not_started_again(yard: BenchYard) -> None:
    identity = submitted(yard, "CANCELLING", SubmissionState.RUNNING)
    assert resumed(yard, identity)
    assert yard.records.submissions.get(identity).state is SubmissionState.CANCELLED
    assert yard.prefect.submitted == []
