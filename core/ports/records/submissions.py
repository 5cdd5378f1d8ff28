"""Submissions and their steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from core.ids import EndpointName, Epoch, PrincipalId, SubmissionId
from core.ports.records.audit import AuditEntry
from core.submissions import Step, Submission, SubmissionRequest, SubmissionState


class Submissions(Protocol):
    """Submissions and their steps."""

    def create(self, request: SubmissionRequest, submitter: PrincipalId, now: Epoch) -> Submission:
        """Store a new submission, queued. The same idempotency key of the same submitter returns the first one."""
        ...

    def get(self, submission: SubmissionId) -> Submission:
        """Return it with its steps in their order. NotFound."""
        ...

    def find(
        self,
        *,
        states: Iterable[SubmissionState] = (),
        endpoint: EndpointName | None = None,
        submitter: PrincipalId | None = None,
        limit: int = 100,
    ) -> tuple[Submission, ...]:
        """Return those that match, newest first, without their steps. Empty `states` means all."""
        ...

    def step(self, submission: SubmissionId, step: Step) -> None:
        """Store a step, or replace the step of the same name."""
        ...

    def store(self, submission: Submission, now: Epoch, entry: AuditEntry | None = None) -> Submission:
        """Store the row if its revision is still `submission.revision`; return it with the next one. Stale otherwise, NotFound.

        `entry` is appended to the audit trail in the same transaction: both are stored, or neither.
        The request, the submitter and the steps are not stored. An end state is never left (Stale). An end other than serving fails
        the steps that a killed or cancelled run left open.
        """
        ...
