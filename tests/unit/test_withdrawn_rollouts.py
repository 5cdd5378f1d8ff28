"""How a rollout that was not promoted ends its submission, also one that another process brought to its end while no run was alive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.endpoints import Rollout, RolloutState, Withdrawal
from core.errors import Refused
from lifecycle.rollouts.withdrawn import expect_wanted, withdrawn
from tests.equipment.bench_env import BenchEnv
from tests.equipment.samples import CANDIDATE, CHAT, a_request, a_rollout, a_version

LOOPS = "bad conversations: candidate 9 of 9, stable 0 of 76"
MET, DARK = 1, 0


@pytest.fixture
def env(tmp_path: Path) -> BenchEnv:
    return BenchEnv(tmp_path)


@pytest.fixture
def dark(env: BenchEnv) -> Rollout:
    env.records.endpoints.ensure(CHAT, env.clock.now())
    env.records.versions.put(a_version(id=CANDIDATE))
    submission = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
    return env.records.rollouts.open(a_rollout(submission=submission.id))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"state": RolloutState.ROLLED_BACK, "step": MET, "reason": "superseded by none", "withdrawal": Withdrawal.VERDICT}, "rolled_back"),
        ({"state": RolloutState.ROLLING_BACK, "step": MET, "reason": LOOPS}, "rolled_back"),
        ({"state": RolloutState.ROLLED_BACK, "step": MET, "reason": "x", "withdrawal": Withdrawal.SUPERSEDED}, "superseded"),
        ({"state": RolloutState.CANCELLED, "step": DARK, "reason": "cancelled by operator"}, "withdrawn"),
        ({"state": RolloutState.ROLLING_BACK, "step": DARK, "reason": "x", "withdrawal": Withdrawal.SUPERSEDED}, "superseded"),
    ],
)
def test_a_run_that_finds_its_rollout_taken_back_ends_as_the_one_that_saw_it(
    env: BenchEnv, dark: Rollout, row: dict[str, Any], reason: str
) -> None:
    rollout = env.records.rollouts.store(replace(dark, **row))
    with pytest.raises(Refused) as refused:
        expect_wanted(env.records, rollout.id)
    assert (refused.value.reason, str(row["reason"]) in refused.value.what) == (reason, True)
    assert withdrawn(rollout).reason == reason


def test_a_rollout_on_its_way_is_wanted(env: BenchEnv, dark: Rollout) -> None:
    expect_wanted(env.records, env.records.rollouts.store(replace(dark, state=RolloutState.SHIFTING, step=MET)).id)
