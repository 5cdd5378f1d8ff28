"""Files of a home that are damaged, or that another release wrote: a message with the path and a hint, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.engines import EnginePhase
from core.errors import Fault, Refused
from core.ports.clock import SystemClock
from core.settings import Settings, read_settings
from infra.findings import Finding
from infra.local import doctor, earlier_stack, stack
from infra.local.backup import MARK, read_mark, restore
from registry.database import migrate
from seatrial.cli import main
from serving.engines.files import EngineFiles, EngineStatus
from serving.engines.processes import identify

VERSION = "a" * 64
ME = identify(os.getpid())
assert ME is not None
HERE = asdict(ME)
PORTS = {"prefect": 1, "mlflow": 1, "control": 1, "gateway": 1}
LEFT: dict[str, Any] = {"supervisor": None, "services": {}, "ports": {}}
FOREIGN_LEFT = {
    "other keys": {"pid": 1, "started": 2},
    "a list": [],
    "a number": 3,
    "null": None,
    "a supervisor without a start time": {**LEFT, "supervisor": {"pid": 1}},
    "a supervisor with a text as pid": {**LEFT, "supervisor": {"pid": "1", "started": 1, "boot": ""}},
    "a supervisor that is a number": {**LEFT, "supervisor": 1},
    "services in a list": {**LEFT, "services": ["control"]},
    "no services": {**LEFT, "services": None},
    "a service without identity": {**LEFT, "services": {"control": None}},
    "a port that is a text": {**LEFT, "ports": {"control": "a"}},
    "a port that is out of range": {**LEFT, "ports": {"control": 99_999}},
}
TEXTS = {
    **{name: json.dumps(document) for name, document in FOREIGN_LEFT.items()},
    "half of a file": '{"supervisor": ',
    "no text": "\udcff",
}
FOREIGN_STATUS = {
    "other keys": {"pid": 1},
    "a list": [1],
    "an unknown phase": {**asdict(EngineStatus(1, EnginePhase.READY, since=1.0)), "phase": "dreaming"},
    "an unknown key": {**asdict(EngineStatus(1, EnginePhase.READY, since=1.0)), "mood": "good"},
    "a process that is a number": {**asdict(EngineStatus(1, EnginePhase.READY, since=1.0)), "process": 1},
    "a process with a text as pid": {
        **asdict(EngineStatus(1, EnginePhase.READY, since=1.0)),
        "process": {"pid": "1", "started": 1, "boot": ""},
    },
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"HOME": str(tmp_path)}, home=tmp_path / "home")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def leave(settings: Settings, text: str) -> Path:
    path = settings.home / "run" / "stack.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def of_name(settings: Settings, name: str) -> Finding:
    return next(finding for finding in doctor.examine(settings) if finding.name == name)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_doctor_names_a_stack_file_that_it_cannot_read(settings: Settings, text: str) -> None:
    path = leave(settings, text)
    found = of_name(settings, "stack")
    assert (found.ok, found.next) == (False, "run `seatrial down`, then `seatrial up`")
    assert f"{path} cannot be read" in found.what


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_down_removes_a_stack_file_that_it_cannot_read_while_no_up_runs(settings: Settings, text: str) -> None:
    path = leave(settings, text)
    done = run("down", "--home", str(settings.home))
    assert (done.exit_code, done.stdout) == (0, "nothing was running\n")
    assert not path.exists()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_down_names_a_stack_file_that_it_cannot_read_while_an_up_runs(settings: Settings, text: str) -> None:
    with earlier_stack.only_one(settings.home):
        path = leave(settings, text)
        done = run("down", "--home", str(settings.home))
    assert done.exit_code == 1
    assert f"{path} cannot be read" in done.stderr
    assert "next: stop it with Ctrl-C in its terminal" in done.stderr
    assert path.exists()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_up_starts_without_the_ports_of_a_stack_file_that_it_cannot_read(settings: Settings, text: str) -> None:
    leave(settings, text)
    assert earlier_stack.clear_left(settings.home, SystemClock()) == ()
    _settings, chosen = stack.with_ports(settings, {})
    assert set(chosen.ports) == set(PORTS)


def test_a_stack_file_with_further_keys_of_a_later_release_is_read(settings: Settings) -> None:
    leave(settings, json.dumps({**LEFT, "supervisor": {**HERE, "host": "here"}, "ports": PORTS, "version": 2}))
    left = earlier_stack.read_left(settings.home)
    assert (left.supervisor, left.ports) == (ME, PORTS)


def test_doctor_names_each_port_that_the_stack_file_lacks(settings: Settings) -> None:
    leave(settings, json.dumps({**LEFT, "supervisor": HERE, "ports": {"gateway": 1}}))
    found = {finding.name: finding for finding in doctor.examine(settings)}
    assert "has no port of control" in found["control"].what
    assert found["runs"].what == "the ports of prefect, mlflow, control are unknown"
    assert not (settings.home / "seatrial.db").exists()


def test_doctor_of_a_running_stack_creates_no_database_in_place_of_a_missing_one(settings: Settings) -> None:
    leave(settings, json.dumps({**LEFT, "supervisor": HERE, "ports": PORTS}))
    found = of_name(settings, "runs")
    assert f"{settings.home / 'seatrial.db'} does not exist" in found.what
    assert not (settings.home / "seatrial.db").exists()


@pytest.mark.parametrize("command", [["doctor"], ["gc", "--dry-run"], ["gc"], ["gc", "--take-over"], ["backup", "copy"]], ids=" ".join)
def test_a_database_that_is_damaged_is_named(settings: Settings, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings.home.mkdir()
    monkeypatch.chdir(settings.home.parent)
    (settings.home / "seatrial.db").write_bytes(b"not a database" * 1000)
    done = run(*command, "--home", str(settings.home))
    assert done.exit_code == 1
    assert f"{settings.home / 'seatrial.db'} cannot be read: file is not a database" in done.output
    assert "if it is damaged, restore a backup" in done.output


def test_gc_names_a_database_that_this_release_has_not_migrated(settings: Settings) -> None:
    from sqlalchemy import create_engine, text  # noqa: PLC0415

    settings.home.mkdir()
    migrate(settings.database_url)
    with create_engine(settings.database_url).begin() as database:
        database.execute(text("UPDATE alembic_version SET version_num = '0007'"))
    done = run("gc", "--dry-run", "--home", str(settings.home))
    assert done.exit_code == 5
    assert f"{settings.home / 'seatrial.db'} has schema version 0007, expected " in done.stderr
    assert "next: run `seatrial up`" in done.stderr


def engine_with(settings: Settings, document: object) -> EngineFiles:
    engine = EngineFiles(settings.engines / VERSION)
    engine.folder.mkdir(parents=True)
    (engine.folder / "status.json").write_text(json.dumps(document))
    return engine


@pytest.mark.parametrize("document", FOREIGN_STATUS.values(), ids=FOREIGN_STATUS)
def test_doctor_names_an_engines_status_that_it_cannot_read(settings: Settings, document: object) -> None:
    engine = engine_with(settings, document)
    found = of_name(settings, f"engine {VERSION[:12]}")
    assert f"{engine.folder / 'status.json'} cannot be read" in found.what
    assert "remove the file" in found.next


@pytest.mark.parametrize("document", FOREIGN_STATUS.values(), ids=FOREIGN_STATUS)
def test_down_ends_the_processes_of_an_engine_whose_status_it_cannot_read(
    settings: Settings, document: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, living = engine_with(settings, document), [ME]
    monkeypatch.setattr("serving.engines.processes.members", lambda folder, *_a, **_k: tuple(living) if folder == engine.folder else ())
    monkeypatch.setattr(earlier_stack, "end", lambda *_a, **_k: living.clear())
    assert earlier_stack.bring_down(settings.home, SystemClock()) == (f"engine {VERSION[:12]}",)
    assert not (engine.folder / "status.json").exists()


@pytest.mark.parametrize("text", ["{", "[1]", '{"pid": 1}', "3"])
def test_the_engine_supervisor_is_not_ready_by_an_identity_that_cannot_be_read(settings: Settings, text: str) -> None:
    settings.engines.mkdir(parents=True)
    (settings.engines / "supervisor.json").write_text(text)
    assert not stack._supervises(settings.engines)(os.getpid())


DESCRIPTION: dict[str, Any] = {"format": 1, "made_at": 1.0, "home": "/srv/home", "bytes": 10, "elsewhere": []}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"bytes": "a"}, "'bytes', got 'a'"),
        ({"bytes": -1}, "'bytes', got -1"),
        ({"bytes": True}, "'bytes', got True"),
        ({"made_at": None}, "'made_at', got None"),
        ({"made_at": 10**400}, "'made_at', got 1000"),
        ({"made_at": float("nan")}, "'made_at', got nan"),
        ({"home": 1}, "'home', got 1"),
        ({"elsewhere": "weights"}, "'elsewhere', got 'weights'"),
        ({"elsewhere": [1]}, r"'elsewhere', got \[1\]"),
    ],
)
def test_a_backup_with_a_field_of_another_type_is_refused_with_its_value(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    (tmp_path / MARK).write_text(json.dumps({**DESCRIPTION, **changed}))
    with pytest.raises(Refused, match=expected) as refused:
        read_mark(tmp_path)
    assert str(tmp_path / MARK) in refused.value.what
    assert refused.value.hint


def test_a_backup_of_another_format_is_refused_by_its_format_also_with_other_fields(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text(json.dumps({"format": 2, "parts": []}))
    with pytest.raises(Refused, match="has format 2, expected 1"):
        read_mark(tmp_path)


def test_a_description_with_further_fields_is_read(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text(json.dumps({**DESCRIPTION, "release": "2.0"}))
    assert asdict(read_mark(tmp_path)) == {**DESCRIPTION, "elsewhere": ()}


def test_a_backup_with_a_damaged_database_is_not_restored(tmp_path: Path) -> None:
    source, home = tmp_path / "backup", tmp_path / "home"
    source.mkdir()
    (source / MARK).write_text(json.dumps(DESCRIPTION))
    (source / "seatrial.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(Fault, match=f"{source / 'seatrial.db'} cannot be restored: file is not a database"):
        restore(source, home)
    assert not home.exists()
    shutil.rmtree(source)
