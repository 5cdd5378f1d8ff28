"""The ledger: every conversation, completion, token and vote, once and never lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from core.conversations import Assignment, Completion, Feedback
from core.ids import CompletionId


@dataclass(frozen=True, slots=True)
class Reservation:
    """Written before a request goes to an engine: what would be lost if the gateway died now. `completion` is its draft."""

    completion: Completion
    assignment: Assignment


class Ledger(Protocol):
    """Append-only, crash-safe. Adapter: a spool of files, shipped to the database in batches, each row once.

    `reserve` and `settle` are on the hot path: they append and return, never waiting for the database. What they wrote outlives
    a SIGKILL of the process; `vote` also outlives a power cut (fsync). Errors: Fault when the spool cannot be written (disk full):
    a gateway then answers 503, because what cannot be metered is not served.
    """

    def reserve(self, reservation: Reservation) -> None:
        """Write down that a completion begins."""
        ...

    def settle(self, completion: Completion) -> None:
        """Write down how it ended. Settling the same id twice counts once."""
        ...

    def vote(self, feedback: Feedback) -> None:
        """Keep a vote for good before it is acknowledged."""
        ...

    def find(self, completion: CompletionId) -> Completion | None:
        """Return a settled or reserved completion, from memory or the database, or None. May block: call it on a thread."""
        ...

    def ship(self) -> int:
        """Copy the spool's records into the database and return how many records. Blocking; call it on a thread.

        Idempotent: a record that the database already has is not counted twice. Reservations that an earlier process left unsettled
        become completions with outcome `lost`. Transient while the database is unavailable: nothing is lost, the spool grows.
        """
        ...
