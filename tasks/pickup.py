"""Whether a flow run that no process drives yet is still on its way to one."""

from __future__ import annotations

from core.flow_runs import RunState
from core.ids import Epoch
from wiring import Platform

_STARTS_WITHIN = 10
"""A process that has not started after this many times `pickup_s` is presumed dead, though the runner has not reported it."""


def on_its_way(here: Platform, run: RunState, since: Epoch) -> bool:
    """Return whether the run will still begin without our doing. `since`: when its row last changed.

    A flow runner, or Prefect's worker, takes up every scheduled run once it is up and has a free slot: a scheduled run is never lost. A
    runner that leaves heartbeats reports the end of each process that it started: a run is lost with the runner that started it.
    Without heartbeats (runs as Jobs of a cluster) only the time decides about a run whose pod was started.
    """
    if run.type == "SCHEDULED":
        return True
    now = here.clock.now()
    beat = here.records.runners.latest()
    if beat is None:
        return now - since < here.settings.pickup_s
    started_by_this_runner = max(run.at, since) >= beat.started
    return started_by_this_runner and now - since < _STARTS_WITHIN * here.settings.pickup_s
