import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, stdtrit
from scipy.stats import hypergeom

from core.benchmarks import Sample
from core.errors import Fault
from core.programs import RunOutcome
from core.versions import Decision
from evals.statistics import NoiseFloor, compare, noise_floor, paired_p, regressed
from evals.statistics.bounds import Arms, _hypergeometric, clustered_bounds, drop_p, tango_bounds
from tests.equipment.made_runs import GREEDY, answer, run

SPREAD = list(np.linspace(0.05, 0.95, 60))
NOISY = NoiseFloor(runs=5, sd=0.05, observed_sd=0.05, sampling_sd=0.0, flip_rate=0.0)


def greedy(passed: list[bool], said: str) -> list[Sample]:
    return [replace(answer(f"p{i:03}", passed=done, sampling=GREEDY), text=f"{said} {i}") for i, done in enumerate(passed)]


def test_a_much_worse_candidate_fails_and_is_told_its_interval():
    found = compare(run([rate * 0.6 for rate in SPREAD], 10, 1), run(SPREAD, 10, 2), margin=0.05)
    assert found.decision is Decision.FAIL
    assert found.high < -0.05
    assert f"{100 * found.difference:+.1f} points" in found.reason
    assert f"above {100 * found.low:+.1f}" in found.reason
    assert f"{len(found.lost)} lost" in found.reason


def test_a_candidate_that_is_as_good_passes_where_there_are_answers_enough():
    found = compare(run(SPREAD, 20, 1), run(SPREAD, 20, 2), margin=0.05)
    assert found.decision is Decision.PASS
    assert found.p_value < 0.05
    assert found.method == "stratified"


def test_too_few_answers_decide_nothing():
    assert compare(run(SPREAD, 2, 1), run(SPREAD, 2, 2), margin=0.02).decision is Decision.INCONCLUSIVE


def test_a_better_candidate_passes_without_a_margin():
    found = compare(run([min(1, rate + 0.3) for rate in SPREAD], 10, 1), run(SPREAD, 10, 2), margin=0)
    assert found.decision is Decision.PASS
    assert found.low > 0


def test_the_same_answers_word_for_word_differ_by_nothing_however_few():
    found = compare(run(SPREAD, 1, 1), run(SPREAD, 1, 1), margin=0.01)
    assert (found.decision, found.method, found.low, found.high) == (Decision.PASS, "identical", 0.0, 0.0)


def test_one_greedy_answer_a_problem_is_tested_by_the_pairs_that_differ():
    found = compare(greedy([True] * 30 + [False] * 18, "a"), greedy([True] * 41 + [False] * 7, "b"), margin=0.05)
    assert (found.method, found.decision, len(found.lost), len(found.won)) == ("tango", Decision.FAIL, 11, 0)
    assert found.p_worse == pytest.approx(paired_p(11, 0))


def test_greedy_answers_that_agree_are_one_answer_asked_again():
    once, before = greedy([True] * 30 + [False] * 18, "a"), greedy([True] * 31 + [False] * 17, "b")
    again = [replace(one, index=i) for one in once for i in range(20)]
    found = compare(again, before, margin=0.05)
    assert found.method == "tango"
    assert found.low == compare(once, before, margin=0.05).low


def test_one_side_asked_once_and_the_other_often_goes_by_whole_problems():
    assert compare(run(SPREAD, 1, 1), run(SPREAD, 8, 2), margin=0.05).method == "clustered"


def test_several_points_of_a_grid_are_compared_point_by_point():
    ours = run(SPREAD, 5, 1) + run(SPREAD, 5, 3, sampling="t0.2")
    theirs = run(SPREAD, 5, 2) + run(SPREAD, 5, 4, sampling="t0.2")
    found = compare(ours, theirs, margin=0.05)
    assert (found.problems, found.answers) == (60, 1200)


