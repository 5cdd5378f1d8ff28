"""Ways of choosing one of several answers are compared on stored rows, and none of them sees a hidden test."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.benchmarks import Sample
from core.errors import Fault, Refused, Transient
from core.programs import Program, RunOutcome, RunResult
from evals.study import (
    MeanLogprob,
    Policy,
    PolicyScore,
    RandomChoice,
    Ranked,
    Voting,
    best_of_chances,
    chances_by_row,
    choose,
    compare_policies,
)
from evals.suites.suite import Problem
from tests.equipment.made_runs import WARM, answer

GOOD, BAD = "def f(x):\n    return x + 1\n", "def f(x):\n    return x\n"
PROBLEMS = [
    Problem(
        f"p{i}",
        f'def f(x):\n    """Task {i}.\n    >>> f({i})\n    {i + 1}\n    """\n',
        "f",
        "def check(candidate):\n    raise NotImplementedError\n",
    )
    for i in range(6)
]


class Judge:
    """Runs the tests' own programs here, and remembers what it was given."""

    def __init__(self, faults: int = 0) -> None:
        self.ran: list[Program] = []
        self.faults = faults

    def run(self, programs: Sequence[Program]) -> tuple[RunResult, ...]:
        return tuple(self._run(program) for program in programs)

    def _run(self, program: Program) -> RunResult:
        self.ran.append(program)
        if self.faults:
            self.faults -= 1
            return RunResult(program.id, RunOutcome.SANDBOX_FAULT, "no child process", 0.0)
        names: dict[str, object] = {}
        tried = f"try:\n    check({program.entry_point})\n    ok = True\nexcept AssertionError:\n    ok = False\n"
        exec(program.code + program.check + tried, names)
        return RunResult(program.id, RunOutcome.PASSED if names["ok"] else RunOutcome.FAILED, "", 0.0)


class Scripted:
    """A ranker that prefers the longest program."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def rank(self, prompt: str, candidates: Sequence[str]) -> int:
        self.asked.append((prompt, tuple(candidates)))
        if self.error is not None:
            raise self.error
        return max(range(len(candidates)), key=lambda at: (len(candidates[at]), candidates[at]))


def rows(samples: int = 8, *, good: int = 2, sampling: str = WARM) -> list[Sample]:
    """Of each problem's answers the first `good` are right, and the surer the later."""
    return [
        replace(answer(problem.task_id, i, passed=i < good, sampling=sampling), code=GOOD if i < good else BAD, mean_logprob=-1 + i / 100)
        for problem in PROBLEMS
        for i in range(samples)
    ]


def policies() -> list[Policy]:
    return [RandomChoice(), MeanLogprob(), Voting(Judge()), Ranked(Scripted())]


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: policy.name)
@pytest.mark.parametrize("k", [1, 3, 8])
def test_nothing_selects_with_hidden_tests(policy: Policy, k: int):
    told = rows()
    shuffled = [
        replace(one, outcome=other.outcome, detail="hidden")
        for one, other in zip(told, np.random.default_rng(1).permutation(np.array(told, dtype=object)), strict=True)
    ]
    assert [one.outcome for one in told] != [one.outcome for one in shuffled]
    other_tests = [replace(problem, test="def check(candidate):\n    assert True\n", canonical_solution=BAD) for problem in PROBLEMS]
    first = chances_by_row(told, PROBLEMS, policy, k=k, seed=3)
    assert chances_by_row(shuffled, other_tests, policy, k=k, seed=3) == first
    assert chances_by_row(told[::-1], PROBLEMS, policy, k=k, seed=3) == first


def test_voting_is_run_on_the_examples_and_never_on_the_suites_test():
    judge = Judge()
    chances_by_row(rows(), PROBLEMS, Voting(judge), k=2, seed=0)
    assert {program.check for program in judge.ran} == {f"def check(candidate):\n    assert candidate({i}) == {i + 1}\n" for i in range(6)}
    assert all(problem.test not in program.check for program in judge.ran for problem in PROBLEMS)


def test_voting_runs_programs_that_read_alike_once():
    judge = Judge()
    voting = Voting(judge)
    for k in (1, 4, 8):
        chances_by_row(rows(), PROBLEMS, voting, k=k, seed=0)
    assert len(judge.ran) == 2 * len(PROBLEMS)


def test_voting_finds_the_answer_that_satisfies_the_examples():
    (score,) = compare_policies(rows(), PROBLEMS, [Voting(Judge())], best_of=[8])
    assert score.pass_rate == 1.0


def test_a_problem_without_examples_goes_by_sureness():
    plain = [replace(problem, prompt="def f(x):\n") for problem in PROBLEMS]
    judge = Judge()
    assert chances_by_row(rows(), plain, Voting(judge), k=4, seed=0) == chances_by_row(rows(), plain, MeanLogprob(), k=4, seed=0)
    assert judge.ran == []


