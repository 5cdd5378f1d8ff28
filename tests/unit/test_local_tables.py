"""Tables of the local commands: ids and paths are whole at every width, and in a pipe each row is one line with tabs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from core.settings import listing, read_settings
from infra.findings import Finding
from infra.local import commands, state_commands
from seatrial.cli import main, output
from tasks.garbage import Action, Found

VERSION = "13fad5de5380" + "a" * 52
LOG = f"/srv/a/home/with/a/long/name/engines/{VERSION}/engine.log"
PYTHON = "/srv/a/checkout/serving/engines/vllm/.venv/bin/python"
FINDINGS = (
    Finding("engine", ok=True, what=PYTHON),
    Finding(f"engine {VERSION[:12]}", ok=False, what="does not start: [Errno 12] no memory", next=f"correct the cause; its log: {LOG}"),
)
FOUND = (
    Found("weights", VERSION, 5 * 1024 * 1024, Action.KEEP, "sub-01m8ed6p0swxywt2d2b2afqbk8 is under way"),
    Found("work", "scratch-1", 3 * 1024**3, Action.DELETE, "last written 2.0 days ago, limit 1"),
)

Show = Callable[[], Result]


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A terminal with this number of columns."""
    width = int(request.param)
    monkeypatch.setattr(output, "fresh_console", lambda: Console(force_terminal=True, width=width, highlight=False, no_color=True))
    return width


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Show:
    monkeypatch.setattr(commands, "examine", lambda _settings: FINDINGS)
    return lambda: run("doctor", "--home", str(tmp_path))


@pytest.fixture
def gc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.setattr(state_commands, "_platform", lambda _settings: None)
    monkeypatch.setattr(state_commands, "_planned", lambda _here: FOUND)
    monkeypatch.setattr(state_commands, "_collected", lambda _here: FOUND[1:])
    return lambda *words: run("gc", "--home", str(tmp_path), *words)


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


@pytest.mark.parametrize("terminal", [40, 60, 80, 120, 200], indirect=True)
def test_doctor_shows_paths_whole_on_one_line_at_every_width(terminal: int, doctor: Show) -> None:
    lines = doctor().stdout.splitlines()
    for path in (PYTHON, LOG):
        assert any(path in line for line in lines), f"{path} is folded or cut at {terminal} columns"


def test_doctor_in_a_pipe_prints_each_check_on_one_line_with_tabs(doctor: Show) -> None:
    done = doctor()
    assert done.exit_code == 1
    assert rows(done.stdout) == [
        ["CHECK", "RESULT", "FOUND", "NEXT"],
        ["engine", "pass", PYTHON, ""],
        [FINDINGS[1].name, "fail", FINDINGS[1].what, FINDINGS[1].next],
    ]


@pytest.mark.parametrize("terminal", [40, 60, 80, 120, 200], indirect=True)
def test_settings_shows_names_and_values_whole_on_one_line_at_every_width(terminal: int, tmp_path: Path) -> None:
    home = tmp_path / "a-home-with-a-rather-long-name"
    lines = run("settings", "--home", str(home)).stdout.splitlines()
    settings = read_settings(home=home)
    for cell in (settings.database_url, settings.weights_url, settings.engine_python, "SEATRIAL_DATABASE_URL"):
        assert any(cell in line for line in lines), f"{cell} is folded or cut at {terminal} columns"


def test_settings_in_a_pipe_prints_each_setting_on_one_line_with_tabs(tmp_path: Path) -> None:
    shown = rows(run("settings", "--home", str(tmp_path)).stdout)
    settings = read_settings(home=tmp_path)
    assert shown[0] == ["SETTING", "VALUE", "NOTE"]
    assert [row[0] for row in shown[1:]] == [name for name, *_ in listing(settings)]
    assert next(row[1] for row in shown if row[0] == "SEATRIAL_DATABASE_URL") == f"sqlite:///{tmp_path / 'seatrial.db'}"


@pytest.mark.parametrize("terminal", [40, 60, 80, 120, 200], indirect=True)
def test_gc_shows_digests_and_ids_whole_on_one_line_at_every_width(terminal: int, gc: Callable[..., Result]) -> None:
    lines = gc("--dry-run").stdout.splitlines()
    for cell in (VERSION, FOUND[0].why):
        assert any(cell in line for line in lines), f"{cell} is folded or cut at {terminal} columns"


def test_gc_in_a_pipe_prints_whole_names_and_binary_sizes(gc: Callable[..., Result]) -> None:
    shown = rows(gc("--dry-run").stdout)
    assert shown[:3] == [
        ["KIND", "NAME", "SIZE", "WOULD", "WHY"],
        ["weights", VERSION, "5 MiB", "keep", FOUND[0].why],
        ["work", "scratch-1", "3 GiB", "delete", FOUND[1].why],
    ]


def test_gc_reports_a_removal_only_after_it_happened(gc: Callable[..., Result]) -> None:
    assert "\nwould be deleted: 3 GiB; would be withdrawn" in gc("--dry-run").stdout
    assert "\ndeleted: 3 GiB; withdrawn" in gc().stdout
