"""What every step shares: a row that shows it, and retries that go by the error's type."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.tasks import Task

from core.errors import Conflict, Exhausted, Refused, SeatrialError, Transient
from core.ids import SubmissionId
from core.ports import Clock
from core.ports.records import Submissions
from core.reasons import Reason
from core.shown import duration
from core.submissions import Step, StepName, StepState, SubmissionState
from tasks.notes import run_log
from wiring import Platform, platform

P = ParamSpec("P")
R = TypeVar("R")

BACKOFF_S = [1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0]
"""Exponential and capped (Prefect's own back-off has no cap); jitter comes on top. Outlasts two minutes of absence."""
_LONGEST_RETRY_AFTER_S = 60.0
_SHOW_EVERY_S = 0.25


def step_task(function: Callable[P, R]) -> Task[P, R]:
    """Make a step of a function: retried on Transient only, never cached by Prefect (steps are idempotent by content).

    The last attempt's Transient becomes Exhausted, which ends the submission with a reason and a hint.
    """
    return task(
        name=function.__name__,
        task_run_name=function.__name__.replace("_", " "),
        retries=len(BACKOFF_S),
        retry_delay_seconds=BACKOFF_S,
        retry_jitter_factor=0.3,
        retry_condition_fn=is_transient,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(_with_an_end(function))


def _with_an_end(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Transient as error:
            attempts = int(task_run.run_count or 1)
            if attempts <= len(BACKOFF_S):
                raise
            raise Exhausted.after(error, attempts) from error

    return attempt


class StepReport:
    """The row of a step while it runs."""

    def __init__(self, submissions: Submissions, submission: SubmissionId, step: Step, clock: Clock) -> None:
        self._submissions = submissions
        self._submission = submission
        self._clock = clock
        self._shown_at = 0.0
        self.step = step
        self._write(step)

    def progress(self, part: float, message: str = "") -> None:
        """Show how far it is (0 to 1); written at most four times a second."""
        now = self._clock.monotonic()
        if now - self._shown_at >= _SHOW_EVERY_S:
            self._shown_at = now
            self._write(replace(self.step, progress=part, message=message or self.step.message))

    def say(self, message: str, **detail: Any) -> None:
        """Set what stands beside the step when it is done; details are JSON for display."""
        self.step = replace(self.step, message=message, detail={**self.step.detail, **detail})

    def reuse(self, message: str) -> None:
        """Say that the result was there already."""
        self.step = replace(self.step, state=StepState.REUSED, message=message)

    def end(self, state: StepState, message: str = "") -> None:
        """Write the last row."""
        done = state in {StepState.DONE, StepState.REUSED}
        self._write(
            replace(
                self.step,
                state=state,
                ended_at=self._clock.now(),
                progress=1.0 if done else self.step.progress,
                message=message or self.step.message,
            )
        )

    def _write(self, step: Step) -> None:
        self.step = step
        self._submissions.step(self._submission, step)


def stop_if_cancelled(here: Platform, submission: SubmissionId) -> None:
    """Raise Refused when the submission is being cancelled: Prefect may have been unable to stop its run.

    Conflict when it has ended: reconcile ended it while this process slept through its lease.
    """
    state = here.records.submissions.get(submission).state
    if state is SubmissionState.CANCELLING:
        raise Refused("the submission was cancelled", reason=Reason.CANCELLED, hint="submit the model again when it is wanted")
    if state.ended:
        raise Conflict(f"{submission} is {state} already; this run changes nothing", hint="submit the model again when it is wanted")


@contextmanager
def recorded(submission: SubmissionId, name: StepName, *, cancellable: bool = True) -> Iterator[StepReport]:
    """Record a step around a block. Waits for `Transient.retry_after_s` (up to a minute) before the retry's own delay.

    Raises Refused instead of beginning a `cancellable` step of a submission that is being cancelled, and Conflict when it has ended.
    """
    here = platform()
    if cancellable:
        stop_if_cancelled(here, submission)
    attempt = int(task_run.run_count or 1)
    report = StepReport(here.records.submissions, submission, Step(name, StepState.RUNNING, attempt, here.clock.now()), here.clock)
    try:
        yield report
    except Transient as error:
        retries = attempt <= len(BACKOFF_S)
        report.end(StepState.RETRYING if retries else StepState.FAILED, str(error))
        run_log().warning("%s: attempt %d of %d failed: %s", _words(name), attempt, len(BACKOFF_S) + 1, error)
        here.clock.wait(min(error.retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S))
        raise
    except SeatrialError as error:
        report.end(StepState.FAILED, str(error))
        run_log().error("%s: %s", _words(name), error)
        raise
    report.end(StepState.REUSED if report.step.state is StepState.REUSED else StepState.DONE)
    log_end(report.step)


def log_end(step: Step) -> None:
    """Write a step's result into the run's log: what it found or did, and how long it took."""
    said = step.message or "done"
    how = "reused, " if step.state is StepState.REUSED else ""
    run_log().info("%s: %s (%s%s)", _words(step.name), said, how, duration((step.ended_at or step.started_at) - step.started_at))


def _words(name: StepName) -> str:
    return name.replace("_", " ")


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect whether a failed task is worth another attempt."""
    return isinstance(state.result(raise_on_failure=False), Transient)
