"""The metrics of the control API: when reconcile last completed a pass, whichever process made it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.access import Role
from core.leases import RECONCILE
from tests.equipment.control_env import ControlEnv, control_env

COMPLETED = "seatrial_reconcile_last_completed_timestamp_seconds"


@pytest.fixture
def env(tmp_path: Path) -> Iterator[ControlEnv]:
    with control_env(tmp_path) as env:
        yield env


def scraped(env: ControlEnv) -> dict[str, float]:
    answer = env.client(Role.OPERATOR).get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {sample.name: sample.value for family in text_string_to_metric_families(answer.text) for sample in family.samples}


def test_before_the_first_pass_the_time_is_zero(env: ControlEnv) -> None:
    assert scraped(env) == {COMPLETED: 0.0}


@pytest.mark.parametrize("failed", ["", "engines: the cluster does not answer"])
def test_a_pass_counts_once_it_has_ended(env: ControlEnv, failed: str) -> None:
    lease = env.records.leases.take(RECONCILE, "worker-1", 1000.0, 1060.0)
    assert lease is not None
    lease = env.records.leases.begin(lease, 1000.0)
    assert scraped(env) == {COMPLETED: 0.0}
    env.records.leases.end(lease, 1010.5, failed)
    assert scraped(env) == {COMPLETED: 1010.5}


def test_a_pass_under_way_leaves_the_time_of_the_one_before(env: ControlEnv) -> None:
    leases = env.records.leases
    lease = leases.take(RECONCILE, "worker-1", 1000.0, 1060.0)
    assert lease is not None
    lease = leases.end(leases.begin(lease, 1000.0), 1010.0, "")
    leases.begin(lease, 1060.0)
    assert scraped(env) == {COMPLETED: 1010.0}
