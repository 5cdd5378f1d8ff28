"""The trials on the dark candidate: smoke, latency, benchmark, degeneration. What was tried is what serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from core.benchmarks import Benchmark, Form, Plan, Sample, aligned, form_of
from core.endpoints import Rollout
from core.errors import Fault, Refused, Transient
from core.ids import SubmissionId, VersionId
from core.ports.benchmark_runner import Progress
from core.settings import TrialPolicy
from core.shown import headline
from core.submissions import StepName
from core.versions import Decision, ModelVersion, TrialKind, TrialReport
from evals.benchmark import benchmark_key, gate_benchmark, gate_plan, key_in_form, plan_with_key, score_benchmark, wider_plan
from evals.benchmark_runner import suite_of
from evals.degeneration import Means
from evals.engine_client import EngineClient
from evals.fidelity import fidelity as try_fidelity
from evals.second_model import ask_means, pairs_of
from evals.suite_loader import load_suite
from evals.suites.suite import PromptTemplate
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
def fidelity(submission: SubmissionId, rollout: Rollout, version: ModelVersion) -> TrialReport:
    """Compare the engine's probabilities with the reference of the version."""
    with recorded(submission, StepName.FIDELITY) as report, engine_of(version.id) as engine:
        reference = platform().records.versions.reference(version.id)
        expect_wanted(platform().records, rollout.id)
        return settle(report, try_fidelity(engine, version, reference))


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
        first = gate_plan(here.settings.trials, own_form(here, rollout.candidate))
        enter_prompt(here.settings.trials, first, here.pinned)
        plan: Plan | None = first
        while plan is not None:
            expect_wanted(here.records, rollout.id)
            judged = gated(here, submission, rollout, plan, report.progress)
            plan = wider_plan(plan, judged, here.settings.trials)
        return settle(report, judged)


@step_task
def degeneration(submission: SubmissionId, rollout: Rollout, benchmarked: TrialReport) -> TrialReport:
    """Count the benchmark's answers that end in a loop or are nonsense, by their text and by the stable version's probabilities."""
    with recorded(submission, StepName.DEGENERATION) as report:
        here = platform()
        stable, known = rollout.stable, stable_report(here, rollout, benchmarked)
        asked = stable is not None and here.settings.trials.max_nonsense_rate < 1  # at 1 no answer could refuse the candidate
        ask = None if stable is None or not asked else partial(ask_stable, here, rollout, stable, benchmarked)
        return settle(report, judge_degeneration(benchmarked, known, here.settings.trials, ask_stable=ask))


def ask_stable(here: Platform, rollout: Rollout, stable: VersionId, benchmarked: TrialReport) -> Means:
    """Return how probable the stored answers of both versions are to the stable version."""
    policy = here.settings.trials
    plan = plan_with_key(benchmarked.key, policy, own_form(here, rollout.candidate))
    if plan is None:
        return Means(unavailable="the settings of the gate have changed since the benchmark")
    stable_plan = plan_of_stable(here, rollout, stable, plan)
    ours = known_run(here.records, here.answers, rollout.candidate, plan)
    theirs = known_run(here.records, here.answers, stable, stable_plan)
    if ours is None or theirs is None:
        return Means(unavailable="the answers to the benchmark are not stored any more")
    pairs = pairs_of(suite_of(plan, policy), plan, ours[1], stable_plan, theirs[1])
    expect_wanted(here.records, rollout.id)
    with EngineClient(await_ready(here, stable), stable) as engine:
        return ask_means(engine, pairs, policy.concurrency)


def stable_report(here: Platform, rollout: Rollout, benchmarked: TrialReport) -> TrialReport | None:
    """Return the stable version's score to which the candidate's was compared, None where the endpoint has no stable version."""
    if rollout.stable is None:
        return None
    forms = own_form(here, rollout.candidate), own_form(here, rollout.stable)
    key = key_in_form(benchmarked.key, here.settings.trials, *forms)
    return next(iter(here.records.versions.reports(rollout.stable, TrialKind.BENCHMARK, key)), None)


