"""`seatrial doctor` names engines that were given up, and background services that fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.engines import EnginePhase, EngineSpec
from core.ids import Digest, VersionId
from core.leases import RECONCILE
from core.ports.clock import SystemClock
from core.settings import GIB, Settings, read_settings
from infra.findings import Finding
from infra.local import doctor, earlier_stack
from registry.database import Database, migrate, open_database
from serving.engines.files import DesiredState, EngineFiles, EngineStatus
from serving.engines.processes import identify

VERSION = VersionId("a" * 64)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"HOME": str(tmp_path)}, home=tmp_path)


def engine_in(settings: Settings, phase: EnginePhase, detail: str = "") -> None:
    engine = EngineFiles(settings.engines / VERSION)
    engine.folder.mkdir(parents=True, exist_ok=True)
    engine.save_desired(DesiredState(EngineSpec(VERSION, "file:///m", "file:///t", Digest("d" * 64), 1024, "bfloat16", 8 * GIB), attempt=1))
    engine.save_status(EngineStatus(1, phase, since=1.0, detail=detail))


def of_engines(settings: Settings) -> list[Finding]:
    return list(doctor._engines(settings))


def test_a_failed_engine_is_named_with_its_cause_and_the_next_step(settings: Settings) -> None:
    engine_in(settings, EnginePhase.FAILED, "killed by SIGKILL: probably out of memory")
    (finding,) = of_engines(settings)
    assert (finding.name, finding.ok) == ("engine aaaaaaaaaaaa", False)
    assert "probably out of memory" in finding.what
    assert "submit the same model again" in finding.next
    assert str(settings.engines / VERSION / "engine.log") in finding.next


@pytest.mark.parametrize("phase", [EnginePhase.READY, EnginePhase.STARTING])
def test_other_engines_are_no_finding(settings: Settings, phase: EnginePhase) -> None:
    engine_in(settings, phase)
    assert of_engines(settings) == []


def test_a_record_that_cannot_be_read_is_a_finding_and_no_traceback(settings: Settings) -> None:
    engine_in(settings, EnginePhase.READY)
    (settings.engines / VERSION / "status.json").write_text("{")
    assert [finding.ok for finding in of_engines(settings)] == [False]


@pytest.fixture
def records(settings: Settings) -> Iterator[Database]:
    """The database of a stack that runs: this process stands for its supervisor."""
    migrate(settings.database_url)
    me = identify(os.getpid())
    assert me is not None
    earlier_stack.write_left(settings, {"runner": me}, {})
    with open_database(settings.database_url) as database:
        yield database


def of_reconcile(settings: Settings) -> Finding:
    return next(finding for finding in doctor._services(settings) if finding.name == RECONCILE)


def a_pass(records: Database, began_at: float, failed: str = "") -> None:
    lease = records.leases.take(RECONCILE, "here:1", began_at, began_at + 1)
    assert lease is not None
    records.leases.end(records.leases.begin(lease, began_at), began_at, failed)
    records.leases.release(lease)


def test_the_last_pass_of_reconcile_is_shown_and_one_that_is_late_is_a_finding(settings: Settings, records: Database) -> None:
    now = SystemClock().now()
    assert of_reconcile(settings).what == "no pass yet"
    a_pass(records, now - 20)
    assert of_reconcile(settings).ok
    a_pass(records, now - 600)
    assert not of_reconcile(settings).ok


def test_a_pass_that_failed_is_shown_with_its_cause(settings: Settings, records: Database) -> None:
    a_pass(records, SystemClock().now(), "engines: the cluster is unavailable")
    finding = of_reconcile(settings)
    assert (finding.ok, finding.what) == (False, "1 passes in a row failed: engines: the cluster is unavailable")
