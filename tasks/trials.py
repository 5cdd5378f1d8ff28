"""The trials on the dark candidate: smoke, latency, benchmark, degeneration. What was tried is what serves."""

from __future__ import annotations

from collections.abc import Callable

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from core.endpoints import Rollout
from core.errors import Refused
from core.ids import SubmissionId, VersionId
from core.submissions import StepName
from core.versions import Decision, TrialKind, TrialReport
from evals.benchmark import benchmark_key, gate_benchmark, run_benchmark
from evals.engine_client import EngineClient
from evals.suite import load_suite
from evals.trials import degeneration as judge_degeneration
from evals.trials import latency as measure_latency
from evals.trials import smoke as try_smoke
from tasks.start import await_ready, still_wanted
from tasks.step import StepReport, recorded, step_task
from wiring import platform


@step_task
def smoke(submission: SubmissionId, rollout: Rollout) -> TrialReport:
    """Ask for a chat answer and a completion."""
    with recorded(submission, StepName.SMOKE) as report:
        still_wanted(platform(), rollout.id)
        with engine_of(rollout.candidate) as engine:
            return settle(report, try_smoke(engine, rollout.candidate))


@step_task
def latency(submission: SubmissionId, rollout: Rollout) -> TrialReport:
    """Measure the time to the first token of the idle engine."""
    with recorded(submission, StepName.LATENCY) as report, engine_of(rollout.candidate) as engine:
        return settle(report, measure_latency(engine, rollout.candidate, platform().settings.trials))


@step_task
def benchmark(submission: SubmissionId, rollout: Rollout) -> TrialReport:
    """Run the suite against the dark candidate and hold it against the stable version's score."""
    with recorded(submission, StepName.BENCHMARK) as report:
        still_wanted(platform(), rollout.id)
        candidate = scored(rollout.candidate, report.progress)
        stable = scored(rollout.stable, report.progress) if rollout.stable else None
        judged = gate_benchmark(candidate, stable, platform().settings.trials)
        rows = judged.detail.get("rows", [])
        create_table_artifact(table=rows, key="benchmark", description=f"Benchmark of {rollout.candidate[:12]}, problem by problem")
        return settle(report, judged)


@step_task
def degeneration(submission: SubmissionId, rollout: Rollout, benchmarked: TrialReport) -> TrialReport:
    """Count the benchmark's answers that end in a loop."""
    with recorded(submission, StepName.DEGENERATION) as report:
        stable = kept(rollout.stable) if rollout.stable else None
        return settle(report, judge_degeneration(benchmarked, stable, platform().settings.trials))


def engine_of(version: VersionId) -> EngineClient:
    """Return a client to a version's engine, waiting for it should it be starting again."""
    return EngineClient(await_ready(platform(), version), version)


def scored(version: VersionId, progress: Callable[[float, str], None]) -> TrialReport:
    """Return the version's benchmark of the present suite: the stored one where there is one, else run now."""
    present = kept(version)
    if present is not None:
        return present
    here = platform()
    suite = load_suite(here.settings.trials.suite)
    at_once = here.settings.trials.concurrency
    with engine_of(version) as engine:
        ran = run_benchmark(engine, suite, here.sandbox, version, concurrency=at_once, progress=progress, clock=here.clock)
    here.records.versions.report(ran)
    return ran


def kept(version: VersionId) -> TrialReport | None:
    """Return the stored benchmark of this version and the present suite, or None."""
    here = platform()
    key = benchmark_key(load_suite(here.settings.trials.suite))
    return next(iter(here.records.versions.reports(version, TrialKind.BENCHMARK, key)), None)


def settle(report: StepReport, trial: TrialReport) -> TrialReport:
    """Store a trial's report, show it, and raise Refused with its first failure."""
    platform().records.versions.report(trial)
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in trial.numbers.items())
    failed = trial.first_failure()
    report.say(failed.reason if failed else numbers, decision=trial.decision, numbers=trial.numbers)
    create_markdown_artifact(f"**{trial.kind}**: {trial.decision}\n\n{numbers}\n", key=str(trial.kind))
    if trial.decision is Decision.FAIL and failed is not None:
        raise Refused(failed.reason, reason=failed.name, hint=failed.hint)
    return trial
