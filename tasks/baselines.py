"""What a benchmark is held against, and what the comparison says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from core.benchmarks import Benchmark, BenchmarkState, Sample, Trigger, aligned, form_of, same_questions
from core.errors import NotFound
from core.ids import EndpointName, VersionId
from core.ports import Records
from core.versions import Decision
from evals.statistics import Comparison, NoiseFloor, by_sampling, compare, noise_floor, regressed, summarize
from registry.answers import Answers

log = structlog.get_logger(__name__)

_NOISE_RUNS = 10
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found: `comparison` is for display, `baseline` None where there is nothing to compare with yet."""

    decision: Decision
    reason: str
    baseline: Benchmark | None = None
    comparison: dict[str, Any] = field(default_factory=dict)


def judge_run(records: Records, answers: Answers, row: Benchmark, samples: Sequence[Sample], *, margin: float) -> Judgement:
    """Hold a run against its baseline: a schedule asks whether it became worse, everybody else whether it is worse by the margin."""
    base = baseline_of(records, answers, row)
    if base is None:
        return Judgement(Decision.INCONCLUSIVE, "the first run of this version by this plan: later ones are held against it")
    theirs = aligned(answers.read(base), base.plan, row.plan)
    judge = regressed if row.trigger is Trigger.SCHEDULE else compare
    found = judge(samples, theirs, margin=margin, noise=measured_noise(records, answers, row))
    return Judgement(found.decision, found.reason, base, shown(found))


def shown(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON for display."""
    return found.shown()


def baseline_of(records: Records, answers: Answers, row: Benchmark) -> Benchmark | None:
    """Return the pinned baseline: the version's first whole run of this plan; else the run of it that the endpoint's stable version has.

    Only a run of the same plan can be compared; where the stable version has another form, a run of the same questions in that form. None
    where this is the first.
    """
    first = _first(records, answers, row, row.version)
    if first is not None:
        return first
    stable = stable_of(records, row.endpoint)
    if stable is None or stable == row.version:
        return None
    return _first(records, answers, row, stable) or _in_its_own_form(records, answers, row, stable)


def measured_noise(records: Records, answers: Answers, row: Benchmark) -> NoiseFloor | None:
    """Return by how much equal runs of this version differ, from the runs before this one; None before there are two.

    Runs that raised an alarm are left out: a regression does not count as noise.
    """
    earlier = [run for run in done_runs(records, row, row.version) if run.decision is not Decision.FAIL][:_NOISE_RUNS]
    runs = [read for read in (_readable(answers, run) for run in earlier) if read]
    return noise_floor(runs) if len(runs) > 1 else None


def done_runs(records: Records, row: Benchmark, version: VersionId) -> tuple[Benchmark, ...]:
    """Return the whole runs of `row`'s plan on a version, newest first, without `row`."""
    found = records.benchmarks.find(version=version, plan=row.plan.key, states=[BenchmarkState.DONE], limit=_MOST)
    return tuple(run for run in found if run.id != row.id)


def stable_of(records: Records, endpoint: EndpointName | None) -> VersionId | None:
    """Return what an endpoint serves, None where it serves nothing or there is none."""
    try:
        return records.endpoints.get(endpoint).stable if endpoint else None
    except NotFound:
        return None


def numbers_in(samples: Sequence[Sample]) -> dict[str, float]:
    """Return a run's numbers; of a grid also each point's, as `pass_at_1/<sampling>`."""
    numbers = summarize(samples)
    points = by_sampling(samples)
    if len(points) > 1:
        numbers |= {f"{name}/{key}": value for key, point in points.items() for name, value in point.items()}
    return numbers


def curves_in(samples: Sequence[Sample]) -> dict[str, float]:
    """Return what is drawn over time: score, interval, rates and times of every point of the grid."""
    kept = ("pass_at_1", "low", "high", "loop_rate", "nonsense_rate", "cut_rate", "median_seconds", "mean_tokens", "sandbox_cpu_s")
    return {f"{name}/{key}": point[name] for key, point in by_sampling(samples).items() for name in kept if name in point}


def _first(records: Records, answers: Answers, row: Benchmark, version: VersionId) -> Benchmark | None:
    runs = [run for run in done_runs(records, row, version) if run.started_at < row.started_at or version != row.version]
    readable = (run for run in reversed(runs) if _readable(answers, run))
    return next(readable, None)


def _in_its_own_form(records: Records, answers: Answers, row: Benchmark, stable: VersionId) -> Benchmark | None:
    """Return the stable version's oldest whole run of the same questions, each version in the form for which it was trained."""
    theirs = form_of(records.versions.get(stable))
    if row.plan.form is theirs or row.plan.form is not form_of(records.versions.get(row.version)):
        return None
    found = records.benchmarks.find(version=stable, states=[BenchmarkState.DONE], limit=_MOST)
    runs = (run for run in reversed(found) if run.plan.form is theirs and same_questions(run.plan, row.plan))
    return next((run for run in runs if _readable(answers, run)), None)


def _readable(answers: Answers, run: Benchmark) -> tuple[Sample, ...]:
    """Return a run's answers, none where they were deleted: it can no longer be compared with."""
    try:
        return answers.read(run)
    except NotFound as error:
        log.warning("benchmark.unreadable", benchmark=run.id, cause=error.what)
        return ()
