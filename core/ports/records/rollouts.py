"""Rollouts, and the data of a verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from core.endpoints import Cohort, ConversationOutcome, Rollout, RolloutState
from core.ids import EndpointName, RolloutId


class Rollouts(Protocol):
    """Rollouts: one row each, changed by compare-and-set. A change bumps the routes' generation in the same transaction."""

    def open(self, rollout: Rollout) -> Rollout:
        """Enter a rollout and make its candidate the endpoint's. The endpoint's open rollout of the same submission is returned instead.

        Errors: Conflict while another submission has an open rollout on the endpoint, Stale when the endpoint serves another version
        than `rollout.stable`.
        """
        ...

    def get(self, rollout: RolloutId) -> Rollout:
        """NotFound when unknown."""
        ...

    def find(self, *, endpoint: EndpointName | None = None, states: Iterable[RolloutState] = (), limit: int = 100) -> tuple[Rollout, ...]:
        """Return those that match, newest first."""
        ...

    def store(self, rollout: Rollout) -> Rollout:
        """Store `rollout` if the row's revision is still `rollout.revision`; return it with the next one. Stale otherwise.

        To `promoted` it also makes the candidate the endpoint's stable (and stable the previous); any end clears the endpoint's
        candidate. All in one transaction. An end state is never left.
        """
        ...

    def cohorts(self, rollout: RolloutId, window_s: float) -> Cohorts:
        """Return what both versions did in the conversations that began while the candidate had a share, moved ones left out.

        Of a conversation's answers and votes, an outcome has those up to `window_s` after its start (`early`, `thumbs_down`), and its
        first answer whenever that ended. Errors: NotFound.
        """
        ...


@dataclass(frozen=True, slots=True)
class Cohorts:
    """The data of a verdict: totals per cohort, and all its conversations in order of their start.

    The outcomes include conversations without an ended answer: the verdict reads none that started after the oldest undecided one. The
    totals count conversations with at least one answer that counts.
    """

    stable: Cohort
    candidate: Cohort
    outcomes: tuple[ConversationOutcome, ...]
