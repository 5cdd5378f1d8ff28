"""The evidence of the canary's verdict: quick on a bad candidate, and bounded false alarms however often it is looked at."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.endpoints import BadEvent, ConversationOutcome
from core.ids import ConversationId
from core.settings import RolloutPolicy
from lifecycle.rollouts import evidence
from lifecycle.rollouts.evidence import Evidence, weigh
from lifecycle.rollouts.sequential_test import ODDS_RATIOS, e_value, highest_rate, rate_e_value
from tests.equipment.verdict_world import POLICY_SHARES, Case, rate_of, rollouts

ALPHA = 0.05
POLICY = RolloutPolicy()
LIMIT = 1 / POLICY.alpha
LATER = 1_000_000.0
ERROR = frozenset({BadEvent.ERROR})
Bad = list[tuple[bool, float]]


def drawn(rng: random.Random, count: int, share: float, stable_bad: float, candidate_bad: float) -> Bad:
    """Return the bad ones of so many conversations."""
    candidates = (rng.random() < share for _ in range(count))
    return [(candidate, share) for candidate in candidates if rng.random() < (candidate_bad if candidate else stable_bad)]


def crosses(bad: Bad) -> bool:
    """Look after every single bad conversation, as a driver that never sleeps would."""
    return any(e_value(Counter(bad[:seen])) > 1 / ALPHA for seen in range(1, len(bad) + 1))


def outcome(number: int = 0, *, candidate: bool = True, share: float = 0.05, **fields: object) -> ConversationOutcome:
    return ConversationOutcome(ConversationId(str(number)), candidate, share, float(number), answered=True, **fields)  # type: ignore[arg-type]


def weighed(outcomes: Iterable[ConversationOutcome], now: float = LATER) -> Evidence:
    return weigh(tuple(outcomes), POLICY, now)


def test_no_conversation_is_no_evidence():
    assert e_value({}) == pytest.approx(1.0)


def test_the_weights_and_the_parts_of_alpha_sum_to_one():
    assert sum(ODDS_RATIOS.values()) == pytest.approx(1.0)
    parts = (evidence.FIRST_PART, evidence.EARLY_PART, evidence.THUMBS_PART, evidence.ALONE_PART)
    assert sum(parts) == pytest.approx(1.0)


def test_three_bad_conversations_of_the_candidate_at_five_percent_are_enough():
    assert e_value({(True, 0.05): 3}) > 1 / ALPHA


def test_bad_conversations_of_the_stable_version_speak_for_the_candidate():
    assert e_value({(False, 0.5): 20}) < 1.0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_without_a_comparison_is_passed_over(share: float):
    assert e_value({(share > 0, share): 50}) == pytest.approx(1.0)


@pytest.mark.parametrize(("share", "rate"), [(0.05, 0.3), (0.25, 0.1), (0.5, 0.02)])
def test_an_equal_candidate_is_rolled_back_at_most_as_often_as_alpha_says(share: float, rate: float):
    rng = random.Random(7)
    alarms = sum(crosses(drawn(rng, 400, share, rate, rate)) for _ in range(300))
    assert alarms / 300 <= ALPHA + 0.02  # 300 runs: two standard errors are 0.025


def test_a_candidate_whose_errors_double_is_found_within_some_thousand_conversations():
    rng = random.Random(11)
    found = sum(crosses(drawn(rng, 3000, 0.25, 0.1, 0.2)) for _ in range(20))
    assert found >= 18


def test_a_drifting_hour_does_not_accuse_the_candidate():
    rng = random.Random(13)
    alarms = 0
    for _ in range(200):
        quiet, storm = drawn(rng, 200, 0.05, 0.01, 0.01), drawn(rng, 200, 0.5, 0.6, 0.6)
        alarms += crosses(quiet + storm)
    assert alarms / 200 <= ALPHA + 0.03


@given(st.lists(st.tuples(st.booleans(), st.floats(0.001, 0.999)), max_size=200), st.floats(1.0, 5.0))
def test_evidence_is_finite_and_not_negative_whatever_comes(rows: Bad, tolerance: float):
    assert 0.0 <= e_value(Counter(rows), tolerance=tolerance) < float("inf")


@given(st.floats(0.01, 0.99))
def test_the_expected_factor_of_one_bad_conversation_is_one_when_the_versions_are_equal(share: float):
    with_candidate, with_stable = e_value({(True, share): 1}), e_value({(False, share): 1})
    assert share * with_candidate + (1 - share) * with_stable == pytest.approx(1.0)


@given(st.floats(0.01, 0.9), st.floats(1.0, 5.0))
def test_with_a_tolerance_the_expected_factor_is_one_at_so_many_times_the_rate(share: float, tolerance: float):
    chance = tolerance * share / (tolerance * share + 1 - share)
    with_candidate, with_stable = (e_value({(who, share): 1}, tolerance=tolerance) for who in (True, False))
    assert chance * with_candidate + (1 - chance) * with_stable == pytest.approx(1.0)


@given(st.floats(0.01, 0.99))
def test_the_expected_factor_of_a_rate_is_one_at_its_limit(limit: float):
    assert limit * rate_e_value(1, 1, limit) + (1 - limit) * rate_e_value(0, 1, limit) == pytest.approx(1.0)


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_bound_of_a_rate_is_above_the_measured_one_and_falls_with_data(bad: int, good: int):
    assert bad / (bad + good) <= highest_rate(bad, bad + good, 0.01) <= 1.0
    assert highest_rate(10 * bad, 10 * (bad + good), 0.01) <= highest_rate(bad, bad + good, 0.01) + 1e-9


def test_without_data_the_bound_of_a_rate_is_one():
    assert highest_rate(0, 0, 0.01) == 1.0


@pytest.mark.parametrize("kind", BadEvent)
def test_every_kind_of_bad_first_answer_is_evidence(kind: BadEvent):
    assert weighed(outcome(i, first=frozenset({kind})) for i in range(4)).first > LIMIT


def test_nothing_after_the_oldest_conversation_without_an_ended_answer_is_read():
    bad = [outcome(i, first=ERROR) for i in range(1, 9)]
    waiting = ConversationOutcome(ConversationId("waits"), False, 0.05, 0.5, answered=False)
    assert weighed([waiting, *bad], now=10.0).first < 1.0
    assert weighed([*bad, ConversationOutcome(ConversationId("waits"), False, 0.05, 9.5, answered=False)], now=10.0).first > LIMIT


def test_a_conversation_that_stays_without_an_answer_holds_the_verdict_for_the_window_only():
    waiting = ConversationOutcome(ConversationId("waits"), False, 0.05, 0.0, answered=False)
    bad = [outcome(i, first=ERROR) for i in range(1, 9)]
    assert weighed([waiting, *bad], now=POLICY.window_s - 1).first < 1.0
    assert weighed([waiting, *bad], now=POLICY.window_s).first > LIMIT


def test_later_answers_count_once_the_window_of_their_conversation_is_over():
    later = [outcome(i, early=ERROR) for i in range(12)]
    assert weighed(later, now=12.0).early < 1.0
    assert weighed(later).early > LIMIT


def test_of_later_answers_a_candidate_may_have_as_many_more_as_a_conversation_has_answers():
    thrice = [outcome(i, share=0.5, early=ERROR, candidate=i % 4 > 0) for i in range(400)]
    assert weighed(thrice).early < 1.0


def test_votes_on_first_answers_are_a_veto():
    down = [outcome(i, thumbs_down=True) for i in range(5)]
    assert weighed(down, now=5.0).thumbs < 1.0
    assert weighed(down).thumbs > LIMIT


def test_a_candidate_that_fails_alone_is_stopped_after_some_twenty_conversations():
    failing = [outcome(i, share=1.0, first=ERROR) for i in range(20)]
    found = weighed(failing)
    assert (found.alone > LIMIT, found.first < 1.0) == (True, True)
    assert (found.alone_bad, found.alone_total, found.alone_limit) == (20, 20, evidence.HIGHEST_LIMIT)


def test_a_known_stable_version_sets_the_limit_of_a_candidate_alone():
    stable = [outcome(i, candidate=False, share=0.5, first=ERROR if i % 5 == 0 else frozenset()) for i in range(400)]
    same = [outcome(1000 + i, share=1.0, first=ERROR if i % 5 == 0 else frozenset()) for i in range(200)]
    worse = [outcome(1000 + i, share=1.0, first=ERROR if i % 5 < 3 else frozenset()) for i in range(60)]
    assert 0.2 < weighed(stable + same).alone_limit < 0.35
    assert weighed(stable + same).alone < LIMIT < weighed(stable + worse).alone


@pytest.mark.parametrize(
    "case",
    [
        Case(BadEvent.ERROR, 0.2, 0.2, (0.25,), pace=0.25),
        Case(BadEvent.LOOP, 0.2, 0.2, (0.5,), pace=0.25, answers=3),
        Case(BadEvent.SLOW, 0.05, 0.05, (0.05,), pace=4.0, answers=3),
        Case(BadEvent.NONSENSE, 0.05, 0.05, POLICY_SHARES),
    ],
)
def test_the_whole_verdict_seldom_rolls_an_equal_candidate_back_however_fast_it_is(case: Case):
    assert rate_of(rollouts(case, 50)) <= 0.08  # `make bench` runs all cases and more of each: docs/statistics.md


def test_the_whole_verdict_finds_one_percent_that_became_five():
    ends = rollouts(Case(BadEvent.ERROR, 0.01, 0.05, (0.25,), conversations=3000), 40)
    assert rate_of(ends) >= 0.95
    assert sorted(end.conversations for end in ends)[20] <= 620


def test_a_garbage_model_at_five_percent_is_rolled_back_within_five_minutes():
    ends = rollouts(Case(BadEvent.NONSENSE, 0.01, 0.9, (0.05,), conversations=600, look_s=2.0), 20)
    assert sorted(end.conversations for end in ends)[10] <= 200
    assert rate_of(ends) == 1.0
