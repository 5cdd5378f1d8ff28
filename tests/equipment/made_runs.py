"""Made-up runs of a benchmark for the tests of statistics, degeneration and studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from core.benchmarks import Flaw, Sample
from core.programs import RunOutcome

WARM = "t0.8-f0-p1-m200"
GREEDY = "t0-f0-p1-m200"


def answer(task: str = "a", index: int = 0, *, passed: bool = True, sampling: str = WARM, flaws: tuple[Flaw, ...] = ()) -> Sample:
    """One judged answer."""
    return Sample(
        task_id=task,
        sampling=sampling,
        index=index,
        seed=index,
        text=f"{task} {index}",
        code=f"# {task} {index}",
        finish_reason="stop",
        prompt_tokens=10,
        completion_tokens=20,
        mean_logprob=-0.3,
        seconds=1.0,
        outcome=RunOutcome.PASSED if passed else RunOutcome.FAILED,
        cpu_s=0.5,
        flaws=flaws,
    )


def run(rates: Sequence[float], samples: int, seed: int, *, sampling: str = WARM) -> list[Sample]:
    """A run in which problem i is solved with probability `rates[i]`, each answer by itself; no two runs say the same."""
    random = np.random.default_rng(seed)
    return [
        replace(answer(f"p{i:03}", index, passed=random.random() < rate, sampling=sampling), text=f"{seed} {i} {index}")
        for i, rate in enumerate(rates)
        for index in range(samples)
    ]
