"""Two versions on one suite: whether one is worse, and by more than may be lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from core.benchmarks import Sample
from core.errors import Fault
from core.versions import Decision
from evals.statistics.bounds import Arms, clustered_bounds, drop_p, stratified_bounds, tango_bounds
from evals.statistics.intervals import Floats, clustered_interval
from evals.statistics.noise import NoiseFloor
from evals.statistics.tally import Tally, judged, tally

_HALVINGS = 40
_FARTHEST_Z = 12.0
_SOLVED = 0.5


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate held against a baseline. Rates and differences in parts of 1 (0.03 is 3 points); differences are candidate - baseline."""

    decision: Decision
    reason: str
    """One sentence with the numbers, for the submitter."""
    difference: float
    low: float
    """With certainty 1 - alpha the difference is above it."""
    high: float
    """With certainty 1 - alpha it is below it."""
    p_value: float
    """Of the question that was asked: `compare`, were the candidate worse by the margin; `regressed`, were it no worse at all."""
    p_worse: float
    """Of so bad a result were the candidate as good as the baseline at every problem."""
    margin: float
    alpha: float
    candidate: float
    """Its pass@1."""
    baseline: float
    lost: tuple[str, ...]
    """Problems that the baseline solves at least half of the time and the candidate does not."""
    won: tuple[str, ...]
    problems: int
    answers: int
    """Judged answers of both together."""
    suite_low: float
    suite_high: float
    """95 % two-sided for other problems of this kind (bootstrap of whole problems): for people, nothing decides by it."""
    method: str
    """`identical`, `tango`, `stratified` or `clustered`: see `bounds`."""

    def shown(self) -> dict[str, Any]:
        """Return it as plain data (JSON), for storage and display."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "decision": str(self.decision), "lost": list(self.lost), "won": list(self.won)}


def compare(
    candidate: Sequence[Sample],
    baseline: Sequence[Sample],
    *,
    margin: float,
    alpha: float = 0.05,
    noise: NoiseFloor | None = None,
    seed: int = 0,
) -> Comparison:
    """Test that the candidate is not worse than the baseline by `margin` or more, problem by problem.

    PASS when the lower bound of the difference lies above -margin, FAIL when the upper bound lies below it, else INCONCLUSIVE: at most
    `alpha` of candidates that are worse by the margin pass, and at most `alpha` of those that are just not are failed. p_value is the
    least alpha at which it passes. (Non-inferiority by confidence bounds: Blackwelder, "Proving the null hypothesis" in clinical
    trials, Controlled Clinical Trials 3, 1982.) Both sides answered the same problems at the same sampling; Fault otherwise.

    Which variance counts: both are asked the same problems, and the question is which is better *at these*. So the problems are
    fixed, their difficulty cancels in the pairs, and only the answers within each problem vary: `stratified_bounds`, from two answers a
    problem. With one answer a problem that variance cannot be seen, and problems count as drawn: `tango_bounds`; with a mixture
    `clustered_bounds`. Answers that are the same, word for word, on both sides differ by nothing: PASS (`identical`).
    How often each errs is simulated in tests/unit/test_statistics_errors.py and told in docs/statistics.md. The noise floor of the
    engine (`noise_floor`) widens the bounds. `suite_low`, `suite_high` tell what other problems would give.
    """
    pair = _pair(candidate, baseline)
    view = _view(candidate, baseline, pair, noise)
    low, high = view.bounds(alpha)
    decision = Decision.PASS if low > -margin else Decision.FAIL if high < -margin else Decision.INCONCLUSIVE
    return _comparison(pair, view, _Asked(margin, alpha, seed), decision, view.p_above(-margin), _GATE[decision])


def regressed(
    current: Sequence[Sample],
    baseline: Sequence[Sample],
    *,
    margin: float,
    alpha: float = 0.05,
    noise: NoiseFloor | None = None,
    seed: int = 0,
) -> Comparison:
    """Test whether the served version became worse than its pinned baseline. FAIL is the alarm.

    FAIL when a drop is significant (p_value <= alpha, under no change) and may be as large as `margin` (the lower bound is not above
    -margin: a significant drop of less than the margin does not count as a regression); PASS when a drop of the margin is ruled out; else
    INCONCLUSIVE. p_value is exact (`drop_p`) under no change, so over A/A runs at most `alpha` alarm, for any rates of the problems and any
    number of answers; with a noise floor it is the larger of that and the normal tail with the widened variance.

    Both runs ask the same problems, so the test conditions on them: only the binomial variance within problems counts, not the variance
    between problems. That makes a drop of 3 points detectable: with 164 problems, 20 answers each and a mean p (1 - p) of 1/6 (rates
    spread evenly) the standard deviation of a difference is 1.0 point; with problems treated as a new random draw, the deviation at such
    rates is 3 points.
    """
    pair = _pair(current, baseline)
    view = _view(current, baseline, pair, noise)
    p_value = max(view.p_worse, 1 - view.p_above(0.0)) if noise is not None and noise.sd > 0 else view.p_worse
    low, _high = view.bounds(alpha)
    decision = Decision.PASS if low > -margin else Decision.FAIL if p_value <= alpha else Decision.INCONCLUSIVE
    return _comparison(pair, view, _Asked(margin, alpha, seed), decision, p_value, _WATCH[decision])


_GATE = {
    Decision.PASS: "a loss of {margin} points or more is ruled out",
    Decision.FAIL: "more than the {margin} points that may be lost",
    Decision.INCONCLUSIVE: "too few answers to tell whether it loses {margin} points or more",
}
_WATCH = {
    Decision.PASS: "a drop of {margin} points or more is ruled out",
    Decision.FAIL: "a significant drop",
    Decision.INCONCLUSIVE: "no significant drop, but one of {margin} points is not ruled out",
}


@dataclass(frozen=True, slots=True)
class _Asked:
    margin: float
    alpha: float
    seed: int


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both sides on the same strata."""

    candidate: Tally
    baseline: Tally

    @property
    def arms(self) -> Arms:
        return Arms(self.candidate.passed, self.candidate.drawn, self.baseline.passed, self.baseline.drawn)

    def by_problem(self) -> tuple[tuple[str, ...], Floats, Floats]:
        tasks, ours = self.candidate.by_problem()
        return tasks, ours, self.baseline.by_problem()[1]


