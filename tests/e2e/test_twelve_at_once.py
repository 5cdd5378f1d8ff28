"""Twelve submissions are sent at once to an embedded stack whose flow runner has ten slots.

Nothing is killed. Two flow runs wait for a slot until other runs have ended: none of them may be marked Crashed, no submission may
get a second run or a second row, and reconcile must complete passes while all slots are taken. There are two cases: an endpoint for
each submission, and four endpoints, on which later rollouts supersede earlier ones.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier

import pytest

from core.endpoints import Withdrawal
from core.ids import EndpointName, SubmissionId
from core.leases import RECONCILE
from core.submissions import Submission, SubmissionState
from seatrial import Client
from tests.e2e.harness import FAKE_ENGINE, QUICK, Stack, quietly, within
from wiring import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.release]
ENVIRON = {
    **FAKE_ENGINE,
    **QUICK,
    "SEATRIAL_LEASE_S": "30",  # the default; QUICK shortens it for tests that kill drivers
    "SEATRIAL_RECONCILE_S": "5",  # more passes than by default, so more chances to treat a late run as a lost one
    "SEATRIAL_BENCHMARKS_CRON": "",
}
AT_ONCE = 12
SLOTS = 10
_STANDSTILL_S = 300.0
"""The test fails when no open submission has moved for this long. There is no limit for the whole."""


@dataclass
class Crowd:
    """Submissions that were sent at once, and what was observed until the last one had ended."""

    stack: Stack
    endpoints: list[str]
    ids: list[SubmissionId]
    waits: dict[SubmissionId, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The messages of each submission that waited for a slot."""
    passes: list[float] = field(default_factory=list)
    """The end of the newest reconcile pass, at each look at which a submission waited for a slot."""
    load: float = 0.0
    rows: list[Submission] = field(default_factory=list)
    seconds: float = 0.0

    def watch(self) -> None:
        """Observe until all have ended."""
        begun = time.monotonic()
        here = self.stack.platform
        with self.stack.client() as client:
            while not self.rows or not all(row.state.ended for row in self.rows):
                within(_STANDSTILL_S, lambda: self._moved(here, client), "progress of an open submission", pause_s=1.0)
        self.seconds = time.monotonic() - begun

    def _moved(self, here: Platform, client: Client) -> bool:
        """Look once; return whether a submission has moved since the last look."""
        before = progress(self.rows)
        self.rows = [here.records.submissions.get(submission) for submission in self.ids]
        self.load = max(self.load, os.getloadavg()[0])
        queued = [row.id for row in self.rows if row.state is SubmissionState.QUEUED]
        busy = [submission for submission in queued if self._waits_for_a_slot(client, submission)]
        reconcile = here.records.leases.get(RECONCILE)
        if busy and reconcile is not None:
            self.passes.append(reconcile.ended_at)
        return progress(self.rows) != before

    def _waits_for_a_slot(self, client: Client, submission: SubmissionId) -> bool:
        shown = quietly(lambda: client.submissions.get(submission))
        if shown is None or shown.waiting is None or shown.waiting.reason != "busy":
            return False
        self.waits[submission].add(shown.waiting.message)
        return True


def progress(rows: list[Submission]) -> list[object]:
    """Return what changes when a submission moves. The renewal of a lease is no progress."""
    return [(row.state, row.steps) for row in rows]


@pytest.fixture(scope="module", params=[AT_ONCE, 4], ids=lambda count: f"{count}-endpoints")
def crowd(request: pytest.FixtureRequest, stack: Stack) -> Crowd:
    """Twelve submissions to so many endpoints, all of them ended."""
    endpoints = [f"crowd-{request.param}-{number % request.param}" for number in range(AT_ONCE)]
    models = [stack.model(f"crowd-{request.param}-{number}", seed=10 * request.param + number) for number in range(AT_ONCE)]
    gate = Barrier(AT_ONCE)

    def submit(model: str, endpoint: str) -> SubmissionId:
        gate.wait()
        return SubmissionId(stack.submit(model, endpoint).id)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        sent = Crowd(stack, endpoints, list(pool.map(submit, models, endpoints)))
    sent.watch()
    return sent


def test_each_submission_serves_or_is_superseded_on_its_endpoint(crowd: Crowd, capsys: pytest.CaptureFixture[str]):
    here = crowd.stack.platform
    with capsys.disabled():
        ends = ", ".join(f"{row.state} after {row.updated_at - row.created_at:.0f} s" for row in crowd.rows)
        print(f"\n  {crowd.seconds:.0f} s, load average {crowd.load:.1f}, {len(set(crowd.passes))} passes: {ends}")  # noqa: T201
    for name in set(crowd.endpoints):
        endpoint = here.records.endpoints.get(EndpointName(name))
        newest = max((row for row in crowd.rows if row.request.endpoint == name), key=lambda row: (row.created_at, row.id))
        assert (newest.state, newest.version) == (SubmissionState.SERVING, endpoint.stable)
        assert (endpoint.candidate, endpoint.rollout) == (None, None)
    for row in crowd.rows:
        if row.state is not SubmissionState.SERVING:
            assert (row.state, row.reason) == (SubmissionState.CANCELLED, "superseded"), row.message
            rollout = here.records.rollouts.get(row.rollout) if row.rollout else None
            assert rollout is None or rollout.withdrawal is Withdrawal.SUPERSEDED


def test_each_submission_has_one_row_and_one_flow_run(crowd: Crowd):
    rows = [row for name in set(crowd.endpoints) for row in crowd.stack.platform.records.submissions.find(endpoint=EndpointName(name))]
    assert len(set(crowd.ids)) == AT_ONCE
    assert sorted(row.id for row in rows) == sorted(crowd.ids)
    assert [row.runs for row in crowd.rows] == [1] * AT_ONCE
    assert flow_runs(crowd) == sorted((row.id, row.flow_run) for row in crowd.rows)


def test_no_flow_run_was_ever_marked_crashed(crowd: Crowd):
    histories = {run: states(crowd.stack, run) for _, run in flow_runs(crowd)}
    assert len(histories) == AT_ONCE
    assert all("RUNNING" in history for history in histories.values())
    assert {run: history for run, history in histories.items() if "CRASHED" in history} == {}


def test_submissions_beyond_the_slots_show_how_many_runs_are_before_them(crowd: Crowd):
    assert len(crowd.waits) == AT_ONCE - SLOTS
    for message in {message for messages in crowd.waits.values() for message in messages}:
        found = re.match(r"waiting: (\d+) runs before it", message)
        assert found is not None, message
        assert SLOTS <= int(found[1]) < AT_ONCE, message


def test_reconcile_completes_passes_while_all_slots_are_taken(crowd: Crowd):
    assert len(set(crowd.passes)) >= 3, "the first one seen may have ended before the slots were taken"


def flow_runs(crowd: Crowd) -> list[tuple[str, str]]:
    """Return submission and id of each of Prefect's runs that deploy to the crowd's endpoints, sorted."""
    body = {"flows": {"name": {"any_": ["deploy-model"]}}, "limit": 200}
    with crowd.stack.prefect() as prefect:
        runs = prefect.post("/flow_runs/filter", json=body).raise_for_status().json()
    asked = [(run["parameters"]["request"], run["id"]) for run in runs]
    return sorted((str(request["submission"]), str(run)) for request, run in asked if request["endpoint"] in crowd.endpoints)


def states(stack: Stack, run: str) -> list[str]:
    """Return the types of all states that a flow run has had."""
    with stack.prefect() as prefect:
        found = prefect.get("/flow_run_states/", params={"flow_run_id": run}).raise_for_status().json()
    return [state["type"] for state in found]
