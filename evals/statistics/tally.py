"""Samples counted: how often each problem was solved at each point of the grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.benchmarks import Sample
from core.programs import RunOutcome
from evals.statistics.intervals import Floats

Stratum = tuple[str, str]
"""(task_id, sampling): answers that are draws from one distribution."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tally:
    """`passed` of `drawn` answers in each stratum, in the strata's sorted order."""

    strata: tuple[Stratum, ...]
    passed: Counts
    drawn: Counts

    @property
    def rates(self) -> Floats:
        """The part that passed, by stratum."""
        return np.asarray(self.passed / self.drawn, dtype=np.float64)

    def by_problem(self) -> tuple[tuple[str, ...], Floats]:
        """Return the problems and each one's rate: the mean over its points of the grid."""
        tasks = tuple(sorted({task for task, _sampling in self.strata}))
        place = {task: at for at, task in enumerate(tasks)}
        which = np.array([place[task] for task, _sampling in self.strata])
        sums = np.bincount(which, weights=self.rates, minlength=len(tasks))
        return tasks, np.asarray(sums / np.bincount(which, minlength=len(tasks)), dtype=np.float64)


def judged(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return the samples that say something of the model: a fault of the sandbox is ours and counts neither way."""
    return tuple(sample for sample in samples if sample.outcome is not RunOutcome.SANDBOX_FAULT)


def tally(samples: Sequence[Sample]) -> Tally:
    """Count what was judged. Greedy answers to one problem that all agree are one answer asked again, and count once.

    Greedy is what `core.benchmarks.Sampling.key` calls `t0-...`. Greedy answers that differ (an engine that is not deterministic) are
    draws like any others.
    """
    counts: dict[Stratum, list[int]] = defaultdict(lambda: [0, 0])
    for sample in judged(samples):
        count = counts[sample.task_id, sample.sampling]
        count[0] += sample.passed
        count[1] += 1
    strata = tuple(sorted(counts))
    rows = [_once(counts[stratum]) if stratum[1].startswith("t0-") else counts[stratum] for stratum in strata]
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return Tally(strata, table[:, 0], table[:, 1])


def _once(count: list[int]) -> list[int]:
    passed, drawn = count
    return [passed // drawn, 1] if passed in {0, drawn} else count
