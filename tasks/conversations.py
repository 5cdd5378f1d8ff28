"""The rollout's own conversations, where users bring too few."""

from __future__ import annotations

from core.endpoints import Rollout, RolloutState
from core.ids import Epoch
from core.settings import RolloutPolicy
from evals.suites.files import openings
from lifecycle.rollouts.steps import needed_conversations
from serving.synthetic import hold_conversations

_BATCH = 8


def needs_conversations(row: Rollout, policy: RolloutPolicy, now: Epoch) -> bool:
    """Return whether the present step has waited for users in vain."""
    seen = row.verdict.candidate.conversations if row.verdict else 0
    if policy.synthetic_after_s < 0 or row.state is not RolloutState.SHIFTING:
        return False
    return now - row.step_started_at >= policy.synthetic_after_s and seen < needed_conversations(row, policy)


def bring_conversations(gateway_url: str, key: str, row: Rollout) -> None:
    """Hold a batch of synthetic conversations with the endpoint of a rollout; each revision of the row has a batch of its own."""
    chosen = openings()
    begin = row.revision * _BATCH % len(chosen)
    batch = [opening.turns for opening in (*chosen, *chosen)[begin : begin + _BATCH]]
    hold_conversations(gateway_url, key, row.endpoint, batch)