def test_the_noise_of_the_engine_widens_the_bounds():
    ours, theirs = run(SPREAD, 10, 1), run(SPREAD, 10, 2)
    quiet, noisy = compare(ours, theirs, margin=0.05), compare(ours, theirs, margin=0.05, noise=NOISY)
    assert noisy.low < quiet.low < quiet.high < noisy.high
    assert noisy.p_value > quiet.p_value


def test_the_p_value_is_the_alpha_at_which_the_gate_begins_to_pass():
    ours, theirs = run(SPREAD, 10, 1), run(SPREAD, 10, 2)
    p_value = compare(ours, theirs, margin=0.03).p_value
    assert compare(ours, theirs, margin=0.03, alpha=p_value * 1.01).decision is Decision.PASS
    assert compare(ours, theirs, margin=0.03, alpha=p_value * 0.99).decision is not Decision.PASS


rates = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), min_size=3, max_size=25)


@settings(max_examples=40, deadline=None)
@given(rates, st.integers(1, 5), st.booleans())
def test_the_other_way_round_is_the_same_with_the_other_sign(chances: list[float], samples: int, noisy: bool):
    ours, theirs = run(chances, samples, 1), run(chances[::-1], samples, 2)
    noise = NOISY if noisy else None
    there, back = (compare(a, b, margin=0.05, noise=noise) for a, b in ((ours, theirs), (theirs, ours)))
    assert there.difference == pytest.approx(-back.difference)
    assert there.low == pytest.approx(-back.high, abs=1e-9)
    assert there.high == pytest.approx(-back.low, abs=1e-9)
    assert (there.lost, there.won) == (back.won, back.lost)
    assert there.low <= there.difference <= there.high


@settings(max_examples=40, deadline=None)
@given(rates, st.integers(1, 5), st.floats(0.01, 0.2))
def test_a_wider_margin_never_turns_a_pass_into_a_failure(chances: list[float], samples: int, margin: float):
    order = [Decision.FAIL, Decision.INCONCLUSIVE, Decision.PASS]
    ours, theirs = run(chances, samples, 1), run(chances[::-1], samples, 2)
    narrow, wide = (compare(ours, theirs, margin=wanted).decision for wanted in (margin, 2 * margin))
    assert order.index(wide) >= order.index(narrow)


def test_problems_of_one_side_only_cannot_be_compared():
    with pytest.raises(Fault, match="1 problems were judged on one side only, first p002"):
        compare(run([0.5, 0.5], 2, 1), run([0.5, 0.5, 0.5], 2, 2), margin=0.05)


def test_nothing_judged_cannot_be_compared():
    fault = [replace(answer(), outcome=RunOutcome.SANDBOX_FAULT)]
    with pytest.raises(Fault, match="no judged answers"):
        compare(fault, fault, margin=0.05)


def test_a_comparison_can_be_stored_as_json():
    shown = compare(run(SPREAD, 4, 1), run(SPREAD, 4, 2), margin=0.05).shown()
    assert json.loads(json.dumps(shown)) == shown
    assert shown["decision"] in {"pass", "fail", "inconclusive"}


def test_a_drop_of_ten_points_is_a_regression():
    found = regressed(run([rate * 0.8 for rate in SPREAD], 20, 1), run(SPREAD, 20, 2), margin=0.03)
    assert found.decision is Decision.FAIL
    assert "a significant drop" in found.reason


def test_a_sure_drop_of_less_than_the_margin_is_no_regression():
    rates = [0.5] * 100
    found = regressed(run([0.47] * 100, 400, 1), run(rates, 400, 2), margin=0.1)
    assert found.p_value < 0.01
    assert found.decision is Decision.PASS


def test_an_improvement_is_no_regression():
    found = regressed(run([min(1, rate + 0.2) for rate in SPREAD], 20, 1), run(SPREAD, 20, 2), margin=0.03)
    assert found.decision is Decision.PASS
    assert found.p_value > 0.95


def test_a_noisy_engine_alarms_later():
    ours, theirs = run([rate * 0.88 for rate in SPREAD], 20, 1), run(SPREAD, 20, 2)
    assert regressed(ours, theirs, margin=0.03).decision is Decision.FAIL
    assert regressed(ours, theirs, margin=0.03, noise=NOISY).decision is Decision.INCONCLUSIVE


