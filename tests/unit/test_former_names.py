"""A home that an earlier release wrote: its engine files get their present names once, and a renamed setting is refused by name."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from core.engines import EnginePhase, EngineSpec
from core.errors import Conflict, Refused
from core.ids import Digest, VersionId
from core.ports.clock import SystemClock, VirtualClock
from core.settings import GIB, Settings, read_settings
from infra.local import earlier_stack
from infra.local.backup import back_up, restore
from registry.database import migrate
from serving.engines import files
from serving.engines.files import DesiredState, EngineFiles, EngineStatus
from serving.engines.launcher import VllmLauncher
from serving.engines.processes import Identity
from serving.engines.supervisor import EngineSupervisor
from wiring.engines import engine_supervisor

VERSION = VersionId("a" * 64)
DESIRED = DesiredState(EngineSpec(VERSION, "s3://b/m", "s3://b/t", Digest("d" * 64), 1024, "bfloat16", 8 * GIB), attempt=1)
STATUS = EngineStatus(1, EnginePhase.FAILED, since=1.0, detail="the disk is full")
GONE = Identity(2**22 + 1, 1, "another boot")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"HOME": str(tmp_path)}, home=tmp_path / "home")


@pytest.fixture
def former(settings: Settings) -> EngineFiles:
    """The engine of a home in which only an earlier release has run."""
    engine = EngineFiles(settings.engines / VERSION)
    engine.save_desired(DESIRED)
    engine.save_status(STATUS)
    (engine.folder / "desired.json").rename(engine.folder / "wish.json")
    (engine.folder / "status.json").rename(engine.folder / "record.json")
    files.write(settings.engines / "keeper.json", asdict(GONE))
    return engine


@pytest.fixture
def supervisor(settings: Settings) -> Iterator[EngineSupervisor]:
    made = EngineSupervisor(settings.engines, VllmLauncher(sys.executable, "none", {}), VirtualClock())
    yield made
    made.close()


def test_files_with_former_names_are_renamed(settings: Settings, former: EngineFiles) -> None:
    files.rename_former_files(settings.engines)
    assert (former.desired(), former.status(), files.supervisor(settings.engines)) == (DESIRED, STATUS, GONE)
    assert {path.name for path in settings.engines.rglob("*.json")} == {"desired.json", "status.json", "supervisor.json"}


def test_of_two_files_the_one_with_the_former_name_is_kept(settings: Settings, former: EngineFiles) -> None:
    former.save_desired(files.stopped(DESIRED, 1.0))
    files.rename_former_files(settings.engines)
    assert former.desired() == DESIRED


def test_a_folder_that_holds_logs_only_gets_no_lock_by_the_renaming(settings: Settings) -> None:
    (settings.engines / VERSION).mkdir(parents=True)
    files.rename_former_files(settings.engines)
    assert list((settings.engines / VERSION).iterdir()) == []


def test_the_engine_supervisor_continues_from_the_files_of_an_earlier_release(former: EngineFiles, supervisor: EngineSupervisor) -> None:
    supervisor.open()
    assert (former.desired(), former.status()) == (DESIRED, STATUS)


def test_an_engine_supervisor_of_an_earlier_release_that_still_runs_keeps_the_folder(
    settings: Settings, former: EngineFiles, supervisor: EngineSupervisor
) -> None:
    held = os.open(settings.engines / "keeper.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(Conflict):
        supervisor.open()
    os.close(held)
    assert (former.folder / "wish.json").exists()


def test_down_finds_the_engines_of_an_earlier_release(settings: Settings, former: EngineFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    living = [GONE]
    monkeypatch.setattr("serving.engines.processes.members", lambda folder, *_a, **_k: tuple(living) if folder == former.folder else ())
    monkeypatch.setattr(earlier_stack, "end", lambda *_a, **_k: living.clear())
    assert earlier_stack.bring_down(settings.home, SystemClock()) == (f"engine {VERSION[:12]}",)
    assert former.desired() == DESIRED


def test_a_backup_has_the_desired_states_of_an_earlier_release(settings: Settings, former: EngineFiles, tmp_path: Path) -> None:
    migrate(settings.database_url)
    back_up(settings, tmp_path / "backup", 1.0)
    restore(tmp_path / "backup", tmp_path / "elsewhere")
    files.rename_former_files(tmp_path / "elsewhere" / "engines")
    assert EngineFiles(tmp_path / "elsewhere" / "engines" / former.folder.name).desired() == DESIRED


def test_the_log_of_the_fork_server_is_continued_under_its_present_name(settings: Settings) -> None:
    settings.logs.mkdir(parents=True)
    (settings.logs / "standby.log").write_text("before\n")
    engine_supervisor(settings)
    assert [(path.name, path.read_text()) for path in settings.logs.iterdir()] == [("fork_server.log", "before\n")]


def test_the_former_name_of_a_setting_in_the_environment_is_refused_with_the_present_one() -> None:
    with pytest.raises(Refused, match="SEATRIAL_ENGINE_STANDBY was renamed to SEATRIAL_ENGINE_FORK_SERVER") as refused:
        read_settings({"SEATRIAL_ENGINE_STANDBY": "0"})
    assert refused.value.hint == "write SEATRIAL_ENGINE_FORK_SERVER instead"


def test_the_former_name_of_a_setting_in_the_file_is_refused_with_the_present_one(tmp_path: Path) -> None:
    (tmp_path / "seatrial.toml").write_text("engine_standby = 0\n")
    with pytest.raises(Refused, match=f"engine_standby in {tmp_path / 'seatrial.toml'} was renamed to engine_fork_server") as refused:
        read_settings({}, home=tmp_path)
    assert refused.value.hint == "write engine_fork_server instead"
