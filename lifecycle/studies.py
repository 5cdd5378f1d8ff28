"""Sampling studies, which are parts of a benchmark: noted in its row first, then driven by a flow run.

A study that was noted and has no run yet is started by reconcile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from core.access import Actor
from core.benchmarks import Benchmark, BenchmarkState
from core.errors import Conflict, Fault, NotFound, Refused, Transient
from core.ids import BenchmarkId
from core.ports import Clock, FlowRuns, Records
from core.reasons import Reason
from lifecycle.audit import write_audit
from lifecycle.benchmarks import note_study
from lifecycle.rows import update

_LOG = logging.getLogger("seatrial.lifecycle")
RUNNING: Final = "running"
"""The state of a study until its run has written its result."""


def start(
    records: Records, runs: FlowRuns, clock: Clock, benchmark: BenchmarkId, study: str, asked: Mapping[str, Any], by: Actor
) -> str | None:
    """Note a study of a benchmark and start its flow run; return the run's id.

    None while the orchestrator is unavailable: reconcile starts the run later. The same study again starts no second run. Conflict
    (`not_done`) unless the benchmark is done.
    """
    row = records.benchmarks.get(benchmark)
    if row.state is not BenchmarkState.DONE:
        raise Conflict(f"{row.id} is {row.state}", reason=Reason.NOT_DONE, hint="a study needs a benchmark that is done")
    begun = {"asked": dict(asked), "at": clock.now(), "state": RUNNING, "run": None, "rows": []}
    note_study(records, clock, row.id, study, begun, begun=True)
    write_audit(records, clock, by, "study", row.id, study=study, ranker=bool(asked.get("ranker_url")))
    try:
        return start_run(records, runs, clock, row.id, study, asked)
    except (Transient, NotFound) as error:
        _LOG.warning("study %s of %s waits for reconcile: %s", study, row.id, error)
        return None


def start_run(records: Records, runs: FlowRuns, clock: Clock, benchmark: BenchmarkId, study: str, asked: Mapping[str, Any]) -> str:
    """Start the study's flow run, note it unless the run was quicker with its result, and return its id.

    The same study again starts no second run. Errors: Transient and NotFound (the orchestrator is unavailable).
    """
    run = runs.start_study(study, {"benchmark": benchmark, "study": study, **asked})

    def started(row: Benchmark) -> Benchmark:
        document = row.studies[study]
        return replace(row, studies={**row.studies, study: {**document, "run": run}}) if awaits_run(document) else row

    update(records.benchmarks, benchmark, clock.now(), started)
    return run


def start_missing(records: Records, runs: FlowRuns, clock: Clock, fence: Callable[[], None]) -> tuple[str, ...]:
    """Start the run of every study that was noted and has none; return their ids. One whose start is refused is noted as failed.

    Raises Transient and NotFound when the orchestrator is unavailable.
    """
    started = []
    for row in records.benchmarks.find(states=[BenchmarkState.DONE], limit=1000):
        for study, document in row.studies.items():
            if awaits_run(document):
                fence()
                try:
                    start_run(records, runs, clock, row.id, study, document["asked"])
                except NotFound:  # the orchestrator does not have the flow yet
                    raise
                except (Refused, Fault) as error:
                    failed = {**document, "state": BenchmarkState.FAILED, "reason": error.what}
                    note_study(records, clock, row.id, study, failed)
                    continue
                started.append(study)
    return tuple(started)


def awaits_run(document: Mapping[str, Any]) -> bool:
    """Return whether a study was noted and its run was not."""
    return document.get("state") == RUNNING and document.get("run") is None
