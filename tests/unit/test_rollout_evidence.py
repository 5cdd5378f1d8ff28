"""The evidence of the canary's verdict: quick on a bad candidate, and bounded false alarms however often it is looked at."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.endpoints import ConversationOutcome
from core.ids import ConversationId
from lifecycle.rollouts.sequential_test import e_value

ALPHA = 0.05


def conversations(rng: random.Random, count: int, share: float, stable_bad: float, candidate_bad: float) -> list[ConversationOutcome]:
    outcomes = []
    for index in range(count):
        candidate = rng.random() < share
        bad = rng.random() < (candidate_bad if candidate else stable_bad)
        outcomes.append(ConversationOutcome(ConversationId(str(index)), candidate, share, bad))
    return outcomes


def crosses(outcomes: list[ConversationOutcome]) -> bool:
    """Look after every single bad conversation, as a driver that never sleeps would."""
    seen: list[ConversationOutcome] = []
    for outcome in outcomes:
        seen.append(outcome)
        if outcome.bad and e_value(seen) > 1 / ALPHA:
            return True
    return False


def test_no_conversation_is_no_evidence():
    assert e_value([]) == pytest.approx(1.0)


def test_three_bad_conversations_of_the_candidate_at_five_percent_are_enough():
    outcomes = [ConversationOutcome(ConversationId(str(i)), candidate=True, share=0.05, bad=True) for i in range(3)]
    assert e_value(outcomes) > 1 / ALPHA


def test_bad_conversations_of_the_stable_version_speak_for_the_candidate():
    outcomes = [ConversationOutcome(ConversationId(str(i)), candidate=False, share=0.5, bad=True) for i in range(20)]
    assert e_value(outcomes) < 1.0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_without_a_comparison_is_passed_over(share: float):
    outcomes = [ConversationOutcome(ConversationId(str(i)), candidate=share > 0, share=share, bad=True) for i in range(50)]
    assert e_value(outcomes) == pytest.approx(1.0)


@pytest.mark.parametrize(("share", "rate"), [(0.05, 0.3), (0.25, 0.1), (0.5, 0.02)])
def test_an_equal_candidate_is_rolled_back_at_most_as_often_as_alpha_says(share: float, rate: float):
    rng = random.Random(7)
    alarms = sum(crosses(conversations(rng, 400, share, rate, rate)) for _ in range(300))
    assert alarms / 300 <= ALPHA + 0.02  # 300 runs: two standard errors are 0.025


def test_a_candidate_whose_errors_double_is_found_within_some_thousand_conversations():
    rng = random.Random(11)
    found = sum(crosses(conversations(rng, 3000, 0.25, 0.1, 0.2)) for _ in range(20))
    assert found >= 18


def test_a_drifting_hour_does_not_accuse_the_candidate():
    rng = random.Random(13)
    alarms = 0
    for _ in range(200):
        quiet, storm = conversations(rng, 200, 0.05, 0.01, 0.01), conversations(rng, 200, 0.5, 0.6, 0.6)
        alarms += crosses(quiet + storm)
    assert alarms / 200 <= ALPHA + 0.03


@given(st.lists(st.tuples(st.booleans(), st.floats(0.001, 0.999), st.booleans()), max_size=200))
def test_evidence_is_finite_and_not_negative_whatever_comes(rows: list[tuple[bool, float, bool]]):
    value = e_value(ConversationOutcome(ConversationId("c"), candidate, share, bad) for candidate, share, bad in rows)
    assert 0.0 <= value < float("inf")


@given(st.floats(0.01, 0.99))
def test_the_expected_factor_of_one_bad_conversation_is_one_when_the_versions_are_equal(share: float):
    with_candidate = e_value([ConversationOutcome(ConversationId("c"), candidate=True, share=share, bad=True)])
    with_stable = e_value([ConversationOutcome(ConversationId("c"), candidate=False, share=share, bad=True)])
    assert share * with_candidate + (1 - share) * with_stable == pytest.approx(1.0)
