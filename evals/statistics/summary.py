"""A run of a benchmark in numbers: pass@k with intervals, rates of flaws, costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median

import numpy as np

from core.benchmarks import NONSENSE, Flaw, Sample
from evals.statistics.intervals import Floats, clustered_interval, wilson
from evals.statistics.tally import judged

_OTHER_FLAWS = frozenset(Flaw) - NONSENSE - {Flaw.LOOP}
KS = (1, 2, 5, 10, 20)
_FEW = 5  # problems away from "all alike": a bootstrap of fewer cannot reach beyond what it saw


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that at least one of `k` answers passes, estimated without bias from `c` passes among `n` answers.

    1 - C(n - c, k) / C(n, k), computed as 1 - prod_{i = n-c+1..n} (1 - k / i), which neither overflows nor cancels: Chen et al.,
    Evaluating Large Language Models Trained on Code (arXiv 2107.03374, 2021), section 2.1 and figure 3. Of a suite: the mean over its
    problems. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} passes in {n} answers is not defined: it takes 0 <= c <= n and 1 <= k <= n")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def summarize(samples: Sequence[Sample], *, seed: int = 0) -> dict[str, float]:
    """Return the numbers of a run, best of one point of the grid (`by_sampling` splits); {} when nothing was judged.

    `pass_at_1` is the mean over problems of c/n, so that a problem asked more often weighs no more. `low`, `high` are its 95 % interval
    over problems of this kind: bootstrap clustered by problem (`clustered_interval`), or Wilson's with problems as trials where that
    is right or the bootstrap degenerates: one answer a problem, or all but a few problems solved (or failed) every time.
    `pass_at_K` for K in 1, 2, 5, 10, 20 up to the fewest answers to any problem. Rates are parts of the judged answers; `nonsense_rate`
    is the part with one of the flaws `NONSENSE`, `flawed_rate` the part with another one but a loop. `mean_tokens` of the answers,
    `median_seconds` of the engine, `sandbox_cpu_s` the sum. `sandbox_faults` counts answers that could not be judged; they are in
    nothing else.
    """
    known = judged(samples)
    if not known:
        return {}
    rates, counts = _by_problem(known)
    low, high = suite_interval(rates, one_each=all(drawn == 1 for _passed, drawn in counts), seed=seed)
    fewest = min(drawn for _passed, drawn in counts)
    return {
        "problems": float(len(counts)),
        "samples": float(len(known)),
        "pass_at_1": float(rates.mean()),
        "low": low,
        "high": high,
        **{f"pass_at_{k}": fmean(pass_at_k(drawn, passed, k) for passed, drawn in counts) for k in KS[1:] if k <= fewest},
        **_flaw_rates(known),
        "mean_tokens": fmean(sample.completion_tokens for sample in known),
        "median_seconds": median(sample.seconds for sample in known),
        "sandbox_cpu_s": sum(sample.cpu_s for sample in known),
        "sandbox_faults": float(len(samples) - len(known)),
    }


def by_sampling(samples: Sequence[Sample], *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return `summarize` of each point of the grid, by `Sampling.key`."""
    points: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        points[sample.sampling].append(sample)
    return {key: summarize(points[key], seed=seed) for key in sorted(points)}


def suite_interval(rates: Floats, *, one_each: bool, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a mean of per-problem rates: bootstrap of problems, or Wilson's with problems as trials.

    Wilson's with one answer a problem (`one_each`), and where fewer than five problems are not solved (or not failed) every time: a
    bootstrap cannot reach beyond what it saw, and of problems that are all alike would give no width.
    """
    alike = rates.min() == rates.max()
    few = alike or min(np.count_nonzero(rates > 0), np.count_nonzero(rates < 1)) < _FEW
    if one_each or few:
        return wilson(float(rates.sum()), len(rates))
    low, high = clustered_interval(rates, seed=seed)
    return max(0.0, low), min(1.0, high)


def _by_problem(samples: Sequence[Sample]) -> tuple[Floats, list[tuple[int, int]]]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for sample in samples:
        counts[sample.task_id][0] += sample.passed
        counts[sample.task_id][1] += 1
    pairs = [(passed, drawn) for passed, drawn in counts.values()]
    return np.array([passed / drawn for passed, drawn in pairs]), pairs


def _flaw_rates(samples: Sequence[Sample]) -> dict[str, float]:
    rates = {f"{flaw.value}_rate": fmean(flaw in sample.flaws for sample in samples) for flaw in Flaw}
    rates["nonsense_rate"] = fmean(not NONSENSE.isdisjoint(sample.flaws) for sample in samples)
    rates["flawed_rate"] = fmean(not _OTHER_FLAWS.isdisjoint(sample.flaws) for sample in samples)
    return rates
