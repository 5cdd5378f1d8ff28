"""The evidence of a rollout's conversations against its candidate: four tests that share one alpha.

Each test is valid at any time it is looked at (`sequential_test`), and rejects an equal candidate with probability at most its part of
alpha. Bonferroni's inequality joins them: the parts sum to 1, and each e-value is multiplied by its part, so that 1/alpha is the limit of
all. (They are not averaged: they read different prefixes of the conversations, and an average needs one.)

Why a prefix. A test may only look at conversations in the order of their start, each with its final outcome. What has ended so far is
not such a sample: answers of a faster candidate end sooner, so its bad ones would be counted before those of the stable version.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from core.endpoints import EARLY_ANSWERS, BadEvent, ConversationOutcome
from core.ids import Epoch
from core.settings import RolloutPolicy
from lifecycle.rollouts.sequential_test import e_value, highest_rate, rate_e_value

FIRST_PART: Final = 0.92
EARLY_PART: Final = 0.02
THUMBS_PART: Final = 0.04
ALONE_PART: Final = 0.02
"""The parts of alpha; they sum to 1. First answers get most: they are there first, and are all that most conversations have."""

KIND_PART: Final = 0.02
"""The part of one kind of bad event within a test; the rest of the weight is on bad answers of any kind."""

ALONE_SHARE: Final = 0.5
"""Above this share, few conversations of the stable version are left to compare with."""
HIGHEST_LIMIT: Final = 0.5
"""Without a known rate of the stable version, more than half of the answers have to be bad."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """E-values, each multiplied by its test's part of alpha. `alone_limit` is the rate that `alone` speaks against."""

    first: float
    early: float
    thumbs: float
    alone: float
    alone_bad: int
    alone_total: int
    alone_limit: float


def weigh(outcomes: Sequence[ConversationOutcome], policy: RolloutPolicy, now: Epoch) -> Evidence:
    """Return the evidence of the conversations, which are in order of their start.

    `first` compares the first answers, up to the oldest conversation whose first answer has not ended; one that is older than the policy's
    window no longer holds it up. A conversation has one first answer, so a candidate that is faster, or talked to for longer, has no more
    of them. `early` compares whole conversations that are older than the window, for what only later answers show: it tolerates as many
    times more bad conversations as there may be more answers in one of them (`EARLY_ANSWERS`). `thumbs` compares votes on first answers, of
    conversations that are older than the window.
    `alone` holds the candidate's first answers at a share above `ALONE_SHARE` against a limit, see `_alone`.
    """
    whole = outcomes[: bisect_right(outcomes, now - policy.window_s, key=_start)]
    decided = outcomes[: _oldest_undecided(outcomes, len(whole))]
    first = Counter((one.candidate, one.share, one.first) for one in decided if one.first)
    early = Counter((one.candidate, one.share, one.early) for one in whole if one.early)
    thumbs = Counter((one.candidate, one.share) for one in whole if one.thumbs_down)
    bad, total, limit, alone = _alone(decided, policy)
    return Evidence(
        first=FIRST_PART * _over_kinds(first, 1.0),
        early=EARLY_PART * _over_kinds(early, EARLY_ANSWERS),
        thumbs=THUMBS_PART * e_value(thumbs),
        alone=ALONE_PART * alone,
        alone_bad=bad,
        alone_total=total,
        alone_limit=limit,
    )


def _oldest_undecided(outcomes: Sequence[ConversationOutcome], whole: int) -> int:
    """Return the place of the oldest conversation without an ended answer, of those after the `whole` that the window is over for."""
    return next((place for place in range(whole, len(outcomes)) if not outcomes[place].answered), len(outcomes))


_start = attrgetter("started_at")


def _over_kinds(bad: Mapping[tuple[bool, float, frozenset[BadEvent]], int], tolerance: float) -> float:
    """Return the weighted mean of the e-values of any bad event and of each kind: an e-value too, where none is more frequent."""
    mean = (1.0 - KIND_PART * len(BadEvent)) * e_value(_of(frozenset(BadEvent), bad), tolerance=tolerance)
    for kind in BadEvent:
        mean += KIND_PART * e_value(_of({kind}, bad), tolerance=tolerance)
    return mean


def _of(kinds: Set[BadEvent], bad: Mapping[tuple[bool, float, frozenset[BadEvent]], int]) -> Counter[tuple[bool, float]]:
    counts: Counter[tuple[bool, float]] = Counter()
    for (candidate, share, found), count in bad.items():
        if found & kinds:
            counts[candidate, share] += count
    return counts


def _alone(decided: Sequence[ConversationOutcome], policy: RolloutPolicy) -> tuple[int, int, float, float]:
    """Return the candidate's bad first answers at a share above `ALONE_SHARE`, all of them, their limit, and the evidence against it.

    The limit is `max_error_rate`, or the bound of the stable version's own rate if that is larger, at most `HIGHEST_LIMIT`. Half of the
    test's part of alpha is spent on that bound. Nothing here sees a drift in time that both versions would share.
    """
    ours = [one for one in decided if one.share > ALONE_SHARE and one.candidate]
    own = [one for one in decided if not one.candidate] if ours else []
    if not ours:
        return 0, 0, policy.max_error_rate, 1.0
    known = highest_rate(sum(bool(one.first) for one in own), len(own), policy.alpha * ALONE_PART / 2)
    limit = max(policy.max_error_rate, min(known, HIGHEST_LIMIT))
    bad = sum(bool(one.first) for one in ours)
    evidence = rate_e_value(bad, len(ours), limit) / 2 if 0.0 < limit < 1.0 else 1.0
    return bad, len(ours), limit, evidence
