"""The trials on the dark candidate: smoke, latency, benchmark, degeneration. What was tried is what serves."""

from __future__ import annotations

import structlog

from core.benchmarks import Benchmark, Plan, Sample
from core.endpoints import Rollout
from core.errors import Fault, Refused, Transient
from core.ids import SubmissionId, VersionId
from core.ports.benchmark_runner import Progress
from core.shown import headline
from core.submissions import StepName
from core.versions import Decision, TrialKind, TrialReport
from evals.benchmark import benchmark_key, gate_benchmark, gate_plan, score_benchmark, wider_plan
from evals.engine_client import EngineClient
from evals.suite_loader import load_suite
from evals.trials import degeneration as judge_degeneration
from evals.trials import latency as measure_latency
from evals.trials import smoke as try_smoke
from lifecycle.rollouts.withdrawn import expect_wanted
from tasks.gates import GateEnd, end_gate, fail_gate, gate_answers, gate_row, known_run
from tasks.start import await_ready
from tasks.step import StepReport, recorded, step_task
from wiring import Platform, platform

log = structlog.get_logger(__name__)


@step_task
def smoke(submission: SubmissionId, rollout: Rollout) -> TrialReport:
    """Ask for a chat answer, a completion, and a chat with the model's own defaults."""
    with recorded(submission, StepName.SMOKE) as report:
        expect_wanted(platform().records, rollout.id)
        with engine_of(rollout.candidate) as engine:
            return settle(report, try_smoke(engine, rollout.candidate))


@step_task
def latency(submission: SubmissionId, rollout: Rollout) -> TrialReport:
    """Measure the time to the first token of the idle engine."""
    with recorded(submission, StepName.LATENCY) as report, engine_of(rollout.candidate) as engine:
        return settle(report, measure_latency(engine, rollout.candidate, platform().settings.trials))


@step_task
def benchmark(submission: SubmissionId, rollout: Rollout) -> TrialReport:
    """Ask the suite of the dark candidate and hold its answers against the stable version's; ask for more while that cannot tell."""
    with recorded(submission, StepName.BENCHMARK) as report:
        here = platform()
        enter_prompt(here)
        plan: Plan | None = gate_plan(here.settings.trials)
        while plan is not None:
            expect_wanted(here.records, rollout.id)
            judged = gated(here, submission, rollout, plan, report.progress)
            plan = wider_plan(plan, judged, here.settings.trials)
        return settle(report, judged)


@step_task
def degeneration(submission: SubmissionId, rollout: Rollout, benchmarked: TrialReport) -> TrialReport:
    """Count the benchmark's answers that end in a loop."""
    with recorded(submission, StepName.DEGENERATION) as report:
        found = platform().records.versions.reports(rollout.stable, TrialKind.BENCHMARK, benchmarked.key) if rollout.stable else ()
        stable = next(iter(found), None)
        return settle(report, judge_degeneration(benchmarked, stable, platform().settings.trials))


def engine_of(version: VersionId) -> EngineClient:
    """Return a client to a version's engine, waiting for it should it be starting again."""
    return EngineClient(await_ready(platform(), version), version)


def enter_prompt(here: Platform) -> None:
    """Enter the gate's prompt in the prompt registry. The registry is only a mirror: a submission never waits for it."""
    suite = load_suite(here.settings.trials.suite, here.settings.trials)
    try:
        here.pinned(suite.prompt)
    except Transient as error:
        log.warning("prompt.not_entered", prompt=suite.prompt.pinned, cause=error.what)


def gated(here: Platform, submission: SubmissionId, rollout: Rollout, plan: Plan, progress: Progress) -> TrialReport:
    """Return the candidate's report by one plan, decided, and write it down as a benchmark of its own."""
    row, ours = answered(here, submission, rollout, rollout.candidate, plan, progress)
    known = answered(here, submission, rollout, rollout.stable, plan, progress) if rollout.stable else None
    report = scored(here, row, ours)
    judged = gate_benchmark(report, ours, known[1] if known else None, here.settings.trials)
    if not row.ended:
        comparison = judged.detail.get("comparison", {})
        end_gate(here, row, ours, GateEnd(judged.decision, judged.findings[0].reason, known[0].id if known else None, comparison))
    if known and not known[0].ended:
        end_gate(here, known[0], known[1], GateEnd(Decision.INCONCLUSIVE, f"the baseline of {rollout.candidate[:12]}"))
    return judged


def answered(
    here: Platform, submission: SubmissionId, rollout: Rollout, version: VersionId, plan: Plan, progress: Progress
) -> tuple[Benchmark, tuple[Sample, ...]]:
    """Return a version's answers to a plan with their benchmark: those that are known, else asked now; their score is stored."""
    known = known_run(here, version, plan)
    if known is None:
        row = gate_row(here, submission, rollout.endpoint, version, plan)
        try:
            known = row, gate_answers(here, row, await_ready(here, version), progress)
        except (Refused, Fault) as error:
            fail_gate(here, row, error)
            raise
    if not here.records.versions.reports(version, TrialKind.BENCHMARK, benchmark_key(plan)):
        here.records.versions.report(scored(here, *known))
    return known


def scored(here: Platform, row: Benchmark, samples: tuple[Sample, ...]) -> TrialReport:
    """Return a benchmark's report, not yet held against anything."""
    end = row.ended_at or here.clock.now()
    return score_benchmark(row.version, row.plan, samples, end - row.started_at, end)


def settle(report: StepReport, trial: TrialReport) -> TrialReport:
    """Store a trial's report, show it, and raise Refused with its first failure. A passed finding with a hint is a warning."""
    platform().records.versions.report(trial)
    failed = trial.first_failure()
    warnings = [finding.reason for finding in trial.findings if finding.passed and finding.hint]
    passed = headline(trial.numbers) or f"{sum(finding.passed for finding in trial.findings)} of {len(trial.findings)} checks passed"
    report.say(failed.reason if failed else "; ".join([passed, *warnings]), decision=trial.decision, numbers=trial.numbers)
    if trial.decision is Decision.FAIL and failed is not None:
        raise Refused(failed.reason, reason=failed.name, hint=failed.hint)
    return trial
