"""The pulse beside the flow runner: it sees within seconds that work has lost its driver, and calls reconcile.

Reconcile itself runs each minute whatever happens; the pulse only makes a take-over quick without starting a process every few
seconds. It reads three indexed queries a beat, and calls at most once in `_PAUSE_S`.
"""

from __future__ import annotations

import threading

import structlog

from core.benchmarks import BenchmarkState, Trigger
from core.endpoints import RolloutState
from core.errors import SeatrialError
from core.submissions import SubmissionState
from wiring import Platform

log = structlog.get_logger(__name__)

_OPEN = (SubmissionState.QUEUED, SubmissionState.RUNNING, SubmissionState.CANCELLING)
_MOVING = tuple(state for state in RolloutState if not state.ended)
_PAUSE_S = 15.0
_FRESH_S = 5.0
"""A submission that was touched so recently is being started right now."""
_PICKUP_S = 45.0
"""So long a benchmark may wait for a runner: nobody waits for it as for a submission, and each call costs a process."""


def beat(here: Platform, over: threading.Event) -> None:
    """Look every quarter of a lease until `over` is set; errors (a database or Prefect that is away) wait for the next look."""
    called = 0.0
    while not over.wait(here.settings.lease_s / 4):
        try:
            now = here.clock.now()
            if now - called > _PAUSE_S and left_alone(here, now):
                called = now
                here.runs.trigger_reconcile()
        except SeatrialError as error:
            log.warning("pulse.missed", cause=error.what)


def left_alone(here: Platform, now: float) -> bool:
    """Tell whether an open submission, benchmark or rollout has nobody who drives it."""
    submissions = here.records.submissions.find(states=_OPEN, limit=1000)
    if any(row.lease_until < now and row.updated_at < now - _FRESH_S for row in submissions):
        return True
    benchmarks = here.records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=1000)
    if any(row.trigger is not Trigger.GATE and row.lease_until < now and row.updated_at < now - _PICKUP_S for row in benchmarks):
        return True
    driven = {row.id for row in submissions}
    return any(row.submission not in driven for row in here.records.rollouts.find(states=_MOVING, limit=1000))
