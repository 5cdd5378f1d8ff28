"""How many samples detect how many points, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from statistics import NormalDist, fmean

from core.benchmarks import Sample
from core.errors import Refused
from core.reasons import Reason
from evals.statistics.noise import NoiseFloor
from evals.statistics.tally import tally

_WORST = 0.25


def detectable_points(
    problems: int,
    samples: int,
    *,
    pass_rate: float | None = None,
    rates: Sequence[float] | None = None,
    variance: float | None = None,
    alpha: float = 0.05,
    power: float = 0.9,
    baseline_samples: int | None = None,
    noise: NoiseFloor | None = None,
) -> float:
    """Return the drop of pass@1, in points (3.0 is 0.03), that `regressed` catches in the part `power` of cases with `samples` a problem.

    (z_{1-alpha} + z_power) sqrt(v / P (1 / n + 1 / n_b) + 2 sd^2), n_b the baseline's samples (as many unless told), v the mean over
    problems of p (1 - p), sd the engine's noise: the sample size of a one-sided test of two means (Cohen, Statistical Power Analysis for
    the Behavioral Sciences, 1988, section 2.4; for evals Miller, Adding Error Bars to Evals, arXiv 2411.00640, 2024, section 5) with the
    variance within problems. Give v as `variance` (`within_variance` measures it on a run), or the problems' true `rates`, or only
    `pass_rate`: v = p (1 - p), as if all problems were equally hard, which is the worst case. With none of them v = 1/4. It is the
    normal form of an exact test: for 100 answers or more.
    """
    per_answer = _variance(pass_rate, rates, variance) / problems
    answers = 1 / samples + 1 / (baseline_samples or samples)
    beyond = noise.extra_variance if noise is not None else 0.0
    return 100 * _reach(alpha, power) * sqrt(per_answer * answers + beyond)


def samples_needed(
    problems: int,
    points: float,
    *,
    pass_rate: float | None = None,
    rates: Sequence[float] | None = None,
    variance: float | None = None,
    alpha: float = 0.05,
    power: float = 0.9,
    noise: NoiseFloor | None = None,
) -> int:
    """Return the least samples a problem with which `detectable_points` is at most `points`: ceil(2 v / P / ((points / 100 z)^2 - 2 sd^2)).

    Raises Refused when the engine's own noise hides so small a drop however many are drawn.
    """
    beyond = noise.extra_variance if noise is not None else 0.0
    room = (points / 100 / _reach(alpha, power)) ** 2 - beyond
    if room <= 0:
        raise Refused(
            f"no number of samples detects {points:g} points: equal runs of this engine differ by {100 * sqrt(beyond):.2g} points",
            reason=Reason.BELOW_NOISE_FLOOR,
            hint=f"ask for more than {100 * _reach(alpha, power) * sqrt(beyond):.2g} points, or make the engine repeat itself",
        )
    return max(1, ceil(2 * _variance(pass_rate, rates, variance) / problems / room - 1e-9))


def within_variance(samples: Sequence[Sample]) -> float:
    """Return the mean over problems of p (1 - p), each c (n - c) / (n (n - 1)), which is without bias; 1/4 without two answers to any."""
    counted = tally(samples)
    pairs = [(int(passed), int(drawn)) for passed, drawn in zip(counted.passed, counted.drawn, strict=True) if drawn > 1]
    return fmean(passed * (drawn - passed) / (drawn * (drawn - 1)) for passed, drawn in pairs) if pairs else _WORST


def _reach(alpha: float, power: float) -> float:
    return NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)


def _variance(pass_rate: float | None, rates: Sequence[float] | None, variance: float | None) -> float:
    if variance is not None:
        return variance
    if rates:
        return fmean(rate * (1 - rate) for rate in rates)
    return _WORST if pass_rate is None else pass_rate * (1 - pass_rate)
