"""The use cases of `lifecycle/` on SQLite and on PostgreSQL: who may write a row, and that nobody overtakes anybody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from core.access import Actor
from core.benchmarks import BenchmarkState
from core.endpoints import RolloutState
from core.errors import Conflict, Fault, Refused, SeatrialError, Stale
from core.ids import PrincipalId
from core.ports.clock import VirtualClock
from core.reasons import Reason, UnknownReason
from core.submissions import Submission, SubmissionState
from lifecycle import benchmarks, submissions
from lifecycle.leases import await_free
from lifecycle.rows import update
from registry.database import Database
from tests.equipment.fakes import FakeEngines
from tests.equipment.lifecycle_world import LEASE_S as WORLD_LEASE_S
from tests.equipment.lifecycle_world import Prefect, World
from tests.equipment.rows import put_submission
from tests.equipment.samples import CANDIDATE, CHAT, NOW, a_benchmark, a_request, a_rollout, a_version

ANN = PrincipalId("prn-ann")
LEASE_S = 10.0
REFUSED = Refused("3 tensors hold NaN", reason=Reason.NAN_IN_WEIGHTS, hint="train it again")


@dataclass
class Runs:
    """An orchestrator that only starts runs."""

    started: list[tuple[str, int]] = field(default_factory=list)

    def start(self, row: str, attempt: int, _request: Any) -> str:
        self.started.append((row, attempt))
        return f"run-{attempt}"

    start_benchmark = start


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
def row(records: Database) -> Submission:
    return records.submissions.create(a_request(), ANN, NOW)


def test_one_run_claims_a_submission_until_its_lease_expires(records: Database, clock: VirtualClock, row: Submission) -> None:
    claimed = submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    assert (claimed.state, claimed.driver, claimed.lease_until) == (SubmissionState.RUNNING, "first", NOW + LEASE_S)
    with pytest.raises(Conflict, match="driven by flow run run already"):
        submissions.claim(records, clock, row.id, "run", "second", LEASE_S)
    clock.wait(LEASE_S / 2)
    assert submissions.renew(records, clock, row.id, "first", NOW + 12).lease_until == NOW + 12
    clock.wait(LEASE_S)
    assert submissions.claim(records, clock, row.id, "run", "second", LEASE_S).driver == "second"


@pytest.mark.parametrize("state", [state for state in SubmissionState if state.ended or state is SubmissionState.CANCELLING])
def test_no_run_claims_a_submission_that_ends_or_has_ended(
    records: Database, clock: VirtualClock, row: Submission, state: SubmissionState
) -> None:
    ending = put_submission(records, row.id, NOW + 1, state=state)
    with pytest.raises(Conflict, match="this run changes nothing"):
        submissions.claim(records, clock, row.id, "run", "late", LEASE_S)
    assert records.submissions.get(row.id) == ending


def test_a_driver_that_slept_through_its_lease_writes_nothing_more(records: Database, clock: VirtualClock, row: Submission) -> None:
    submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    clock.wait(2 * LEASE_S)
    taken = submissions.claim(records, clock, row.id, "run", "second", LEASE_S)
    writes: tuple[Callable[[], object], ...] = (
        lambda: submissions.renew(records, clock, row.id, "first", NOW + 99),
        lambda: submissions.release(records, clock, row.id, "first"),
        lambda: submissions.set_version(records, clock, row.id, CANDIDATE, "first"),
        lambda: submissions.begin_end(records, clock, row.id, REFUSED, "first"),
        lambda: submissions.end(records, clock, row.id, REFUSED, "first"),
        lambda: submissions.serve(records, clock, row.id, "chat serves it", "first"),
    )
    for write in writes:
        with pytest.raises(Conflict, match=f"{row.id} is driven by second of flow run run now, not by first"):
            write()
    assert records.submissions.get(row.id) == taken


def test_nobody_ends_a_submission_that_a_living_run_drives(records: Database, clock: VirtualClock, row: Submission) -> None:
    submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    with pytest.raises(Conflict, match="driven by flow run run already"):
        submissions.end(records, clock, row.id, Fault("no run ended it"), None)
    clock.wait(LEASE_S)
    assert submissions.end(records, clock, row.id, Fault("no run ended it"), None).state is SubmissionState.FAILED


def test_the_reason_of_a_newer_release_stays_in_the_row_through_the_end(records: Database, clock: VirtualClock, row: Submission) -> None:
    theirs = UnknownReason("found_by_the_next_release")
    put_submission(records, row.id, NOW, state=SubmissionState.RUNNING, reason=theirs, message="as they wrote it")
    why = submissions.ending(submissions.begin_end(records, clock, row.id, REFUSED, None))
    assert why is not None
    ended = submissions.end(records, clock, row.id, why, None)
    assert (ended.state, ended.reason, ended.message) == (SubmissionState.REFUSED, theirs, "as they wrote it")
    assert type(records.submissions.get(row.id).reason) is UnknownReason


def test_a_run_that_claims_before_its_start_is_noted_keeps_its_lease(records: Database, clock: VirtualClock, row: Submission) -> None:
    runs = Runs()
    submissions.claim(records, clock, row.id, "run-0", "first", LEASE_S)
    noted = submissions.start_run(records, runs, clock, row)  # type: ignore[arg-type] # the part of the port that is used
    assert (noted.flow_run, noted.driver, noted.runs, noted.lease_until) == ("run-0", "first", 1, NOW + LEASE_S)


def test_a_run_that_is_started_twice_has_one_driver(records: Database, clock: VirtualClock, row: Submission) -> None:
    submissions.claim(records, clock, row.id, "run-0", "first", LEASE_S)
    with pytest.raises(Conflict, match="driven by flow run run-0 already"):
        submissions.claim(records, clock, row.id, "run-0", "second", LEASE_S)


def test_the_next_run_is_noted_only_where_nobody_drives(records: Database, clock: VirtualClock, row: Submission) -> None:
    submissions.claim(records, clock, row.id, "run", "another", LEASE_S)
    with pytest.raises(Conflict, match="driven by flow run run already"):
        submissions.start_run(records, Runs(), clock, row)  # type: ignore[arg-type] # the part of the port that is used


def test_a_cancellation_is_kept_whatever_its_run_ends_with(records: Database, clock: VirtualClock, row: Submission) -> None:
    submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    assert submissions.request_cancel(records, clock, row.id).state is SubmissionState.CANCELLING
    again = submissions.request_cancel(records, clock, row.id)
    assert again == records.submissions.get(row.id)
    assert submissions.end(records, clock, row.id, REFUSED, "first").state is SubmissionState.CANCELLED
    with pytest.raises(Conflict, match="has ended already") as ended:
        submissions.request_cancel(records, clock, row.id)
    assert ended.value.reason == "already_ended"


def test_what_no_endpoint_serves_is_not_called_serving(records: Database, clock: VirtualClock, row: Submission) -> None:
    records.endpoints.ensure(CHAT, NOW)
    submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    submissions.set_version(records, clock, row.id, CANDIDATE, "first")
    with pytest.raises(Conflict, match="does not serve the version") as refused:
        submissions.serve(records, clock, row.id, "chat serves it", "first")
    assert refused.value.reason == "not_promoted"


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_promoted_submission_ends_as_serving(records: Database, clock: VirtualClock, row: Submission, *, cancelled: bool) -> None:
    submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    if cancelled:
        submissions.request_cancel(records, clock, row.id)
    promote(records, row)
    if not cancelled:
        with pytest.raises(Conflict) as late:
            submissions.request_cancel(records, clock, row.id)
        assert late.value.reason == "already_promoted"
    served = submissions.serve(records, clock, row.id, "chat serves it", "first")
    assert (served.state, served.reason, served.message) == (SubmissionState.SERVING, None, "chat serves it")


def test_the_end_of_a_submission_is_in_the_audit_trail_once(records: Database, clock: VirtualClock, row: Submission) -> None:
    submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    for _ in range(2):
        submissions.end(records, clock, row.id, REFUSED, "first")
    [entry] = records.audit.find(subject=row.id)
    assert (entry.actor, entry.action, entry.detail) == ("seatrial", "refused", {"reason": REFUSED.reason, "message": REFUSED.what})


def test_a_process_that_is_killed_before_the_row_serves_leaves_no_audit_entry_and_its_successor_one(
    records: Database, clock: VirtualClock, row: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    promote(records, row)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("registry.database.submissions.append", killed)  # between the row and its entry
        with pytest.raises(KeyboardInterrupt):
            submissions.serve(records, clock, row.id, "chat serves it", "first")
    assert (records.submissions.get(row.id).state, records.audit.find(subject=CHAT)) == (SubmissionState.RUNNING, ())
    for _ in range(2):
        submissions.serve(records, clock, row.id, "chat serves it", "first")
    assert [(entry.action, entry.detail) for entry in records.audit.find(subject=CHAT)] == [
        ("serving", {"submission": row.id, "version": CANDIDATE})
    ]


def promote(records: Database, row: Submission) -> None:
    """Bring the submission's rollout to its good end."""
    records.endpoints.ensure(CHAT, NOW)
    records.versions.put(a_version(id=CANDIDATE))
    rollout = records.rollouts.open(a_rollout(submission=row.id))
    put_submission(records, row.id, NOW, rollout=rollout.id, version=CANDIDATE)
    records.rollouts.store(replace(rollout, state=RolloutState.PROMOTED, ended_at=NOW))


