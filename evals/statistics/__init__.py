"""The statistics of the trials: the score of a run, the difference of two runs, and the number of samples needed. See docs/statistics.md.

Uses only numpy and scipy; randomness comes from a seed. Faults of the sandbox are left out of the score.
"""

from evals.statistics.comparing import Comparison, compare, regressed
from evals.statistics.intervals import clustered_interval, paired_p, wilson
from evals.statistics.noise import NoiseFloor, noise_floor
from evals.statistics.planning import detectable_points, samples_needed, within_variance
from evals.statistics.summary import by_sampling, pass_at_k, summarize

__all__ = [
    "Comparison",
    "NoiseFloor",
    "by_sampling",
    "clustered_interval",
    "compare",
    "detectable_points",
    "noise_floor",
    "paired_p",
    "pass_at_k",
    "regressed",
    "samples_needed",
    "summarize",
    "wilson",
    "within_variance",
]
