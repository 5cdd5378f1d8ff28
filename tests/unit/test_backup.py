"""A home that is copied while it is written to, and brought back under another path."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from core.engines import EngineSpec
from core.errors import Conflict, DiskFull, Refused
from core.ids import Digest, VersionId
from core.ports.clock import VirtualClock
from core.settings import GIB, Settings, read_settings
from infra.local.backup import MARK, back_up, restore
from registry.database import migrate, open_database
from registry.weights.folder import FolderWeights
from serving.engines.files import DesiredState, EngineFiles
from serving.engines.local import LocalEngines
from tests.equipment.samples import CHAT, NOW

VERSION = VersionId("a" * 64)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home with a little of everything, and the database in use."""
    home = tmp_path / "home"
    home.mkdir()
    settings = read_settings({"HOME": str(tmp_path)}, home=home)
    migrate(settings.database_url)
    for name in ("mlflow.db", "prefect/prefect.db"):
        (home / name).parent.mkdir(exist_ok=True)
        with closing(sqlite3.connect(home / name)) as database:
            database.execute("CREATE TABLE t (x)")
    for name in (
        "spool/1.log",
        "benchmarks/bm-1.rows.jsonl.gz",
        "mlflow-artifacts/1/rows",
        "logs/runner.log",
        "run/stack.json",
        "scratch/x",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    (home / "operator.key").write_text("st-secret\n")
    spec_of(home)
    return settings


def spec_of(home: Path) -> EngineSpec:
    """Store weights in a home, request their engine, and return its spec."""
    source = home.parent / "source"
    source.mkdir(exist_ok=True)
    weights = FolderWeights(home / "weights", VirtualClock())
    uri = weights.stage(Digest(VERSION), source, []).uri
    spec = EngineSpec(VERSION, uri, uri, Digest("d" * 64), 1024, "bfloat16", 8 * GIB)
    LocalEngines(home / "engines", VirtualClock()).apply(spec)
    return spec


def test_a_restored_home_has_the_rows_files_and_desired_states_under_its_own_path(settings: Settings, tmp_path: Path) -> None:
    with open_database(settings.database_url) as records:
        records.endpoints.ensure(CHAT, NOW)
        made = back_up(settings, tmp_path / "backup", NOW)
        records.endpoints.ensure(CHAT, NOW + 1)
    moved = tmp_path / "elsewhere"
    settings.home.rename(tmp_path / "gone")
    restore(tmp_path / "backup", moved)
    with open_database(f"sqlite:///{moved / 'seatrial.db'}") as records:
        assert records.endpoints.get(CHAT).created_at == NOW
    desired = EngineFiles(moved / "engines" / VERSION).desired()
    assert desired is not None
    assert desired.spec.model_uri == FolderWeights(moved / "weights").open(Digest(VERSION)).uri
    assert (moved / "spool/1.log").read_text() == "spool/1.log"
    assert made.elsewhere == ()


def test_reconcile_of_the_restored_home_finds_the_engine_that_it_wants(settings: Settings, tmp_path: Path) -> None:
    back_up(settings, tmp_path / "backup", NOW)
    moved = tmp_path / "elsewhere"
    restore(tmp_path / "backup", moved)
    spec_of(moved)  # would raise Conflict for another spec


def test_secrets_stay_the_owners_and_what_belongs_to_the_machine_is_left_out(settings: Settings, tmp_path: Path) -> None:
    (settings.home / "engines" / VERSION / "status.json").write_text("{}")
    back_up(settings, tmp_path / "backup", NOW)
    restore(tmp_path / "backup", tmp_path / "elsewhere")
    for folder in (tmp_path / "backup", tmp_path / "elsewhere"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "operator.key").stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "seatrial.db").stat().st_mode) == 0o600
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert there & {"logs/runner.log", "run/stack.json", "scratch/x", f"engines/{VERSION}/status.json"} == set()
    assert not (tmp_path / "elsewhere" / MARK).exists()


def test_a_backup_names_the_parts_that_lie_elsewhere(settings: Settings, tmp_path: Path) -> None:
    there = replace(settings, database_url="postgresql://db/seatrial", weights_url="s3://bucket/weights")
    made = back_up(there, tmp_path / "backup", NOW)
    assert [part.rpartition("(")[2] for part in made.elsewhere] == ["SEATRIAL_DATABASE_URL)", "SEATRIAL_WEIGHTS_URL)"]


def test_a_restored_home_is_an_installation_of_its_own(settings: Settings, tmp_path: Path) -> None:
    back_up(settings, tmp_path / "backup", NOW)
    restore(tmp_path / "backup", tmp_path / "restored")
    ids = {open_database(f"sqlite:///{home / 'seatrial.db'}").installation.id() for home in (settings.home, tmp_path / "restored")}
    assert len(ids) == 2
    assert all(len(identity) == 32 for identity in ids)


def test_a_restore_that_is_cut_off_leaves_no_home_and_the_next_one_succeeds(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(settings, tmp_path / "backup", NOW)
    home = tmp_path / "restored"
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copy2", full_disk)
        with pytest.raises(DiskFull):
            restore(tmp_path / "backup", home)
    assert not home.exists()
    restore(tmp_path / "backup", home)
    assert [path.name for path in tmp_path.glob(".*")] == []


def full_disk(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_backup_names_a_database_outside_of_the_home(settings: Settings, tmp_path: Path) -> None:
    elsewhere = replace(settings, database_url=f"sqlite:///{tmp_path / 'other.db'}")
    assert "the database (SEATRIAL_DATABASE_URL)" in back_up(elsewhere, tmp_path / "backup", NOW).elsewhere


def test_nothing_is_written_over(settings: Settings, tmp_path: Path) -> None:
    back_up(settings, tmp_path / "backup", NOW)
    with pytest.raises(Conflict, match="exists"):
        back_up(settings, tmp_path / "backup", NOW)
    with pytest.raises(Refused, match="inside the home"):
        back_up(settings, settings.home / "backup", NOW)
    with pytest.raises(Conflict, match="not empty"):
        restore(tmp_path / "backup", settings.home)


@pytest.mark.parametrize("mark", [None, "{", "[]", json.dumps({"format": 2, "made_at": 1, "home": "", "bytes": 0, "elsewhere": []})])
def test_a_folder_that_is_not_a_whole_backup_of_this_format_is_refused(tmp_path: Path, mark: str | None) -> None:
    if mark is not None:
        (tmp_path / MARK).write_text(mark)
    with pytest.raises(Refused):
        restore(tmp_path, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_desired_state_that_an_earlier_release_wrote_under_another_home_is_found_in_this_one(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    engine = EngineFiles(tmp_path / "engines" / VERSION)
    former = spec.model_uri.replace(str(tmp_path), "/a/former/home")
    document = json.loads((engine.folder / "desired.json").read_text())
    document["spec"] |= {"model_uri": former, "tensors_uri": former}
    (engine.folder / "desired.json").write_text(json.dumps(document))
    assert engine.desired() == DesiredState(spec, attempt=1)


def test_a_desired_state_file_holds_no_absolute_path(tmp_path: Path) -> None:
    spec_of(tmp_path)
    assert str(tmp_path) not in (tmp_path / "engines" / VERSION / "desired.json").read_text()


def test_an_address_on_s3_is_written_as_it_is(tmp_path: Path) -> None:
    spec = replace(spec_of(tmp_path), tensors_uri="s3://bucket/prefix/bundles/x")
    engine = EngineFiles(tmp_path / "engines" / "other")
    engine.folder.mkdir()
    engine.save_desired(DesiredState(spec, attempt=1))
    assert engine.desired() == DesiredState(spec, attempt=1)
