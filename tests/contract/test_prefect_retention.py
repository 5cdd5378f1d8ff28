"""Prefect's own vacuum, by the settings that the stack gives its server, keeps its database flat."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.settings import RetentionPolicy, read_settings
from infra.local.stack import environ
from tests.e2e.harness import ROOT
from tests.equipment.prefect_weeks import RUNS_A_DAY, TASKS

pytestmark = pytest.mark.slow
KEPT = 3


def weeks(home: Path, days: int) -> list[dict[str, int]]:
    """Let days pass in a fresh database and return the rows after each."""
    retention = replace(RetentionPolicy(), runs_days=KEPT - 0.5, events_days=1.5)
    given = environ(read_settings({"HOME": str(home)}, home=home, retention=retention))
    command = [sys.executable, "-m", "tests.equipment.prefect_weeks", str(days)]
    url = f"sqlite+aiosqlite:///{home / 'prefect.db'}"
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**given, "PREFECT_API_DATABASE_CONNECTION_URL": url},
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


def assert_flat(days: list[dict[str, int]]) -> None:
    runs = KEPT * RUNS_A_DAY
    assert days[KEPT - 1 :] == [days[KEPT - 1]] * (len(days) - KEPT + 1)
    assert days[-1] == {
        "flow_run": runs,
        "flow_run_state": runs,
        "task_run": runs * TASKS,
        "task_run_state": runs * TASKS,
        "log": runs * TASKS,
        "artifact": runs,
        "artifact_collection": runs,
        "events": 2 * RUNS_A_DAY,
        "event_resources": 2 * RUNS_A_DAY,
    }


def test_runs_task_runs_states_logs_artifacts_and_events_stay_flat_over_a_week(tmp_path: Path) -> None:
    assert_flat(weeks(tmp_path, 7))


@pytest.mark.release
def test_a_quarter_of_a_year_is_flat_too(tmp_path: Path) -> None:
    assert_flat(weeks(tmp_path, 91))
