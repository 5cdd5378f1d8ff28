"""Opening the rollout of a submission at share 0."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from core.endpoints import Rollout
from core.errors import Conflict
from core.ids import SubmissionId, VersionId
from core.ports import Clock, Records
from lifecycle.rollouts.driver import Driver
from lifecycle.rollouts.withdrawn import expect_wanted
from lifecycle.submissions import expect_open, set_rollout


@dataclass(frozen=True, slots=True)
class Opening:
    """Opens dark rollouts. Errors of its verbs: Transient, Conflict (another driver has the submission, or it has ended), NotFound."""

    records: Records
    clock: Clock
    rollouts: Driver
    pause_s: float
    """Seconds between two attempts while an older submission's rollout is being withdrawn."""
    waits: Callable[[str], object]
    """Called with the cause before each of these pauses."""

    def open(self, submission: SubmissionId, version: VersionId, driver: str | None) -> Rollout:
        """Open the submission's rollout and note it in the row, or return the one that an earlier run opened.

        An older submission's rollout on the endpoint is withdrawn first and waited for. Refused when a newer submission has the endpoint,
        when the submission is being cancelled, and when its rollout was withdrawn.
        """
        steps = self.steps(submission, version, driver)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                opened: Rollout = end.value
                return opened

    def steps(self, submission: SubmissionId, version: VersionId, driver: str | None) -> Generator[None, None, Rollout]:
        """Do the work of `open` in steps. Between two of them any other process may act, or this one may be killed."""
        row = self.records.submissions.get(submission)
        if row.rollout is not None:
            expect_wanted(self.records, row.rollout)
            return self.records.rollouts.get(row.rollout)
        opened = None
        while opened is None:
            expect_open(self.records, submission)
            try:
                opened = self.rollouts.open(submission, row.request.endpoint, version)
            except Conflict as error:
                self.waits(error.what)
                yield
                self.clock.wait(self.pause_s)
        yield
        set_rollout(self.records, self.clock, submission, opened.id, driver)
        yield
        return opened
