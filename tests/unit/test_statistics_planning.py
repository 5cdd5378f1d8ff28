import pytest

from core.errors import Refused
from evals.statistics import NoiseFloor, detectable_points, samples_needed, within_variance
from tests.equipment.made_runs import run

FLOOR = NoiseFloor(runs=5, sd=0.01, observed_sd=0.012, sampling_sd=0.006, flip_rate=0.1)


def test_twenty_samples_of_164_evenly_spread_problems_detect_3_points():
    assert detectable_points(164, 20, variance=1 / 6) == pytest.approx(2.95, abs=0.005)
    assert samples_needed(164, 3.0, variance=1 / 6) == 20


def test_without_knowledge_of_the_suite_the_worst_is_assumed():
    assert detectable_points(48, 4) == detectable_points(48, 4, pass_rate=0.5) == detectable_points(48, 4, rates=[0.5, 0.5])


def test_sure_problems_need_fewer_samples():
    assert samples_needed(164, 3.0, rates=[0.02, 0.98]) < samples_needed(164, 3.0, pass_rate=0.5)


def test_a_longer_baseline_detects_less():
    assert detectable_points(164, 20, baseline_samples=60) < detectable_points(164, 20)


def test_a_noisy_engine_detects_more_points_only():
    assert detectable_points(164, 20, noise=FLOOR) > detectable_points(164, 20)
    assert samples_needed(164, 6.0, noise=FLOOR) > samples_needed(164, 6.0)


def test_less_than_the_engines_noise_is_refused_with_what_can_be_detected():
    with pytest.raises(Refused, match=r"no number of samples detects 3 points.*more than 5\.4 points"):
        samples_needed(164, 3.0, noise=FLOOR)


def test_the_variance_within_problems_is_measured_without_bias():
    assert within_variance(run([0.5] * 2000, 2, 1)) == pytest.approx(0.25, abs=0.02)
    assert within_variance(run([0.0, 1.0] * 20, 4, 1)) == 0


def test_one_answer_a_problem_shows_no_variance_within_and_the_worst_is_assumed():
    assert within_variance(run([0.5] * 20, 1, 1)) == 0.25