def own_form(here: Platform, version: VersionId) -> Form:
    """Return the form for which a version was trained."""
    return form_of(here.records.versions.get(version))


def engine_of(version: VersionId) -> EngineClient:
    """Return a client to a version's engine, waiting for it should it be starting again."""
    return EngineClient(await_ready(platform(), version), version)


def enter_prompt(policy: TrialPolicy, plan: Plan, pin: Callable[[PromptTemplate], str]) -> None:
    """Enter the gate's prompt in the prompt registry. The registry is only a mirror: a submission never waits for it."""
    prompt = load_suite(policy.suite, policy).way(plan.form).prompt
    try:
        pin(prompt)
    except Transient as error:
        log.warning("prompt.not_entered", prompt=prompt.pinned, cause=error.what)


def plan_of_stable(here: Platform, rollout: Rollout, stable: VersionId, plan: Plan) -> Plan:
    """Return the candidate's plan for the stable version: the same questions, in the form for which that one was trained."""
    form = own_form(here, stable)
    if form is own_form(here, rollout.candidate):
        return plan
    return replace(gate_plan(here.settings.trials, form), samples=plan.samples)


def gated(here: Platform, submission: SubmissionId, rollout: Rollout, plan: Plan, progress: Progress) -> TrialReport:
    """Return the candidate's report by one plan, decided, and write it down as a benchmark of its own.

    Each version is asked in its own form (docs/decisions/models-are-asked-in-their-own-form.md).
    """
    row, ours = answered(here, submission, rollout, rollout.candidate, plan, progress)
    known = None
    if rollout.stable:
        known = answered(here, submission, rollout, rollout.stable, plan_of_stable(here, rollout, rollout.stable, plan), progress)
    report = scored(here, row, ours)
    stable = aligned(known[1], known[0].plan, row.plan) if known else None
    judged = gate_benchmark(report, ours, stable, here.settings.trials)
    if not row.ended:
        comparison = judged.detail.get("comparison", {})
        end = GateEnd(judged.decision, judged.findings[0].reason, known[0].id if known else None, comparison)
        end_gate(here.records, here.clock, here.answers, row, ours, end)
    if known and not known[0].ended:
        end = GateEnd(Decision.INCONCLUSIVE, f"the baseline of {rollout.candidate[:12]}")
        end_gate(here.records, here.clock, here.answers, known[0], known[1], end)
    return judged


def answered(
    here: Platform, submission: SubmissionId, rollout: Rollout, version: VersionId, plan: Plan, progress: Progress
) -> tuple[Benchmark, tuple[Sample, ...]]:
    """Return a version's answers to a plan with their benchmark: those that are known, else asked now; their score is stored."""
    known = known_run(here.records, here.answers, version, plan)
    if known is None:
        row = gate_row(here.records, here.clock, submission, rollout.endpoint, version, plan)
        try:
            known = row, gate_answers(here.answers, here.benchmark_runner, row, await_ready(here, version), progress)
        except (Refused, Fault) as error:
            fail_gate(here.records, here.clock, row, error)
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
    report.say(said_of(trial), decision=trial.decision, numbers=trial.numbers)
    if trial.decision is Decision.FAIL and failed is not None:
        raise failed.refused()
    return trial


def said_of(trial: TrialReport) -> str:
    """Return a trial's result in one line: its first failure, else its numbers and its warnings (passed findings with a hint)."""
    failed = trial.first_failure()
    if failed:
        return failed.reason
    if trial.kind is TrialKind.FIDELITY:
        return trial.findings[0].reason
    passed = f"{sum(finding.passed for finding in trial.findings)} of {len(trial.findings)} checks passed"
    warnings = [f"warning: {found.reason}; {found.hint}" for found in trial.findings if found.passed and found.hint]
    return "; ".join([headline(trial.numbers) or passed, *warnings])
