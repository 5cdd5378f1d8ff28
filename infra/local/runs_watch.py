"""Whether flow runs can start: the runner's heartbeat, and how the last run of ours ended."""

from __future__ import annotations

import threading
from collections.abc import Callable

from core.errors import SeatrialError, Transient
from core.ports.clock import SystemClock
from core.settings import Settings

_LOOK_S = 5.0


def trouble(settings: Settings) -> str:
    """Return why no flow run can start now, empty when runs can. Raises SeatrialError when database or Prefect do not answer."""
    from registry.database import open_database  # noqa: PLC0415 - with SQLAlchemy, which other commands do not need
    from registry.flow_runs import PrefectRuns  # noqa: PLC0415

    clock = SystemClock()
    with open_database(settings.database_url) as records:
        beat = records.runners.latest()
    if beat is None:
        return f"the flow runner has not reported yet; its log: {settings.logs / 'runner.log'}"
    if beat.lost(clock.now()):
        silent_s = clock.now() - beat.at
        return f"the flow runner (process {beat.pid}) last reported {silent_s:.0f} s ago; its log: {settings.logs / 'runner.log'}"
    runs = PrefectRuns(settings.prefect_api_url, patience_s=2.0)
    try:
        last = runs.last_ended()
    finally:
        runs.close()
    if last is not None and last.could_not_start(since=beat.started):
        return f"the last flow run could not start: {last.message or last.name}; see {settings.logs / 'runner.log'}"
    return ""


def watch(settings: Settings, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Say each new trouble, and once that there is none any more, until `stop` is set."""
    known = ""
    while not stop.wait(_LOOK_S):
        try:
            found = trouble(settings)
        except Transient:
            continue  # Prefect or the database restarts: the supervisor reports that
        except SeatrialError as error:
            found = str(error)
        if found != known:
            say(found or "flow runs can start again")
            known = found