def test_tangos_bounds_are_those_in_print():
    """Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014: 1, 1, 7, 12 of 21 pairs give -0.517 to -0.026."""
    assert tango_bounds(7, 1, 21, 1.959964) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_with_one_answer_a_problem_the_exact_test_is_the_sign_test():
    ones = np.ones(12, dtype=np.int64)
    arms = Arms(np.array([0] * 7 + [1] * 3 + [1, 0]), ones, np.array([1] * 7 + [0] * 3 + [1, 0]), ones)
    assert drop_p(arms) == pytest.approx(paired_p(7, 3))


def test_the_exact_test_of_one_problem_is_fishers():
    arms = Arms(np.array([1]), np.array([9]), np.array([11]), np.array([15]))
    assert drop_p(arms) == pytest.approx(0.004711266657692825)  # scipy.stats.fisher_exact([[1, 8], [11, 4]], 'less')


@pytest.mark.parametrize(
    ("together", "ours", "theirs"), [(1, 1, 1), (3, 20, 20), (38, 20, 20), (77, 80, 80), (260, 300, 200), (2100, 2000, 2000)]
)
def test_the_chances_of_the_exact_test_are_scipys_for_few_and_for_many_answers(together: int, ours: int, theirs: int):
    expected = hypergeom.pmf(np.arange(ours + 1), ours + theirs, ours, together)
    assert _hypergeometric(together, ours, theirs) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("z", [-6.0, -1.0, 0.0, 1.2816, 1.6449, 4.0])
def test_the_paired_t_has_the_quantile_of_scipy(z: float):
    differences = np.array([-2.0, 1.0, 3.0, -1.0])
    half = max(float(stdtrit(3, ndtr(z))) * float(np.sqrt(differences.var(ddof=1) / 4)), z * z / (4 + z * z))
    mean = float(differences.mean())
    assert clustered_bounds(differences, z) == pytest.approx((mean - half, mean + half), rel=1e-12)


def test_importing_the_statistics_does_not_import_scipy():
    code = "import sys, evals.statistics; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], check=False).returncode == 0


def test_whole_problems_that_never_differ_leave_the_bounds_open():
    low, high = clustered_bounds(np.zeros(48), 1.645)
    assert low == -high < -0.05


def test_equal_runs_show_no_noise_beyond_sampling():
    floor = noise_floor([run(SPREAD, 10, seed) for seed in range(6)])
    assert floor.sd < 0.02
    assert floor.sampling_sd == pytest.approx((2 / 3 * 0.25 / 600) ** 0.5, rel=0.2)
    assert 0.2 < floor.flip_rate < 0.45


def test_an_engine_that_repeats_itself_has_no_floor():
    floor = noise_floor([run(SPREAD, 3, 1)] * 4)
    assert (floor.sd, floor.observed_sd, floor.flip_rate, floor.flips) == (0, 0, 0, {})


def test_runs_that_move_as_a_whole_show_it():
    shifts = (-0.1, 0.1, -0.1, 0.1, -0.1, 0.1)
    floor = noise_floor([run([0.5 + shift] * 60, 10, seed) for seed, shift in enumerate(shifts)])
    assert 0.07 < floor.sd < 0.14


def test_flips_are_told_by_problem():
    runs = [greedy([True, False], "a"), greedy([True, True], "b")]
    floor = noise_floor(runs)
    assert (floor.flips, floor.flip_rate) == ({"p001": 1.0}, 0.5)


def test_one_run_measures_no_noise():
    with pytest.raises(Fault, match="noise floor of 1 runs"):
        noise_floor([run(SPREAD, 1, 1)])


def test_runs_of_different_problems_measure_no_noise():
    with pytest.raises(Fault, match="same problems"):
        noise_floor([run([0.5], 1, 1), run([0.5, 0.5], 1, 1)])
