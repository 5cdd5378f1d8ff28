"""The transition tables: every state meets every event, and no end is ever left."""

from __future__ import annotations

import pytest

from core.benchmarks import BenchmarkState
from core.errors import Conflict, DiskFull, Exhausted, Fault, Refused, SeatrialError, Transient
from core.reasons import Reason
from core.submissions import SubmissionState
from lifecycle import benchmarks, submissions
from lifecycle.submissions import Event


@pytest.mark.parametrize("state", SubmissionState)
@pytest.mark.parametrize("event", Event)
def test_a_submission_takes_only_the_listed_transitions(state: SubmissionState, event: Event) -> None:
    if (state, event) in submissions.TRANSITIONS:
        assert not state.ended
        assert submissions.next_state(state, event) is submissions.TRANSITIONS[state, event]
        return
    with pytest.raises(Conflict) as refused:
        submissions.next_state(state, event)
    assert refused.value.reason == "illegal_transition"


def test_every_open_submission_can_end_and_be_cancelled() -> None:
    for state in submissions.OPEN:
        ends = {to for (at, _), to in submissions.TRANSITIONS.items() if at is state and to.ended}
        assert ends
        assert submissions.next_state(state, Event.CANCEL_REQUESTED) is SubmissionState.CANCELLING
    assert {to for (at, _), to in submissions.TRANSITIONS.items() if at is SubmissionState.RUNNING and to.ended} == {
        state for state in SubmissionState if state.ended
    }


def test_what_is_being_cancelled_is_driven_by_nobody_new_and_ends_cancelled_or_serving() -> None:
    after = {event: to for (at, event), to in submissions.TRANSITIONS.items() if at is SubmissionState.CANCELLING}
    assert Event.CLAIMED not in after
    assert {to for to in after.values() if to.ended} == {SubmissionState.CANCELLED, SubmissionState.SERVING}
    assert [event for event, to in after.items() if to is SubmissionState.SERVING] == [Event.SERVED]


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (Refused("no", reason=Reason.NAN_IN_WEIGHTS), Event.REFUSED),
        (Refused("no", reason=Reason.ROLLED_BACK), Event.ROLLED_BACK),
        (Refused("no", reason=Reason.WITHDRAWN), Event.WITHDRAWN),
        (Refused("no", reason=Reason.CANCELLED), Event.WITHDRAWN),
        (DiskFull("no"), Event.REFUSED),
        (Fault("no"), Event.FAILED),
        (Exhausted("no"), Event.FAILED),
        (Transient("no"), Event.FAILED),
    ],
)
def test_an_error_s_class_and_reason_decide_how_a_submission_ends(error: SeatrialError, event: Event) -> None:
    assert submissions.event_of(error) is event


@pytest.mark.parametrize("state", BenchmarkState)
@pytest.mark.parametrize("event", benchmarks.Event)
def test_a_benchmark_ends_once(state: BenchmarkState, event: benchmarks.Event) -> None:
    if state is BenchmarkState.RUNNING:
        assert benchmarks.next_state(state, event) is not BenchmarkState.RUNNING
        return
    with pytest.raises(Conflict):
        benchmarks.next_state(state, event)
