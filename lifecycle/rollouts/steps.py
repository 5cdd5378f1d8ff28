"""The steps of a rollout as one pure function: from a row, a verdict and the time to the row that should be next."""

from __future__ import annotations

from dataclasses import replace

from core.endpoints import Rollout, RolloutState, Verdict, Withdrawal
from core.ids import Epoch
from core.settings import RolloutPolicy, shares
from core.versions import Decision

_FIRST = "first version of the endpoint"


def needed_conversations(rollout: Rollout, policy: RolloutPolicy) -> int:
    """Return how many conversations the candidate must have had, over all steps so far, for the present step to pass."""
    return min(rollout.step, len(shares(policy.shares))) * policy.min_conversations


def begin(rollout: Rollout, now: Epoch, policy: RolloutPolicy) -> Rollout:
    """Return the row after the trials passed: the first share, or promoted at once where nothing is served yet.

    The deadline counts from here.
    """
    if rollout.state is not RolloutState.DARK:
        return rollout
    if rollout.stable is None:
        return replace(rollout, state=RolloutState.PROMOTED, share=1.0, ended_at=now, reason=_FIRST)
    return _enter(replace(rollout, deadline=now + policy.deadline_s), 1, now, policy)


def withdraw(rollout: Rollout, reason: str, withdrawal: Withdrawal) -> Rollout:
    """Return the row on its way back: share 0. Ended rollouts stay as they are."""
    if rollout.state.ended or rollout.state is RolloutState.ROLLING_BACK:
        return rollout
    return replace(rollout, state=RolloutState.ROLLING_BACK, share=0.0, reason=reason, withdrawal=withdrawal)


def decide(rollout: Rollout, verdict: Verdict, now: Epoch, policy: RolloutPolicy) -> Rollout:
    """Return the row that should be next; the same row when nothing is to be done. Never leaves an end state."""
    if rollout.state.ended or rollout.state is RolloutState.ROLLING_BACK:
        return rollout
    if rollout.state is RolloutState.DARK:
        return rollout  # its trials take as long as they take: no user meets the candidate
    if now > rollout.deadline:
        late = f"the deadline passed without a verdict: {verdict.reason}"
        return withdraw(replace(rollout, verdict=verdict), late, Withdrawal.DEADLINE)
    if verdict.decision is Decision.FAIL:
        return withdraw(replace(rollout, verdict=verdict), verdict.reason, Withdrawal.VERDICT)
    return _advance(replace(rollout, verdict=verdict), verdict, now, policy)


def _advance(rollout: Rollout, verdict: Verdict, now: Epoch, policy: RolloutPolicy) -> Rollout:
    waited = now - rollout.step_started_at
    if rollout.state is RolloutState.SOAKING:
        if verdict.decision is not Decision.PASS or waited < policy.soak_s:
            return rollout
        return replace(rollout, state=RolloutState.PROMOTED, ended_at=now, reason=verdict.reason)
    if verdict.decision is not Decision.PASS or waited < policy.step_s:
        return rollout
    return _enter(rollout, rollout.step + 1, now, policy)


def _enter(rollout: Rollout, step: int, now: Epoch, policy: RolloutPolicy) -> Rollout:
    steps = shares(policy.shares)
    if step > len(steps):
        return replace(rollout, state=RolloutState.SOAKING, step=step, share=1.0, step_started_at=now)
    return replace(rollout, state=RolloutState.SHIFTING, step=step, share=steps[step - 1], step_started_at=now)
