"""The sampling study: ways of choosing one of k answers, compared offline on rows that are there.

A policy sees `Shown` and `Candidate`, which hold no test, no outcome and no detail: nothing selects with hidden tests. Outcomes are
looked at after the chances are fixed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb, isfinite
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np

from core.benchmarks import Sample
from core.errors import Fault, Refused
from core.ports.sandbox import Sandbox
from core.programs import Program, RunOutcome, RunResult
from core.reasons import Reason
from evals.examples import examples_in
from evals.ranker import Ranker
from evals.statistics.bounds import clustered_bounds
from evals.statistics.intervals import Floats
from evals.statistics.summary import suite_interval
from evals.statistics.tally import judged
from evals.suites.suite import Problem

_Z_95 = NormalDist().inv_cdf(0.95)
_WORST = float("-inf")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a model is shown of a problem."""

    task_id: str
    prompt: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of an answer when it comes."""

    index: int
    code: str
    mean_logprob: float | None


class Policy(Protocol):
    """A way of choosing one of k answers."""

    @property
    def name(self) -> str:
        """A stable word."""
        ...

    def chances(self, problem: Shown, candidates: Sequence[Candidate], k: int, random: np.random.Generator) -> Floats:
        """Return each candidate's chance to be the one chosen, where k of them are drawn and one is chosen; they sum to 1."""
        ...


class RandomChoice:
    """Any of them: pass@1, the floor of every other policy."""

    name = "random"

    def chances(self, problem: Shown, candidates: Sequence[Candidate], k: int, random: np.random.Generator) -> Floats:  # noqa: ARG002
        """See the port."""
        return np.full(len(candidates), 1 / len(candidates))


class MeanLogprob:
    """The answer of which the model was surest: the highest mean log-probability a token; answers without one come last."""

    name = "mean_logprob"

    def chances(self, problem: Shown, candidates: Sequence[Candidate], k: int, random: np.random.Generator) -> Floats:  # noqa: ARG002
        """See the port."""
        return best_of_chances([(_sureness(one),) for one in candidates], k)


class Voting:
    """The answer that satisfies most of the examples in the problem's own docstring (`examples_in`), then the surest of those.

    Each program runs in the sandbox once per example; programs that read alike run once. A problem without examples goes by
    sureness alone. Raises Fault when the sandbox cannot judge a program twice in a row.
    """

    name = "voting"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._votes: dict[tuple[Shown, str], int] = {}

    def chances(self, problem: Shown, candidates: Sequence[Candidate], k: int, random: np.random.Generator) -> Floats:  # noqa: ARG002
        """See the port."""
        self._vote(problem, {one.code for one in candidates if (problem, one.code) not in self._votes})
        return best_of_chances([(self._votes[problem, one.code], _sureness(one)) for one in candidates], k)

    def _vote(self, problem: Shown, codes: set[str]) -> None:
        checks = [example.check(problem.entry_point) for example in examples_in(problem.prompt, problem.entry_point)]
        asked = [(code, check) for code in sorted(codes) for check in checks]
        programs = [
            Program(f"{problem.task_id}#{number}", code, check, problem.entry_point, given=problem.prompt)
            for number, (code, check) in enumerate(asked)
        ]
        for code in codes:
            self._votes[problem, code] = 0
        for (code, _check), result in zip(asked, _judged(self._sandbox, programs), strict=True):
            self._votes[problem, code] += result.outcome is RunOutcome.PASSED


class Ranked:
    """A second model's choice, of groups of k drawn without replacement: each answer is shown once at most, in shuffled order.

    Where the ranker will not say (Refused), its group counts as an even draw. Transient and Fault pass through.
    """

    name = "ranker"

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker

    def chances(self, problem: Shown, candidates: Sequence[Candidate], k: int, random: np.random.Generator) -> Floats:
        """See the port."""
        order = random.permutation(len(candidates))
        groups = [order[at : at + k] for at in range(0, len(order) - k + 1, k)]
        chances = np.zeros(len(candidates))
        for group in groups:
            try:
                chosen = group[[self._ranker.rank(problem.prompt, [candidates[at].code for at in group])]] if k > 1 else group
            except Refused:
                chosen = group
            chances[chosen] += 1 / len(groups) / len(chosen)
        return chances


