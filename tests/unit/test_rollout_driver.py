"""The driver of rollouts on a real database and fake engines, on virtual time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from core.endpoints import Rollout, RolloutState, Withdrawal
from core.engines import Role
from core.errors import Conflict, Refused
from core.ids import Digest, EndpointName, SubmissionId, VersionId
from core.ports.clock import VirtualClock
from core.ports.null import NullEventRecorder
from core.settings import RolloutPolicy
from core.submissions import SubmissionRequest, SubmissionState
from core.versions import EngineNeeds, FileDigest, ModelRef, ModelVersion
from lifecycle.rollouts.driver import LEASE_S, Driver
from lifecycle.rollouts.steps import withdraw
from registry.database import Database, migrate, open_database
from tests.equipment.fakes import FakeEngines

CHAT = EndpointName("chat")
STABLE, FIRST, SECOND = (VersionId(letter * 64) for letter in "abc")


class DriverEnv:
    """A driver with all that it stands on."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'env.db'}"
        migrate(url)
        self.clock = VirtualClock()
        self.records: Database = open_database(url, clock=self.clock)
        self.engines = FakeEngines(self.clock)
        self.driver = Driver(self.records, self.engines, self.clock, RolloutPolicy(), "test", NullEventRecorder())
        self.by = self.records.access.principal("mia", self.clock.now())

    def submission(self, version: VersionId) -> SubmissionId:
        files, needs = (FileDigest("config.json", 1, Digest("d" * 64)),), EngineNeeds("Llama", "bfloat16", 1, 128)
        self.records.versions.put(
            ModelVersion(version, "org/m", version[:40], files, Digest("e" * 64), Digest("f" * 64), "mit", None, needs, 1.0)
        )
        self.clock.wait(0.001)
        row = self.records.submissions.create(SubmissionRequest(ModelRef("org/m"), CHAT), self.by.id, self.clock.now())
        running = replace(row, state=SubmissionState.RUNNING, version=version)
        return self.records.submissions.store(running, self.clock.now()).id

    def opened(self, version: VersionId) -> Rollout:
        return self.driver.open(self.submission(version), CHAT, version)


def serve(env: DriverEnv, rollout: Rollout) -> None:
    """Promote a rollout, and end its submission as serving."""
    env.driver.begin(rollout.id)
    row = env.records.submissions.get(rollout.submission)
    env.records.submissions.store(replace(row, state=SubmissionState.SERVING, version=rollout.candidate), env.clock.now())


@pytest.fixture
def env(tmp_path: Path) -> DriverEnv:
    return DriverEnv(tmp_path)


def test_the_first_version_is_promoted_and_becomes_stable(env: DriverEnv):
    row = env.driver.begin(env.opened(STABLE).id)
    assert row.state is RolloutState.PROMOTED
    assert env.records.endpoints.get(CHAT).stable == STABLE


def test_a_newer_submission_takes_the_place_of_an_open_rollout(env: DriverEnv):
    env.driver.begin(env.opened(STABLE).id)
    older = env.driver.begin(env.opened(FIRST).id)
    newer = env.submission(SECOND)
    with pytest.raises(Conflict):
        env.driver.open(newer, CHAT, SECOND)
    withdrawn = env.driver.advance(older.id)
    assert (withdrawn.state, withdrawn.withdrawal) == (RolloutState.ROLLED_BACK, Withdrawal.SUPERSEDED)
    assert newer in withdrawn.reason
    assert env.driver.open(newer, CHAT, SECOND).candidate == SECOND


def test_an_older_submission_is_superseded_by_an_open_rollout_of_a_newer_one(env: DriverEnv):
    older, newer = env.submission(FIRST), env.opened(SECOND)
    with pytest.raises(Refused) as refused:
        env.driver.open(older, CHAT, FIRST)
    assert (refused.value.reason, newer.submission in refused.value.what) == ("superseded", True)
    assert env.records.rollouts.get(newer.id).state is RolloutState.DARK


def test_an_older_submission_is_superseded_by_a_newer_one_that_serves(env: DriverEnv):
    older, newer = env.submission(FIRST), env.opened(SECOND)
    serve(env, newer)
    with pytest.raises(Refused) as refused:
        env.driver.open(older, CHAT, FIRST)
    assert refused.value.reason == "superseded"


def test_an_older_submission_goes_on_once_the_newer_version_is_no_longer_served(env: DriverEnv):
    env.driver.begin(env.opened(STABLE).id)
    older, newer = env.submission(FIRST), env.opened(SECOND)
    env.driver.withdraw(newer.id, "an operator asked", Withdrawal.OPERATOR)
    env.driver.advance(newer.id)
    assert env.driver.open(older, CHAT, FIRST).candidate == FIRST


