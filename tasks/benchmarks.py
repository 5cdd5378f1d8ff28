"""The steps of a benchmark: bring its engine up, pin the plan, ask and judge every answer, compare, show, end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

import structlog
from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.runtime import flow_run
from pydantic import BaseModel, Field

from core.benchmarks import Benchmark, BenchmarkState, Form, Plan, Trigger, aligned, form_of, grid_of, numbers_of
from core.engines import EnginePhase
from core.errors import Conflict, NotFound, Refused, SeatrialError
from core.ids import BenchmarkId, Digest, Epoch, new_id
from core.ports import Clock, Records
from core.ports.records import AuditEntry
from core.problem_scores import ProblemScore, by_problem
from core.reasons import Reason
from core.shown import benchmark_title, duration, headline, key_of, model_title, part, suite_title
from core.submissions import StepName
from lifecycle import benchmarks as lifecycle
from lifecycle.benchmark_targets import Target, target_of
from lifecycle.leases import await_free
from registry.answers import PACKED, Answers
from tasks.alerts import tell_failure
from tasks.baselines import Judgement, curves_in, judge_run, numbers_in
from tasks.curves import data_uri, history_png
from tasks.lease import exit_if_orphaned, renewed, this_driver
from tasks.notes import run_log
from tasks.settle import settle_engines
from tasks.start import await_ready, engine_spec
from tasks.step import step_task
from wiring import platform

log = structlog.get_logger(__name__)

_LOOK_S = 1.0
_HISTORY = 200
_RECORDED_S = 7 * 86_400.0


class BenchmarkRequest(BaseModel):
    """What is benchmarked and how; Prefect's page shows it as a form."""

    target: str = Field(default="", description="an endpoint, or a model version's id (8 characters are enough); empty: every endpoint")
    suite: str = Field(
        default="harbour", description="a suite's name (a file in evals/suites, or a task of lm-eval), or a .jsonl file's path"
    )
    samples: int = Field(default=1, ge=1, le=1000, description="samples a problem at every point of the grid")
    temperature: str = Field(default="0", description="temperatures, separated by commas")
    frequency_penalty: str = Field(default="0", description="frequency penalties, separated by commas")
    form: Form = Field(
        default=Form.OWN, description="completion: the prompt raw; chat: as a user's message; own: chat where the model has a chat template"
    )
    max_tokens: int = Field(default=0, ge=0, le=32_768, description="longest answer, in tokens; 0: the suite's own")
    trigger: Trigger = Field(default=Trigger.HAND, description="schedule: a regression against the baseline raises an alert")
    benchmark: str | None = Field(default=None, description="leave empty: set by the platform for a benchmark that exists already")

    @property
    def title(self) -> str:
        """The run's name on Prefect's page."""
        return benchmark_title(self.suite, self.target)


def enter_benchmarks(request: BenchmarkRequest) -> tuple[Benchmark, ...]:
    """Return the rows that this run drives: the one that is named, or a new one for every target."""
    here = platform()
    if request.benchmark:
        return (here.records.benchmarks.get(BenchmarkId(request.benchmark)),)
    grid = grid_of(numbers_of(request.temperature), numbers_of(request.frequency_penalty), max_tokens=request.max_tokens)
    plan = Plan(request.suite, Digest(""), "", "", request.form, request.samples, grid)
    now = here.clock.now()
    rows = [
        Benchmark(
            BenchmarkId(new_id("bm")), version, plan, request.trigger, BenchmarkState.RUNNING, now, endpoint, flow_run=str(flow_run.id)
        )
        for endpoint, version in targets(here.records, request.target)
    ]
    return tuple(here.records.benchmarks.create(row) for row in rows)


def targets(records: Records, target: str) -> tuple[Target, ...]:
    """Return the (endpoint, version) pairs that a target means. NotFound, Refused (an endpoint that serves nothing)."""
    if target:
        return (target_of(records, target),)
    return tuple((endpoint.name, endpoint.stable) for endpoint in records.endpoints.list() if endpoint.stable)


@contextmanager
def held_benchmarks(rows: tuple[Benchmark, ...]) -> Iterator[None]:
    """Hold the leases of all rows while the block runs. Raises Conflict when another living run drives one."""
    exit_if_orphaned()
    here = platform()
    driver = str(this_driver())  # asked here: the thread that renews knows no run
    for row in rows:
        await_free(partial(here.records.benchmarks.get, row.id), driver, here.clock, 2 * here.settings.lease_s)

    def renew(until: float) -> None:
        for row in rows:
            lifecycle.renew(here.records, here.clock, row.id, driver, until)

    for row in rows:
        lifecycle.claim(here.records, here.clock, row.id, str(flow_run.id), driver, here.settings.lease_s)
    try:
        with renewed(here.clock, here.settings.lease_s, renew):
            yield
    finally:
        for row in rows:
            lifecycle.release(here.records, here.clock, row.id, driver)