def test_a_fault_of_the_sandbox_is_tried_again_and_then_told():
    once = chances_by_row(rows(), PROBLEMS, Voting(Judge(faults=1)), k=2, seed=0)
    assert once == chances_by_row(rows(), PROBLEMS, Voting(Judge()), k=2, seed=0)
    with pytest.raises(Fault, match="no child process"):
        chances_by_row(rows(), PROBLEMS, Voting(Judge(faults=100)), k=2, seed=0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.data())
def test_the_chances_are_those_of_all_draws_of_k(values: list[int], data: st.DataObject):
    k = data.draw(st.integers(1, len(values)))
    expected = np.zeros(len(values))
    draws = list(combinations(range(len(values)), k))
    for draw in draws:
        best = [at for at in draw if values[at] == max(values[i] for i in draw)]
        expected[best] += 1 / len(best) / len(draws)
    assert best_of_chances([(float(value),) for value in values], k) == pytest.approx(expected)


def test_an_answer_without_probabilities_comes_last():
    scores = [replace(one, mean_logprob=None if one.index else -9.0) for one in rows()]
    found = chances_by_row(scores, PROBLEMS, MeanLogprob(), k=8, seed=0)
    assert found["p0", WARM, 0] == 1.0


def test_random_is_pass_at_1_and_costs_one_answer():
    (score,) = compare_policies(rows(), PROBLEMS, [RandomChoice()], best_of=[1, 4, 8])
    assert score.pass_rate == pytest.approx(0.25)
    assert (score.best_of, score.tokens) == (1, 20)


def test_best_of_k_costs_k_answers():
    scores = compare_policies(rows(), PROBLEMS, [MeanLogprob()], best_of=[1, 4])
    assert [(score.best_of, score.tokens) for score in scores] == [(1, 20), (4, 80)]


def test_every_point_of_the_grid_is_scored_by_itself():
    grid = rows() + rows(good=8, sampling="t0.2")
    scores = compare_policies(grid, PROBLEMS, [RandomChoice()], best_of=[1])
    assert {score.sampling: round(score.pass_rate, 6) for score in scores} == {"t0.2": 1.0, WARM: 0.25}


def test_the_ranker_is_shown_each_answer_once_and_its_choice_counts():
    ranker = Scripted()
    (score,) = compare_policies(rows(), PROBLEMS, [Ranked(ranker)], best_of=[4])
    assert [len(candidates) for _prompt, candidates in ranker.asked] == [4] * 12
    assert score.pass_rate > 0.5


def test_a_ranker_that_will_not_say_is_an_even_draw():
    chances = chances_by_row(rows(), PROBLEMS, Ranked(Scripted(Refused("no"))), k=4, seed=0)
    assert set(chances.values()) == {0.125}


def test_a_ranker_that_is_away_ends_the_study():
    with pytest.raises(Transient):
        compare_policies(rows(), PROBLEMS, [Ranked(Scripted(Transient("away")))], best_of=[4])


def test_more_answers_than_there_are_cannot_be_chosen_from():
    with pytest.raises(Refused, match="too few answers for the best of 9"):
        compare_policies(rows(), PROBLEMS, [MeanLogprob()], best_of=[9])
    with pytest.raises(Refused, match="best of 9 needs 9 answers; p0 has 8"):
        chances_by_row(rows(), PROBLEMS, MeanLogprob(), k=9, seed=0)


def test_rows_of_another_suite_are_a_fault():
    with pytest.raises(Fault, match="no problem p0"):
        compare_policies(rows(), PROBLEMS[1:], [RandomChoice()], best_of=[1])


def score(policy: str, rates: Sequence[float], tokens: float) -> PolicyScore:
    tasks = tuple(f"p{i}" for i in range(len(rates)))
    return PolicyScore(WARM, policy, 1, float(np.mean(rates)), 0.0, 1.0, tokens, tasks, tuple(rates))


def test_a_clearly_better_policy_is_chosen_whatever_it_costs():
    chosen = choose([score("random", [0.2] * 40, 20), score("voting", [0.9] * 40, 160)])
    assert chosen.score.policy == "voting"
    assert "nothing cheaper" in chosen.reason


def test_within_noise_the_cheapest_is_chosen_and_the_best_is_named():
    random = np.random.default_rng(2)
    base = random.random(40)
    chosen = choose([score("random", list(base), 20), score("voting", list(base + random.normal(0.005, 0.1, 40)), 160)])
    assert chosen.score.policy == "random"
    assert "within noise" in chosen.reason


def test_nothing_cannot_be_chosen_from():
    with pytest.raises(Refused, match="nothing to choose"):
        choose([])
