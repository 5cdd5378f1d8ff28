"""Rolling an endpoint back: its active rollout is withdrawn, or the version that served before is submitted again."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from core.access import Actor
from core.endpoints import OPEN_ROLLOUTS, Endpoint, Rollout, Withdrawal
from core.errors import Conflict, Transient
from core.leases import RECONCILE
from core.ports import Clock, FlowRuns, Records
from core.reasons import Reason
from core.submissions import Submission, SubmissionRequest
from core.versions import ModelRef
from lifecycle.audit import write_audit
from lifecycle.rollouts.steps import withdraw
from lifecycle.submissions import submit

_TRIES: Final = 20


def roll_back(records: Records, runs: FlowRuns, clock: Clock, endpoint: Endpoint, by: Actor) -> Rollout | Submission:
    """Withdraw the endpoint's active rollout and return it; without one, submit the version that served before.

    Rolling back a rollout that already goes back changes nothing. Errors: Conflict (`nothing_to_roll_back`), Transient (other writers
    keep changing the rollout).
    """
    for _ in range(_TRIES):
        active = records.rollouts.find(endpoint=endpoint.name, states=OPEN_ROLLOUTS, limit=1)
        if not active:
            return submit_previous(records, runs, clock, endpoint, f"rollback-{endpoint.name}-{endpoint.stable}-{clock.now():.0f}", by)
        changed = withdraw_rollout(records, clock, active[0], by)
        if changed is not None:
            return changed
    raise Transient(f"the rollout of {endpoint.name} keeps changing", retry_after_s=1.0, hint="ask again")


def withdraw_rollout(records: Records, clock: Clock, rollout: Rollout, by: Actor) -> Rollout | None:
    """Withdraw an active rollout on request; None when its driver stored it first and it must be read again.

    The row is left without an owner, so that the next driver adopts the rollback and reports it.
    """
    back = withdraw(rollout, f"rolled back by {by.name}", Withdrawal.OPERATOR)
    if back is rollout:
        return rollout
    try:
        changed = records.rollouts.store(replace(back, lease_owner="", lease_until=0.0))
    except Conflict:
        return None
    write_audit(records, clock, by, "rollback", rollout.id, endpoint=rollout.endpoint, candidate=rollout.candidate)
    records.leases.call(RECONCILE, clock.now())
    return changed


def submit_previous(records: Records, runs: FlowRuns, clock: Clock, endpoint: Endpoint, key: str, by: Actor) -> Submission:
    """Submit the version that served before. The same idempotency key returns the same submission.

    Conflict (`nothing_to_roll_back`) when the endpoint has no other version to go back to.
    """
    if endpoint.previous is None or endpoint.previous == endpoint.stable:
        raise Conflict(
            f"endpoint {endpoint.name} has no rollout on its way and no earlier version to go back to",
            reason=Reason.NOTHING_TO_ROLL_BACK,
            hint=f"submit the model that should serve: seatrial submit MODEL --endpoint {endpoint.name}",
        )
    version = records.versions.get(endpoint.previous)
    # A folder has no revisions: its present content is submitted and decides which version it is.
    folder = version.source.startswith("/")
    model = ModelRef(version.source, None if folder else version.commit)
    return submit(records, runs, clock, SubmissionRequest(model, endpoint.name, key, "rollback"), by, "rollback")
