"""The pulse: sees within seconds that work has lost its driver, so that reconcile does not wait for its interval.

Three indexed queries every quarter of a lease. The pulse decides nothing: without it, the next pass does the same.
"""

from __future__ import annotations

from core.benchmarks import BenchmarkState, Trigger
from core.endpoints import RolloutState
from core.leases import RECONCILE
from core.settings import Settings
from lifecycle.submissions import OPEN
from tasks.reconcile import PARTS, awaits_pickup, run_state
from tasks.service import Duty
from wiring import Platform

_MOVING = tuple(state for state in RolloutState if not state.ended)
_FRESH_S = 5.0
"""A submission that changed within this time is being started."""


def left_alone(here: Platform, now: float) -> bool:
    """Return whether an open submission, benchmark or rollout has no driver. Errors: Transient."""
    submissions = here.records.submissions.find(states=OPEN, limit=1000)
    lapsed = [row for row in submissions if row.lease_until < now and row.updated_at < now - _FRESH_S]
    if any(not awaits_pickup(here, row, run_state(here, row)) for row in lapsed):
        return True
    benchmarks = here.records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=1000)
    if any(
        row.trigger is not Trigger.GATE and row.lease_until < now and row.updated_at < now - here.settings.pickup_s for row in benchmarks
    ):
        return True
    driven = {row.id for row in submissions}
    return any(row.submission not in driven for row in here.records.rollouts.find(states=_MOVING, limit=1000))


def reconcile_duty(settings: Settings) -> Duty:
    """Return the reconcile service's duty."""
    return Duty(RECONCILE, settings.reconcile_s, PARTS, early=left_alone, early_every_s=settings.lease_s / 4)
