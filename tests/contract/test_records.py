"""The contract of core/ports/records/, on SQLite and on PostgreSQL: submissions, versions, access, audit, gateways."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from core.access import Key, Role
from core.endpoints import BestOf, Endpoint, EndpointPolicy, OnRegression, RolloutState
from core.errors import Conflict, NotFound, Refused, Stale
from core.fidelity import Likely, Reference, ReferencePrompt
from core.ids import EndpointName, KeyId, PrincipalId, RolloutId, SubmissionId, VersionId
from core.ports.clock import VirtualClock
from core.ports.records import AuditEntry
from core.services import RunnerBeat
from core.submissions import Step, StepName, StepState, SubmissionState
from core.versions import Decision, Finding, TrialKind, TrialReport
from registry.database import Database, open_database
from registry.database.connection import Connections, make_engine
from tests.equipment.rows import put_submission
from tests.equipment.samples import ANN, CANDIDATE, CHAT, NOW, STABLE, a_key, a_request, a_rollout, a_version


def with_key(records: Database, **fields: Any) -> Key:
    owner = records.access.principal("ann", NOW)
    key = a_key(principal=owner.id, **fields)
    records.access.add_key(key)
    return key


def test_a_submission_comes_back_as_it_was_entered(records: Database) -> None:
    made = records.submissions.create(a_request(), ANN, NOW)
    assert records.submissions.get(made.id) == made
    assert (made.request, made.submitter, made.state, made.created_at) == (a_request(), ANN, SubmissionState.QUEUED, NOW)


def test_the_same_idempotency_key_of_the_same_submitter_is_the_first_submission(records: Database) -> None:
    first = records.submissions.create(a_request(idempotency_key="k"), ANN, NOW)
    again = records.submissions.create(a_request(idempotency_key="k", note="other"), ANN, NOW + 1)
    other = records.submissions.create(a_request(idempotency_key="k"), PrincipalId("prn-bob"), NOW)
    assert again == first
    assert other.id != first.id
    assert len(records.submissions.find()) == 2


def test_an_unknown_submission_is_not_found(records: Database) -> None:
    unknown = SubmissionId("sub-0")
    step = Step(StepName.CHECK, StepState.RUNNING, 1, NOW)
    with pytest.raises(NotFound, match="sub-0"):
        records.submissions.get(unknown)
    with pytest.raises(NotFound):
        records.submissions.store(replace(records.submissions.create(a_request(), ANN, NOW), id=unknown), NOW)
    with pytest.raises(NotFound):
        records.submissions.step(unknown, step)


def test_steps_come_in_the_flow_s_order_and_are_replaced_by_name(records: Database) -> None:
    made = records.submissions.create(a_request(), ANN, NOW)
    check = Step(StepName.CHECK, StepState.RUNNING, 1, NOW)
    done = replace(check, state=StepState.DONE, attempt=2, ended_at=NOW + 2, progress=1.0, detail={"files": [1, 2]})
    resolve = Step(StepName.RESOLVE, StepState.REUSED, 1, NOW)
    for step in (check, resolve, done):
        records.submissions.step(made.id, step)
    assert records.submissions.get(made.id).steps == (resolve, done)


@pytest.mark.parametrize("end", [state for state in SubmissionState if state.ended and state is not SubmissionState.SERVING])
def test_nothing_runs_any_more_of_a_submission_that_has_ended(records: Database, end: SubmissionState) -> None:
    made, other = (records.submissions.create(a_request(), ANN, NOW) for _ in range(2))
    done = Step(StepName.CHECK, StepState.DONE, 1, NOW, NOW + 1, progress=1.0)
    killed = Step(StepName.ROLL_OUT, StepState.RUNNING, 1, NOW + 1, progress=0.05, message="5 % shifting")
    retried = Step(StepName.START, StepState.RETRYING, 3, NOW + 1, NOW + 2)
    for step in (done, retried, killed):
        for row in (made, other):
            records.submissions.step(row.id, step)
    put_submission(records, made.id, NOW + 9, state=end)
    failed = [replace(step, state=StepState.FAILED, ended_at=NOW + 9) for step in (retried, killed)]
    assert records.submissions.get(made.id).steps == (done, *failed)
    assert records.submissions.get(other.id).steps == (done, retried, killed)


def test_submissions_are_found_by_state_endpoint_and_submitter_newest_first(records: Database) -> None:
    old = records.submissions.create(a_request(), ANN, NOW)
    new = records.submissions.create(a_request(), ANN, NOW + 1)
    other = records.submissions.create(a_request(endpoint=EndpointName("code")), PrincipalId("prn-bob"), NOW + 2)
    put_submission(records, old.id, NOW + 3, state=SubmissionState.RUNNING)
    find = records.submissions.find
    assert [row.id for row in find()] == [other.id, new.id, old.id]
    assert [row.id for row in find(limit=1)] == [other.id]
    assert [row.id for row in find(states=[SubmissionState.RUNNING])] == [old.id]
    assert [row.id for row in find(endpoint=CHAT, submitter=ANN)] == [new.id, old.id]


def test_a_row_is_stored_by_compare_and_set_on_its_revision(records: Database) -> None:
    made = records.submissions.create(a_request(), ANN, NOW)
    stored = records.submissions.store(replace(made, state=SubmissionState.RUNNING, flow_run="first", lease_until=NOW + 5), NOW + 1)
    assert stored == replace(made, state=SubmissionState.RUNNING, flow_run="first", lease_until=NOW + 5, updated_at=NOW + 1, revision=1)
    with pytest.raises(Stale, match="is at revision 1 \\(running\\), not 0"):
        records.submissions.store(replace(made, state=SubmissionState.CANCELLING), NOW + 2)
    assert records.submissions.get(made.id) == stored


def test_an_end_state_is_never_left(records: Database) -> None:
    made = records.submissions.create(a_request(), ANN, NOW)
    ended = put_submission(records, made.id, NOW + 1, state=SubmissionState.REFUSED, reason="nan_in_weights", message="3 tensors hold NaN")
    assert (ended.reason, ended.updated_at) == ("nan_in_weights", NOW + 1)
    with pytest.raises(Stale):
        put_submission(records, made.id, NOW + 2, state=SubmissionState.RUNNING)
    assert records.submissions.get(made.id) == ended
    assert put_submission(records, made.id, NOW + 3, lease_until=0.0).state is SubmissionState.REFUSED


def test_a_row_and_its_audit_entry_are_stored_together(records: Database) -> None:
    made = records.submissions.create(a_request(), ANN, NOW)
    entry = AuditEntry(NOW, "seatrial", "refused", made.id, {"reason": "nan_in_weights"})
    refused = replace(made, state=SubmissionState.REFUSED)
    with pytest.raises(Stale):
        records.submissions.store(replace(refused, revision=7), NOW, entry)
    assert records.audit.find(subject=made.id) == ()
    records.submissions.store(refused, NOW, entry)
    assert records.audit.find(subject=made.id) == (entry,)


def test_what_was_asked_for_is_never_changed(records: Database) -> None:
    made = records.submissions.create(a_request(), ANN, NOW)
    stored = records.submissions.store(replace(made, submitter=PrincipalId("prn-eve"), request=a_request(note="other")), NOW)
    assert (stored.submitter, stored.request) == (made.submitter, made.request)


def test_a_version_is_kept_as_first_entered_but_gets_its_registered_uri(records: Database) -> None:
    first = records.versions.put(a_version())
    again = records.versions.put(a_version(source="/folder", commit="1" * 40, licence="mit", registered_uri="models:/chat/1"))
    last = records.versions.put(a_version(registered_uri="models:/chat/2"))
    assert first == a_version()
    assert again == last == a_version(registered_uri="models:/chat/1")


def test_a_version_is_found_by_every_source_that_it_came_from(records: Database) -> None:
    records.versions.put(a_version())
    records.versions.put(a_version(source="/folder", commit="1" * 40))
    newer = records.versions.put(a_version(id=STABLE, commit="2" * 40, created_at=NOW + 1))
    find = records.versions.find
    assert [version.id for version in find()] == [newer.id, CANDIDATE]
    assert [version.id for version in find(source="/folder", commit="1" * 40)] == [CANDIDATE]
    assert find(source="/folder", commit="c" * 40) == ()
    assert [version.id for version in find(source="org/model")] == [STABLE, CANDIDATE]


KNOWN = Reference("a test", (ReferencePrompt((1, 2), (3,), ((Likely(2, -0.25), Likely(9, -4.0)), (Likely(3, -0.5),))),))
UNKNOWN = Reference("", unavailable="too large")


def test_a_version_is_got_by_a_unique_prefix_of_eight(records: Database) -> None:
    records.versions.put(a_version())
    records.versions.put(a_version(id=VersionId("bbbbbbbbb" + "c" * 55)))
    assert records.versions.get(VersionId("b" * 10)).id == CANDIDATE
    for unknown in ("b" * 7, "b" * 8, "%" * 8, "9" * 64):
        with pytest.raises(NotFound):
            records.versions.get(VersionId(unknown))


def test_a_report_replaces_the_one_of_its_key_and_newest_come_first(records: Database) -> None:
    finding = Finding("pass_at_1", passed=False, reason="0.2 < 0.5", hint="train more")
    report = TrialReport(
        CANDIDATE, TrialKind.BENCHMARK, "suite-1", Decision.FAIL, (finding,), {"score": 0.2}, {"rows": [["a", None]]}, 3.5, NOW
    )
    smoke = TrialReport(CANDIDATE, TrialKind.SMOKE, "", Decision.PASS, (), at=NOW + 5)
    better = replace(report, decision=Decision.PASS, findings=(), at=NOW + 1)
    for entry in (report, better, smoke):
        records.versions.report(entry)
    assert records.versions.reports(CANDIDATE) == (smoke, better)
    assert records.versions.reports(CANDIDATE, TrialKind.BENCHMARK, "suite-1") == (better,)
    assert records.versions.reports(CANDIDATE, TrialKind.BENCHMARK, "suite-2") == ()


def test_a_version_keeps_its_first_reference(records: Database) -> None:
    records.versions.put(a_version())
    assert records.versions.reference(CANDIDATE) is None
    for made in (UNKNOWN, KNOWN, UNKNOWN):
        records.versions.put(a_version(), made)
    assert records.versions.reference(CANDIDATE) == KNOWN


def test_a_version_whose_reference_is_unavailable_keeps_the_cause(records: Database) -> None:
    records.versions.put(a_version(), UNKNOWN)
    assert records.versions.reference(CANDIDATE) == UNKNOWN


def test_a_report_may_hold_numbers_that_are_none(records: Database) -> None:
    records.versions.report(TrialReport(CANDIDATE, TrialKind.LATENCY, "", Decision.FAIL, (), {"ttft_s": float("inf")}, at=NOW))
    assert records.versions.reports(CANDIDATE)[0].numbers == {"ttft_s": float("inf")}


def test_words_that_a_database_cannot_hold_are_kept_as_far_as_they_can(records: Database) -> None:
    made = records.submissions.create(a_request(note="a\0b\ud800c 🚢"), ANN, NOW)
    assert records.submissions.get(made.id).request.note == "a\ufffdb\ufffdc 🚢"


def test_a_principal_is_made_once_by_name(records: Database) -> None:
    first = records.access.principal("ann", NOW)
    assert records.access.principal("ann", NOW + 1) == first
    assert records.access.principal("bob", NOW).id != first.id


def test_keys_are_found_by_secret_principal_and_role(records: Database) -> None:
    key = with_key(records)
    operator = with_key(records, number=2, role=Role.OPERATOR, endpoints=(), expires_at=NOW + 9, note="for ann")
    assert records.access.by_secret(key.secret_sha256) == key
    assert records.access.by_secret("0" * 63 + "9") is None
    assert records.access.keys() == (operator, key)
    assert records.access.keys(role=Role.OPERATOR, principal=key.principal) == (operator,)
    assert records.access.keys(principal=PrincipalId("prn-0")) == ()


def test_a_key_twice_is_a_conflict_and_one_of_nobody_is_not_found(records: Database) -> None:
    key = with_key(records)
    with pytest.raises(Conflict):
        records.access.add_key(key)
    with pytest.raises(NotFound):
        records.access.add_key(a_key(2, principal=PrincipalId("prn-0")))


def test_a_revoked_key_vanishes_from_the_snapshot_and_stays_revoked(records: Database) -> None:
    key = with_key(records)
    before = records.gateways.snapshot()
    revoked = records.access.revoke(key.id, NOW + 5)
    assert set(before.callers) == {key.secret_sha256}
    assert records.gateways.snapshot().callers == {}
    assert records.gateways.generation() > before.generation
    assert revoked.revoked_at == NOW + 5
    assert records.access.revoke(key.id, NOW + 6) == revoked
    assert records.access.by_secret(key.secret_sha256) == revoked
    with pytest.raises(NotFound):
        records.access.revoke(KeyId("key-0"), NOW)


def test_only_keys_that_have_not_expired_are_in_the_snapshot(database_url: str) -> None:
    clock = VirtualClock(NOW)
    with open_database(database_url, clock=clock) as records:
        key = with_key(records, expires_at=NOW + 10)
        caller = records.gateways.snapshot().callers[key.secret_sha256]
        clock.wait(10)
        assert records.gateways.snapshot().callers == {}
    assert (caller.key, caller.name, caller.role, caller.expires_at) == (key.id, "ann", Role.APPLICATION, NOW + 10)
    assert caller.endpoints == frozenset({CHAT})


def test_audit_entries_come_newest_first(records: Database) -> None:
    first = AuditEntry(NOW, "ann", "submit", "sub-1", {"model": "org/model"})
    second = AuditEntry(NOW, "ann", "cancel", "sub-1", {})
    for entry in (first, second, replace(first, subject="sub-2")):
        records.audit.add(entry)
    assert records.audit.find(subject="sub-1") == (second, first)
    assert len(records.audit.find(limit=2)) == 2


def test_endpoints_are_made_once_and_their_policy_reaches_the_snapshot(records: Database) -> None:
    made = records.endpoints.ensure(CHAT, NOW)
    assert records.endpoints.ensure(CHAT, NOW + 1) == made == records.endpoints.get(CHAT)
    records.endpoints.ensure(EndpointName("a-first"), NOW)
    changed = records.endpoints.set_policy(CHAT, EndpointPolicy(keep_text_days=30))
    assert [endpoint.name for endpoint in records.endpoints.list()] == ["a-first", CHAT]
    assert changed.policy.keep_text_days == records.gateways.snapshot().routes[CHAT].policy.keep_text_days == 30
    with pytest.raises(NotFound):
        records.endpoints.get(EndpointName("none"))
    with pytest.raises(NotFound):
        records.endpoints.set_policy(EndpointName("none"), EndpointPolicy())


def test_a_removed_endpoint_is_nowhere_and_what_it_did_is_kept(records: Database) -> None:
    records.endpoints.ensure(CHAT, NOW)
    records.endpoints.set_policy(CHAT, EndpointPolicy(temperature=0.3))
    records.rollouts.store(replace(records.rollouts.open(a_rollout()), state=RolloutState.PROMOTED))
    was, before = records.endpoints.get(CHAT), records.gateways.generation()
    assert records.endpoints.remove(CHAT, NOW) == was
    assert (records.endpoints.list(), records.gateways.snapshot().routes) == ((), {})
    assert records.gateways.generation() > before
    assert (records.endpoints.removed(NOW), records.endpoints.removed(NOW + 1)) == ((CHAT,), ())
    assert len(records.rollouts.find(endpoint=CHAT)) == 1
    with pytest.raises(NotFound):
        records.endpoints.get(CHAT)
    with pytest.raises(NotFound):
        records.endpoints.remove(CHAT, NOW)
    with pytest.raises(NotFound):
        records.endpoints.set_policy(CHAT, EndpointPolicy())
    with pytest.raises(NotFound):
        records.rollouts.open(a_rollout(id=RolloutId("ro-late")))


def test_a_removed_endpoint_is_made_anew_with_nothing_of_the_old_one(records: Database) -> None:
    records.endpoints.ensure(CHAT, NOW)
    records.endpoints.set_policy(CHAT, EndpointPolicy(keep_text_days=3, temperature=0.3))
    records.rollouts.store(replace(records.rollouts.open(a_rollout()), state=RolloutState.PROMOTED))
    records.endpoints.remove(CHAT, NOW)
    assert records.endpoints.ensure(CHAT, NOW + 5) == Endpoint(CHAT, NOW + 5) == records.endpoints.get(CHAT)
    assert records.endpoints.removed(NOW) == ()
    assert list(records.gateways.snapshot().routes) == [CHAT]


def test_an_endpoint_that_is_about_to_change_is_not_removed(records: Database) -> None:
    records.endpoints.ensure(CHAT, NOW)
    submission = records.submissions.create(a_request(), records.access.principal("ann", NOW).id, NOW)
    with pytest.raises(Conflict, match=f"{submission.id} has not ended") as refused:
        records.endpoints.remove(CHAT, NOW)
    assert f"seatrial cancel {submission.id}" in refused.value.hint
    put_submission(records, submission.id, NOW, state=SubmissionState.FAILED)
    rollout = records.rollouts.open(a_rollout())
    with pytest.raises(Conflict, match=f"{rollout.id} has not ended"):
        records.endpoints.remove(CHAT, NOW)
    records.rollouts.store(replace(rollout, state=RolloutState.ROLLED_BACK))
    assert records.endpoints.remove(CHAT, NOW).name == CHAT


def test_a_policy_comes_back_whole(records: Database) -> None:
    records.endpoints.ensure(CHAT, NOW)
    policy = EndpointPolicy(7, 0.3, 0.9, 0.25, 4, BestOf.MEAN_LOGPROB, OnRegression.ROLLBACK)
    assert records.endpoints.set_policy(CHAT, policy).policy == records.endpoints.get(CHAT).policy == policy


def test_a_policy_reaches_the_route_with_and_without_a_candidate(records: Database) -> None:
    records.endpoints.ensure(CHAT, NOW)
    policy = EndpointPolicy(temperature=0.3, best_of=4, policy=BestOf.MEAN_LOGPROB)
    before = records.gateways.generation()
    records.endpoints.set_policy(CHAT, policy)
    assert records.gateways.generation() > before
    assert records.gateways.snapshot().routes[CHAT].policy == policy
    records.rollouts.open(a_rollout())
    route = records.gateways.snapshot().routes[CHAT]
    assert (route.candidate is not None, route.policy) == (True, policy)


def test_a_policy_that_no_endpoint_can_keep_is_refused_and_changes_nothing(records: Database) -> None:
    kept = records.endpoints.ensure(CHAT, NOW)
    seen = records.gateways.generation()
    with pytest.raises(Refused, match="voting"):
        records.endpoints.set_policy(CHAT, EndpointPolicy(best_of=4, policy=BestOf.VOTING))
    assert (records.endpoints.get(CHAT), records.gateways.generation()) == (kept, seen)


@pytest.mark.parametrize("document", ["", '{"temperature": 0.5, "of_a_later_version": 1}'], ids=["before policies", "of a later version"])
def test_a_policy_that_another_version_wrote_is_read_with_defaults(records: Database, database_url: str, document: str) -> None:
    with closing(Connections(make_engine(database_url))) as connections, connections.write() as connection:
        connection.execute(text(f"INSERT INTO endpoints (name, created_at, keep_text_days) VALUES ('{CHAT}', 1.0, 3)"))
        if document:
            connection.execute(text("UPDATE endpoints SET policy = :policy"), {"policy": document})
    wanted = EndpointPolicy(keep_text_days=3, temperature=0.5 if document else None)
    assert records.endpoints.get(CHAT).policy == records.gateways.snapshot().routes[CHAT].policy == wanted


def test_the_generation_grows_with_every_change_of_routes_and_with_nothing_else(records: Database) -> None:
    seen = [records.gateways.generation()]
    records.endpoints.ensure(CHAT, NOW)
    seen.append(records.gateways.generation())
    rollout = records.rollouts.open(a_rollout())
    seen.append(records.gateways.generation())
    records.rollouts.store(replace(rollout, state=RolloutState.SHIFTING, share=0.05))
    seen.append(records.gateways.generation())
    with_key(records)
    seen.append(records.gateways.generation())
    records.endpoints.ensure(CHAT, NOW)
    records.submissions.create(a_request(), ANN, NOW)
    records.gateways.report("gw-1", 1, NOW)
    assert seen == sorted(set(seen))
    assert records.gateways.generation() == seen[-1]


def test_a_gateway_lags_while_it_lives_and_follows_an_older_generation(records: Database) -> None:
    records.gateways.report("gw-old", 3, NOW)
    records.gateways.report("gw-behind", 4, NOW + 10)
    records.gateways.report("gw-there", 5, NOW + 10)
    assert records.gateways.lagging(5, NOW + 5) == ("gw-behind",)
    records.gateways.report("gw-behind", 5, NOW + 11)
    assert records.gateways.lagging(5, NOW + 5) == ()


def test_the_newest_heartbeat_of_all_runners_is_kept(records: Database) -> None:
    assert records.runners.latest() is None
    first = RunnerBeat("here", 17, NOW - 60, NOW, 10, full=False)
    records.runners.beat(first)
    records.runners.beat(replace(first, host="there", at=NOW + 1))
    records.runners.beat(replace(first, pid=18, at=NOW + 2, full=True))
    assert records.runners.latest() == RunnerBeat("here", 18, NOW - 60, NOW + 2, 10, full=True)