@step_task
def bring_up(benchmark: BenchmarkId) -> str:
    """Return where the version answers; one that does not run is started dark from its stored weights (the row requests it)."""
    here = platform()
    version = here.records.versions.get(here.records.benchmarks.get(benchmark).version)
    if here.engines.state(version.id).phase is not EnginePhase.READY:
        try:
            here.engines.apply(engine_spec(here, version))
        except NotFound as error:
            raise Refused(
                f"the weights of {version.short} are not stored any more",
                reason=Reason.NO_WEIGHTS,
                hint="submit the model again, then benchmark it",
            ) from error
        except Conflict:
            log.info("benchmark.other_settings", version=version.short)  # made under other settings: asked as it serves
    address = await_ready(here, version.id)
    run_log().info("bring up: the engine of %s is ready", model_title(version.source, version.commit))
    return address


@step_task
def pin_plan(benchmark: BenchmarkId) -> Benchmark:
    """Write the plan down with the suite's digest and the versions of prompt and extractor; a resumed run keeps what it began with."""
    here = platform()
    row = here.records.benchmarks.get(benchmark)
    if row.planned:
        return row
    plan = here.benchmark_runner.pin(row.plan, form_of(here.records.versions.get(row.version)))
    pinned = lifecycle.pin(here.records, here.clock, benchmark, plan, this_driver())
    run_log().info("pin plan: %s, %s, %d samples a problem at %d points", plan.suite, plan.form, plan.samples, len(plan.grid))
    return pinned


@step_task
def ask(benchmark: BenchmarkId, address: str) -> None:
    """Ask and judge what is not there yet; whole runs are packed. Answers that an earlier attempt brought are not asked again."""
    here = platform()
    row = here.records.benchmarks.get(benchmark)
    if here.answers.packed(benchmark).is_file():
        return
    rows = here.answers.growing(benchmark)
    samples = here.benchmark_runner.run(address, row.version, row.plan, rows, shown_progress(here.records, here.clock, benchmark))
    here.answers.pack(benchmark, samples)
    run_log().info("ask: %d answers, %s passed", len(samples), part(sum(sample.passed for sample in samples) / max(1, len(samples))))


def shown_progress(records: Records, clock: Clock, benchmark: BenchmarkId) -> Callable[[float, str], None]:
    """Return what writes progress into the row, at most once a second, and stops the work when the row has ended (cancelled)."""
    last, driver = clock.monotonic() - _LOOK_S, this_driver()  # read here: the benchmark runner's threads have no Prefect run

    def progress(part: float, _said: str) -> None:
        nonlocal last
        if clock.monotonic() - last < _LOOK_S:
            return
        last = clock.monotonic()
        row = lifecycle.note_progress(records, clock, benchmark, part, driver)
        if row.ended:
            raise Refused(f"{benchmark} was cancelled", reason=Reason.CANCELLED, hint="start it again when it is still wanted")

    return progress


@step_task
def judge(benchmark: BenchmarkId) -> Judgement:
    """Count, compare with the baseline, and write both into the row."""
    here = platform()
    row = here.records.benchmarks.get(benchmark)
    samples = here.answers.read(row)
    margin = here.settings.benchmarks.margin if row.trigger is Trigger.SCHEDULE else here.settings.trials.margin
    found = judge_run(here.records, here.answers, row, samples, margin=margin)
    numbers = numbers_in(samples)
    judgement = lifecycle.Judgement(numbers, found.decision, found.reason, found.baseline.id if found.baseline else None, found.comparison)
    lifecycle.note_judgement(here.records, here.clock, benchmark, judgement, this_driver())
    run_log().info("judge: %s; %s: %s", headline(numbers), found.decision, found.reason)
    return found


@step_task
def record_in_mlflow(benchmark: BenchmarkId) -> None:
    """Enter the run in MLflow with its rows, and a point on its curves.

    A flow enters it before it writes the end into the row, so a judged row without an end ends now.
    """
    here = platform()
    row = judged(here.records.benchmarks.get(benchmark), here.clock.now())
    order = len([run for run in run_history(here.records, row) if run.started_at < row.started_at])
    files = {PACKED: here.answers.packed(benchmark)}
    results = here.answers.results(benchmark)
    if results.is_file():
        files["results.json"] = results
    recorded = here.history.record(row, model_of(here.records, row), curves_in(here.answers.read(row)), files, order=order)
    lifecycle.note_mirror(here.records, here.clock, benchmark, recorded.rows_uri, recorded.page)
    run_log().info("record_in_mlflow: recorded: %s", recorded.page)


def judged(row: Benchmark, now: Epoch) -> Benchmark:
    """Return a benchmark that has its numbers as one that is done, at `now` where its row does not tell the end yet."""
    return row if row.ended or not row.numbers else replace(row, state=BenchmarkState.DONE, ended_at=now)


