"""The audit trail: who changed what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.access import Actor
from core.ids import Epoch, SubmissionId
from core.ports import Clock, Records
from core.ports.records import AuditEntry, Submissions
from core.submissions import Submission


def write_audit(records: Records, clock: Clock, by: Actor, action: str, subject: str, **detail: Any) -> None:
    """Append an entry. `detail` has no prompts and no secrets."""
    records.audit.add(AuditEntry(clock.now(), by.audit_name, action, subject, detail))


@dataclass(frozen=True, slots=True)
class AuditedSubmissions:
    """The rows of submissions for `rows.update`: each change is stored together with its entry of the audit trail."""

    rows: Submissions
    entry: Callable[[Submission], AuditEntry]

    def get(self, submission: SubmissionId, /) -> Submission:
        """See the port."""
        return self.rows.get(submission)

    def store(self, row: Submission, now: Epoch, /) -> Submission:
        """See the port."""
        return self.rows.store(row, now, self.entry(row))
