"""A submission ends for the reason that it was refused for, also when the run that was ending it was killed half way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.endpoints import RolloutState, Withdrawal
from core.errors import Conflict, DiskFull, Exhausted, Fault, Refused, SeatrialError, Transient
from core.ids import RolloutId
from core.reasons import Reason
from core.submissions import StepName, Submission, SubmissionState
from lifecycle.opening import Opening
from lifecycle.submissions import ending, event_of
from tasks import finish as finishing
from tasks import release as releasing
from tasks.finish import end_submission, finish, resume_end
from tasks.prepare import check, download, resolve, tensorize
from tasks.release import announce, publish, register, roll_out
from tasks.start import start
from tasks.step import BACKOFF_S, is_transient, recorded, step_task
from tasks.trials import benchmark, degeneration, fidelity, latency, smoke
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.rows import put_submission
from tests.equipment.samples import CANDIDATE, CHAT, a_request, a_rollout, a_version

WORSE = Refused("pass@1 0.21 is below the stable version's 0.90", reason=Reason.BENCHMARK_BELOW_STABLE, hint="submit a better one")
CANCELLED = Refused("the submission was cancelled", reason=Reason.CANCELLED, hint="submit the model again when it is wanted")
LATER = Refused("the rollout was withdrawn: pass@1 0.21 is below", reason=Reason.WITHDRAWN, hint="submit again")


class Killed(BaseException):
    """The run's process dies here."""


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        yield env


@pytest.fixture
def running(env: BenchEnv) -> Submission:
    made = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
    return put_submission(env.records, made.id, env.clock.now(), state=SubmissionState.RUNNING)


def killed_half_way(env: BenchEnv, row: Submission, error: SeatrialError, monkeypatch: pytest.MonkeyPatch) -> Submission:
    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("lifecycle.ending.close_gates", die)  # the first that is undone
        with pytest.raises(Killed):
            finish.fn(row.id, error)
    return env.records.submissions.get(row.id)


@pytest.mark.parametrize("error", [WORSE, DiskFull("disk full: 3 MB free"), Fault("broken", hint="report it"), Exhausted("away")])
def test_the_next_run_goes_on_ending_it_for_the_same_reason(
    env: BenchEnv, running: Submission, error: SeatrialError, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = killed_half_way(env, running, error, monkeypatch)
    assert half.state is SubmissionState.RUNNING
    with pytest.raises(type(error)) as resumed:
        resume_end(running.id)
    assert (str(resumed.value), event_of(resumed.value)) == (str(error), event_of(error))


def test_the_end_is_logged_once_with_its_hint(env: BenchEnv, running: Submission, caplog: pytest.LogCaptureFixture) -> None:
    end_submission(env.here, running.id, WORSE)
    end_submission(env.here, running.id, LATER)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"refused (benchmark_below_stable): {WORSE.what}; {WORSE.hint}"
    ]


def test_a_transient_that_outlasted_its_retries_ends_the_submission_with_a_reason_and_a_hint(
    env: BenchEnv, running: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "leave_pages", lambda *_row: None)
    assert finish.fn(running.id, Transient("MLflow at http://x does not answer")) is SubmissionState.FAILED
    row = env.records.submissions.get(running.id)
    assert (row.reason, row.message) == ("retries_exhausted", "MLflow at http://x does not answer")
    assert "seatrial doctor" in row.hint


