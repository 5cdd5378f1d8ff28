"""The contract of core/ports/records/, on SQLite and on PostgreSQL: conversations, completions, votes, cohorts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.conversations import Assignment, Outcome, Thumb, Usage
from core.endpoints import EARLY_ANSWERS, BadEvent, Rollout
from core.errors import NotFound, Refused
from core.ids import CompletionId, EndpointName, PrincipalId, RolloutId
from registry.database import Database
from tests.equipment.samples import CANDIDATE, CHAT, NOW, STABLE, a_completion, a_rollout, a_vote, an_assignment

WINDOW_S = 120.0
NOTHING: frozenset[BadEvent] = frozenset()


def on_candidate(conversation: str, **fields: Any) -> Assignment:
    return an_assignment(conversation, version=CANDIDATE, candidate=True, **fields)


@pytest.fixture
def rollout(records: Database) -> Rollout:
    records.endpoints.ensure(CHAT, NOW)
    return records.rollouts.open(a_rollout())


def test_a_completion_comes_back_as_it_was_recorded(records: Database) -> None:
    plain, bare = a_completion(1), a_completion(2, usage=None, ttft_s=None, finish_reason=None, rollout=None, outcome=Outcome.CLIENT_GONE)
    records.conversations.record([an_assignment()], [plain, bare], [])
    assert records.conversations.completion(plain.id) == plain
    assert records.conversations.completion(bare.id) == bare
    with pytest.raises(NotFound):
        records.conversations.completion(CompletionId("chatcmpl-0"))


def test_recording_twice_counts_once(records: Database) -> None:
    for _ in range(2):
        records.conversations.record([an_assignment()], [a_completion(), a_completion()], [a_vote(), a_vote()])
    (row,) = records.conversations.leaderboard()
    assert (row.conversations, row.completions, row.usage, row.thumbs_up) == (1, 1, Usage(7, 11), 1)


def test_a_settled_completion_replaces_a_lost_one_and_never_the_other_way(records: Database) -> None:
    lost, settled = a_completion(outcome=Outcome.LOST, usage=None), a_completion()
    for completion in (lost, settled, lost, replace(settled, usage=Usage(1000, 1000))):
        records.conversations.record([], [completion], [])
    assert records.conversations.completion(settled.id) == settled
    assert records.conversations.leaderboard()[0].usage == Usage(7, 11)


def test_a_later_vote_of_the_same_principal_replaces_the_earlier_one_only(records: Database) -> None:
    first, later = a_vote(comment="good"), a_vote(thumb=Thumb.DOWN, comment="bad after all", at=NOW + 500)
    other = a_vote(principal=PrincipalId("prn-bob"))
    for vote in (later, first, other):
        records.conversations.record([], [], [vote])
    assert records.conversations.feedback() == (other, later)


def test_feedback_is_found_by_endpoint_version_and_time_oldest_first(records: Database) -> None:
    votes = [a_vote(1), a_vote(2, version=CANDIDATE), a_vote(3, endpoint=EndpointName("code"))]
    records.conversations.record([], [], votes)
    find = records.conversations.feedback
    assert find() == tuple(votes)
    assert find(endpoint=CHAT, versions=[CANDIDATE]) == (votes[1],)
    assert find(versions=()) == ()
    assert find(after=votes[0].at, limit=1) == (votes[1],)


def test_moved_is_never_unset_and_the_conversation_keeps_the_version_that_it_moved_to(records: Database) -> None:
    first = on_candidate("conv-1")
    moved = an_assignment("conv-1", assigned_at=NOW + 10, moved=True)
    for assignment in (first, moved, first):
        records.conversations.record([assignment], [], [])
    assert records.conversations.assignments(0.0, 10) == (moved,)


def test_within_one_batch_the_same_rules_hold(records: Database) -> None:
    first, moved = on_candidate("conv-1"), an_assignment("conv-1", moved=True)
    records.conversations.record(
        [first, moved, first], [a_completion(outcome=Outcome.LOST), a_completion()], [a_vote(at=NOW + 9), a_vote(at=NOW)]
    )
    assert records.conversations.assignments(0.0, 10) == (moved,)
    assert records.conversations.completion(a_completion().id).outcome is Outcome.OK


def test_a_conversation_that_was_forgotten_and_came_again_is_the_new_one(records: Database) -> None:
    again = on_candidate("conv-1", rollout=RolloutId("ro-2"), assigned_at=NOW + 9999)
    for assignment in (an_assignment(), again, an_assignment()):
        records.conversations.record([assignment], [], [])
    assert records.conversations.assignments(0.0, 10) == (again,)


def test_assignments_are_those_with_a_request_since_newest_first(records: Database) -> None:
    records.conversations.record([an_assignment("old"), an_assignment("busy")], [], [])
    records.conversations.record([an_assignment("new", assigned_at=NOW + 50)], [a_completion(100, "busy")], [])
    recent = records.conversations.assignments(NOW + 50, 10)
    assert [assignment.conversation for assignment in recent] == ["busy", "new"]
    assert len(records.conversations.assignments(0.0, 2)) == 2


def test_the_same_conversation_id_on_two_endpoints_is_two_conversations(records: Database) -> None:
    records.conversations.record([an_assignment(), an_assignment(endpoint=EndpointName("code"))], [], [])
    assert len(records.conversations.assignments(0.0, 10)) == 2


def test_a_value_that_no_database_holds_is_refused_and_leaves_nothing_of_its_batch(records: Database) -> None:
    with pytest.raises(Refused):
        records.conversations.record([an_assignment()], [a_completion(), a_completion(2, usage=Usage(2**70, 1))], [])
    assert records.conversations.assignments(0.0, 10) == ()


def test_cohorts_count_conversations_once_and_leave_neutral_ends_out(records: Database, rollout: Rollout) -> None:
    here, chats = {"version": CANDIDATE}, ("good", "loops", "slow", "breaks", "gone", "lost", "salad")
    records.conversations.record(
        [on_candidate(chat, assigned_at=NOW + place) for place, chat in enumerate(chats)] + [an_assignment("stable", assigned_at=NOW + 9)],
        [
            a_completion(1, "good", **here),
            a_completion(2, "good", outcome=Outcome.CLIENT_ERROR, ttft_s=None, **here),
            a_completion(3, "loops", looped=True, **here),
            a_completion(4, "loops", looped=True, **here),
            a_completion(5, "slow", ttft_s=6.0, **here),
            a_completion(6, "breaks", outcome=Outcome.ENGINE_ERROR, ttft_s=None, **here),
            a_completion(7, "gone", outcome=Outcome.CLIENT_GONE, **here),
            a_completion(8, "lost", outcome=Outcome.LOST, **here),
            a_completion(9, "stable"),
            a_completion(10, "salad", outcome=Outcome.CLIENT_GONE, nonsense=True, **here),
        ],
        [a_vote(1, "good", **here), a_vote(3, "loops", thumb=Thumb.DOWN, **here), a_vote(5, "slow", counted=False, **here)],
    )
    cohorts = records.rollouts.cohorts(rollout.id, WINDOW_S)
    candidate = cohorts.candidate
    assert [outcome.conversation for outcome in cohorts.outcomes] == [*chats, "stable"]
    first = [NOTHING, {BadEvent.LOOP}, {BadEvent.SLOW}, {BadEvent.ERROR}, NOTHING, NOTHING, {BadEvent.NONSENSE}, NOTHING]
    assert [outcome.first for outcome in cohorts.outcomes] == first
    assert [outcome.answered for outcome in cohorts.outcomes] == [True, True, True, True, True, False, True, True]
    assert [outcome.thumbs_down for outcome in cohorts.outcomes] == [False, True, *6 * [False]]
    assert (candidate.conversations, candidate.bad, candidate.completions) == (5, 4, 6)
    assert (candidate.errors, candidate.slow, candidate.loops, candidate.nonsense) == (1, 1, 2, 1)
    assert (candidate.thumbs_up, candidate.thumbs_down, candidate.ttft_p95_s) == (1, 1, 6.0)
    assert (cohorts.stable.conversations, cohorts.stable.bad, cohorts.stable.ttft_p95_s) == (1, 0, 0.25)


def test_an_outcome_has_the_first_answer_whenever_it_ended_and_later_ones_within_the_window(records: Database, rollout: Rollout) -> None:
    late = {"outcome": Outcome.ENGINE_ERROR, "seconds": WINDOW_S}
    records.conversations.record(
        [
            an_assignment("late first", assigned_at=NOW),
            an_assignment("late second", assigned_at=NOW),
            an_assignment("second", assigned_at=NOW),
        ],
        [
            a_completion(1, "late first", **late),
            a_completion(2, "late second"),
            a_completion(3, "late second", **late),
            a_completion(4, "second"),
            a_completion(5, "second", looped=True),
        ],
        [],
    )
    outcomes = records.rollouts.cohorts(rollout.id, WINDOW_S).outcomes
    assert [outcome.first for outcome in outcomes] == [{BadEvent.ERROR}, NOTHING, NOTHING]
    assert [outcome.early for outcome in outcomes] == [NOTHING, NOTHING, {BadEvent.LOOP}]


def test_a_vote_counts_for_the_verdict_when_it_is_on_the_first_answer_and_within_the_window(records: Database, rollout: Rollout) -> None:
    chats = ("in time", "late", "second")
    answers = [a_completion(10 * place + turn, chat) for place, chat in enumerate(chats) for turn in (1, 2)]
    down = {"thumb": Thumb.DOWN, "at": NOW + WINDOW_S}
    votes = [a_vote(1, "in time", **down), a_vote(11, "late", thumb=Thumb.DOWN, at=NOW + 200), a_vote(22, "second", **down)]
    records.conversations.record([an_assignment(chat) for chat in chats], answers, votes)
    cohorts = records.rollouts.cohorts(rollout.id, WINDOW_S)
    assert {outcome.conversation: outcome.thumbs_down for outcome in cohorts.outcomes} == {"in time": True, "late": False, "second": False}
    assert cohorts.stable.thumbs_down == 3


def test_of_answers_at_once_the_first_to_end_is_the_first_and_those_after_the_third_are_not_early(
    records: Database, rollout: Rollout
) -> None:
    records.conversations.record([an_assignment("at once"), an_assignment("long", assigned_at=NOW + 1)], [], [])
    answers = [a_completion(1, "at once", looped=True, seconds=9.0), a_completion(2, "at once", seconds=1.0)]
    talk = [a_completion(10 + turn, "long", looped=turn >= EARLY_ANSWERS) for turn in range(EARLY_ANSWERS + 1)]
    records.conversations.record([], answers + talk, [])
    at_once, long = records.rollouts.cohorts(rollout.id, WINDOW_S).outcomes
    assert (at_once.first, at_once.early) == (NOTHING, frozenset({BadEvent.LOOP}))
    assert (long.first, long.early) == (NOTHING, NOTHING)


def test_a_client_that_gave_up_waiting_for_a_first_token_met_a_slow_answer(records: Database, rollout: Rollout) -> None:
    gone = {"outcome": Outcome.CLIENT_GONE, "ttft_s": None}
    chats = [an_assignment("patient"), an_assignment("hasty", assigned_at=NOW + 1)]
    records.conversations.record(
        chats, [a_completion(1, "patient", seconds=6.0, **gone), a_completion(2, "hasty", seconds=4.0, **gone)], []
    )
    cohorts = records.rollouts.cohorts(rollout.id, WINDOW_S)
    assert [outcome.first for outcome in cohorts.outcomes] == [{BadEvent.SLOW}, NOTHING]
    assert (cohorts.stable.conversations, cohorts.stable.slow) == (1, 1)


def test_a_conversation_that_waits_for_its_first_answer_is_in_the_outcomes_and_not_in_the_totals(
    records: Database, rollout: Rollout
) -> None:
    records.conversations.record(
        [an_assignment("waits"), an_assignment("answered", assigned_at=NOW + 1)], [a_completion(1, "answered")], []
    )
    cohorts = records.rollouts.cohorts(rollout.id, WINDOW_S)
    assert [(outcome.started_at, outcome.answered) for outcome in cohorts.outcomes] == [(NOW, False), (NOW + 1, True)]
    assert cohorts.stable.conversations == 1


def test_cohorts_leave_moved_and_earlier_conversations_out(records: Database, rollout: Rollout) -> None:
    earlier = an_assignment("earlier", rollout=None)
    records.conversations.record([on_candidate("conv-1"), earlier], [a_completion(version=CANDIDATE), a_completion(2, "earlier")], [])
    records.conversations.record([an_assignment(assigned_at=NOW + 50, moved=True)], [a_completion(3)], [])
    cohorts = records.rollouts.cohorts(rollout.id, WINDOW_S)
    assert cohorts.outcomes == ()
    assert (cohorts.candidate.conversations, cohorts.stable.conversations, cohorts.candidate.ttft_p95_s) == (0, 0, None)


def test_a_vote_counts_no_more_once_its_conversation_was_moved(records: Database) -> None:
    records.conversations.record([on_candidate("conv-1")], [a_completion(version=CANDIDATE)], [a_vote(version=CANDIDATE)])
    assert records.conversations.feedback()[0].counted
    records.conversations.record([an_assignment(assigned_at=NOW + 50, moved=True)], [], [])
    assert not records.conversations.feedback()[0].counted
    assert records.conversations.leaderboard()[0].thumbs_up == 0


def test_the_leaderboard_has_a_row_per_endpoint_and_version_that_answered(records: Database) -> None:
    answers = [
        a_completion(1),
        a_completion(2, looped=True, nonsense=True),
        a_completion(3, "conv-2", version=CANDIDATE, outcome=Outcome.ENGINE_ERROR),
    ]
    records.conversations.record(
        [], [*answers, a_completion(4, version=CANDIDATE, outcome=Outcome.LOST)], [a_vote(1), a_vote(2, thumb=Thumb.DOWN)]
    )
    stable, candidate = records.conversations.leaderboard()
    assert (stable.version, stable.completions, stable.conversations, stable.loops, stable.nonsense, stable.usage) == (
        STABLE,
        2,
        1,
        1,
        1,
        Usage(14, 22),
    )
    assert (stable.thumbs_up, stable.thumbs_down) == (1, 1)
    assert (candidate.version, candidate.completions, candidate.errors) == (CANDIDATE, 1, 1)