def _pair(candidate: Sequence[Sample], baseline: Sequence[Sample]) -> _Pair:
    ours, theirs = tally(candidate), tally(baseline)
    odd = sorted(set(ours.strata) ^ set(theirs.strata))
    if odd:
        task, sampling = odd[0]
        raise Fault(
            f"{len(odd)} problems were judged on one side only, first {task} at {sampling}", hint="benchmark both versions with one plan"
        )
    if not ours.strata:
        raise Fault("there are no judged answers to compare", hint="run the benchmark of both versions first")
    return _Pair(ours, theirs)


@dataclass(frozen=True, slots=True)
class _View:
    """A pair seen by one method."""

    method: str
    pair: _Pair
    extra: float
    p_worse: float

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Return the one-sided bounds at 1 - alpha each."""
        return self._at(NormalDist().inv_cdf(1 - alpha))

    def p_above(self, value: float) -> float:
        """Return the least alpha at which the lower bound lies above `value`."""
        near, far = -_FARTHEST_Z, _FARTHEST_Z
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            low, high = self._at(abs(middle))
            near, far = (middle, far) if (low if middle >= 0 else high) > value else (near, middle)
        return 1 - NormalDist().cdf(near)

    def _at(self, z: float) -> tuple[float, float]:
        match self.method:
            case "identical":
                return 0.0, 0.0
            case "tango":
                differences = self.pair.arms.differences
                lost, won = int((differences < 0).sum()), int((differences > 0).sum())
                return tango_bounds(lost, won, len(differences), z, self.extra)
            case "stratified":
                low, high = stratified_bounds(self.pair.arms, z, self.extra)
                return float(low), float(high)
            case _:
                return clustered_bounds(_differences(self.pair), z, self.extra)


def _view(candidate: Sequence[Sample], baseline: Sequence[Sample], pair: _Pair, noise: NoiseFloor | None) -> _View:
    arms = pair.arms
    if _same(candidate, baseline):
        method = "identical"
    elif arms.most == 1 and len(pair.candidate.by_problem()[0]) == len(pair.candidate.strata):
        method = "tango"
    else:
        method = "stratified" if arms.fewest > 1 else "clustered"
    extra = noise.extra_variance if noise is not None else 0.0
    return _View(method, pair, extra, drop_p(arms))


def _same(candidate: Sequence[Sample], baseline: Sequence[Sample]) -> bool:
    def said(samples: Sequence[Sample]) -> Mapping[tuple[str, str, int], tuple[str, bool]]:
        return {(one.task_id, one.sampling, one.index): (one.text, one.passed) for one in judged(samples)}

    return said(candidate) == said(baseline)


def _differences(pair: _Pair) -> Floats:
    _tasks, ours, theirs = pair.by_problem()
    return ours - theirs


def _comparison(pair: _Pair, view: _View, asked: _Asked, decision: Decision, p_value: float, said: str) -> Comparison:
    tasks, ours, theirs = pair.by_problem()
    low, high = view.bounds(asked.alpha)
    suite_low, suite_high = clustered_interval(ours - theirs, seed=asked.seed)
    solved, solved_before = ours >= _SOLVED, theirs >= _SOLVED
    lost = tuple(task for task, now, before in zip(tasks, solved, solved_before, strict=True) if before and not now)
    won = tuple(task for task, now, before in zip(tasks, solved, solved_before, strict=True) if now and not before)
    arms = pair.arms
    difference = float(arms.differences.mean())
    certain = f"{100 * (1 - asked.alpha):.4g} %"
    reason = (
        f"pass@1 {pair.candidate.rates.mean():.3f} against the baseline's {pair.baseline.rates.mean():.3f}, "
        f"{100 * difference:+.1f} points: with {certain} certainty above {100 * low:+.1f}, with {certain} below {100 * high:+.1f}; "
        f"{said.format(margin=f'{100 * asked.margin:.4g}')}; of {len(tasks)} problems {len(lost)} lost and {len(won)} won"
    )
    return Comparison(
        decision=decision,
        reason=reason,
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        p_worse=view.p_worse,
        margin=asked.margin,
        alpha=asked.alpha,
        candidate=float(pair.candidate.rates.mean()),
        baseline=float(pair.baseline.rates.mean()),
        lost=lost,
        won=won,
        problems=len(tasks),
        answers=int(arms.candidate_drawn.sum() + arms.baseline_drawn.sum()),
        suite_low=suite_low,
        suite_high=suite_high,
        method=view.method,
    )