@pytest.mark.parametrize(("attempt", "raised"), [(1, Transient), (len(BACKOFF_S), Transient), (len(BACKOFF_S) + 1, Exhausted)])
def test_the_last_attempt_of_a_step_ends_its_retries(attempt: int, raised: type[SeatrialError], monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise Transient("MLflow at http://x does not answer", hint="start it")

    monkeypatch.setattr("tasks.step.task_run", SimpleNamespace(run_count=attempt))
    with pytest.raises(raised) as error:
        step_task(away).fn()
    assert type(error.value) is raised
    assert error.value.hint == "start it"
    assert ("9 attempts" in error.value.what) is (raised is Exhausted)


def test_every_step_of_a_submission_ends_its_retries_in_the_same_way() -> None:
    trials = (smoke, fidelity, latency, benchmark, degeneration)
    steps = (resolve, download, check, tensorize, start, *trials, publish, register, roll_out, announce)
    assert all(step.retry_condition_fn is is_transient and hasattr(step.fn, "__wrapped__") for step in steps)


def test_whoever_finds_the_candidate_withdrawn_ends_it_for_the_first_reason(
    env: BenchEnv, running: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_half_way(env, running, WORSE, monkeypatch)
    monkeypatch.setattr(finishing, "leave_pages", lambda *_: None)
    assert finish.fn(running.id, LATER) is SubmissionState.REFUSED
    ended = env.records.submissions.get(running.id)
    assert (ended.reason, ended.message, ended.hint) == (WORSE.reason, WORSE.what, WORSE.hint)


def test_a_cancellation_comes_before_the_reason_of_before(env: BenchEnv, running: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_half_way(env, running, WORSE, monkeypatch)
    cancelling = put_submission(env.records, running.id, env.clock.now(), state=SubmissionState.CANCELLING)
    assert ending(cancelling) is None


def test_nothing_ends_a_submission_on_its_way(running: Submission) -> None:
    resume_end(running.id)


def rolled_out(env: BenchEnv, running: Submission, state: RolloutState) -> Submission:
    """Give the submission a rollout in this state, and cancel it."""
    env.records.endpoints.ensure(CHAT, env.clock.now())
    env.records.versions.put(a_version(id=CANDIDATE))
    rollout = env.records.rollouts.open(a_rollout(submission=running.id))
    env.records.rollouts.store(replace(rollout, state=state, step=1))
    return put_submission(env.records, running.id, env.clock.now(), rollout=rollout.id, state=SubmissionState.CANCELLING)


@pytest.mark.parametrize(
    ("state", "end"), [(RolloutState.PROMOTED, SubmissionState.SERVING), (RolloutState.ROLLED_BACK, SubmissionState.CANCELLED)]
)
def test_a_submission_that_is_cancelled_as_it_is_promoted_is_not_called_cancelled(
    env: BenchEnv, running: Submission, state: RolloutState, end: SubmissionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled_out(env, running, state)
    monkeypatch.setattr(finishing, "leave_pages", lambda *_: None)
    assert finish.fn(running.id, CANCELLED) is end
    row = env.records.submissions.get(running.id)
    assert ("cancelled too late" in row.message) is (end is SubmissionState.SERVING)
    assert row.reason == (None if end is SubmissionState.SERVING else "cancelled")


def test_no_step_begins_of_a_submission_that_is_being_cancelled(env: BenchEnv, running: Submission) -> None:
    put_submission(env.records, running.id, env.clock.now(), state=SubmissionState.CANCELLING)
    with pytest.raises(Refused, match="was cancelled"), recorded(running.id, StepName.PUBLISH):
        pytest.fail("the step began")
    assert env.records.submissions.get(running.id).steps == ()


@pytest.mark.parametrize("state", [state for state in SubmissionState if state.ended])
def test_no_step_begins_of_a_submission_that_reconcile_ended_while_its_process_slept(
    env: BenchEnv, running: Submission, state: SubmissionState
) -> None:
    put_submission(env.records, running.id, env.clock.now(), state=state)
    with pytest.raises(Conflict, match="this run changes nothing"), recorded(running.id, StepName.START):
        pytest.fail("the step began")
    assert env.records.submissions.get(running.id).steps == ()


def test_a_submission_that_is_cancelled_while_it_waits_for_another_rollout_withdraws_no_further_one(
    env: BenchEnv, running: Submission
) -> None:
    opened: list[str] = []

    def taken(submission: str, *_: object) -> None:
        opened.append(submission)
        if len(opened) > 2:
            pytest.fail("it went on after the cancellation")
        put_submission(env.records, running.id, env.clock.now(), state=SubmissionState.CANCELLING)
        raise Conflict("chat has an open rollout of another submission")

    causes: list[str] = []
    rollouts: Any = SimpleNamespace(open=taken)
    work = Opening(env.records, env.clock, rollouts, 1.0, causes.append)
    with pytest.raises(Refused, match="was cancelled"):
        work.open(running.id, CANDIDATE, None)
    assert (opened, causes) == ([running.id], ["chat has an open rollout of another submission"])


def test_a_cancelled_candidate_is_given_no_further_share(env: BenchEnv, running: Submission) -> None:
    row = rolled_out(env, running, RolloutState.SHIFTING)
    rollout = env.records.rollouts.get(RolloutId(str(row.rollout)))
    with pytest.raises(Refused, match="was cancelled"):
        roll_out.fn(running, rollout)
    assert env.records.rollouts.get(rollout.id) == rollout


def test_the_engine_of_a_rollout_that_another_process_ended_is_not_waited_for(
    env: BenchEnv, running: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = rolled_out(env, running, RolloutState.SHIFTING)
    put_submission(env.records, running.id, env.clock.now(), state=SubmissionState.RUNNING)
    rollout = env.records.rollouts.get(RolloutId(str(row.rollout)))
    ended = replace(rollout, state=RolloutState.CANCELLED, step=0, withdrawal=Withdrawal.SUPERSEDED, reason="superseded by sub-2")
    env.records.rollouts.store(ended)
    monkeypatch.setattr(releasing, "leave_rollout", lambda *_: None)
    with pytest.raises(Refused, match="superseded by sub-2") as refused:
        roll_out.fn(running, rollout)  # with the rollout as it was when the run began; the engine is absent by now
    assert refused.value.reason == "superseded"
