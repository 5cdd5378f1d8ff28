"""The events and roles that a rollout records, and how a candidate waits for capacity."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from core.endpoints import Rollout, RolloutState
from core.engines import EngineSpec, Fit, Role
from core.errors import Refused
from core.ids import EndpointName, RolloutId, SubmissionId, VersionId
from core.ports.clock import VirtualClock
from lifecycle.capacity import await_fit
from lifecycle.rollouts.events import record_events
from tests.equipment.kube_env import a_spec

CHAT = EndpointName("chat")
STABLE, CANDIDATE = VersionId("a" * 64), VersionId("b" * 64)
ROW = Rollout(RolloutId("ro"), SubmissionId("sub"), CHAT, CANDIDATE, STABLE, RolloutState.DARK, 0, 0.0, 0.0, 0.0, 100.0)


@dataclass
class Recorder:
    told: list[tuple[VersionId, str, str, bool]] = field(default_factory=list)
    roles: dict[tuple[VersionId, EndpointName], Role | None] = field(default_factory=dict)

    def record(self, version: VersionId, reason: str, message: str, *, warning: bool = False) -> None:
        self.told.append((version, reason, message, warning))

    def mark(self, version: VersionId, endpoint: EndpointName, role: Role | None) -> None:
        self.roles[version, endpoint] = role


def test_trials_that_passed_are_told_once_with_the_first_share() -> None:
    recorder = Recorder()
    first = replace(ROW, state=RolloutState.SHIFTING, step=1, share=0.05)
    record_events(recorder, ROW, first)
    record_events(recorder, first, replace(first, step=2, share=0.25))
    assert [reason for _, reason, *_ in recorder.told] == ["Tried", "ShareChanged", "ShareChanged"]
    assert recorder.told[0][2] == "candidate of chat: passed its trials"


def test_a_refused_candidate_is_told_with_the_trials_reason() -> None:
    recorder = Recorder()
    record_events(recorder, ROW, replace(ROW, state=RolloutState.ROLLING_BACK, reason="pass@1 0.35 is below 1.00"))
    assert recorder.told == [(CANDIDATE, "RollingBack", "candidate of chat gets nothing any more: pass@1 0.35 is below 1.00", True)]


def test_a_step_is_told_with_its_share_and_the_candidate_is_marked() -> None:
    recorder = Recorder()
    before = replace(ROW, state=RolloutState.SHIFTING, step=0, share=0.05)
    record_events(recorder, before, replace(before, step=1, share=0.25))
    assert recorder.told == [(CANDIDATE, "ShareChanged", "candidate of chat: 25% of new conversations (step 1)", False)]
    assert recorder.roles == {(CANDIDATE, CHAT): Role.CANDIDATE}


def test_a_promotion_is_told_to_both_and_the_roles_change_hands() -> None:
    recorder = Recorder()
    record_events(recorder, ROW, replace(ROW, state=RolloutState.PROMOTED, share=1.0, reason="as good as stable"))
    assert [(version, reason) for version, reason, *_ in recorder.told] == [(CANDIDATE, "Promoted"), (STABLE, "Replaced")]
    assert recorder.roles == {(CANDIDATE, CHAT): Role.STABLE, (STABLE, CHAT): None}


def test_a_rollback_warns_with_its_reason_and_ends_without_a_role() -> None:
    recorder = Recorder()
    back = replace(ROW, state=RolloutState.ROLLING_BACK, reason="12 of 20 conversations looped")
    record_events(recorder, ROW, back)
    record_events(recorder, back, replace(back, state=RolloutState.ROLLED_BACK))
    assert recorder.told[0] == (CANDIDATE, "RollingBack", "candidate of chat gets nothing any more: 12 of 20 conversations looped", True)
    assert recorder.roles == {(CANDIDATE, CHAT): None}


def test_a_candidate_that_is_the_stable_version_itself_stays_marked_as_stable() -> None:
    recorder = Recorder()
    row = replace(ROW, stable=CANDIDATE)
    record_events(recorder, row, replace(row, state=RolloutState.CANCELLED))
    assert recorder.roles == {(CANDIDATE, CHAT): Role.STABLE}


@pytest.mark.parametrize("state", list(RolloutState))
def test_every_state_has_words(state: RolloutState) -> None:
    recorder = Recorder()
    record_events(recorder, replace(ROW, share=0.5), replace(ROW, state=state))
    assert recorder.told[0][2]


def test_a_pass_that_changed_nothing_tells_nothing() -> None:
    recorder = Recorder()
    record_events(recorder, ROW, replace(ROW, revision=7, lease_until=9.0))
    assert (recorder.told, recorder.roles) == ([], {})


@dataclass
class Fits:
    answers: list[Fit]

    def fit(self, spec: EngineSpec) -> Fit:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


FULL = Fit(fits=False, reason="it asks for 8 GiB, the largest has 6 GiB free")


def wait(fits: Fits, clock: VirtualClock, *, wanted: bool = True) -> list[str]:
    said: list[str] = []
    await_fit(fits, a_spec(), clock, queue_s=60.0, say=said.append, wanted=lambda: wanted)
    return said


def test_a_candidate_that_fits_starts_at_once() -> None:
    clock = VirtualClock()
    before = clock.now()
    assert wait(Fits([Fit(fits=True)]), clock) == []
    assert clock.now() == before


def test_a_candidate_that_does_not_fit_is_queued_with_the_reason_and_starts_when_it_fits() -> None:
    assert wait(Fits([FULL, FULL, Fit(fits=True)]), VirtualClock()) == [f"queued: {FULL.reason}"] * 2


def test_a_candidate_that_never_fits_is_refused_at_once_with_the_numbers() -> None:
    with pytest.raises(Refused, match=r"no machine of the cluster can run .*: it asks for 8 GiB") as refused:
        wait(Fits([replace(FULL, ever=False)]), VirtualClock())
    assert refused.value.reason == "unschedulable"


def test_a_queue_ends_and_so_does_a_cancelled_wait() -> None:
    with pytest.raises(Refused, match="did not fit within 60 s"):
        wait(Fits([FULL]), VirtualClock())
    with pytest.raises(Refused, match="cancelled"):
        wait(Fits([FULL]), VirtualClock(), wanted=False)
