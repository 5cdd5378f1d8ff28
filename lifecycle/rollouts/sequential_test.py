"""Evidence that a candidate is worse, valid at any time it is looked at (e-processes).

Conversations are assigned at random: each became the candidate's with a known probability `share`. If the candidate is no worse
than the stable version, then, given that a conversation went bad, it is the candidate's with probability at most `share`,
whatever the rate of bad conversations is and however it drifts with the hour (both cohorts live at the same time).

For an odds ratio r > 1 let q = r s / (r s + 1 - s). Multiplying, over the bad conversations in order of their start, q / s =
r / (r s + 1 - s) when it was the candidate's and (1 - q) / (1 - s) = 1 / (r s + 1 - s) when it was not gives a non-negative
supermartingale that starts at 1 under "no worse". By Ville's inequality it exceeds 1 / alpha, ever, with probability at most alpha. A
mixture over several r keeps that property and needs no guess of how much worse the candidate is.

Source: Ramdas, Gruenwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38(4),
2023, sections 2 and 4; the conditional form is the sequential likelihood ratio of Wald (1947) for the share of bad events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

ODDS_RATIOS: Final[Mapping[float, float]] = {2.0: 0.2, 5.0: 0.65, 20.0: 0.15}
"""Odds ratios and their weights, which sum to 1. Most weight is on 5: a rate that rises from 1 % to 5 % is what has to be found."""

_MOST_LOG = 700.0
_HALVINGS = 40


def e_value(bad: Mapping[tuple[bool, float], int], *, tolerance: float = 1.0) -> float:
    """Return the evidence (1 = none; > 1/alpha rejects "no worse") of the bad conversations: how many by (the candidate's?, share).

    Their order does not matter. With a `tolerance` t the rejected hypothesis is "at most t times as often bad": s is replaced by
    t s / (t s + 1 - s). Conversations whose share is 0 or 1 carry no comparison and are passed over.
    """
    logs = dict.fromkeys(ODDS_RATIOS, 0.0)
    for (candidate, share), count in bad.items():
        if 0.0 < share < 1.0:
            chance = tolerance * share / (tolerance * share + 1.0 - share)
            for odds in ODDS_RATIOS:
                logs[odds] += count * (math.log(odds) * candidate - math.log(odds * chance + 1.0 - chance))
    return _mixture(logs)


def rate_e_value(bad: int, total: int, limit: float) -> float:
    """Return the evidence that more than `limit` (0 < limit < 1) of conversations go bad: each one's chance is at most that otherwise.

    Each conversation multiplies by q / m when it is bad and (1 - q) / (1 - m) when it is not, with m = `limit` and q of odds r times as
    large, averaged over r: r^bad / (r m + 1 - m)^total. It falls with m.
    """
    return _mixture({odds: bad * math.log(odds) - total * math.log(odds * limit + 1.0 - limit) for odds in ODDS_RATIOS})


def highest_rate(bad: int, total: int, alpha: float) -> float:
    """Return a bound that the rate of bad conversations exceeds, at any time, with probability at most `alpha`; 1 without data.

    The largest m at which the evidence for odds below m's, `rate_e_value` with 1 / r, is at most 1 / alpha: a confidence sequence
    (Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49, 2021).
    """
    low, high = bad / total if total else 1.0, 1.0
    for _ in range(_HALVINGS if total else 0):
        middle = (low + high) / 2
        logs = {odds: -bad * math.log(odds) - total * math.log(middle / odds + 1.0 - middle) for odds in ODDS_RATIOS}
        low, high = (middle, high) if _mixture(logs) <= 1.0 / alpha else (low, middle)
    return high


def _mixture(logs: Mapping[float, float]) -> float:
    top = max(logs.values())
    return math.exp(min(_MOST_LOG, top + math.log(sum(ODDS_RATIOS[odds] * math.exp(value - top) for odds, value in logs.items()))))
