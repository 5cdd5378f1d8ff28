"""A week of idle operation in virtual time: reconcile, nightly benchmarks and housekeeping, with sizes that stay flat."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from core.benchmarks import Trigger
from core.ids import Digest, EndpointName
from core.settings import RetentionPolicy
from registry.weights.folder import FolderWeights
from tasks.benchmarks import BenchmarkRequest, ask, bring_up, conclude, enter_benchmarks, judge, pin_plan, record_in_mlflow
from tasks.housekeeping import housekeeping_duty
from tasks.reconcile import reconcile_duty
from tasks.service import Service
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.fakes import FakeModels
from tests.equipment.samples import CANDIDATE, STABLE, a_version

DAY_S = 86_400
KEPT_DAYS = 2.0
SETTLED = 4
"""Days after which nothing may grow: the retention, and a pass after it."""


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        weights = FolderWeights(tmp_path / "weights", env.clock)
        vars(env.here).update(models=FakeModels(), weights=weights)
        for digest in (Digest(STABLE), Digest(CANDIDATE), a_version().tensors):
            weights.stage(digest, tmp_path, [])
            weights.publish(digest)
        env.serve(STABLE)
        env.serve(CANDIDATE, EndpointName("code"))
        env.benchmark_runner.problems = 8
        retention = replace(RetentionPolicy(), answers_days=1.0, benchmarks_days=KEPT_DAYS)
        env.here.settings = replace(env.here.settings, retention=retention)
        yield env


@dataclass(frozen=True)
class Sizes:
    """What the platform stores at the end of a day."""

    rows: dict[str, int]
    pages: int
    answers: int
    history: int


def sizes(env: BenchEnv) -> Sizes:
    with closing(sqlite3.connect(env.here.settings.database_url.removeprefix("sqlite:///"))) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
        pages = database.execute("PRAGMA page_count").fetchone()[0]
    files = [path for paths in env.answers.files().values() for path in paths]
    return Sizes(rows, pages, len(files), len(env.history.entries))


def nightly() -> None:
    request: dict[str, Any] = {"samples": 2, "temperature": "0.8", "trigger": Trigger.SCHEDULE}
    for row in enter_benchmarks(BenchmarkRequest(target="", **request)):
        pin_plan.fn(row.id)
        ask.fn(row.id, bring_up.fn(row.id))
        judge.fn(row.id)
        record_in_mlflow.fn(row.id)
        conclude.fn(row.id)


def week(env: BenchEnv, step_s: int) -> list[Sizes]:
    """Run a week with a look at both services every `step_s`, and return the sizes at the end of each day."""
    services = [Service(env.here, duty(env.here.settings), "a") for duty in (reconcile_duty, housekeeping_duty)]
    days = []
    for _day in range(7):
        nightly()
        for _ in range(DAY_S // step_s):
            for service in services:
                service.step()
            env.clock.wait(step_s)
        days.append(sizes(env))
    return days


def assert_flat(env: BenchEnv, days: list[Sizes]) -> None:
    lease = env.records.leases.get("housekeeping")
    assert lease is not None
    assert lease.failed == ""
    assert days[0].rows["benchmarks"] == 2
    assert days[SETTLED - 1].rows["benchmarks"] > days[0].rows["benchmarks"], "the nightly benchmarks were entered"
    settled = days[SETTLED - 1]
    for day in days[SETTLED:]:
        assert replace(day, pages=settled.pages) == settled
        assert day.pages <= settled.pages * 1.05, "texts differ in length, so a page more or less is used"


def test_a_week_of_idle_operation_leaves_rows_pages_answers_and_history_flat(env: BenchEnv) -> None:
    assert_flat(env, week(env, step_s=7200))


@pytest.mark.release
def test_a_week_of_idle_operation_minute_by_minute_is_flat_too(env: BenchEnv) -> None:
    assert_flat(env, week(env, step_s=60))


def test_without_retention_the_same_week_grows(env: BenchEnv) -> None:
    env.here.settings = replace(env.here.settings, retention=replace(RetentionPolicy(), housekeeping_s=0.0))
    days = week(env, step_s=21_600)
    assert [day.rows["benchmarks"] for day in days] == [2, 4, 6, 8, 10, 12, 14]


def test_the_logs_of_stopped_engines_go_after_their_time(env: BenchEnv) -> None:
    folder = env.here.settings.engines / STABLE
    folder.mkdir(parents=True)
    (folder / "engine.log").write_text("the end\n")
    (folder / ".lock").touch()
    service = Service(env.here, housekeeping_duty(env.here.settings), "a")
    for age_days, there in ((13, True), (15, False)):
        written = env.clock.now() - age_days * DAY_S
        for path in (folder / "engine.log", folder / ".lock"):
            os.utime(path, (written, written))
        env.records.leases.call("housekeeping", env.clock.now())
        assert service.step()
        assert folder.exists() is there
        env.clock.wait(1.0)