def test_a_newer_submission_of_the_version_that_is_served_withdraws_an_open_rollout(env: DriverEnv):
    serve(env, env.opened(STABLE))
    canary = env.driver.begin(env.opened(FIRST).id)
    assert env.driver.serves(env.submission(STABLE), CHAT, STABLE)
    assert env.records.rollouts.get(canary.id).withdrawal is Withdrawal.SUPERSEDED
    assert env.records.endpoints.get(CHAT).stable == STABLE


def test_an_older_submission_of_the_version_that_is_served_leaves_an_open_rollout_alone(env: DriverEnv):
    serve(env, env.opened(STABLE))
    older, canary = env.submission(STABLE), env.driver.begin(env.opened(FIRST).id)
    assert env.driver.serves(older, CHAT, STABLE)
    assert env.records.rollouts.get(canary.id).state is RolloutState.SHIFTING


def test_a_rollback_waits_for_a_living_gateway_that_follows_older_routes(env: DriverEnv):
    env.driver.begin(env.opened(STABLE).id)
    row = env.driver.begin(env.opened(FIRST).id)
    env.records.gateways.report("g1", env.records.gateways.generation(), env.clock.now())
    row = env.driver.withdraw(row.id, "an operator asked", Withdrawal.OPERATOR)
    assert env.driver.advance(row.id).state is RolloutState.ROLLING_BACK
    env.records.gateways.report("g1", env.records.gateways.generation(), env.clock.now())
    assert env.driver.advance(row.id).state is RolloutState.ROLLED_BACK


def test_a_gateway_that_died_is_not_waited_for(env: DriverEnv):
    env.driver.begin(env.opened(STABLE).id)
    row = env.driver.begin(env.opened(FIRST).id)
    env.records.gateways.report("g1", 0, env.clock.now())
    row = env.driver.withdraw(row.id, "an operator asked", Withdrawal.OPERATOR)
    env.clock.wait(11)
    assert env.driver.advance(row.id).state is RolloutState.ROLLED_BACK


def test_past_its_deadline_a_rollout_without_data_goes_back(env: DriverEnv):
    env.driver.begin(env.opened(STABLE).id)
    row = env.driver.begin(env.opened(FIRST).id)
    env.clock.wait(RolloutPolicy().deadline_s + 1)
    assert env.driver.advance(row.id).state is RolloutState.ROLLING_BACK
    ended = env.driver.advance(row.id)
    assert (ended.state, env.records.endpoints.get(CHAT).stable) == (RolloutState.ROLLED_BACK, STABLE)


def test_a_rollback_by_an_operator_is_told_as_one_by_the_verdict(env: DriverEnv):
    """The control API changes the row; the next pass, in whatever process, tells of it."""
    told: list[str] = []
    driver = Driver(env.records, env.engines, env.clock, RolloutPolicy(), "another", Recorder(told))
    env.driver.begin(env.opened(STABLE).id)
    row = env.driver.begin(env.opened(FIRST).id)
    back = withdraw(row, "rolled back by olga", Withdrawal.OPERATOR)
    env.records.rollouts.store(replace(back, lease_owner="", lease_until=0.0))
    env.records.gateways.report("g1", 0, env.clock.now())
    for _ in range(3):
        driver.advance(row.id)
    env.records.gateways.report("g1", env.records.gateways.generation(), env.clock.now())
    driver.advance(row.id)
    assert told == ["RollingBack", "RolledBack"]


def test_a_driver_shortens_a_lease_that_its_clock_wrote_before_it_was_set_back(env: DriverEnv):
    env.driver.begin(env.opened(STABLE).id)
    row = env.driver.begin(env.opened(FIRST).id)
    judged = env.driver.advance(row.id)
    late = env.records.rollouts.store(replace(judged, lease_until=env.clock.now() + 86_400))
    env.clock.wait(1.0)
    assert env.driver.advance(row.id).lease_until == env.clock.now() + LEASE_S
    env.clock.wait(1.0)
    again = env.driver.advance(row.id)
    assert again.revision == late.revision + 1, "a lease that has just been renewed is not written again"


@dataclass
class Recorder:
    told: list[str]

    def record(self, _version: VersionId, reason: str, _message: str, *, warning: bool = False) -> None:
        self.told.append(reason)

    def mark(self, version: VersionId, endpoint: EndpointName, role: Role | None) -> None:
        """Labels are not looked at."""
