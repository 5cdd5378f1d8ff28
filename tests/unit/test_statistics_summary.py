from dataclasses import replace
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.benchmarks import Flaw
from core.programs import RunOutcome
from evals.statistics import by_sampling, clustered_interval, pass_at_k, summarize, wilson
from tests.equipment.made_runs import GREEDY, WARM, answer, run

counts = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(counts)
def test_pass_at_k_is_the_chance_that_k_answers_drawn_without_replacement_hold_one_that_passes(ncK: tuple[int, int, int]):  # noqa: N803
    n, c, k = ncK
    assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)


@given(counts)
def test_pass_at_k_lies_in_0_to_1_and_grows_with_k_and_with_c(ncK: tuple[int, int, int]):  # noqa: N803
    n, c, k = ncK
    value = pass_at_k(n, c, k)
    assert 0 <= value <= 1
    assert k == n or pass_at_k(n, c, k + 1) >= value - 1e-12
    assert c == n or pass_at_k(n, c + 1, k) >= value - 1e-12


def test_pass_at_k_is_unbiased():
    rate, n, k = 0.3, 6, 3
    chances = [comb(n, c) * rate**c * (1 - rate) ** (n - c) for c in range(n + 1)]
    assert sum(chance * pass_at_k(n, c, k) for c, chance in enumerate(chances)) == pytest.approx(1 - (1 - rate) ** k)


def test_pass_at_k_of_thousands_of_answers_neither_overflows_nor_cancels():
    assert pass_at_k(100_000, 1, 1) == pytest.approx(1e-5, rel=1e-9)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6), (0, 0, 1)])
def test_pass_at_k_refuses_what_is_not_defined(n: int, c: int, k: int):
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(n, c, k)


def test_a_problem_asked_more_often_weighs_no_more():
    samples = [answer("a", i) for i in range(9)] + [answer("b", passed=False)]
    assert summarize(samples)["pass_at_1"] == 0.5


def test_pass_at_k_is_told_up_to_the_fewest_answers_of_a_problem():
    numbers = summarize([*run([0.5] * 10, 5, 1), answer("p000", 7)])
    assert {"pass_at_1", "pass_at_2", "pass_at_5"} <= numbers.keys()
    assert "pass_at_10" not in numbers


def test_one_answer_a_problem_has_wilsons_interval():
    samples = run([0.5] * 40, 1, 3, sampling=GREEDY)
    numbers = summarize(samples)
    assert (numbers["low"], numbers["high"]) == wilson(sum(one.passed for one in samples), 40)


def test_the_interval_stays_open_where_every_answer_passed():
    numbers = summarize(run([1.0] * 30, 5, 1))
    assert numbers["pass_at_1"] == numbers["high"] == 1.0
    assert 0.8 < numbers["low"] < 0.95


def test_the_interval_stays_open_where_all_problems_are_alike():
    samples = [answer(f"p{i}", index, passed=index == 0) for i in range(12) for index in range(5)]
    assert summarize(samples)["low"] < 0.15


def test_twenty_answers_a_problem_do_not_make_the_interval_of_twenty_times_the_problems():
    rates = [1.0, 0.0] * 30
    low, high = (summarize(run(rates, 20, 1))[name] for name in ("low", "high"))
    assert high - low > 0.2
    assert wilson(600, 1200)[1] - wilson(600, 1200)[0] < 0.06


def test_the_same_seed_gives_the_same_interval():
    samples = run([0.2, 0.5, 0.9] * 10, 4, 1)
    assert summarize(samples, seed=4) == summarize(samples, seed=4)


@pytest.mark.parametrize("problems", [48, 164])
def test_the_clustered_interval_covers_the_truth_of_other_problems(problems: int):
    random = np.random.default_rng(11)
    held = 0
    for seed in range(200):
        rates = random.beta(0.5, 0.7, problems)
        low, high = clustered_interval(random.binomial(4, rates) / 4, seed=seed)
        held += low <= 0.5 / 1.2 <= high
    assert 0.92 <= held / 200 <= 0.985


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40), st.integers(0, 5))
def test_the_clustered_interval_holds_the_mean(values: list[float], seed: int):
    low, high = clustered_interval(np.array(values), seed=seed)
    assert low - 1e-9 <= np.mean(values) <= high + 1e-9


def test_flaws_are_rates_of_all_answers_and_only_improbable_and_marked_answers_are_nonsense():
    samples = [
        answer("a", 0, flaws=(Flaw.LOOP, Flaw.CUT)),
        answer("a", 1, flaws=(Flaw.LOOP,)),
        answer("a", 2, flaws=(Flaw.EMPTY, Flaw.UNPARSABLE)),
        answer("a", 3, flaws=(Flaw.LOW_LOGPROB, Flaw.NONSENSE)),
    ]
    numbers = summarize(samples)
    assert (numbers["loop_rate"], numbers["cut_rate"], numbers["empty_rate"], numbers["no_entry_point_rate"]) == (0.5, 0.25, 0.25, 0)
    assert (numbers["nonsense_rate"], numbers["flawed_rate"]) == (0.25, 0.5)


def test_costs_are_told():
    numbers = summarize([replace(answer("a", i), completion_tokens=10 * i, seconds=float(i)) for i in range(3)])
    assert (numbers["mean_tokens"], numbers["median_seconds"], numbers["sandbox_cpu_s"]) == (10, 1, 1.5)


def test_a_fault_of_the_sandbox_counts_for_nobody():
    fault = replace(answer("a", 1), outcome=RunOutcome.SANDBOX_FAULT)
    numbers = summarize([answer("a", 0), fault, replace(fault, task_id="b")])
    assert (numbers["pass_at_1"], numbers["problems"], numbers["samples"], numbers["sandbox_faults"]) == (1, 1, 1, 2)


def test_a_run_in_which_nothing_was_judged_has_no_numbers():
    assert summarize([]) == {}


def test_points_of_the_grid_are_told_apart():
    numbers = by_sampling([answer("a", passed=False, sampling=GREEDY), answer("a", sampling=WARM)])
    assert {key: point["pass_at_1"] for key, point in numbers.items()} == {GREEDY: 0.0, WARM: 1.0}


@pytest.mark.parametrize("trials", [1, 7, 48, 164, 10_000])
def test_an_interval_ends_at_exactly_0_without_a_success_and_at_exactly_1_without_a_failure(trials: int) -> None:
    assert wilson(0, trials)[0] == 0.0
    assert wilson(trials, trials)[1] == 1.0
    assert 0 < wilson(0, trials)[1] < 1
    assert 0 < wilson(trials, trials)[0] < 1
