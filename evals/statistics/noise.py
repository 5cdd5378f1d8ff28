"""The noise of an engine: one version benchmarked several times (A/A), and how far its scores lie apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist, fmean

import numpy as np

from core.benchmarks import Sample
from core.errors import Fault
from evals.statistics.intervals import student_quantile
from evals.statistics.tally import judged, tally

_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """What equal runs of one version on one engine showed. Standard deviations are of pass@1, in parts of 1."""

    runs: int
    sd: float
    """Between runs, beyond what independent answers explain: what a comparison adds to either side."""
    observed_sd: float
    """Between runs, all of it."""
    sampling_sd: float
    """What independent answers (or flips) within problems explain."""
    flip_rate: float
    """The chance that one answer (same problem, sampling, index) is judged otherwise in another run; 0 where the engine repeats itself."""
    flips: Mapping[str, float] = field(default_factory=dict)
    """The same by problem, those above 0."""

    @property
    def extra_variance(self) -> float:
        """Of a difference of two runs, both of which have it: 2 sd^2 (t / z)^2, widened as few runs tell a deviation badly.

        t is Student's 95 % quantile with R - 1 degrees of freedom, z the normal's (Student, Biometrika 6, 1908): a bound at 95 % then
        holds although sd was measured; 15 times as wide with two runs, 1.7 times with five.
        """
        return 2 * self.sd**2 * (student_quantile(self.runs - 1, _LEVEL) / NormalDist().inv_cdf(_LEVEL)) ** 2


def noise_floor(runs: Sequence[Sequence[Sample]]) -> NoiseFloor:
    """Measure it from two or more equal runs (one version, plan and engine). Raises Fault for fewer, or for runs of different problems.

    With X_r the pass@1 of run r of R: observed^2 = sum_r (X_r - mean)^2 / (R - 1). sampling^2 = sum_i v_i / S^2 over the S strata, v_i =
    p_i (1 - p_i) m_i / (m_i - 1) / n_i with p_i the rate over all m_i answers of all runs and n_i = m_i / R: what independent answers
    give. sd^2 = max(0, observed^2 - sampling^2), the component between runs of a one-way analysis of variance (Searle, Casella and
    McCulloch, Variance Components, 1992, section 3.5); cut at zero it is too large rather than too small, and a test that uses it
    alarms too seldom rather than too often. Runs that repeat the same seeds on an engine that repeats itself show 0.
    A flip is counted over all pairs of runs: 2 k (R - k) / (R (R - 1)) for an answer that passed in k of R.
    """
    tallies = [tally(run) for run in runs]
    if len(runs) < 2:  # noqa: PLR2004 - a deviation needs two
        raise Fault(f"a noise floor of {len(runs)} runs cannot be measured", hint="benchmark the same version at least twice")
    if len({one.strata for one in tallies}) != 1 or not tallies[0].strata:
        raise Fault("these runs did not answer the same problems at the same sampling", hint="measure the noise floor with one plan")
    count = len(runs)
    observed = float(np.var([one.rates.mean() for one in tallies], ddof=1))
    passed = np.sum([one.passed for one in tallies], axis=0)
    drawn = np.sum([one.drawn for one in tallies], axis=0)
    rates = passed / drawn
    within = rates * (1 - rates) * drawn / (drawn - 1) / (drawn / count)
    sampling = float(within.sum()) / len(rates) ** 2
    flips = _flips(runs)
    return NoiseFloor(
        runs=count,
        sd=sqrt(max(0.0, observed - sampling)),
        observed_sd=sqrt(observed),
        sampling_sd=sqrt(sampling),
        flip_rate=fmean(flips.values()) if flips else 0.0,
        flips={task: rate for task, rate in flips.items() if rate > 0},
    )


def _flips(runs: Sequence[Sequence[Sample]]) -> dict[str, float]:
    answers: dict[tuple[str, str, int], list[bool]] = defaultdict(list)
    for run in runs:
        for sample in judged(run):
            answers[sample.task_id, sample.sampling, sample.index].append(sample.passed)
    rates: dict[str, list[float]] = defaultdict(list)
    for (task, _sampling, _index), passes in answers.items():
        times, passed = len(passes), sum(passes)
        if times > 1:
            rates[task].append(2 * passed * (times - passed) / (times * (times - 1)))
    return {task: fmean(rates[task]) for task in sorted(rates)}
