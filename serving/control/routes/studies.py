"""Route of sampling studies, which are parts of a benchmark."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter

from core.access import Caller
from core.benchmarks import Benchmark, BenchmarkState
from core.errors import Forbidden, NotFound, Refused, Transient
from core.ids import BenchmarkId, new_id
from core.reasons import Reason
from lifecycle import studies
from serving.control.context import ControlContext
from serving.control.dependencies import Context, Submitter
from serving.control.errors import RESPONSES
from serving.control.schemas.parameters import IdPart
from serving.control.schemas.studies import NewStudy, StudyView
from serving.control.schemas.waiting import WaitingView

routes = APIRouter(prefix="/v1/benchmarks", tags=["benchmarks"], responses=RESPONSES)


@routes.post("/{benchmark_id}/studies", status_code=201)
def study(benchmark_id: IdPart, body: NewStudy, context: Context, caller: Submitter) -> StudyView:
    """Compare ways of choosing among several answers, on a finished benchmark's rows. While Prefect is unavailable it waits.

    Only an operator names a ranker: we call its URL.
    """
    row = context.records.benchmarks.get(BenchmarkId(benchmark_id))
    if body.ranker_url and not caller.is_operator:
        raise Forbidden("only an operator may name a ranker", reason=Reason.ROLE, hint="leave the ranker out, or ask an operator")
    if "ranker" in body.policies and not (body.ranker_url and body.ranker_model):
        raise Refused("the policy ranker needs a model that ranks", reason=Reason.NO_RANKER, hint="give --ranker URL --ranker-model NAME")
    context.suites.check(row.plan.suite, row.plan.suite_digest)
    name = new_id("st")
    run = studies.start(context.records, context.runs, context.clock, row.id, name, body.model_dump(), caller.actor)
    return StudyView(benchmark=row.id, study=name, run=context.links.run(run))


def with_studies(context: ControlContext, caller: Caller, row: Benchmark) -> Benchmark:
    """Return a benchmark whose studies under way say why they wait; one whose run has ended without a result has failed."""
    running = {name: document for name, document in row.studies.items() if document.get("state") == studies.RUNNING}
    if not running:
        return row
    shown = {name: _study_now(context, caller, document) for name, document in running.items()}
    written = context.records.benchmarks.get(row.id).studies  # read after the runs' states: a run writes its result before it ends
    return replace(
        row, studies={name: shown[name] if document.get("state") == studies.RUNNING else document for name, document in written.items()}
    )


def _study_now(context: ControlContext, caller: Caller, document: dict[str, Any]) -> dict[str, Any]:
    run = document["run"]
    try:
        state = context.runs.state(run) if run else None
    except (Transient, NotFound):
        state = None
    if state is not None and state.ended:
        return {**document, "state": BenchmarkState.FAILED, "reason": f"its flow run ended without a result: {state.message or state.name}"}
    waits = WaitingView.of(context.waiting(run, 0.0), caller)
    return {**document, "waiting": waits.model_dump(mode="json")} if waits else document
