"""Benchmarks whose run has died: they get another run, or are ended."""

from __future__ import annotations

from core.benchmarks import Benchmark, BenchmarkState, Trigger
from core.errors import Fault, NotFound, Refused
from core.flow_runs import RunState
from core.submissions import SubmissionState
from lifecycle.benchmarks import start_run
from tasks.benchmarks import end_failed, mirror
from tasks.pickup import on_its_way
from wiring import Platform

_MIRRORED_S = 7 * 86_400.0


def abandoned_benchmarks(here: Platform) -> tuple[Benchmark, ...]:
    """Return the running rows whose lease has run out. A gate's row is driven by its submission: only with that ended is it abandoned."""
    now = here.clock.now()
    rows = here.records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=1000)
    return tuple(row for row in rows if row.lease_until < now and not _in_a_submission(here, row))


def resume_benchmark(here: Platform, row: Benchmark) -> bool:
    """Bring one on; return whether anything was done."""
    if row.trigger is Trigger.GATE:
        end_failed(row.id, Refused("its submission has ended", reason="cancelled"))
        return True
    run = _run_state(here, row)
    if run is not None and run.type == "CANCELLED":
        end_failed(row.id, Refused("cancelled on Prefect's page", reason="cancelled", hint="start it again when it is still wanted"))
        return True
    if run is not None and run.waiting and on_its_way(here, run, row.updated_at):
        return False
    if row.runs >= here.settings.most_runs:
        end_failed(row.id, Fault(f"{row.runs} flow runs of {row.id} ended without a result", hint="see Prefect's page; then run it again"))
        return True
    if run is not None and row.flow_run and not run.ended and row.runs > 0:
        here.runs.crash(row.flow_run)  # its process is gone: a living one renews the lease
    start_run(here.records, here.runs, here.clock, row)
    return True


def mirror_missing(here: Platform) -> tuple[str, ...]:
    """Enter the last week's ended benchmarks that MLflow missed while unavailable; their packed rows wait on this machine."""
    now = here.clock.now()
    done = here.records.benchmarks.find(states=[BenchmarkState.DONE], limit=200)
    missing = [
        row for row in done if not row.run_url and (row.ended_at or now) > now - _MIRRORED_S and here.answers.packed(row.id).is_file()
    ]
    for row in missing:
        mirror.fn(row.id)
    return tuple(row.id for row in missing)


def _in_a_submission(here: Platform, row: Benchmark) -> bool:
    if row.trigger is not Trigger.GATE or row.submission is None:
        return False
    try:
        state: SubmissionState = here.records.submissions.get(row.submission).state
    except NotFound:
        return False
    return not state.ended


def _run_state(here: Platform, row: Benchmark) -> RunState | None:
    try:
        return here.runs.state(row.flow_run) if row.flow_run else None
    except NotFound:
        return None
