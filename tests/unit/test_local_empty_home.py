"""Commands on a home without a database name it and create nothing; files that a command creates are readable by its user only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.settings import read_settings
from infra.local.backup import MARK
from infra.local.failures import reported
from registry.database import migrate
from seatrial.cli import main

GC = (["gc", "--dry-run"], ["gc"], ["gc", "--take-over"])


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Run with the umask of most systems."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("command", [*GC, ["backup", "copy"]], ids=" ".join)
@pytest.mark.parametrize("exists", [False, True], ids=["mistyped", "empty"])
def test_a_home_without_a_database_is_refused_by_name_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], *, exists: bool
) -> None:
    home = tmp_path / "hmoe"
    if exists:
        home.mkdir()
    monkeypatch.chdir(tmp_path)
    done = run(*command, "--home", str(home))
    assert done.exit_code == 1
    assert str(home) in done.stderr
    assert "next: give the state directory of a stack with --home" in done.stderr
    assert below(tmp_path) == ([home] if exists else [])


@pytest.mark.parametrize("command", [*GC, ["backup", "copy"]], ids=" ".join)
def test_an_empty_file_in_place_of_the_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "seatrial.db").touch()
    monkeypatch.chdir(tmp_path)
    done = run(*command, "--home", str(home))
    assert done.exit_code == 1
    assert f"{home / 'seatrial.db'} has no schema version" in done.stderr
    assert below(tmp_path) == [home, home / "seatrial.db"]


@pytest.mark.parametrize("command", ["doctor", "settings", "down"])
def test_looking_at_a_home_that_does_not_exist_creates_nothing(tmp_path: Path, command: str) -> None:
    run(command, "--home", str(tmp_path / "hmoe"))
    assert below(tmp_path) == []


@pytest.mark.parametrize("command", ["doctor", "settings"])
def test_doctor_and_settings_report_that_a_home_does_not_exist_yet(tmp_path: Path, command: str) -> None:
    done = run(command, "--home", str(tmp_path / "hmoe"))
    assert f"{tmp_path / 'hmoe'} does not exist yet" in done.output


def test_doctor_reports_a_home_without_a_database(tmp_path: Path) -> None:
    assert f"{tmp_path / 'seatrial.db'} does not exist yet" in run("doctor", "--home", str(tmp_path)).stdout


def test_what_gc_creates_in_a_home_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    migrate(read_settings({}, home=home).database_url)
    (home / "seatrial.db").chmod(0o600)  # as `up` creates it
    before = set(below(home))
    assert run("gc", "--dry-run", "--home", str(home)).exit_code == 0
    created = set(below(home)) - before
    assert created
    assert [path for path in created if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)] == []


def test_a_local_command_runs_with_a_closed_umask_and_restores_it() -> None:
    seen = []

    @reported
    def command() -> None:
        seen.append(os.umask(0o777))
        os.umask(seen[0])

    command()
    assert (seen, os.umask(0o022)) == ([0o077], 0o022)


def test_files_of_a_restored_home_are_readable_by_their_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    migrate(read_settings({}, home=home).database_url)
    (home / "operator.key").write_text("st-secret\n")
    monkeypatch.chdir(tmp_path)
    assert run("backup", str(copy), "--home", str(home)).exit_code == 0
    assert (copy / MARK).stat().st_mode & 0o077 == 0
    for path in below(copy):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert run("restore", str(copy), "--home", str(tmp_path / "restored")).exit_code == 0
    assert [path for path in below(tmp_path / "restored") if path.stat().st_mode & 0o077] == []