def test_of_many_runs_at_once_one_claims_it(records: Database, clock: VirtualClock, row: Submission) -> None:
    won: list[str] = []
    lost: list[SeatrialError] = []

    def run(name: str) -> None:
        try:
            won.append(str(submissions.claim(records, clock, row.id, "run", name, LEASE_S).driver))
        except Conflict as error:
            lost.append(error)

    threads = [threading.Thread(target=run, args=(f"run-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost), records.submissions.get(row.id).driver) == (1, 7, won[0])


def test_a_run_waits_until_the_lease_before_it_expires(records: Database, clock: VirtualClock, row: Submission) -> None:
    submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    assert await_free(lambda: records.submissions.get(row.id), "second", clock, 2 * LEASE_S).driver == "first"
    assert NOW + LEASE_S <= clock.now() < NOW + LEASE_S + 1
    put_submission(records, row.id, NOW, lease_until=NOW + 1000)
    with pytest.raises(Conflict, match="driven by flow run run already"):
        await_free(lambda: records.submissions.get(row.id), "second", clock, 2 * LEASE_S)


def test_a_benchmark_has_one_driver_and_is_cancelled_whoever_drives_it(records: Database, clock: VirtualClock) -> None:
    row = records.benchmarks.create(a_benchmark(flow_run=None))
    benchmarks.claim(records, clock, row.id, "run", "first", LEASE_S)
    with pytest.raises(Conflict, match="driven by flow run run already"):
        benchmarks.claim(records, clock, row.id, "run", "second", LEASE_S)
    with pytest.raises(Conflict, match="driven by first of flow run run now, not by second"):
        benchmarks.note_progress(records, clock, row.id, 0.5, "second")
    cancelled = benchmarks.cancel(records, clock, row.id, Actor(ANN, "ann", "ann (key-1)"))
    assert [(entry.actor, entry.action) for entry in records.audit.find(subject=row.id)] == [("ann (key-1)", "cancel")]
    with pytest.raises(Conflict, match="has ended already"):
        benchmarks.cancel(records, clock, row.id, Actor(ANN, "ann", "ann (key-1)"))
    assert (cancelled.state, cancelled.reason) == (BenchmarkState.FAILED, "cancelled by ann")
    assert benchmarks.note_progress(records, clock, row.id, 0.5, "first") == cancelled
    assert benchmarks.finish(records, clock, row.id, "first") == cancelled


def test_studies_that_end_at_once_are_all_kept(records: Database, clock: VirtualClock) -> None:
    row = records.benchmarks.create(a_benchmark(state=BenchmarkState.DONE))
    writers = [
        threading.Thread(target=benchmarks.note_study, args=(records, clock, row.id, f"st-{number}", {"state": "done"}))
        for number in range(6)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(records.benchmarks.get(row.id).studies) == [f"st-{number}" for number in range(6)]
    kept = benchmarks.note_study(records, clock, row.id, "st-0", {"state": "running"}, begun=True)
    assert kept.studies["st-0"] == {"state": "done"}


@pytest.mark.parametrize("steps", range(1, 7))
def test_a_cancelled_submission_never_serves_when_its_process_wakes_after_its_lease(
    records: Database, clock: VirtualClock, steps: int
) -> None:
    world = World(records, clock, FakeEngines(clock), Prefect(clock))
    world.submit("chat", 1, good=True)
    world.start(next(iter(world.prefect.runs)))
    (process,) = world.processes
    for _ in range(steps):
        world.step(process)
    process.frozen = True
    (row,) = records.submissions.find()
    world.cancel(row.id)
    world.wait(WORLD_LEASE_S + 1)
    world.reconcile("first")
    while process in world.processes:
        world.step(process)
    assert records.submissions.get(row.id).state is SubmissionState.CANCELLED
    assert records.rollouts.find(states=[RolloutState.PROMOTED]) == ()


def test_a_driver_cannot_renew_a_submission_that_was_ended_in_its_place(records: Database, clock: VirtualClock, row: Submission) -> None:
    submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    clock.wait(2 * LEASE_S)
    submissions.begin_end(records, clock, row.id, Fault("no run ended it"), None)
    ended = submissions.end(records, clock, row.id, Fault("no run ended it"), None)
    writes: tuple[Callable[[], object], ...] = (
        lambda: submissions.renew(records, clock, row.id, "first", NOW + 99),
        lambda: submissions.set_version(records, clock, row.id, CANDIDATE, "first"),
        lambda: submissions.serve(records, clock, row.id, "chat serves it", "first"),
    )
    for write in writes:
        with pytest.raises(Conflict, match=f"{row.id} is no longer driven by first"):
            write()
    assert records.submissions.get(row.id) == ended


def test_a_row_that_a_process_of_the_release_before_claimed_is_held_by_its_flow_run(
    records: Database, clock: VirtualClock, row: Submission
) -> None:
    old = put_submission(records, row.id, NOW, state=SubmissionState.RUNNING, flow_run="old-run", lease_until=NOW + LEASE_S)
    with pytest.raises(Conflict, match="driven by flow run old-run already"):
        submissions.claim(records, clock, row.id, "run", "first", LEASE_S)
    with pytest.raises(Conflict, match="driven by flow run old-run already"):
        submissions.start_run(records, Runs(), clock, row)  # type: ignore[arg-type] # the part of the port that is used
    assert records.submissions.get(row.id) == old
    clock.wait(LEASE_S)
    assert submissions.claim(records, clock, row.id, "run", "first", LEASE_S).driver == "first"


def test_a_change_that_the_database_refuses_for_good_is_not_tried_for_ever(records: Database, row: Submission) -> None:
    put_submission(records, row.id, NOW, state=SubmissionState.REFUSED)
    tries = []

    def reopened(found: Submission) -> Submission:
        tries.append(found)
        assert len(tries) < 5, "it is tried for ever"
        return replace(found, state=SubmissionState.RUNNING)

    with pytest.raises(Stale, match="refused"):
        update(records.submissions, row.id, NOW + 1, reopened)
    assert records.submissions.get(row.id).state is SubmissionState.REFUSED
