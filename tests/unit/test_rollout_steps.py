"""The steps of a rollout: every state has a way out, and only evidence moves it forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.endpoints import BadEvent, Cohort, ConversationOutcome, Rollout, RolloutState, Verdict, Withdrawal
from core.ids import ConversationId, EndpointName, RolloutId, SubmissionId, VersionId
from core.ports.records import Cohorts
from core.settings import RolloutPolicy, shares
from core.versions import Decision
from lifecycle.rollouts.steps import begin, decide, needed_conversations, withdraw
from lifecycle.rollouts.verdict import judge

NOW = 1_000.0
POLICY = RolloutPolicy(min_conversations=10, step_s=60.0, soak_s=120.0)
PASS = Verdict(Decision.PASS, "as good")
FAIL = Verdict(Decision.FAIL, "candidate 3 of 3, stable 0 of 60")
HOLD = Verdict(Decision.INCONCLUSIVE, "2 of 10 conversations")


def rollout(**changes: object) -> Rollout:
    row = Rollout(
        RolloutId("ro-1"),
        SubmissionId("sub-1"),
        EndpointName("chat"),
        VersionId("b" * 64),
        VersionId("a" * 64),
        RolloutState.SHIFTING,
        1,
        0.05,
        NOW,
        NOW,
        NOW + 3600,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def test_the_first_version_of_an_endpoint_is_promoted_when_its_trials_passed():
    row = begin(rollout(state=RolloutState.DARK, step=0, share=0.0, stable=None), NOW, POLICY)
    assert (row.state, row.share) == (RolloutState.PROMOTED, 1.0)


def test_a_candidate_begins_at_the_first_share():
    row = begin(rollout(state=RolloutState.DARK, step=0, share=0.0), NOW, POLICY)
    assert (row.state, row.step, row.share) == (RolloutState.SHIFTING, 1, 0.05)


def test_beginning_what_has_begun_changes_nothing():
    assert begin(rollout(step=3), NOW, POLICY) == rollout(step=3)


def test_a_step_that_passes_too_early_waits():
    assert decide(rollout(), PASS, NOW + 59, POLICY).step == 1


def test_a_passed_step_brings_the_next_share():
    row = decide(rollout(), PASS, NOW + 60, POLICY)
    assert (row.step, row.share, row.step_started_at) == (2, 0.25, NOW + 60)


def test_no_data_holds():
    row = decide(rollout(), HOLD, NOW + 600, POLICY)
    assert (row.state, row.step) == (RolloutState.SHIFTING, 1)


def test_the_last_share_is_soaked_then_promoted():
    soaking = decide(rollout(step=4, share=1.0), PASS, NOW + 60, POLICY)
    assert soaking.state is RolloutState.SOAKING
    assert decide(soaking, PASS, NOW + 60 + 119, POLICY).state is RolloutState.SOAKING
    assert decide(soaking, PASS, NOW + 60 + 120, POLICY).state is RolloutState.PROMOTED


def test_a_soak_without_a_passing_verdict_goes_on():
    soaking = decide(rollout(step=4, share=1.0), PASS, NOW + 60, POLICY)
    assert decide(soaking, HOLD, NOW + 60 + 500, POLICY).state is RolloutState.SOAKING


@pytest.mark.parametrize("state", [RolloutState.SHIFTING, RolloutState.SOAKING])
def test_a_failed_verdict_takes_the_share_at_once(state: RolloutState):
    row = decide(rollout(state=state, step=4, share=1.0), FAIL, NOW + 1, POLICY)
    assert (row.state, row.share, row.reason) == (RolloutState.ROLLING_BACK, 0.0, FAIL.reason)


@pytest.mark.parametrize("state", [RolloutState.SHIFTING, RolloutState.SOAKING])
@pytest.mark.parametrize("verdict", [PASS, FAIL, HOLD])
def test_past_the_deadline_a_candidate_with_a_share_goes_back(state: RolloutState, verdict: Verdict):
    assert decide(rollout(state=state), verdict, NOW + 3601, POLICY).state is RolloutState.ROLLING_BACK


def test_the_trials_take_none_of_the_rollouts_time():
    dark = rollout(state=RolloutState.DARK, step=0, share=0.0)
    assert decide(dark, HOLD, NOW + 100_000, POLICY) == dark
    begun = begin(dark, NOW + 100_000, POLICY)
    assert begun.deadline == NOW + 100_000 + POLICY.deadline_s


@given(st.sampled_from(list(RolloutState)), st.sampled_from([PASS, FAIL, HOLD]), st.floats(0, 10_000), st.integers(0, 5))
def test_an_end_is_never_left_and_share_stays_a_share(state: RolloutState, verdict: Verdict, later: float, step: int):
    before = rollout(state=state, step=step, share=0.0 if state is RolloutState.ROLLING_BACK else 0.05)
    after = decide(before, verdict, NOW + later, POLICY)
    assert 0.0 <= after.share <= 1.0
    if state.ended or state is RolloutState.ROLLING_BACK:
        assert after == before
    back = withdraw(after, "x", Withdrawal.OPERATOR)
    assert back.state.ended or back.share == 0.0


@pytest.mark.parametrize("text", ["", "0.5", "0.5,0.25,1.0", "a,1.0", "0.0,1.0", "0.5,2.0", "nan,1.0"])
def test_a_list_of_shares_that_makes_no_sense_is_refused(text: str):
    with pytest.raises(ValueError, match=r"share|float|finite"):
        shares(text)


def cohorts(stable: Cohort, candidate: Cohort, bad: int = 0, share: float = 0.05, **fields: bool) -> Cohorts:
    """Return cohorts with so many bad conversations of the candidate; `fields` replace what was bad in them."""
    found: dict[str, Any] = dict(fields) or {"first": frozenset({BadEvent.LOOP})}
    outcomes = tuple(ConversationOutcome(ConversationId(str(i)), True, share, float(i), answered=True, **found) for i in range(bad))
    return Cohorts(stable, candidate, outcomes)


def test_bad_first_answers_fail_the_candidate_with_the_numbers():
    verdict = judge(cohorts(Cohort(60, 0, 120), Cohort(4, 4, 8, loops=8), bad=4), POLICY, needed=10, now=NOW)
    assert verdict.decision is Decision.FAIL
    assert verdict.reason.startswith("bad conversations: candidate 4 of 4, stable 0 of 60; evidence ")
    assert verdict.reason.endswith(" exceeds 20")
    assert verdict.e_value > 1 / POLICY.alpha


def test_totals_alone_do_not_fail_a_candidate():
    verdict = judge(cohorts(Cohort(90, 0, 180), Cohort(10, 4, 20, errors=4)), POLICY, needed=10, now=NOW)
    assert verdict.decision is Decision.INCONCLUSIVE


def test_a_candidate_that_nothing_is_left_to_compare_with_fails_at_its_limit():
    verdict = judge(cohorts(Cohort(), Cohort(20, 20, 20, errors=20), bad=20, share=1.0), POLICY, needed=10, now=NOW)
    assert verdict.decision is Decision.FAIL
    assert verdict.reason.startswith("20 of 20 conversations with the candidate began with a bad answer; the limit is 50%; evidence ")


def test_thumbs_down_veto():
    verdict = judge(cohorts(Cohort(60), Cohort(12, thumbs_down=5), bad=5, thumbs_down=True), POLICY, needed=10, now=NOW)
    assert (verdict.decision, "voted" in verdict.reason) == (Decision.FAIL, True)
    assert verdict.thumbs_e_value > 1 / POLICY.alpha


def test_too_few_conversations_are_inconclusive():
    assert judge(cohorts(Cohort(90), Cohort(9)), POLICY, needed=10, now=NOW).decision is Decision.INCONCLUSIVE


def test_enough_good_conversations_pass():
    assert judge(cohorts(Cohort(90, 1), Cohort(10, 0)), POLICY, needed=10, now=NOW).decision is Decision.PASS


def test_each_step_needs_its_own_conversations_on_top():
    assert [needed_conversations(rollout(step=step), POLICY) for step in (1, 2, 3)] == [10, 20, 30]
