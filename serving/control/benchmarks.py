"""Routes of benchmarks: start, look, compare, study.

Reading and comparing stored rows is a matter of a second at most and happens here; what asks engines, rankers or the sandbox is a flow.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

from core.access import Caller
from core.benchmarks import Benchmark, BenchmarkState, Plan, Trigger, grid_of
from core.errors import Conflict, Fault, Forbidden, NotFound, Refused, Transient
from core.ids import BenchmarkId, Digest, VersionId, new_id
from core.submissions import endpoint_name
from lifecycle import benchmarks as lifecycle
from serving.control.access import Submitter, is_operator
from serving.control.asks import Bench, IdPart, IdQuery, Limit, NameQuery, StudyAsk
from serving.control.desk import Desk, TheDesk
from serving.control.errors import RESPONSES
from serving.control.problems import by_problem
from serving.control.scores import AnswerView, BenchmarkView, ComparisonView, PowerView, ProblemView, StudyView
from serving.control.targets import Target, target_of
from serving.control.text import plain
from serving.control.trials import Trials
from serving.control.waiting_view import waiting_view

_LOG = logging.getLogger("seatrial.control")
_MOST_RUNNING = 8
_SUITE_FILES = (".jsonl", ".jsonl.gz")

routes = APIRouter(prefix="/v1/benchmarks", tags=["benchmarks"], responses=RESPONSES)


@routes.post("", status_code=201)
def start(ask: Bench, desk: TheDesk, caller: Submitter) -> BenchmarkView:
    """Benchmark what an endpoint serves, or a version. With Prefect away it is taken in all the same and started later.

    A submitter may benchmark the versions that its submissions brought, an operator every one.
    """
    endpoint, version = _allowed(desk, caller, target_of(desk.records, ask.target))
    _check_suite(ask.suite)
    grid = grid_of(ask.temperature, ask.frequency_penalty, top_p=ask.top_p, max_tokens=ask.max_tokens)
    _check_room(desk, caller)
    plan = Plan(ask.suite, Digest(""), "", "", ask.form, ask.samples, grid)
    row = Benchmark(
        BenchmarkId(new_id("bm")),
        version,
        plan,
        Trigger.HAND,
        BenchmarkState.RUNNING,
        desk.clock.now(),
        endpoint,
        asked_by=caller.principal,
    )
    made = desk.records.benchmarks.create(row)
    desk.audit(caller, "benchmark", made.id, version=version, endpoint=endpoint, suite=ask.suite)
    return view(desk, caller, _run(desk, made))


@routes.get("")
def find(
    desk: TheDesk,
    caller: Submitter,
    *,
    endpoint: NameQuery = None,
    version: IdQuery = None,
    state: Annotated[BenchmarkState | None, Query()] = None,
    trigger: Annotated[Trigger | None, Query()] = None,
    limit: Limit = 100,
) -> list[BenchmarkView]:
    """List benchmarks, newest first."""
    found = desk.records.benchmarks.find(
        endpoint=endpoint_name(endpoint) if endpoint else None,
        version=desk.records.versions.get(VersionId(version)).id if version else None,
        states=[state] if state else (),
        trigger=trigger,
        limit=limit,
    )
    return [view(desk, caller, row, listed=True) for row in found]


@routes.get("/power")
def power(
    desk: TheDesk,
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
        raise Refused("give either samples or points", reason="invalid_request", hint="samples=20 or points=3")
    trials = _trials(desk)
    if samples is None:
        samples = trials.samples(problems, points or 0.0, pass_rate=pass_rate, power=power)
    return PowerView(
        problems=problems, samples=samples, points=trials.points(problems, samples, pass_rate=pass_rate, power=power), power=power
    )


@routes.get("/compare")
def compare(
    desk: TheDesk,
    _caller: Submitter,
    *,
    candidate: Annotated[str, Query(max_length=100)],
    baseline: Annotated[str, Query(max_length=100)],
    margin: Annotated[float, Query(ge=0, le=1)] = 0.05,
) -> ComparisonView:
    """Hold one run against another of the same problems at the same sampling, paired problem by problem."""
    ours, theirs = (desk.records.benchmarks.get(BenchmarkId(name)) for name in (candidate, baseline))
    if (ours.plan.suite_digest, ours.plan.form) != (theirs.plan.suite_digest, theirs.plan.form):
        asked = [f"{row.id} ({row.plan.suite}, {row.plan.form})" for row in (ours, theirs)]
        raise Conflict(
            f"{asked[0]} and {asked[1]} asked different problems",
            reason="not_comparable",
            hint="benchmark both with the same suite and form",
        )
    trials = _trials(desk)
    try:
        found = trials.compare(trials.answers(ours), trials.answers(theirs), margin)
    except Fault as error:
        raise Conflict(f"{ours.id} and {theirs.id} cannot be compared: {error.what}", reason="not_comparable", hint=error.hint) from error
    return ComparisonView(candidate=ours.id, baseline=theirs.id, found=found)


@routes.get("/{benchmark_id}")
def get(benchmark_id: IdPart, desk: TheDesk, caller: Submitter) -> BenchmarkView:
    """Return one benchmark."""
    row = desk.records.benchmarks.get(BenchmarkId(benchmark_id))
    return view(desk, caller, _with_studies(desk, caller, row))


@routes.get("/{benchmark_id}/problems")
def problems(benchmark_id: IdPart, desk: TheDesk, _caller: Submitter) -> list[ProblemView]:
    """Return every problem: how often it was solved, the first failing check, and against the baseline."""
    row = desk.records.benchmarks.get(BenchmarkId(benchmark_id))
    trials = _trials(desk)
    theirs = trials.answers(desk.records.benchmarks.get(row.baseline)) if row.baseline else ()
    return [ProblemView.of(score) for score in by_problem(trials.answers(row), theirs)]


@routes.get("/{benchmark_id}/answers")
def answers(
    benchmark_id: IdPart,
    desk: TheDesk,
    _caller: Submitter,
    problem: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = 100,
) -> list[AnswerView]:
    """Return answers as they were given and judged: of one problem, or the first ones."""
    row = desk.records.benchmarks.get(BenchmarkId(benchmark_id))
    chosen = [sample for sample in _trials(desk).answers(row) if problem is None or sample.task_id == problem]
    if problem is not None and not chosen:
        raise NotFound(f"{row.id} has no problem {problem[:100]!r}", reason="no_problem", hint=f"`seatrial bench show {row.id}` lists them")
    return [AnswerView.of(sample) for sample in chosen[:limit]]


@routes.post("/{benchmark_id}/cancel")
def cancel(benchmark_id: IdPart, desk: TheDesk, caller: Submitter) -> BenchmarkView:
    """End a benchmark that runs. Its asker or an operator may; a gate ends with its submission."""
    row = desk.records.benchmarks.get(BenchmarkId(benchmark_id))
    if not is_operator(caller) and row.asked_by != caller.principal:
        raise Forbidden(f"{row.id} is not yours", reason="not_yours", hint="ask an operator to cancel it")
    if row.trigger is Trigger.GATE:
        raise Conflict(f"{row.id} is the gate of a submission", reason="is_a_gate", hint=f"seatrial cancel {row.submission}")
    if row.ended:
        raise Conflict(f"{row.id} has ended already ({row.state})", reason="already_ended", hint=f"see it: seatrial bench show {row.id}")
    desk.audit(caller, "cancel", row.id)
    changed = lifecycle.cancel(desk.records, desk.clock, row.id, caller.name)
    desk.reconcile_soon()
    return view(desk, caller, changed)


@routes.post("/{benchmark_id}/studies", status_code=201)
def study(benchmark_id: IdPart, ask: StudyAsk, desk: TheDesk, caller: Submitter) -> StudyView:
    """Compare ways of choosing among several answers, on a finished benchmark's rows. Only an operator names a ranker: we call its URL."""
    row = desk.records.benchmarks.get(BenchmarkId(benchmark_id))
    if row.state is not BenchmarkState.DONE:
        raise Conflict(f"{row.id} is {row.state}", reason="not_done", hint="a study needs a benchmark that is done")
    if ask.ranker_url and not is_operator(caller):
        raise Forbidden("only an operator may name a ranker", reason="role", hint="leave the ranker out, or ask an operator")
    if "ranker" in ask.policies and not (ask.ranker_url and ask.ranker_model):
        raise Refused("the policy ranker needs a model that ranks", reason="no_ranker", hint="give --ranker URL --ranker-model NAME")
    name = new_id("st")
    run = desk.runs.start_study(name, {"benchmark": row.id, "study": name, **ask.model_dump()})
    _enter_study(desk, row.id, name, ask, run)
    desk.audit(caller, "study", row.id, study=name, ranker=bool(ask.ranker_url))
    return StudyView(benchmark=row.id, study=name, run=desk.links.run(run))


