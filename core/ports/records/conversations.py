"""Assignments, completions, usage and feedback, as the ledger ships them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from core.conversations import Assignment, Completion, Feedback, Usage
from core.ids import CompletionId, EndpointName, Epoch, VersionId


class Conversations(Protocol):
    """Stores the batches of the ledger and answers queries about them."""

    def record(self, assignments: Sequence[Assignment], completions: Sequence[Completion], feedback: Sequence[Feedback]) -> None:
        """Write a batch in one transaction.

        A stored entry (by id) is kept, except that a settled completion replaces a `lost` one, a later vote of the same
        principal on the same completion replaces the earlier, and `moved` is never unset. Usage is added once per completion.
        """
        ...

    def completion(self, completion: CompletionId) -> Completion:
        """NotFound when unknown."""
        ...

    def assignments(self, since: Epoch, limit: int) -> tuple[Assignment, ...]:
        """Return assignments whose last request is not older than `since`, newest first."""
        ...

    def feedback(
        self,
        *,
        endpoint: EndpointName | None = None,
        versions: Iterable[VersionId] | None = None,
        after: Epoch = 0.0,
        limit: int = 100,
    ) -> tuple[Feedback, ...]:
        """Return feedback that came after `after`, oldest first. `versions=()` matches none, None all."""
        ...

    def leaderboard(self) -> tuple[LeaderboardRow, ...]:
        """Return one row per (endpoint, version) that answered anything: completions, usage, votes."""
        ...

    def recent(self, since: Epoch) -> tuple[Recent, ...]:
        """Return one row per (endpoint, version) with completions that began at or after `since`, by both.

        Reads only conversations that had a request since, so it stays quick however much is stored. Lost completions are left out.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recent:
    """The recent completions of one version. `errors` are those of the engine."""

    endpoint: EndpointName
    version: VersionId
    completions: int
    errors: int


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """A row of the leaderboard without the benchmark's score."""

    endpoint: EndpointName
    version: VersionId
    conversations: int
    completions: int
    usage: Usage
    thumbs_up: int
    thumbs_down: int
    loops: int
    nonsense: int
    errors: int
