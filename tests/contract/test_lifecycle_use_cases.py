"""The use cases that an operator, the API and a regression share: submit, cancel, roll back; on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from core.access import Actor
from core.benchmarks import Benchmark, BenchmarkState, Trigger
from core.endpoints import Endpoint, EndpointPolicy, OnRegression, Rollout, RolloutState, Withdrawal
from core.errors import Conflict, Transient
from core.ids import PrincipalId, RolloutId, SubmissionId, VersionId
from core.leases import RECONCILE
from core.ports.clock import VirtualClock
from core.ports.records import AuditEntry
from core.submissions import Submission, SubmissionState
from core.versions import Decision, ModelRef
from lifecycle import regressions, studies, submissions
from lifecycle.benchmarks import note_study
from lifecycle.rollback import roll_back, submit_previous, withdraw_rollout
from registry.database import Database
from tests.equipment.lifecycle_world import Prefect
from tests.equipment.rows import open_rollout
from tests.equipment.samples import CANDIDATE, CHAT, NOW, STABLE, a_benchmark, a_request, a_rollout, a_version

OLGA = Actor(PrincipalId("prn-olga"), "olga", "olga (key-1)")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
def prefect(clock: VirtualClock) -> Prefect:
    return Prefect(clock)


def serve(records: Database, version: VersionId, source: str = "org/model") -> Endpoint:
    """Make the endpoint serve a version, as a promoted rollout does."""
    records.versions.put(a_version(id=version, source=source, commit=version[:40]))
    records.endpoints.ensure(CHAT, NOW)
    number = len(records.rollouts.find(limit=100))
    opened = open_rollout(records, id=RolloutId(f"ro-{number}"), submission=SubmissionId(f"sub-{number}"), candidate=version)
    records.rollouts.store(replace(opened, state=RolloutState.PROMOTED, ended_at=NOW))
    return records.endpoints.get(CHAT)


def served_after(records: Database, previous: VersionId, source: str = "org/model") -> Endpoint:
    serve(records, previous, source)
    return serve(records, STABLE)


def actions(records: Database, subject: str) -> list[tuple[str, str]]:
    return [(entry.actor, entry.action) for entry in records.audit.find(subject=subject)]


def reconcile_requested(records: Database) -> bool:
    lease = records.leases.get(RECONCILE)
    return lease is not None and lease.called_at > 0


def test_a_submission_is_a_row_with_a_run_and_an_audit_entry(records: Database, clock: VirtualClock, prefect: Prefect) -> None:
    row = submissions.submit(records, prefect, clock, a_request(), OLGA)
    assert (row.submitter, row.flow_run, row.runs) == (OLGA.principal, f"{row.id}-0", 1)
    assert actions(records, row.id) == [("olga (key-1)", "submit")]


def test_the_same_idempotency_key_returns_the_same_submission_with_one_run(
    records: Database, clock: VirtualClock, prefect: Prefect
) -> None:
    request = a_request(idempotency_key="once")
    first = submissions.submit(records, prefect, clock, request, OLGA)
    assert submissions.submit(records, prefect, clock, request, OLGA).id == first.id
    assert list(prefect.runs) == [first.flow_run]
    assert len(actions(records, first.id)) == 1


def test_a_submission_that_was_sent_again_while_the_orchestrator_was_unavailable_has_one_audit_entry(
    records: Database, clock: VirtualClock, prefect: Prefect
) -> None:
    request = a_request(idempotency_key="once")
    prefect.away = True
    first = submissions.submit(records, prefect, clock, request, OLGA)
    prefect.away = False
    assert submissions.submit(records, prefect, clock, request, OLGA).runs == 1
    assert actions(records, first.id) == [("olga (key-1)", "submit")]


def test_a_submission_waits_while_the_orchestrator_is_unavailable(records: Database, clock: VirtualClock, prefect: Prefect) -> None:
    prefect.away = True
    row = submissions.submit(records, prefect, clock, a_request(), OLGA)
    assert (row.state, row.flow_run, row.runs) == (SubmissionState.QUEUED, None, 0)


@pytest.mark.parametrize("away", [False, True])
def test_a_cancellation_is_stored_whether_or_not_the_orchestrator_is_available(
    records: Database, clock: VirtualClock, prefect: Prefect, *, away: bool
) -> None:
    row = submissions.submit(records, prefect, clock, a_request(), OLGA)
    prefect.away = away
    assert submissions.cancel(records, prefect, clock, row.id, OLGA).state is SubmissionState.CANCELLING
    assert prefect.runs[str(row.flow_run)].type == ("SCHEDULED" if away else "CANCELLING")
    assert reconcile_requested(records)


def test_cancelling_twice_changes_nothing(records: Database, clock: VirtualClock, prefect: Prefect) -> None:
    row = submissions.submit(records, prefect, clock, a_request(), OLGA)
    first = submissions.cancel(records, prefect, clock, row.id, OLGA)
    assert submissions.cancel(records, prefect, clock, row.id, OLGA) == first
    assert [action for _, action in actions(records, row.id)] == ["cancel", "submit"]


def test_rolling_back_withdraws_the_active_rollout_and_leaves_it_to_the_next_driver(
    records: Database, clock: VirtualClock, prefect: Prefect
) -> None:
    endpoint = serve(records, STABLE)
    opened = records.rollouts.open(a_rollout(id=RolloutId("ro-open"), submission=SubmissionId("sub-open"), stable=STABLE))
    records.rollouts.store(replace(opened, state=RolloutState.SHIFTING, share=0.25, lease_owner="driver", lease_until=NOW + 10))
    back = roll_back(records, prefect, clock, endpoint, OLGA)
    assert isinstance(back, Rollout)
    assert (back.state, back.share, back.reason, back.withdrawal) == (
        RolloutState.ROLLING_BACK, 0.0, "rolled back by olga", Withdrawal.OPERATOR,
    )  # fmt: skip
    assert (back.lease_owner, back.lease_until) == ("", 0.0)
    assert actions(records, back.id) == [("olga (key-1)", "rollback")]
    assert reconcile_requested(records)
    assert roll_back(records, prefect, clock, endpoint, OLGA) == back


def test_a_rollout_that_its_driver_stored_first_is_not_withdrawn(records: Database, clock: VirtualClock) -> None:
    serve(records, STABLE)
    read = records.rollouts.open(a_rollout(id=RolloutId("ro-open"), submission=SubmissionId("sub-open"), stable=STABLE))
    records.rollouts.store(replace(read, state=RolloutState.SHIFTING, share=0.05))
    assert withdraw_rollout(records, clock, read, OLGA) is None
    assert actions(records, read.id) == []


@pytest.mark.parametrize(
    ("source", "model"),
    [("org/model", ModelRef("org/model", CANDIDATE[:40])), ("/models/steady", ModelRef("/models/steady"))],
    ids=["a hub model with its commit", "a folder without a revision"],
)
def test_without_a_rollout_the_previous_version_is_submitted(
    records: Database, clock: VirtualClock, prefect: Prefect, source: str, model: ModelRef
) -> None:
    row = roll_back(records, prefect, clock, served_after(records, CANDIDATE, source), OLGA)
    assert isinstance(row, Submission)
    assert (row.request.model, row.request.note, row.submitter) == (model, "rollback", OLGA.principal)
    assert actions(records, row.id) == [("olga (key-1)", "rollback")]


def test_an_endpoint_without_an_earlier_version_has_nothing_to_roll_back(records: Database, clock: VirtualClock, prefect: Prefect) -> None:
    with pytest.raises(Conflict, match="no earlier version") as refused:
        submit_previous(records, prefect, clock, serve(records, STABLE), "key", OLGA)
    assert refused.value.reason == "nothing_to_roll_back"


@pytest.mark.parametrize("policy", OnRegression)
def test_a_regression_is_answered_once_as_the_policy_requests(
    records: Database, clock: VirtualClock, prefect: Prefect, policy: OnRegression
) -> None:
    served_after(records, CANDIDATE)
    records.endpoints.set_policy(CHAT, EndpointPolicy(on_regression=policy))
    row = records.benchmarks.create(a_benchmark(endpoint=CHAT, version=STABLE, trigger=Trigger.SCHEDULE, decision=Decision.FAIL))
    assert regressions.is_regression(row)
    response = regressions.respond(records, prefect, clock, row)
    assert response["action"] == policy
    assert regressions.respond(records, prefect, clock, row) == response
    assert [found.id for found in records.submissions.find()] == ([response["submission"]] if policy is OnRegression.ROLLBACK else [])
    assert actions(records, row.id) == [("seatrial", "regression")]


class Killed(Exception):
    """The process ended here."""


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("state", [RolloutState.DARK, RolloutState.PROMOTED])
def test_a_rollback_whose_process_was_killed_before_it_was_recorded_is_recorded_as_a_rollback(
    records: Database, clock: VirtualClock, prefect: Prefect, monkeypatch: pytest.MonkeyPatch, state: RolloutState, *, away: bool
) -> None:
    served_after(records, CANDIDATE)
    records.endpoints.set_policy(CHAT, EndpointPolicy(on_regression=OnRegression.ROLLBACK))
    row = records.benchmarks.create(a_benchmark(endpoint=CHAT, version=STABLE, trigger=Trigger.SCHEDULE, decision=Decision.FAIL))
    prefect.away = away
    with monkeypatch.context() as patch:
        patch.setattr(records.audit, "add", kill_before(records, "regression"))
        with pytest.raises(Killed):
            regressions.respond(records, prefect, clock, row)
    [submitted] = records.submissions.find()
    opened = open_rollout(records, id=RolloutId("ro-back"), submission=submitted.id, candidate=CANDIDATE)
    records.rollouts.store(replace(opened, state=state, ended_at=NOW if state is RolloutState.PROMOTED else None))
    prefect.away = False
    response = regressions.respond(records, prefect, clock, row)
    assert response["action"] == "rollback"
    assert (response["submission"], response["from"]) == (submitted.id, STABLE)
    assert [(found.id, found.runs) for found in records.submissions.find()] == [(submitted.id, 1)]
    assert actions(records, row.id) == [("seatrial", "regression")]
    assert actions(records, submitted.id) == [("seatrial (benchmark)", "rollback")]


def kill_before(records: Database, action: str) -> Callable[[AuditEntry], None]:
    """Return an `Audit.add` in which the process is killed before it writes an entry of this action."""
    add = records.audit.add

    def add_or_die(entry: AuditEntry) -> None:
        if entry.action == action:
            raise Killed
        add(entry)

    return add_or_die


@pytest.mark.parametrize(("delivered", "action"), [(True, "regression told"), (False, "regression not told")])
def test_an_alert_is_noted_with_its_delivery(records: Database, clock: VirtualClock, *, delivered: bool, action: str) -> None:
    row = records.benchmarks.create(a_benchmark(trigger=Trigger.SCHEDULE, decision=Decision.FAIL))
    assert not regressions.alerted(records, row.id)
    regressions.note_alert(records, clock, row, delivered=delivered)
    assert regressions.alerted(records, row.id)
    assert actions(records, row.id) == [("seatrial", action)]


ASKED = {"policies": ["random"], "best_of": [1, 4], "ranker_url": "", "ranker_model": ""}


@pytest.fixture
def done(records: Database) -> Benchmark:
    return records.benchmarks.create(a_benchmark(state=BenchmarkState.DONE, ended_at=NOW))


def study_of(records: Database, row: Benchmark) -> tuple[str, str | None]:
    document = records.benchmarks.get(row.id).studies["st-1"]
    return document["state"], document["run"]


def no_fence() -> None:
    """Do nothing: no other instance makes this pass."""


def test_a_study_is_noted_with_its_run_and_an_audit_entry(
    records: Database, clock: VirtualClock, prefect: Prefect, done: Benchmark
) -> None:
    assert studies.start(records, prefect, clock, done.id, "st-1", ASKED, OLGA) == "run-of-st-1"
    assert study_of(records, done) == ("running", "run-of-st-1")
    assert prefect.studies == [("st-1", {"benchmark": done.id, "study": "st-1", **ASKED})]
    assert actions(records, done.id) == [("olga (key-1)", "study")]


def test_a_study_waits_while_the_orchestrator_is_unavailable_and_reconcile_starts_it_once(
    records: Database, clock: VirtualClock, prefect: Prefect, done: Benchmark
) -> None:
    prefect.away = True
    assert studies.start(records, prefect, clock, done.id, "st-1", ASKED, OLGA) is None
    with pytest.raises(Transient):
        studies.start_missing(records, prefect, clock, no_fence)
    assert study_of(records, done) == ("running", None)
    prefect.away = False
    assert studies.start_missing(records, prefect, clock, no_fence) == ("st-1",)
    assert studies.start_missing(records, prefect, clock, no_fence) == ()
    assert (study_of(records, done), len(prefect.studies)) == (("running", "run-of-st-1"), 1)


@pytest.mark.parametrize("began", [False, True], ids=["killed before the run was started", "killed before the run was noted"])
def test_a_study_whose_process_was_killed_is_continued_by_reconcile_with_the_same_run(
    records: Database, clock: VirtualClock, prefect: Prefect, done: Benchmark, monkeypatch: pytest.MonkeyPatch, *, began: bool
) -> None:
    def killed(study: str, request: Mapping[str, object]) -> str:
        if began:
            start_study(study, request)
        raise Killed

    start_study = prefect.start_study
    with monkeypatch.context() as patch:
        patch.setattr(prefect, "start_study", killed)
        with pytest.raises(Killed):
            studies.start(records, prefect, clock, done.id, "st-1", ASKED, OLGA)
    assert study_of(records, done) == ("running", None)
    assert studies.start_missing(records, prefect, clock, no_fence) == ("st-1",)
    assert study_of(records, done) == ("running", "run-of-st-1")
    assert list(prefect.runs) == ["run-of-st-1"]
    assert dict(prefect.studies) == {"st-1": {"benchmark": done.id, "study": "st-1", **ASKED}}


def test_a_study_whose_run_was_quicker_than_its_note_keeps_the_result(
    records: Database, clock: VirtualClock, prefect: Prefect, done: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(study: str, _request: Mapping[str, object]) -> str:
        note_study(records, clock, done.id, study, {"state": "done", "rows": [1]})
        return "run-of-st-1"

    monkeypatch.setattr(prefect, "start_study", quick)
    studies.start(records, prefect, clock, done.id, "st-1", ASKED, OLGA)
    assert records.benchmarks.get(done.id).studies["st-1"] == {"state": "done", "rows": [1]}
    assert studies.start_missing(records, prefect, clock, no_fence) == ()


def test_a_benchmark_that_is_not_done_has_no_study(records: Database, clock: VirtualClock, prefect: Prefect) -> None:
    row = records.benchmarks.create(a_benchmark(state=BenchmarkState.RUNNING))
    with pytest.raises(Conflict) as refused:
        studies.start(records, prefect, clock, row.id, "st-1", ASKED, OLGA)
    assert (refused.value.reason, prefect.studies, actions(records, row.id)) == ("not_done", [], [])