def _enter_study(desk: Desk, benchmark: BenchmarkId, name: str, ask: StudyAsk, run: str) -> None:
    """Note that a study is under way and which run does it, unless that run was quicker."""
    begun = {"asked": ask.model_dump(), "at": desk.clock.now(), "state": "running", "run": run, "rows": []}
    lifecycle.note_study(desk.records, desk.clock, benchmark, name, begun, begun=True)


def _with_studies(desk: Desk, caller: Caller, row: Benchmark) -> Benchmark:
    """Return a benchmark whose studies under way say why they wait; one whose run has ended without a result has failed."""
    running = {name: document for name, document in row.studies.items() if document.get("state") == "running"}
    if not running:
        return row
    shown = {name: _study_now(desk, caller, document) for name, document in running.items()}
    written = desk.records.benchmarks.get(row.id).studies  # read after the runs' states: a run writes its result before it ends
    return replace(
        row, studies={name: shown[name] if document.get("state") == "running" else document for name, document in written.items()}
    )


def _study_now(desk: Desk, caller: Caller, document: dict[str, Any]) -> dict[str, Any]:
    try:
        state = desk.runs.state(str(document["run"]))
    except (Transient, NotFound):
        state = None
    if state is not None and state.ended:
        return {**document, "state": "failed", "reason": f"its flow run ended without a result: {state.message or state.name}"}
    waits = waiting_view(desk, caller, str(document["run"]), 0.0)
    return {**document, "waiting": waits.model_dump(mode="json")} if waits else document


