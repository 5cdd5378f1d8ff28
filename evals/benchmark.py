"""The benchmark gate: a version's answers to a suite as a report, held against the stable version's answers to the same plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.benchmarks import Flaw, Form, Plan, Sample, Sampling
from core.errors import Fault
from core.ids import Epoch, VersionId
from core.programs import RunOutcome
from core.reasons import Reason
from core.settings import TrialPolicy
from core.versions import Decision, Finding, TrialKind, TrialReport
from evals.statistics import Comparison, compare, summarize
from evals.suite_loader import load_suite
from evals.suites.suite import plan_of

UNSOLVED = "benchmark_solves_nothing"
"""The finding of a version that solves no problem and passes: a first version, or one whose stable version solves next to none."""
_READ_THEM = "read the answers with `seatrial bench answers` before users rely on the model"
_UNSOLVED_HINT = f"{_READ_THEM}; SEATRIAL_TRIALS_MIN_SCORE above 0 refuses such a model"
_SHOWN_CHARS = 4000
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Row:
    """One answer's line in the report. `stable` is the part of the stable version's answers to this problem that passed."""

    task_id: str
    outcome: str
    detail: str
    completion: str
    completion_tokens: int
    looped: bool
    seconds: float
    flaws: tuple[str, ...] = ()
    finish_reason: str = ""
    sampling: str = ""
    index: int = 0
    stable: float | None = None

    def shown(self) -> dict[str, Any]:
        """Return it as plain data (JSON)."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "flaws": list(self.flaws)}


def gate_plan(policy: TrialPolicy, own: Form) -> Plan:
    """Return the gate's plan for a model whose form is `own`, pinned: its suite, samples and temperature are settings.

    Raises Refused where there is no such suite, or it does not support the model's form.
    """
    suite = load_suite(policy.suite, policy)
    form = suite.form_for(own)
    point = Sampling(temperature=policy.temperature, max_tokens=suite.way(form).max_tokens)
    # a file of one's own is found again by its path, which its name would not tell
    return replace(plan_of(suite, samples=policy.samples, grid=(point,), form=form), suite=policy.suite)


def key_in_form(key: str, policy: TrialPolicy, own: Form, other: Form) -> str:
    """Return the key of the score to which a model of the form `own` with the score `key` is compared: that of a model of the form `other`.

    `key` itself where both have one form, and where it is not a score of the gate.
    """
    plan = None if own is other else plan_with_key(key, policy, own)
    return key if plan is None else benchmark_key(replace(gate_plan(policy, other), samples=plan.samples))


def plan_with_key(key: str, policy: TrialPolicy, own: Form) -> Plan | None:
    """Return the gate's plan, as often asked as it took, that gave a model of the form `own` the score `key`; None: not the gate's."""
    plan = gate_plan(policy, own)
    while benchmark_key(plan) != key:
        samples = min(plan.samples * 2, policy.max_samples)
        if samples <= plan.samples:
            return None
        plan = replace(plan, samples=samples)
    return plan


def wider_plan(plan: Plan, judged: TrialReport, policy: TrialPolicy) -> Plan | None:
    """Return the plan that asks twice as often, up to `max_samples`, where the answers so far could not tell; None where that is all.

    Greedy answers would only repeat themselves.
    """
    samples = min(plan.samples * 2, policy.max_samples)
    unsure = judged.detail.get("comparison", {}).get("decision") == Decision.INCONCLUSIVE
    if not unsure or samples <= plan.samples or all(point.temperature <= 0 for point in plan.grid):
        return None
    return replace(plan, samples=samples)


def benchmark_key(plan: Plan) -> str:
    """Return what a score rests on: suite, its content, the whole way of asking."""
    return f"{plan.suite}:{plan.suite_digest[:16]}:{plan.key[:16]}"


def score_benchmark(version: VersionId, plan: Plan, samples: Sequence[Sample], seconds: float, now: Epoch) -> TrialReport:
    """Return the report of a version's answers, not yet held against anything. Raises Fault where none of them could be judged."""
    numbers = summarize(samples)
    if not numbers:
        raise Fault(f"none of {len(samples)} answers of {version[:12]} could be judged", hint="see the engine's log and seatrial doctor")
    tokens = sum(sample.completion_tokens for sample in samples)
    more = {
        "solved": float(sum(sample.passed for sample in samples)),
        "completion_tokens": float(tokens),
        "tokens_per_s": tokens / seconds if seconds > 0 else 0.0,
    }
    return TrialReport(
        version=version,
        kind=TrialKind.BENCHMARK,
        key=benchmark_key(plan),
        decision=Decision.INCONCLUSIVE,
        findings=(),
        numbers={**numbers, **more},
        detail={"rows": [_row(sample).shown() for sample in samples]},
        seconds=seconds,
        at=now,
    )


