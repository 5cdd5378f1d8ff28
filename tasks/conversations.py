"""The rollout's own conversations, where users bring too few."""

from __future__ import annotations

from core.endpoints import Rollout, RolloutState
from evals.suites.files import openings
from lifecycle.rollouts.steps import needed_conversations
from serving.synthetic import hold_conversations
from wiring import Platform

_BATCH = 8


def bring_conversations(here: Platform, row: Rollout) -> None:
    """Hold a batch of synthetic conversations when the present step has waited for users in vain."""
    policy = here.settings.rollout
    seen = row.verdict.candidate.conversations if row.verdict else 0
    waited = here.clock.now() - row.step_started_at
    if policy.synthetic_after_s < 0 or row.state is not RolloutState.SHIFTING:
        return
    if waited < policy.synthetic_after_s or seen >= needed_conversations(row, policy):
        return
    chosen = openings()
    begin = row.revision * _BATCH % len(chosen)
    batch = [opening.turns for opening in (*chosen, *chosen)[begin : begin + _BATCH]]
    hold_conversations(here.settings.gateway_url, here.synthetic_key, row.endpoint, batch)
