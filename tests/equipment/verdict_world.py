"""Simulated rollouts in virtual time, judged by the real verdict: conversations start, answers end, and the driver looks at what is known.

Nothing here decides. A world draws conversations and tells, at each look, the `Cohorts` that the database would return at that time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import numpy as np

from core.endpoints import EARLY_ANSWERS, BadEvent, Cohort, ConversationOutcome
from core.ids import ConversationId
from core.ports.records import Cohorts
from core.settings import RolloutPolicy
from core.versions import Decision
from lifecycle.rollouts.verdict import judge

POLICY: Final = RolloutPolicy()
GAP_S = 1.0
"""Mean time between two starts of conversations."""
ANSWER_S = 4.0
"""Median time of a stable version's answer; the logarithm has the standard deviation `_SPREAD`."""
_SPREAD = 0.8
_READS_S = 15.0
_TIMES: Final = {BadEvent.ERROR: 0.2, BadEvent.SLOW: 1.0, BadEvent.LOOP: 4.0, BadEvent.NONSENSE: 1.0}
"""Bad answers take other times than good ones: an error comes soon, a loop ends at the length limit."""
_NO_EVENT: frozenset[BadEvent] = frozenset()


@dataclass(frozen=True, slots=True)
class Case:
    """What both versions do. `rate` and `worse` are chances of a bad answer, of the stable version and the candidate.

    `pace` multiplies the candidate's answer times. `shares` are those of the candidate in equal parts of the conversations. With
    `answers` above 1 a conversation has 1 to that many, equally often; the user reads between them.
    """

    kind: BadEvent
    rate: float
    worse: float
    shares: tuple[float, ...]
    pace: float = 1.0
    answers: int = 1
    conversations: int = 1000
    look_s: float = 30.0
    """Time between two looks of the driver."""

    @property
    def equal(self) -> bool:
        """Whether a rollback is false."""
        return self.rate == self.worse


@dataclass(frozen=True, slots=True)
class End:
    """How a simulated rollout ended: rolled back or not, after how many started conversations, and how many of the candidate's."""

    rolled_back: bool
    conversations: int
    candidates: int


_Update = tuple[float, int, ConversationOutcome]
"""When a conversation changes, its place, and what it is then."""


def rollout(case: Case, seed: int) -> End:
    """Run one rollout until its verdict fails, or until all conversations are decided."""
    started: list[ConversationOutcome] = []
    waiting, updates = _drawn(case, np.random.default_rng(seed))
    at, begun, told, candidates = case.look_s, 0, 0, 0
    last = waiting[-1].started_at + POLICY.window_s + case.look_s
    while at < last:
        while begun < len(waiting) and waiting[begun].started_at <= at:
            started.append(waiting[begun])
            candidates += waiting[begun].candidate
            begun += 1
        while told < len(updates) and updates[told][0] <= at:
            started[updates[told][1]] = updates[told][2]
            told += 1
        verdict = judge(_cohorts(started, candidates), POLICY, needed=POLICY.min_conversations, now=at)
        if verdict.decision is Decision.FAIL:
            return End(True, begun, candidates)
        at += case.look_s
    return End(False, begun, candidates)


def _cohorts(started: list[ConversationOutcome], candidates: int) -> Cohorts:
    """Return what the database would; the totals count conversations only, because nothing else in them makes a verdict fail."""
    return Cohorts(Cohort(conversations=len(started) - candidates), Cohort(conversations=candidates), tuple(started))


def _drawn(case: Case, random: np.random.Generator) -> tuple[list[ConversationOutcome], list[_Update]]:
    """Return conversations as they start, and their changes by time: the first answer ended, the window is over."""
    count, most = case.conversations, case.answers
    starts = np.cumsum(random.exponential(GAP_S, count))
    shares = np.repeat(case.shares, -(-count // len(case.shares)))[:count]
    candidate = random.random(count) < shares
    bad = random.random((count, most)) < np.where(candidate, case.worse, case.rate)[:, None]
    bad &= np.arange(most) < random.integers(1, most + 1, count)[:, None]
    took = ANSWER_S * np.exp(_SPREAD * random.standard_normal((count, most))) * np.where(candidate, case.pace, 1.0)[:, None]
    took *= np.where(bad, _TIMES[case.kind], 1.0)
    took += bad * POLICY.slow_ttft_s * (case.kind is BadEvent.SLOW)
    gaps = np.concatenate([np.zeros((count, 1)), random.exponential(_READS_S, (count, most - 1))], axis=1)
    ends = starts[:, None] + np.cumsum(took + gaps, axis=1)
    early = (bad & (ends <= starts[:, None] + POLICY.window_s))[:, :EARLY_ANSWERS].any(axis=1)
    facts = zip(starts.tolist(), shares.tolist(), candidate.tolist(), bad[:, 0].tolist(), early.tolist(), strict=True)
    kinds = frozenset({case.kind})
    begun: list[ConversationOutcome] = []
    updates: list[_Update] = []
    for index, ((start, share, ours, first, soon), end) in enumerate(zip(facts, ends[:, 0].tolist(), strict=True)):
        known, name = kinds if first else _NO_EVENT, ConversationId(str(index))
        begun.append(ConversationOutcome(name, ours, share, start, answered=False))
        updates.append((end, index, ConversationOutcome(name, ours, share, start, answered=True, first=known)))
        if soon:
            whole = ConversationOutcome(name, ours, share, start, answered=True, first=known, early=kinds)
            updates.append((max(end, start + POLICY.window_s), index, whole))
    return begun, sorted(updates, key=itemgetter(0))


def rollouts(case: Case, runs: int, seed: int = 0) -> list[End]:
    """Run many."""
    return [rollout(case, seed + number) for number in range(runs)]


def rate_of(ends: Sequence[End]) -> float:
    """Return the part that was rolled back."""
    return sum(end.rolled_back for end in ends) / len(ends)


def equal_cases(answers: Sequence[int] = (1, 3)) -> Iterator[Case]:
    """Yield every case of the table of false rollbacks."""
    for kind in BadEvent:
        for rate in (0.001, 0.01, 0.05, 0.2):
            for shares in ((0.05,), (0.25,), (0.5,), POLICY_SHARES):
                for pace in (1.0, 0.25, 4.0):
                    yield from (Case(kind, rate, rate, shares, pace, most) for most in answers)


POLICY_SHARES: Final = (0.05, 0.25, 0.5, 1.0)
"""The steps of a whole rollout."""
