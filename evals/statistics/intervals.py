"""Intervals and tests of proportions, one by one; nothing here knows of samples or suites."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray

_Z_95 = 1.959964
_RESAMPLES = 2000

Floats = NDArray[np.float64]


def wilson(successes: float, trials: float, z: float = _Z_95) -> tuple[float, float]:
    """Return the score interval of a proportion (two-sided, 95 % unless `z` says otherwise), (0, 1) without trials.

    centre = (p + z^2 / 2n) / (1 + z^2 / n), half width = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2): Wilson, Probable
    Inference, the Law of Succession, and Statistical Inference (J. Am. Stat. Assoc. 22, 1927). Holds for few trials and at 0 and 1,
    where the textbook interval does not (Brown, Cai and DasGupta, Statistical Science 16, 2001).
    """
    if trials == 0:
        return 0.0, 1.0
    part, square = successes / trials, z**2
    shrink = 1 + square / trials
    centre = (part + square / (2 * trials)) / shrink
    half = z / shrink * sqrt(max(0.0, part * (1 - part)) / trials + square / (4 * trials**2))
    low = max(0.0, centre - half) if successes > 0 else 0.0  # exactly 0 and 1 at the ends, where rounding leaves 7e-18
    high = min(1.0, centre + half) if successes < trials else 1.0
    return low, high


def paired_p(lost: int, won: int) -> float:
    """Return the exact one-sided p of `lost` or more losses among the problems on which two versions differ.

    The sign test on discordant pairs (McNemar, Psychometrika 12, 1947, in its exact binomial form): P(X >= lost), X ~ B(lost + won, 1/2).
    """
    differ = lost + won
    return float(sum(comb(differ, k) for k in range(lost, differ + 1)) / 2**differ)


def student_quantile(freedom: int, level: float) -> float:
    """Return the quantile of Student's t distribution at `level` (0 to 1), with `freedom` degrees of freedom."""
    from scipy.special import stdtrit  # noqa: PLC0415 - 0.35 s, which processes that compute no bound do not spend

    return float(stdtrit(freedom, level))


def clustered_interval(values: Floats, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the two-sided percentile interval of the mean of `values`, one value a problem, by resampling whole problems.

    The bootstrap of clusters (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8): answers to one problem
    are alike, so problems are drawn with replacement, each with all of its answers. It says what other problems of this kind would give.
    Deviations are stretched by sqrt(P / (P - 1)), because resampling P values underrates their variance by (P - 1) / P (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, section 5.3). One value gives (value, value): nothing to resample.
    """
    size = len(values)
    mean = float(values.mean())
    if size == 1:
        return mean, mean
    drawn = np.random.default_rng(seed).integers(0, size, (_RESAMPLES, size))
    means = values[drawn].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    stretch = sqrt(size / (size - 1))
    return mean - (mean - float(low)) * stretch, mean + (float(high) - mean) * stretch
