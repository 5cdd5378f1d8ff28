"""The little statistics of the trials."""

from __future__ import annotations

from math import comb, sqrt

_Z_95 = 1.959964


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion, (0, 1) without trials.

    centre = (p + z^2 / 2n) / (1 + z^2 / n), half width = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2): Wilson, Probable
    Inference, the Law of Succession, and Statistical Inference (J. Am. Stat. Assoc. 22, 1927). Holds for few trials and at 0 and 1,
    where the textbook interval does not (Brown, Cai and DasGupta, Statistical Science 16, 2001).
    """
    if trials == 0:
        return 0.0, 1.0
    part, square = successes / trials, _Z_95**2
    shrink = 1 + square / trials
    centre = (part + square / (2 * trials)) / shrink
    half = _Z_95 / shrink * sqrt(part * (1 - part) / trials + square / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_p(lost: int, won: int) -> float:
    """Return the exact one-sided p of `lost` or more losses among the problems on which two versions differ.

    The sign test on discordant pairs (McNemar, Psychometrika 12, 1947, in its exact binomial form): P(X >= lost), X ~ B(lost + won, 1/2).
    """
    differ = lost + won
    return float(sum(comb(differ, k) for k in range(lost, differ + 1)) / 2**differ)
