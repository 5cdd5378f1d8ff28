"""The driver of rollouts: each pass is read, decide, apply, verify. Two drivers at once do no harm."""

from __future__ import annotations

from dataclasses import replace

from core.endpoints import OPEN_ROLLOUTS, Rollout, RolloutState, Withdrawal
from core.errors import Conflict
from core.ids import EndpointName, Epoch, RolloutId, SubmissionId, VersionId, new_id
from core.ports import Clock, Engines, EventRecorder, Records
from core.settings import RolloutPolicy
from lifecycle.engines import GATEWAY_ALIVE_S, retire_unwanted
from lifecycle.rollouts.events import record_events
from lifecycle.rollouts.precedence import expect_newest, is_newer
from lifecycle.rollouts.steps import begin, decide, needed_conversations, withdraw
from lifecycle.rollouts.verdict import judge

LEASE_S = 10.0
"""How long a driver holds a rollout after each change that it makes."""


class Driver:
    """Brings rollouts forward. Holds nothing between passes: all state is the row, so any driver can take over."""

    def __init__(
        self, records: Records, engines: Engines, clock: Clock, policy: RolloutPolicy, owner: str, recorder: EventRecorder
    ) -> None:
        self._records = records
        self._engines = engines
        self._clock = clock
        self._policy = policy
        self._owner = owner
        self._recorder = recorder

    def open(self, submission: SubmissionId, endpoint: EndpointName, candidate: VersionId) -> Rollout:
        """Open a dark rollout, or return the submission's open one.

        Refused (`superseded`) when a newer submission has an open rollout on the endpoint or serves it. An older submission's open
        rollout is withdrawn first: Conflict until it has ended.
        """
        now = self._clock.now()
        served = self._records.endpoints.ensure(endpoint, now)
        expect_newest(self._records, submission, served)
        row = Rollout(
            RolloutId(new_id("ro")),
            submission,
            endpoint,
            candidate,
            served.stable,
            RolloutState.DARK,
            0,
            0.0,
            now,
            now,
            now + self._policy.deadline_s,
        )
        try:
            return self._records.rollouts.open(row)
        except Conflict:
            self._supersede(endpoint, submission)
            raise

    def serves(self, submission: SubmissionId, endpoint: EndpointName, version: VersionId) -> bool:
        """Return whether the endpoint serves the version already, so that the submission needs no rollout.

        Older submissions' open rollouts are withdrawn (superseded) before the answer, so that none of them is promoted after it.
        """
        if self._records.endpoints.ensure(endpoint, self._clock.now()).stable != version:
            return False
        self._supersede(endpoint, submission)
        return self._records.endpoints.get(endpoint).stable == version

    def begin(self, rollout: RolloutId) -> Rollout:
        """Give the candidate its first share: the trials passed. Beginning what has begun changes nothing."""
        row = self._records.rollouts.get(rollout)
        return self._change(row, begin(row, self._clock.now(), self._policy))

    def withdraw(self, rollout: RolloutId, reason: str, withdrawal: Withdrawal) -> Rollout:
        """Take the candidate's share away; later passes bring it to its end. Withdrawing what ended changes nothing."""
        row = self._records.rollouts.get(rollout)
        return self._change(row, withdraw(row, reason, withdrawal))

    def advance(self, rollout: RolloutId) -> Rollout:
        """Make one pass and return the row after it."""
        row = self._records.rollouts.get(rollout)
        if row.state.ended:
            retire_unwanted(self._records, self._engines, self._clock, drain_s=self._policy.drain_s)
            return row
        if row.state is RolloutState.ROLLING_BACK:
            return self._finish_rollback(row if row.lease_owner else self._adopt(row))
        now = self._clock.now()
        cohorts = self._records.rollouts.cohorts(row.id, self._policy.window_s)
        verdict = judge(cohorts, self._policy, needed=needed_conversations(row, self._policy), now=now)
        return self._change(row, decide(row, verdict, now, self._policy))

    def _adopt(self, row: Rollout) -> Rollout:
        """Take over a rollback that no driver began (the control API does, for an operator), and tell of it."""
        try:
            adopted = self._records.rollouts.store(replace(row, lease_owner=self._owner, lease_until=self._clock.now() + LEASE_S))
        except Conflict:
            return self._records.rollouts.get(row.id)
        record_events(self._recorder, replace(row, state=RolloutState.SHIFTING), adopted)
        return adopted

    def _finish_rollback(self, row: Rollout) -> Rollout:
        """End a rollback once every living gateway follows share 0; only then is the engine drained and stopped."""
        now = self._clock.now()
        if self._records.gateways.lagging(self._records.gateways.generation(), now - GATEWAY_ALIVE_S):
            return row
        end = RolloutState.CANCELLED if row.step == 0 else RolloutState.ROLLED_BACK
        ended = self._change(row, replace(row, state=end, ended_at=now))
        retire_unwanted(self._records, self._engines, self._clock, drain_s=self._policy.drain_s)
        return ended

    def _supersede(self, endpoint: EndpointName, by: SubmissionId) -> None:
        """Withdraw the open rollouts of older submissions."""
        for row in self._records.rollouts.find(endpoint=endpoint, states=OPEN_ROLLOUTS):
            if is_newer(self._records, by, row.submission):
                self._change(row, withdraw(row, f"superseded by {by}", Withdrawal.SUPERSEDED))
                self.advance(row.id)

    def _change(self, before: Rollout, after: Rollout) -> Rollout:
        now = self._clock.now()
        held = LEASE_S / 2 < before.lease_until - now <= LEASE_S  # a lease that ends later was written by a clock that is wrong
        if after == before or (held and not _differs(before, after)):
            return before
        try:
            changed = self._records.rollouts.store(replace(after, lease_owner=self._owner, lease_until=now + LEASE_S))
        except Conflict:  # another driver was faster; its row is as good as ours, and it told of it
            return self._records.rollouts.get(before.id)
        record_events(self._recorder, before, changed)
        return changed


def _differs(before: Rollout, after: Rollout) -> bool:
    """Whether more than the moment of the verdict changed: a row is not written (and no gateway reloads) for the time alone."""
    if before.verdict is None or after.verdict is None:
        return before != after
    same_time = replace(after.verdict, at=before.verdict.at)
    return replace(after, verdict=same_time) != before


def driven_by_another(row: Rollout, owner: str, now: Epoch) -> bool:
    """Whether a living driver other than `owner` holds the row."""
    return row.lease_owner != owner and row.lease_until > now
