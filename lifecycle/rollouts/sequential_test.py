"""Evidence that a candidate is worse, valid at any time it is looked at (an e-process).

Conversations are assigned at random: each became the candidate's with a known probability `share`. If the candidate is no worse
than the stable version, then, given that a conversation went bad, it is the candidate's with probability at most `share`,
whatever the rate of bad conversations is and however it drifts with the hour (both cohorts live at the same time).

For an odds ratio r > 1 let q = r s / (r s + 1 - s). Multiplying, over the bad conversations in order of their start, q / s when
it was the candidate's and (1 - q) / (1 - s) when it was not gives a non-negative supermartingale that starts at 1 under "no
worse". By Ville's inequality it exceeds 1 / alpha, ever, with probability at most alpha. A uniform mixture over several r keeps
that property and needs no guess of how much worse the candidate is.

Source: Ramdas, Gruenwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38(4),
2023, sections 2 and 4; the conditional form is the sequential likelihood ratio of Wald (1947) for the share of bad events.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from core.endpoints import ConversationOutcome

ODDS_RATIOS = (1.5, 2.0, 4.0, 8.0, 16.0, 32.0)


def e_value(outcomes: Iterable[ConversationOutcome], *, thumbs: bool = False) -> float:
    """Return the evidence (1 = none; > 1/alpha rejects "no worse") over conversations in order of their start.

    `thumbs`: a thumb down is the bad event. Conversations whose share is 0 or 1 carry no comparison and are passed over.
    """
    logs = [0.0] * len(ODDS_RATIOS)
    for outcome in outcomes:
        bad = outcome.thumbs_down if thumbs else outcome.bad
        if not bad or not 0.0 < outcome.share < 1.0:
            continue
        for index, odds in enumerate(ODDS_RATIOS):
            logs[index] += _log_factor(outcome, odds)
    top = max(logs)
    return math.exp(min(700.0, top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))))


def _log_factor(outcome: ConversationOutcome, odds: float) -> float:
    share = outcome.share
    q = odds * share / (odds * share + 1.0 - share)
    return math.log(q / share) if outcome.candidate else math.log((1.0 - q) / (1.0 - share))