def view(desk: Desk, caller: Caller, row: Benchmark, *, listed: bool = False) -> BenchmarkView:
    """Show a caller a benchmark; in a list without asking Prefect why it waits."""
    driven = listed or row.trigger is Trigger.GATE or row.state is not BenchmarkState.RUNNING
    waits = None if driven else waiting_view(desk, caller, row.flow_run, row.lease_until)
    asker = desk.names().get(row.asked_by, "") if row.asked_by else ""
    return BenchmarkView.of(row, _model(desk, row.version), asker, desk.links.run(row.flow_run), waits)


def _model(desk: Desk, version: VersionId) -> str:
    try:
        found = desk.records.versions.get(version)
    except NotFound:
        return ""
    return f"{found.source}@{found.commit[:8]}"


def _allowed(desk: Desk, caller: Caller, target: Target) -> Target:
    endpoint, version = target
    if is_operator(caller) or version in desk.versions_of(caller.principal):
        return target
    named = f"endpoint {endpoint}" if endpoint else f"version {version[:12]}"
    raise Forbidden(f"{named} is not from a submission of yours", reason="not_yours", hint="benchmark your own model, or ask an operator")


def _check_suite(suite: str) -> None:
    """Refuse a file that is not there; whether a name is known is told by the run."""
    if not suite.startswith("/"):
        return
    path = Path(suite)
    if plain(suite) != suite or not suite.endswith(_SUITE_FILES) or not path.is_file():
        raise Refused(
            f"{plain(suite[:200])} is not a suite on the platform's machine",
            reason="suite_not_found",
            hint="give a name, or a file that ends in .jsonl or .jsonl.gz",
        )


def _check_room(desk: Desk, caller: Caller) -> None:
    running = desk.records.benchmarks.find(states=[BenchmarkState.RUNNING], trigger=Trigger.HAND, limit=1000)
    mine = sum(row.asked_by == caller.principal for row in running)
    if mine >= _MOST_RUNNING:
        raise Conflict(f"{mine} benchmarks of yours are running", reason="too_many", hint="wait for one, or `seatrial bench cancel ID`")


def _run(desk: Desk, row: Benchmark) -> Benchmark:
    try:
        return lifecycle.start_run(desk.records, desk.runs, desk.clock, row)
    except (Transient, NotFound) as error:
        _LOG.warning("benchmark %s waits for reconcile: %s", row.id, error)
        return row


def _trials(desk: Desk) -> Trials:
    if desk.trials is None:
        raise Fault("this control API was set up without answers", hint="see wiring.py")
    return desk.trials
