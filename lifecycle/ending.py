"""The end of a submission that does not serve: the candidate withdrawn, nothing left staged, the reason written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from core.benchmarks import BenchmarkState
from core.endpoints import Withdrawal
from core.errors import SeatrialError
from core.ids import SubmissionId
from core.ports import Clock, Records
from core.submissions import Submission
from lifecycle.benchmarks import fail
from lifecycle.rollouts.driver import Driver
from lifecycle.submissions import begin_end, end, ending

_PASS_S = 0.2


@dataclass(frozen=True, slots=True)
class Ending:
    """Ends submissions. Errors of its verbs: Transient, Conflict (another driver has the row), NotFound."""

    records: Records
    clock: Clock
    rollouts: Driver
    settle: Callable[[], object]
    """Waits until every gateway follows the routes, then stops the engines that nothing needs."""
    clear_away: Callable[[Submission], object]
    """Removes the submission's downloads and staged weights, except what another open submission needs."""
    ended: Callable[[Submission, SeatrialError], object]
    """Called with the row and its reason after the end state was written, and not for a submission that had ended before."""

    def end(self, submission: SubmissionId, error: SeatrialError, driver: str | None) -> Submission:
        """End the submission, and return its row. A submission that has ended stays as it is.

        The reason is written first: a run that continues after a kill, and finds the candidate withdrawn, ends the submission for that
        reason.
        """
        for _step in self.steps(submission, error, driver):
            pass
        return self.records.submissions.get(submission)

    def steps(self, submission: SubmissionId, error: SeatrialError, driver: str | None) -> Iterator[None]:
        """Do the work of `end` in steps. Between two of them any other process may act, or this one may be killed."""
        row = begin_end(self.records, self.clock, submission, error, driver)
        if row.state.ended:
            return
        why = ending(row) or error
        yield
        close_gates(self.records, self.clock, row, why)
        yield
        yield from self._withdraw_rollouts(row, why)
        self.settle()
        yield
        self.clear_away(row)
        yield
        self.ended(end(self.records, self.clock, submission, why, driver), why)

    def _withdraw_rollouts(self, row: Submission, why: SeatrialError) -> Iterator[None]:
        """Take the candidate's share, and wait until every gateway follows and the rollout has ended."""
        rollouts = [found for found in self.records.rollouts.find(endpoint=row.request.endpoint) if found.submission == row.id]
        for rollout in rollouts:
            state = self.rollouts.withdraw(rollout.id, why.what, Withdrawal.SUBMISSION_ENDED)
            yield
            while not state.state.ended:
                state = self.rollouts.advance(rollout.id)
                yield
                if not state.state.ended:
                    self.clock.wait(_PASS_S)


def close_gates(records: Records, clock: Clock, row: Submission, why: SeatrialError) -> None:
    """End the running benchmarks of the submission's gate: a running benchmark requests its engine."""
    for gate in records.benchmarks.find(submission=row.id, states=[BenchmarkState.RUNNING]):
        fail(records, clock, gate.id, why.what, None)
