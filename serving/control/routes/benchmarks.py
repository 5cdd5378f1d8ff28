"""Routes of benchmarks: start, find, compare, cancel.

Routes read and compare stored rows, which takes a second at most. Work that calls engines, rankers or the sandbox runs as a flow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query

from core.access import Caller
from core.benchmarks import Benchmark, BenchmarkState, Plan, Trigger, aligned, grid_of
from core.errors import Conflict, Fault, Forbidden, NotFound, Refused
from core.ids import BenchmarkId, Digest, VersionId, new_id
from core.ports.benchmark_results import BenchmarkResults
from core.problem_scores import by_problem
from core.reasons import Reason
from core.submissions import endpoint_name
from lifecycle import benchmarks as lifecycle
from lifecycle.benchmark_targets import Target, target_of
from serving.control.context import ControlContext
from serving.control.dependencies import Context, Submitter
from serving.control.errors import RESPONSES
from serving.control.plain_text import plain
from serving.control.routes.studies import with_studies
from serving.control.schemas.benchmarks import (
    AnswerView,
    BenchmarkProblemView,
    BenchmarkView,
    ComparisonView,
    NewBenchmark,
    PowerView,
)
from serving.control.schemas.parameters import IdPart, IdQuery, Limit, NameQuery
from serving.control.schemas.waiting import WaitingView

_MOST_RUNNING = 8
_SUITE_FILES = (".jsonl", ".jsonl.gz")

routes = APIRouter(prefix="/v1/benchmarks", tags=["benchmarks"], responses=RESPONSES)


@routes.post("", status_code=201)
def start(body: NewBenchmark, context: Context, caller: Submitter) -> BenchmarkView:
    """Benchmark the stable version of an endpoint, or a version. While Prefect is unavailable it waits and is started later.

    A submitter may benchmark the versions that its submissions brought, an operator every one.
    """
    endpoint, version = _allowed(context, caller, target_of(context.records, body.target))
    _check_suite(context, body.suite)
    grid = grid_of(body.temperature, body.frequency_penalty, top_p=body.top_p, max_tokens=body.max_tokens)
    _check_room(context, caller)
    plan = Plan(body.suite, Digest(""), "", "", body.form, body.samples, grid)
    row = Benchmark(
        BenchmarkId(new_id("bm")),
        version,
        plan,
        Trigger.HAND,
        BenchmarkState.RUNNING,
        context.clock.now(),
        endpoint,
        asked_by=caller.principal,
    )
    return view(context, caller, lifecycle.start(context.records, context.runs, context.clock, row, caller.actor))


@routes.get("")
def find(
    context: Context,
    caller: Submitter,
    *,
    endpoint: NameQuery = None,
    version: IdQuery = None,
    state: Annotated[BenchmarkState | None, Query()] = None,
    trigger: Annotated[Trigger | None, Query()] = None,
    limit: Limit = 100,
) -> list[BenchmarkView]:
    """List benchmarks, newest first."""
    found = context.records.benchmarks.find(
        endpoint=endpoint_name(endpoint) if endpoint else None,
        version=context.records.versions.get(VersionId(version)).id if version else None,
        states=[state] if state else (),
        trigger=trigger,
        limit=limit,
    )
    return [view(context, caller, row, listed=True) for row in found]


@routes.get("/power")
def power(
    context: Context,
    _caller: Submitter,
    *,
    problems: Annotated[int, Query(ge=1, le=1_000_000)],
    samples: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    points: Annotated[float | None, Query(gt=0, le=100)] = None,
    pass_rate: Annotated[float | None, Query(gt=0, lt=1)] = None,
    power: Annotated[float, Query(gt=0, lt=1)] = 0.9,
) -> PowerView:
    """Say how many points of a drop so many samples a problem catch, or how many samples it takes to catch so many points."""
    if (samples is None) == (points is None):
        raise Refused("give either samples or points", reason=Reason.INVALID_REQUEST, hint="samples=20 or points=3")
    results = _results(context)
    if samples is None:
        samples = results.samples(problems, points or 0.0, pass_rate=pass_rate, power=power)
    return PowerView(
        problems=problems, samples=samples, points=results.points(problems, samples, pass_rate=pass_rate, power=power), power=power
    )


@routes.get("/compare")
def compare(
    context: Context,
    _caller: Submitter,
    *,
    candidate: Annotated[str, Query(max_length=100)],
    baseline: Annotated[str, Query(max_length=100)],
    margin: Annotated[float, Query(ge=0, le=1)] = 0.05,
) -> ComparisonView:
    """Hold one run against another of the same problems at the same sampling, paired problem by problem."""
    ours, theirs = (context.records.benchmarks.get(BenchmarkId(name)) for name in (candidate, baseline))
    if ours.plan.suite_digest != theirs.plan.suite_digest:
        asked = [f"{row.id} ({row.plan.suite}, {row.plan.form})" for row in (ours, theirs)]
        raise Conflict(
            f"{asked[0]} and {asked[1]} asked different problems",
            reason=Reason.NOT_COMPARABLE,
            hint="benchmark both with the same suite",
        )
    results = _results(context)
    try:
        found = results.compare(results.answers(ours), aligned(results.answers(theirs), theirs.plan, ours.plan), margin)
    except Fault as error:
        raise Conflict(
            f"{ours.id} and {theirs.id} cannot be compared: {error.what}", reason=Reason.NOT_COMPARABLE, hint=error.hint
        ) from error
    return ComparisonView(candidate=ours.id, baseline=theirs.id, found=found)


@routes.get("/{benchmark_id}")
def get(benchmark_id: IdPart, context: Context, caller: Submitter) -> BenchmarkView:
    """Return one benchmark."""
    row = context.records.benchmarks.get(BenchmarkId(benchmark_id))
    return view(context, caller, with_studies(context, caller, row))


@routes.get("/{benchmark_id}/problems")
def problems(benchmark_id: IdPart, context: Context, _caller: Submitter) -> list[BenchmarkProblemView]:
    """Return every problem: how often it was solved, the first failing check, and against the baseline."""
    row = context.records.benchmarks.get(BenchmarkId(benchmark_id))
    results = _results(context)
    base = context.records.benchmarks.get(row.baseline) if row.baseline else None
    theirs = aligned(results.answers(base), base.plan, row.plan) if base else ()
    return [BenchmarkProblemView.of(score) for score in by_problem(results.answers(row), theirs)]


@routes.get("/{benchmark_id}/answers")
def answers(
    benchmark_id: IdPart,
    context: Context,
    _caller: Submitter,
    problem: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = 100,
) -> list[AnswerView]:
    """Return answers as they were given and judged: of one problem, or the first ones."""
    row = context.records.benchmarks.get(BenchmarkId(benchmark_id))
    chosen = [sample for sample in _results(context).answers(row) if problem is None or sample.task_id == problem]
    if problem is not None and not chosen:
        raise NotFound(
            f"{row.id} has no problem {problem[:100]!r}", reason=Reason.NO_PROBLEM, hint=f"`seatrial bench show {row.id}` lists them"
        )
    return [AnswerView.of(sample) for sample in chosen[:limit]]


@routes.post("/{benchmark_id}/cancel")
def cancel(benchmark_id: IdPart, context: Context, caller: Submitter) -> BenchmarkView:
    """End a benchmark that runs. Its asker or an operator may; a gate ends with its submission."""
    row = context.records.benchmarks.get(BenchmarkId(benchmark_id))
    if not caller.is_operator and row.asked_by != caller.principal:
        raise Forbidden(f"{row.id} is not yours", reason=Reason.NOT_YOURS, hint="ask an operator to cancel it")
    changed = lifecycle.cancel(context.records, context.clock, row.id, caller.actor)
    context.reconcile_soon()
    return view(context, caller, changed)


def view(context: ControlContext, caller: Caller, row: Benchmark, *, listed: bool = False) -> BenchmarkView:
    """Show a caller a benchmark; in a list without asking Prefect why it waits."""
    driven = listed or row.trigger is Trigger.GATE or row.state is not BenchmarkState.RUNNING
    waits = None if driven else WaitingView.of(context.waiting(row.flow_run, row.lease_until), caller)
    asker = context.names().get(row.asked_by, "") if row.asked_by else ""
    return BenchmarkView.of(row, _model(context, row.version), asker, context.links.run(row.flow_run), waits)


def _model(context: ControlContext, version: VersionId) -> str:
    try:
        found = context.records.versions.get(version)
    except NotFound:
        return ""
    return f"{found.source}@{found.commit[:8]}"


def _allowed(context: ControlContext, caller: Caller, target: Target) -> Target:
    endpoint, version = target
    if caller.is_operator or version in context.versions_of(caller.principal):
        return target
    named = f"endpoint {endpoint}" if endpoint else f"version {version[:12]}"
    raise Forbidden(
        f"{named} is not from a submission of yours", reason=Reason.NOT_YOURS, hint="benchmark your own model, or ask an operator"
    )


def _check_suite(context: ControlContext, suite: str) -> None:
    """Refuse a suite that cannot be asked before anything is stored. A task of lm-eval is first read by its run."""
    if suite.startswith("/") and (plain(suite) != suite or not suite.endswith(_SUITE_FILES) or not Path(suite).is_file()):
        raise Refused(
            f"{plain(suite[:200])} is not a suite on the platform's machine",
            reason=Reason.SUITE_NOT_FOUND,
            hint="give a name, or a file that ends in .jsonl or .jsonl.gz",
        )
    context.suites.check(suite)


def _check_room(context: ControlContext, caller: Caller) -> None:
    running = context.records.benchmarks.find(states=[BenchmarkState.RUNNING], trigger=Trigger.HAND, limit=1000)
    mine = sum(row.asked_by == caller.principal for row in running)
    if mine >= _MOST_RUNNING:
        raise Conflict(
            f"{mine} benchmarks of yours are running", reason=Reason.TOO_MANY, hint="wait for one, or `seatrial bench cancel ID`"
        )


def _results(context: ControlContext) -> BenchmarkResults:
    if context.results is None:
        raise Fault("this control API was set up without answers", hint="see wiring/apps.py")
    return context.results
