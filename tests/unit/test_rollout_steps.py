"""The steps of a rollout: every state has a way out, and only evidence moves it forward."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.endpoints import Cohort, ConversationOutcome, Rollout, RolloutState, Verdict, Withdrawal
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
    assert decide(soaking, HOLD, NOW + 60 + 119, POLICY).state is RolloutState.SOAKING
    assert decide(soaking, HOLD, NOW + 60 + 120, POLICY).state is RolloutState.PROMOTED


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


def cohorts(stable: Cohort, candidate: Cohort, bad: int = 0) -> Cohorts:
    outcomes = tuple(ConversationOutcome(ConversationId(str(i)), candidate=True, share=0.05, bad=True) for i in range(bad))
    return Cohorts(stable, candidate, outcomes)


def test_canary_fails_when_candidate_errors_exceed_the_hard_limit():
    verdict = judge(cohorts(Cohort(90, 0, 180), Cohort(10, 4, 20, errors=4)), POLICY, needed=10, now=NOW)
    assert (verdict.decision, "4 of 20" in verdict.reason) == (Decision.FAIL, True)


def test_errors_that_both_versions_have_are_not_the_candidates_fault():
    verdict = judge(cohorts(Cohort(90, 40, 180, errors=80), Cohort(10, 5, 20, errors=8)), POLICY, needed=20, now=NOW)
    assert verdict.decision is Decision.INCONCLUSIVE


def test_a_slow_first_token_is_a_hard_limit():
    verdict = judge(cohorts(Cohort(9, 0, 18, ttft_p95_s=0.2), Cohort(9, 0, 18, ttft_p95_s=30.0)), POLICY, needed=5, now=NOW)
    assert (verdict.decision, "30.0 s" in verdict.reason) == (Decision.FAIL, True)


def test_three_looping_conversations_fail_the_candidate():
    verdict = judge(cohorts(Cohort(60, 0, 120), Cohort(3, 3, 6, loops=6), bad=3), POLICY, needed=10, now=NOW)
    assert (verdict.decision, "3 of 3" in verdict.reason) == (Decision.FAIL, True)


def test_thumbs_down_veto():
    outcomes = tuple(ConversationOutcome(ConversationId(str(i)), candidate=True, share=0.05, bad=False, thumbs_down=True) for i in range(3))
    verdict = judge(Cohorts(Cohort(60), Cohort(12, thumbs_down=3), outcomes), POLICY, needed=10, now=NOW)
    assert (verdict.decision, "voted" in verdict.reason) == (Decision.FAIL, True)


def test_too_few_conversations_are_inconclusive():
    assert judge(cohorts(Cohort(90), Cohort(9)), POLICY, needed=10, now=NOW).decision is Decision.INCONCLUSIVE


def test_enough_good_conversations_pass():
    assert judge(cohorts(Cohort(90, 1), Cohort(10, 0)), POLICY, needed=10, now=NOW).decision is Decision.PASS


def test_each_step_needs_its_own_conversations_on_top():
    assert [needed_conversations(rollout(step=step), POLICY) for step in (1, 2, 3)] == [10, 20, 30]