@dataclass(frozen=True, slots=True)
class PolicyScore:
    """How one policy did on one point of the grid."""

    sampling: str
    policy: str
    best_of: int
    pass_rate: float
    low: float
    high: float
    """95 % for problems of this kind, as in `summarize`."""
    tokens: float
    """Generated for one answer that is sent: all k drawn; a ranker's own are not counted."""
    tasks: tuple[str, ...]
    rates: tuple[float, ...]
    """By problem, in the order of `tasks`."""

    def shown(self) -> dict[str, Any]:
        """Return it as one row of a table."""
        named = ("sampling", "policy", "best_of", "pass_rate", "low", "high", "tokens")
        return {**{name: getattr(self, name) for name in named}, "problems": len(self.tasks)}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a study recommends, and why."""

    score: PolicyScore
    best: PolicyScore
    """The highest pass rate, regardless of its cost."""
    reason: str


def best_of_chances(scores: Sequence[tuple[float, ...]], k: int) -> Floats:
    """Return each answer's chance to be the best of k drawn without replacement, ties drawn evenly: exact, without simulation.

    With the scores in falling order and g ties from rank a on, (C(n - a, k) - C(n - a - g, k)) / C(n, k) / g each: the best of k lies
    at rank a or below exactly when all k do. The counting argument of pass@k (Chen et al., arXiv 2107.03374, 2021), for any order.
    """
    count = len(scores)
    chances = np.zeros(count)
    ties: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for at, score in enumerate(scores):
        ties[score].append(at)
    left = count
    for score in sorted(ties, reverse=True):
        group = ties[score]
        chances[group] = (comb(left, k) - comb(left - len(group), k)) / comb(count, k) / len(group)
        left -= len(group)
    return chances


def chances_by_row(
    samples: Sequence[Sample], problems: Sequence[Problem], policy: Policy, *, k: int, seed: int
) -> Mapping[tuple[str, str, int], float]:
    """Return every row's chance to be chosen as best of `k` of its problem at its sampling, by (task_id, sampling, index).

    The same for the same answers whatever their outcomes and order. Raises Refused where a problem has fewer than `k` rows.
    """
    asked = {problem.task_id: Shown(problem.task_id, problem.prompt, problem.entry_point) for problem in problems}
    chances: dict[tuple[str, str, int], float] = {}
    for number, ((task, sampling), rows) in enumerate(sorted(_grouped(samples).items())):
        if task not in asked:
            raise Fault(f"the suite has no problem {task}", hint="study a run with the suite that it was asked")
        if len(rows) < k:
            raise Refused(f"best of {k} needs {k} answers; {task} has {len(rows)} at {sampling}", reason=Reason.TOO_FEW_SAMPLES)
        candidates = [Candidate(row.index, row.code, row.mean_logprob) for row in rows]
        found = policy.chances(asked[task], candidates, k, np.random.default_rng([seed, k, number]))
        chances |= {(task, sampling, one.index): float(chance) for one, chance in zip(candidates, found, strict=True)}
    return chances


def compare_policies(
    samples: Sequence[Sample], suite_problems: Sequence[Problem], policies: Sequence[Policy], *, best_of: Sequence[int], seed: int = 0
) -> tuple[PolicyScore, ...]:
    """Score every policy at every point of the grid for every k of `best_of` that its problems have answers for.

    The pass rate of a problem is the sum of its rows' chances times their outcomes: the expectation over all draws of k rows (for the
    ranker over disjoint groups). `random` is scored once, at k = 1: more draws change nothing but its cost. Raises Refused when no k fits.
    """
    known = judged(samples)
    points: dict[str, list[Sample]] = defaultdict(list)
    for sample in known:
        points[sample.sampling].append(sample)
    scores = [
        _score(points[sampling], chances_by_row(points[sampling], suite_problems, policy, k=k, seed=seed), (sampling, policy.name, k), seed)
        for sampling in sorted(points)
        for policy in policies
        for k in _fitting(points[sampling], policy, best_of)
    ]
    if not scores:
        raise Refused(
            f"there are too few answers for the best of {', '.join(map(str, best_of))}",
            reason=Reason.TOO_FEW_SAMPLES,
            hint="run the benchmark with more samples a problem",
        )
    return tuple(scores)


def choose(scores: Sequence[PolicyScore]) -> Choice:
    """Recommend the best, and where the difference to cheaper ones is within noise the cheapest of those (tokens, then pass rate).

    Within noise: the one-sided 95 % upper bound of the mean per-problem difference to the best is not below zero (the paired t,
    `clustered_bounds`, because a choice has to hold for other problems). Raises Refused without scores.
    """
    if not scores:
        raise Refused("there is nothing to choose from", reason=Reason.TOO_FEW_SAMPLES, hint="compare policies first")
    best = max(scores, key=lambda score: (score.pass_rate, -score.tokens))
    alike = [score for score in scores if score.tasks == best.tasks and _within_noise(score, best)]
    chosen = min([*alike, best], key=lambda score: (score.tokens, -score.pass_rate))
    said = f"{_named(chosen)} passes {chosen.pass_rate:.3f} [{chosen.low:.3f}, {chosen.high:.3f}] for {chosen.tokens:.0f} tokens an answer"
    if chosen is best:
        return Choice(chosen, best, f"{said}: nothing cheaper comes within noise of it")
    return Choice(chosen, best, f"{said}; {_named(best)} passes {best.pass_rate:.3f} for {best.tokens:.0f}, within noise of it")


def _score(rows: Sequence[Sample], chances: Mapping[tuple[str, str, int], float], named: tuple[str, str, int], seed: int) -> PolicyScore:
    sampling, policy, k = named
    by_task: dict[str, float] = defaultdict(float)
    tokens: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        by_task[row.task_id] += chances[row.task_id, row.sampling, row.index] * row.passed
        tokens[row.task_id].append(row.completion_tokens)
    tasks = tuple(sorted(by_task))
    rates = np.array([min(1.0, by_task[task]) for task in tasks])
    low, high = suite_interval(rates, one_each=all(len(drawn) == 1 for drawn in tokens.values()), seed=seed)
    cost = k * float(np.mean([np.mean(tokens[task]) for task in tasks]))
    return PolicyScore(sampling, policy, k, float(rates.mean()), low, high, cost, tasks, tuple(map(float, rates)))


def _fitting(rows: Sequence[Sample], policy: Policy, best_of: Sequence[int]) -> Iterator[int]:
    fewest = min(len(group) for group in _grouped(rows).values())
    if policy.name == RandomChoice.name:
        yield 1
        return
    yield from (k for k in sorted(set(best_of)) if 1 <= k <= fewest)


def _grouped(samples: Sequence[Sample]) -> dict[tuple[str, str], list[Sample]]:
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda one: one.index):
        groups[sample.task_id, sample.sampling].append(sample)
    return groups


def _sureness(candidate: Candidate) -> float:
    sure = candidate.mean_logprob
    return sure if sure is not None and isfinite(sure) else _WORST


def _judged(sandbox: Sandbox, programs: Sequence[Program]) -> tuple[RunResult, ...]:
    """Run all, those that the sandbox itself failed once more."""
    results = list(sandbox.run(programs)) if programs else []
    again = [at for at, result in enumerate(results) if result.outcome is RunOutcome.SANDBOX_FAULT]
    for at, result in zip(again, sandbox.run([programs[at] for at in again]) if again else (), strict=True):
        if result.outcome is RunOutcome.SANDBOX_FAULT:
            raise Fault(f"the sandbox cannot judge {result.id}: {result.detail}", hint="run seatrial doctor; the model is not at fault")
        results[at] = result
    return tuple(results)


def _within_noise(score: PolicyScore, best: PolicyScore) -> bool:
    return score is best or clustered_bounds(np.array(score.rates) - np.array(best.rates), _Z_95)[1] >= 0


def _named(score: PolicyScore) -> str:
    return f"{score.policy} of {score.best_of} at {score.sampling}"
