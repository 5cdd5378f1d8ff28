"""How far apart two versions are: confidence bounds of a paired difference, and the exact test of a drop.

Everything here works on the last axis (problems) and over any axes before it, so that simulations run the code that decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, erfc, sqrt

import numpy as np
from numpy.typing import NDArray

from evals.statistics.intervals import Floats, student_quantile
from evals.statistics.tally import Counts

_HALVINGS = 60
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Arms:
    """Passes and draws of a candidate and its baseline on the same strata (last axis)."""

    candidate: Counts
    candidate_drawn: Counts
    baseline: Counts
    baseline_drawn: Counts

    @property
    def differences(self) -> Floats:
        """Candidate's rate less the baseline's, by stratum."""
        return np.asarray(self.candidate / self.candidate_drawn - self.baseline / self.baseline_drawn, dtype=np.float64)

    @property
    def fewest(self) -> int:
        """The fewest draws of either in any stratum."""
        return int(min(self.candidate_drawn.min(), self.baseline_drawn.min()))

    @property
    def most(self) -> int:
        """The most draws of either in any stratum."""
        return int(max(self.candidate_drawn.max(), self.baseline_drawn.max()))


def stratified_bounds(arms: Arms, z: float | Floats, extra_variance: float = 0.0) -> tuple[Floats, Floats]:
    """Return the lower and the upper bound of the mean difference d, each one-sided at `z`, with the problems held fixed.

    low = d - sqrt(sum_g w_g^2 ((p_cg - l_cg)^2 + (u_bg - p_bg)^2) + z^2 v), high = d + sqrt(sum_g w_g^2 ((u_cg - p_cg)^2 +
    (p_bg - l_bg)^2) + z^2 v): v is the extra variance, [l, u] the score limits (`_score_limits`) of either mean rate in group g, and
    there are two groups, problems that the two solve at least half of the time and the others, w_g their parts. Newcombe, Interval
    estimation for the difference between independent proportions (Statistics in Medicine 17, 1998), method 10; with strata as in Yan
    and Su, Stratified Wilson and Newcombe confidence intervals (Stat. Biopharm. Res. 2, 2010). The two groups are ours: a sure
    problem errs to one side only, and without them suites of sure passes and sure failures err at 8 % in place of 5 %.
    Needs two draws or more of each stratum.
    """
    easy = (arms.candidate + arms.baseline) * 2 >= arms.candidate_drawn + arms.baseline_drawn
    below = above = np.square(z) * extra_variance
    for group in (easy, ~easy):
        our_low, our_high = _score_reach(arms.candidate, arms.candidate_drawn, group, z)
        their_low, their_high = _score_reach(arms.baseline, arms.baseline_drawn, group, z)
        below = below + our_low**2 + their_high**2
        above = above + our_high**2 + their_low**2
    difference = arms.differences.mean(axis=-1)
    return np.asarray(difference - np.sqrt(below)), np.asarray(difference + np.sqrt(above))


def _score_reach(passed: Counts, drawn: Counts, group: NDArray[np.bool_], z: float | Floats) -> tuple[Floats, Floats]:
    """Return w (p - l) and w (u - p): how far the score limits of the group's mean rate p lie, w the group's part of all strata.

    Wilson's formula with the sampling variance within strata, s^2 = sum_i p_i (1 - p_i) / (n_i - 1) / S^2 (each term without bias), in
    the place of p (1 - p) / n, and N = S^2 / sum_i 1 / n_i draws in its z^2 / N terms: limits that stay open where every answer passed.
    """
    strata = np.maximum(group.sum(axis=-1), 1)
    rates = passed / drawn
    mean = (rates * group).sum(axis=-1) / strata
    variance = (rates * (1 - rates) / (drawn - 1) * group).sum(axis=-1) / strata**2
    square = np.square(z) * (group / drawn).sum(axis=-1) / strata**2
    centre = (mean + square / 2) / (1 + square)
    half = np.sqrt(np.square(z) * variance + square**2 / 4) / (1 + square)
    part = group.sum(axis=-1) / group.shape[-1]
    below = np.maximum(0.0, mean - np.maximum(0.0, centre - half))
    above = np.maximum(0.0, np.minimum(1.0, centre + half) - mean)
    return np.asarray(part * below), np.asarray(part * above)


def tango_bounds(lost: float, won: float, pairs: int, z: float, extra_variance: float = 0.0) -> tuple[float, float]:
    """Return the score bounds of a difference of paired proportions, each one-sided at `z`, from the pairs that only one solves.

    The d at which (won - lost - n d) / sqrt(n (2 q + d (1 - d)) + n^2 v) = +z and -z, with q = (sqrt(B^2 - 4 A C) - B) / 2A, A = 2n,
    B = -won - lost + (2n - won + lost) d, C = -lost d (1 - d): Tango, Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design (Statistics in Medicine 17, 1998). v is the extra variance. Holds where no pair differs.
    """
    low = _descend(lambda d: _tango(lost, won, pairs, d, extra_variance) - z)
    return low, _descend(lambda d: _tango(lost, won, pairs, d, extra_variance) + z)


def _tango(lost: float, won: float, pairs: int, d: float, extra_variance: float) -> float:
    a, b, c = 2 * pairs, -won - lost + (2 * pairs - won + lost) * d, -lost * d * (1 - d)
    q = (sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = pairs * (2 * q + d * (1 - d)) + pairs**2 * extra_variance
    return (won - lost - pairs * d) / sqrt(max(variance, _TINY))


def _descend(falling: Callable[[float], float]) -> float:
    """Return where a falling function of [-1, 1] crosses zero, by halving."""
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def clustered_bounds(differences: Floats, z: float, extra_variance: float = 0.0) -> tuple[float, float]:
    """Return the bounds of the mean of per-problem differences, each one-sided at the level of `z`, by the paired t.

    mean -+ t sqrt(s^2 / P + v), t Student's quantile with P - 1 degrees of freedom, v the extra variance: Student, The Probable Error of
    a Mean (Biometrika 6, 1908); per-problem pairing as in Miller, Adding Error Bars to Evals (arXiv 2411.00640, 2024), section 4.
    Never narrower than z^2 / (P + z^2), which is what Tango's bounds give where no problem differs.
    """
    size = len(differences)
    mean = float(differences.mean())
    spread = float(differences.var(ddof=1)) / size if size > 1 else 1.0
    t = student_quantile(max(1, size - 1), erfc(-z / sqrt(2)) / 2)
    half = max(t * sqrt(spread + extra_variance), z * z / (size + z * z))
    return mean - half, mean + half


def drop_p(arms: Arms) -> float:
    """Return the exact one-sided p of so few passes of the candidate, were it as good as its baseline at every problem.

    Given t_i passes of both together at problem i, the candidate's are hypergeometric when the two are alike, whatever the problem's own
    rate; p = P(sum_i X_i <= observed), the distribution of the sum by the product of characteristic functions. The exact conditional
    test of 2x2 tables in strata (Gart, Biometrika 57, 1970; Agresti, A Survey of Exact Inference for Contingency Tables, Statistical
    Science 7, 1992, section 3), exact for any number of answers; with one answer a problem it is `paired_p`. It never errs more often
    than it says. Where a problem has other numbers of answers than the others, passes count by number, not by problem.
    """
    size = 1 << int(arms.candidate_drawn.sum()).bit_length()
    tables = np.stack([arms.candidate + arms.baseline, arms.candidate_drawn, arms.baseline_drawn])
    columns, times = np.unique(tables, axis=1, return_counts=True)
    waves = np.stack([np.fft.rfft(_hypergeometric(*column), size) for column in columns.T.tolist()])
    chances = np.fft.irfft(np.repeat(waves, times, axis=0).prod(axis=0), size)
    return float(min(1.0, max(0.0, chances[: int(arms.candidate.sum()) + 1].sum())))


def _hypergeometric(together: int, ours: int, theirs: int) -> Floats:
    """Return the chances that 0, 1, ... of `together` passes among all answers fell to `ours` of them."""
    every = comb(ours + theirs, together)
    chances = [comb(ours, passes) * comb(theirs, together - passes) / every if passes <= together else 0.0 for passes in range(ours + 1)]
    return np.asarray(chances, dtype=np.float64)
