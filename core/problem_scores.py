"""The results of a benchmark by problem: the pass rate, the baseline's pass rate and the first failing check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from core.benchmarks import Flaw, Sample
from core.programs import RunOutcome


@dataclass(frozen=True, slots=True)
class ProblemScore:
    """One problem at one point of the grid. `rate` is None where no answer could be judged; `detail` is the first failing check."""

    task_id: str
    sampling: str
    samples: int
    passed: int
    rate: float | None
    baseline: float | None
    loops: int
    flaws: int
    mean_seconds: float
    detail: str

    def shown(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return asdict(self)


def by_problem(samples: Sequence[Sample], baseline: Iterable[Sample] = ()) -> tuple[ProblemScore, ...]:
    """Return a row per problem and point of the grid, in the order of the first answers. Faults of the sandbox are not counted."""
    theirs = {key: _rate(group) for key, group in _grouped(baseline).items()}
    return tuple(_score(key, group, theirs.get(key)) for key, group in _grouped(samples).items())


def _score(key: tuple[str, str], group: list[Sample], baseline: float | None) -> ProblemScore:
    wrong = next((sample.detail or str(sample.outcome) for sample in group if not sample.passed), "")
    return ProblemScore(
        task_id=key[0],
        sampling=key[1],
        samples=len(group),
        passed=sum(sample.passed for sample in group),
        rate=_rate(group),
        baseline=baseline,
        loops=sum(Flaw.LOOP in sample.flaws for sample in group),
        flaws=sum(bool(sample.flaws) for sample in group),
        mean_seconds=fmean(sample.seconds for sample in group),
        detail=wrong[:500],
    )


def _rate(group: list[Sample]) -> float | None:
    judged = [sample.passed for sample in group if sample.outcome is not RunOutcome.SANDBOX_FAULT]
    return sum(judged) / len(judged) if judged else None


def _grouped(samples: Iterable[Sample]) -> dict[tuple[str, str], list[Sample]]:
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.task_id, sample.sampling].append(sample)
    return groups