def model_of(records: Records, row: Benchmark) -> str:
    """Return the name of a benchmark's model for people; the version where it is not known.

    The same weights may have come from several sources: a gate is named by what its own submission brought.
    """
    with suppress(NotFound):
        submission = records.submissions.get(row.submission) if row.submission else None
        if submission is not None and submission.version == row.version:
            commit = next((step.detail.get("commit") for step in submission.steps if step.name is StepName.RESOLVE), None)
            return model_title(submission.request.model.source, str(commit) if commit else None)
        version = records.versions.get(row.version)
        return model_title(version.source, version.commit)
    return row.version[:12]


def run_history(records: Records, row: Benchmark) -> tuple[Benchmark, ...]:
    """Return the judged runs on `row`'s suite of its endpoint (of its version where it has none), oldest first, `row` among them."""
    by = {"endpoint": row.endpoint} if row.endpoint else {"version": row.version}
    found = records.benchmarks.find(**by, limit=_HISTORY)
    same = [run for run in found if (run.plan.suite, run.plan.form) == (row.plan.suite, row.plan.form) and run.numbers]
    return tuple(reversed(same))


@step_task
def show(benchmark: BenchmarkId) -> None:
    """Leave a table (problem by problem) and the curve over time on Prefect's page."""
    here = platform()
    row = here.records.benchmarks.get(benchmark)
    base = here.records.benchmarks.get(row.baseline) if row.baseline else None
    problems = by_problem(here.answers.read(row), aligned(here.answers.read(base), base.plan, row.plan) if base else ())
    name, model = row.endpoint or row.version[:12], model_of(here.records, row)
    said = f"{suite_title(row.plan.suite)}, {model} on {name}: {headline(row.numbers)}. {row.decision}: {row.reason}"
    # A gate looks at a model before any user meets it; by hand and each night it is the endpoint that is looked at.
    gate = row.trigger is Trigger.GATE or row.endpoint is None
    key = key_of("model", model.partition("@")[0], "benchmark") if gate else key_of("endpoint", name, "benchmark")
    create_table_artifact(table=[problem_row(problem) for problem in problems], key=key, description=said)
    alike = [run for run in run_history(here.records, row) if run.plan.key == row.plan.key]  # another sampling is another line
    png = history_png(alike, f"{name}, suite {suite_title(row.plan.suite)} ({row.plan.form})")
    create_image_artifact(
        image_url=data_uri(png),
        key=key_of("endpoint" if row.endpoint else "version", name, "benchmark-history"),
        description=f"pass@1 over time. {said}",
    )


def problem_row(problem: ProblemScore) -> dict[str, str]:
    """Return a problem as a row of a table for people."""
    return {
        "problem": problem.task_id,
        "sampling": problem.sampling,
        "passed": f"{problem.passed} of {problem.samples}",
        "pass@1": part(problem.rate),
        "baseline": part(problem.baseline),
        "loops": str(problem.loops or ""),
        "time": duration(problem.mean_seconds),
        "first failing check": problem.detail,
    }


@step_task
def conclude(benchmark: BenchmarkId) -> BenchmarkState:
    """Write the end into the row, and stop the engine unless it is wanted for another use."""
    here = platform()
    now = here.clock.now()
    row = lifecycle.finish(here.records, here.clock, benchmark, this_driver())
    here.answers.forget_growing(benchmark)
    settle_engines(here)
    took = duration((row.ended_at or now) - row.started_at)
    run_log().info("conclude: %s is %s after %s; see it: seatrial bench show %s", row.id, row.state, took, row.id)
    return row.state


def record_and_show(benchmark: BenchmarkId) -> None:
    """Let people see it. What cannot be shown now keeps no alert and no end back: reconcile enters it in MLflow later."""
    for display in (record_in_mlflow, show):
        try:
            display(benchmark)
        except SeatrialError as error:
            log.warning("benchmark.not_shown", benchmark=benchmark, cause=error.what)


def end_failed(benchmark: BenchmarkId, error: SeatrialError) -> BenchmarkState:
    """Record why the run failed. A failed run carries no information about the model and does not count as a regression."""
    here = platform()
    now = here.clock.now()
    row = lifecycle.fail(here.records, here.clock, benchmark, str(error), this_driver())
    here.records.audit.add(AuditEntry(now, "seatrial", "benchmark failed", benchmark, {"code": error.code, "message": error.what}))
    run_log().error("%s failed: %s", benchmark, error)
    tell_failure(row)
    settle_engines(here)
    return row.state


def record_missing(records: Records, answers: Answers, clock: Clock) -> tuple[str, ...]:
    """Enter the last week's ended benchmarks that MLflow missed while unavailable; their packed rows wait on this machine."""
    now = clock.now()
    done = records.benchmarks.find(states=[BenchmarkState.DONE], limit=200)
    missing = [row for row in done if not row.run_url and (row.ended_at or now) > now - _RECORDED_S and answers.packed(row.id).is_file()]
    for row in missing:
        record_in_mlflow.fn(row.id)
    return tuple(row.id for row in missing)