def gate_benchmark(report: TrialReport, ours: Sequence[Sample], stable: Sequence[Sample] | None, policy: TrialPolicy) -> TrialReport:
    """Return the candidate's report with its decision. `ours` and `stable` hold the samples of both for one plan; None: no stable version.

    A paired test of non-inferiority decides (`evals.statistics.compare`, margin and alpha from the settings): it fails when the candidate
    is significantly worse by more than the margin, and passes when that is ruled out. When the answers are inconclusive (`wider_plan` asks
    for more first), it fails when the measured difference exceeds the margin and is significantly below zero (`p_worse` at most alpha),
    and passes otherwise, with the finding `benchmark_inconclusive`: an equal version fails with probability at most alpha. Without a stable
    version `min_score` decides. Answers that could not be judged are left out on both sides. Raises Fault when the two answered different
    suites.
    """
    if stable is None:
        return _held_against_minimum(report, policy)
    common = _judged(ours) & _judged(stable)
    if not common:
        raise Fault("the two versions have no answers to the same problems", hint="benchmark both versions by one plan")
    theirs = [sample for sample in stable if (sample.task_id, sample.sampling) in common]
    found = compare(
        [sample for sample in ours if (sample.task_id, sample.sampling) in common], theirs, margin=policy.margin, alpha=policy.alpha
    )
    own = summarize(theirs)
    judged = replace(report, numbers={**report.numbers, **_numbers(found, own)}, detail=_detail(report, theirs, found))
    significant = found.difference < -policy.margin - _TINY and found.p_worse <= policy.alpha
    worse = found.decision is Decision.FAIL or (found.decision is Decision.INCONCLUSIVE and significant)
    said = f"pass@1 {_score(report.numbers)}; the stable version's is {_score(own)}: difference {_difference(found)}"
    if worse:
        reason = (
            f"pass@1 {_score(report.numbers)} is below the stable version's {_score(own)} by more than {policy.margin:g}: "
            f"difference {_difference(found)}, {len(found.lost)} problems lost, {len(found.won)} won"
        )
        return _failed(judged, Reason.BENCHMARK_BELOW_STABLE, reason + _chance(found))
    if not report.numbers["solved"]:
        return _passed(judged, UNSOLVED, f"the model solves none of {report.numbers['problems']:.0f} problems; {said}", _READ_THEM)
    if found.decision is Decision.INCONCLUSIVE:
        return _passed(judged, "benchmark_inconclusive", f"inconclusive: {said}; {_open(found, policy)}", _settles(policy))
    return _passed(judged, "benchmark_score", said)


def _held_against_minimum(report: TrialReport, policy: TrialPolicy) -> TrialReport:
    score = _score(report.numbers)
    if report.numbers["pass_at_1"] < policy.min_score - _TINY:
        return _failed(report, Reason.BENCHMARK_BELOW_MINIMUM, f"pass@1 {score} is below the minimum of {policy.min_score:g}")
    if not report.numbers["solved"]:
        what = f"the model solves none of {report.numbers['problems']:.0f} problems (pass@1 {score}); the endpoint has no stable version"
        return _passed(report, UNSOLVED, what, _UNSOLVED_HINT)
    return _passed(report, "benchmark_score", f"pass@1 {score}; the endpoint has no stable version yet")


def _passed(report: TrialReport, name: str, what: str, hint: str = "") -> TrialReport:
    return replace(report, decision=Decision.PASS, findings=(Finding(name, passed=True, reason=what, hint=hint),))


def _failed(report: TrialReport, reason: Reason, what: str) -> TrialReport:
    finding = Finding.failed(reason, what, "look at the problems it lost in the report, and submit a better one")
    return replace(report, decision=Decision.FAIL, findings=(finding,))


def _chance(found: Comparison) -> str:
    """Return why an inconclusive comparison failed."""
    return f"; an equal version has so low a score with probability {found.p_worse:.2g}" if found.decision is Decision.INCONCLUSIVE else ""


def _open(found: Comparison, policy: TrialPolicy) -> str:
    return f"{found.answers} answers neither show nor rule out a loss of {policy.margin:g}"


def _settles(policy: TrialPolicy) -> str:
    """Return what would settle a comparison that could not."""
    if policy.temperature > 0:
        return f"more answers would settle it: SEATRIAL_TRIALS_MAX_SAMPLES is {policy.max_samples}"
    return "a larger suite would settle it, or several answers a problem: SEATRIAL_TRIALS_TEMPERATURE above 0 and SEATRIAL_TRIALS_SAMPLES"


def _score(numbers: Mapping[str, float]) -> str:
    return f"{numbers['pass_at_1']:.2f} [{numbers['low']:.2f}, {numbers['high']:.2f}]"


def _difference(found: Comparison) -> str:
    return f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _numbers(found: Comparison, own: Mapping[str, float]) -> dict[str, float]:
    return {
        "stable_pass_at_1": own["pass_at_1"],
        "difference": found.difference,
        "difference_low": found.low,
        "difference_high": found.high,
        "lost": float(len(found.lost)),
        "won": float(len(found.won)),
        "p_value": found.p_value,
        "p_worse": found.p_worse,
    }


def _detail(report: TrialReport, theirs: Sequence[Sample], found: Comparison) -> dict[str, Any]:
    passes: dict[str, list[bool]] = {}
    for sample in theirs:
        if sample.outcome is not RunOutcome.SANDBOX_FAULT:
            passes.setdefault(sample.task_id, []).append(sample.passed)
    rates = {task: sum(each) / len(each) for task, each in passes.items()}
    rows = [{**row, "stable": rates.get(row["task_id"])} for row in report.detail["rows"]]
    return {**report.detail, "rows": rows, "comparison": found.shown()}


def _judged(samples: Sequence[Sample]) -> set[tuple[str, str]]:
    return {(sample.task_id, sample.sampling) for sample in samples if sample.outcome is not RunOutcome.SANDBOX_FAULT}


def _row(sample: Sample) -> Row:
    return Row(
        task_id=sample.task_id,
        outcome=str(sample.outcome),
        detail=sample.detail,
        completion=sample.text[:_SHOWN_CHARS],
        completion_tokens=sample.completion_tokens,
        looped=Flaw.LOOP in sample.flaws,
        seconds=sample.seconds,
        flaws=tuple(map(str, sample.flaws)),
        finish_reason=sample.finish_reason,
        sampling=sample.sampling,
        index=sample.index,
    )
