"""A model checker of the life of submissions, on SQLite and on PostgreSQL, with virtual time.

Submitters, runs that start late, twice or never, processes that are killed or sleep between any two steps, an unavailable Prefect,
cancellations, rollbacks, newer submissions and two watchdogs happen in any order. After every move the invariants hold; at the end of
every example the platform is left alone, and every submission ends.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from core.endpoints import RolloutState
from core.ids import EndpointName, SubmissionId, VersionId
from core.ports.clock import VirtualClock
from core.submissions import Submission, SubmissionState
from lifecycle.engines import wanted_versions
from lifecycle.submissions import OPEN
from registry.database import Database, open_database
from tests.equipment.fakes import FakeEngines
from tests.equipment.lifecycle_world import LEASE_S, Prefect, Process, World
from tests.equipment.postgres import PostgresServer
from tests.equipment.samples import NOW

_MOST_ROUNDS = 400
_NEWEST = 2
_MOST_OPEN = 3
_CANCELLING = (SubmissionState.CANCELLING, SubmissionState.CANCELLED, SubmissionState.SERVING)
_AFTER = {state: (state,) for state in SubmissionState} | {
    SubmissionState.QUEUED: tuple(SubmissionState),
    SubmissionState.RUNNING: tuple(state for state in SubmissionState if state is not SubmissionState.QUEUED),
    SubmissionState.CANCELLING: _CANCELLING,
}
"""The states that may be seen after a state, whatever happened between two looks."""


class Platform(RuleBasedStateMachine):
    """One platform. `fresh` makes its database."""

    fresh: Callable[[], str]

    def __init__(self) -> None:
        super().__init__()
        self.database: Database = open_database(type(self).fresh())
        clock = VirtualClock(NOW)
        self.world = World(self.database, clock, FakeEngines(clock), Prefect(clock))
        self.states: dict[SubmissionId, SubmissionState] = {}
        self.promoted: set[tuple[EndpointName, VersionId | None]] = set()

    @precondition(lambda self: len(self.database.submissions.find(states=OPEN, limit=_MOST_OPEN)) < _MOST_OPEN)
    @rule(endpoint=st.sampled_from(["chat", "chat", "code"]), version=st.integers(1, 3), good=st.sampled_from([True, True, False]))
    def submit(self, endpoint: str, version: int, *, good: bool) -> None:
        self.world.submit(endpoint, version, good=good)
        self.start_waiting_runs()

    @precondition(lambda self: self.world.prefect.runs)
    @rule(data=st.data())
    def a_run_starts_late_or_twice(self, data: st.DataObject) -> None:
        self.world.start(data.draw(st.sampled_from(sorted(self.world.prefect.runs))))

    @precondition(lambda self: self.world.processes)
    @rule(order=st.lists(st.integers(0, 3), min_size=1, max_size=25))
    def processes_go_on(self, order: list[int]) -> None:
        for number in order:
            if self.world.processes:
                process = self.world.processes[-1 - number % len(self.world.processes)]
                process.frozen = False
                self.world.step(process)

    @precondition(lambda self: self.world.processes)
    @rule(data=st.data())
    def a_process_reaches_its_end(self, data: st.DataObject) -> None:
        process = self.drawn(data)
        process.frozen = False
        for _ in range(30):
            if process in self.world.processes:
                self.world.step(process)

    @precondition(lambda self: self.world.processes)
    @rule(data=st.data())
    def a_process_is_killed(self, data: st.DataObject) -> None:
        self.world.kill(self.drawn(data))

    @precondition(lambda self: self.world.processes)
    @rule(data=st.data(), steps=st.integers(0, 12), cancelled=st.booleans())
    def a_process_sleeps_through_its_lease(self, data: st.DataObject, steps: int, *, cancelled: bool) -> None:
        process = self.drawn(data)
        for _ in range(steps):
            if process in self.world.processes:
                self.world.step(process)
        process.frozen = True
        if cancelled:
            self.world.cancel(process.submission)
        self.world.wait(LEASE_S + 1)
        self.world.reconcile("first")
        self.start_waiting_runs()

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S + 1, 10 * LEASE_S]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @precondition(lambda self: self.world.asked)
    @rule(data=st.data())
    def somebody_cancels(self, data: st.DataObject) -> None:
        rows = self.database.submissions.find(limit=1000)
        self.world.cancel(data.draw(st.sampled_from(sorted(row.id for row in rows))))

    @precondition(lambda self: self.database.rollouts.find(limit=1))
    @rule(data=st.data())
    def an_operator_rolls_back(self, data: st.DataObject) -> None:
        rows = self.database.rollouts.find(limit=1000)
        self.world.roll_back(data.draw(st.sampled_from(sorted(row.id for row in rows))))

    @rule(watchdog=st.sampled_from(["first", "second"]), cut=st.none() | st.integers(0, 5))
    def reconcile(self, watchdog: str, cut: int | None) -> None:
        self.world.reconcile(watchdog, cut)

    @rule(away=st.booleans())
    def prefect_comes_and_goes(self, *, away: bool) -> None:
        self.world.prefect.away = away

    def start_waiting_runs(self) -> None:
        """Start a process for each run that waits for one, as a flow runner does."""
        for run, state in list(self.world.prefect.runs.items()):
            if state.waiting:
                self.world.start(run)

    def drawn(self, data: st.DataObject) -> Process:
        """Draw one of the newest processes: older ones mostly wait for a lease or are past their work."""
        return data.draw(st.sampled_from(self.world.processes[-_NEWEST:]))

    @invariant()
    def the_rows_are_sound(self) -> None:
        rows = {row.id: row for row in self.database.submissions.find(limit=1000)}
        assert len(rows) == self.world.asked, "a submission became two"
        for row in rows.values():
            before = self.states.get(row.id, row.state)
            assert row.state in _AFTER[before], f"{row.id} was {before} and is {row.state}"
            self.states[row.id] = row.state
        for rollout in self.database.rollouts.find(states=[RolloutState.PROMOTED], limit=1000):
            row = rows[rollout.submission]
            self.promoted.add((row.request.endpoint, rollout.candidate))
            assert row.state in {*OPEN, SubmissionState.SERVING}, f"{row.id} is {row.state}, and its candidate was promoted"
            assert rollout.candidate == row.version, f"{row.id} promoted another submission's candidate"
            assert row.id not in self.world.refused, f"{row.id} was promoted although its trials failed"
        self.the_newest_wins(rows)
        for row in rows.values():
            if row.state is SubmissionState.SERVING:
                assert (row.request.endpoint, row.version) in self.promoted, f"{row.id} is called serving and was never promoted"

    def the_newest_wins(self, rows: Mapping[SubmissionId, Submission]) -> None:
        """Check that each endpoint serves what the newest submission that got through brought, whichever was ready first."""
        promoted = {rollout.submission for rollout in self.database.rollouts.find(states=[RolloutState.PROMOTED], limit=1000)}
        through = sorted(
            (row for row in rows.values() if row.state is SubmissionState.SERVING or row.id in promoted),
            key=lambda row: (row.created_at, row.id),
        )
        for name, newest in {row.request.endpoint: row for row in through}.items():
            stable = self.database.endpoints.get(name).stable
            assert stable == newest.version, f"{name} serves {stable}, and the newest submission that got through is {newest.id}"

    def teardown(self) -> None:
        """Leave the platform alone: every submission ends, and no engine is left that nobody needs."""
        try:
            self.settle()
            assert {state.version for state in self.world.engines.list()} <= wanted_versions(self.database)
        finally:
            self.database.close()

    def settle(self) -> None:
        """Let every process go on and every run start, until nothing is open."""
        self.world.prefect.away = False
        for _ in range(_MOST_ROUNDS):
            if not self.database.submissions.find(states=OPEN, limit=1):
                break
            self.start_waiting_runs()
            for process in list(self.world.processes):
                process.frozen = False
                self.world.step(process)
            self.world.wait(LEASE_S / 3)
            self.world.reconcile("first")
            self.the_rows_are_sound()
        left = self.database.submissions.find(states=OPEN, limit=1000)
        assert left == ()
        self.world.reconcile("first")
        self.world.wait(1.0)


def check(fresh: Callable[[], str], *, examples: int, steps: int) -> None:
    """Run the state machine."""
    machine = type("Checked", (Platform,), {"fresh": staticmethod(fresh)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
        ),
    )


def on_sqlite(template: Path, folder: Path) -> Callable[[], str]:
    """Return what makes a fresh database of SQLite."""
    numbers = iter(range(1_000_000))

    def fresh() -> str:
        path = folder / f"{next(numbers)}.db"
        shutil.copy(template, path)
        return f"sqlite:///{path}"

    return fresh


def test_no_order_of_events_breaks_the_lifecycle_on_sqlite(migrated_sqlite: Path, tmp_path: Path) -> None:
    check(on_sqlite(migrated_sqlite, tmp_path), examples=40, steps=50)


@pytest.mark.release
def test_no_order_of_50_000_events_breaks_the_lifecycle(migrated_sqlite: Path, tmp_path: Path) -> None:
    check(on_sqlite(migrated_sqlite, tmp_path), examples=1000, steps=50)


def test_no_order_of_events_breaks_the_lifecycle_on_postgresql(postgres: PostgresServer, migrated_postgres: str) -> None:
    check(lambda: postgres.new_database(migrated_postgres), examples=6, steps=50)
