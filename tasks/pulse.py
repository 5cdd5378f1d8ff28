"""The pulse beside the flow runner: it sees within seconds that work has lost its driver, and calls reconcile.

Reconcile itself runs each minute whatever happens; the pulse only makes a take-over quick without starting a process every few
seconds. It reads three indexed queries a beat, and calls at most once in `_PAUSE_S`,
never while a pass that it called is under way.
"""

from __future__ import annotations

import threading

import structlog

from core.benchmarks import BenchmarkState, Trigger
from core.endpoints import RolloutState
from core.errors import NotFound, SeatrialError
from core.submissions import SubmissionState
from tasks.reconcile import awaits_pickup, run_state
from wiring import Platform

log = structlog.get_logger(__name__)

_OPEN = (SubmissionState.QUEUED, SubmissionState.RUNNING, SubmissionState.CANCELLING)
_MOVING = tuple(state for state in RolloutState if not state.ended)
_PAUSE_S = 15.0
_STUCK_S = 180.0
"""So old, a pass that was called is given up: its process may be gone."""
_FRESH_S = 5.0
"""A submission that was touched so recently is being started right now."""


def beat(here: Platform, over: threading.Event) -> None:
    """Look every quarter of a lease until `over` is set; errors (a database or Prefect that is away) wait for the next look."""
    called, run = 0.0, ""
    while not over.wait(here.settings.lease_s / 4):
        try:
            now = here.clock.now()
            if now - called > _PAUSE_S and left_alone(here, now) and not under_way(here, run, now - called):
                called, run = now, here.runs.trigger_reconcile()
        except SeatrialError as error:
            log.warning("pulse.missed", cause=error.what)


def under_way(here: Platform, run: str, age_s: float) -> bool:
    """Tell whether the pass that was called `age_s` ago is still to come: on a busy machine they would pile up and make it busier."""
    try:
        state = here.runs.state(run) if run and age_s < _STUCK_S else None
    except NotFound:
        return False
    return state is not None and not state.ended


def left_alone(here: Platform, now: float) -> bool:
    """Tell whether an open submission, benchmark or rollout has nobody who drives it."""
    submissions = here.records.submissions.find(states=_OPEN, limit=1000)
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
