"""What the documentation names exists: files, make targets, settings, commands."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest
from click import Context

from core.settings import listing, read_settings
from seatrial.cli import main

ROOT = Path(__file__).resolve().parents[2]
_LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
PAGES = sorted(ROOT / name for name in _LISTED if not name.startswith("tests/equipment/models/"))
CLIENTS_OWN = {"SEATRIAL_URL", "SEATRIAL_KEY", "SEATRIAL_GATEWAY_URL", "SEATRIAL_HOME"}
OTHER_PROCESSES = {"SEATRIAL_ENGINE_FORK", "SEATRIAL_TEST_WITHOUT_POSTGRES"}
OURS = {"core", "lifecycle", "registry", "evals", "serving", "tasks", "flows", "infra", "wiring"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {word for page in PAGES for word in re.findall(r"(?:`|^ {4})make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)}
    assert named - targets == set()


def test_every_setting_that_is_named_exists():
    known = {name for name, *_ in listing(read_settings({"HOME": "/nowhere"}))} | CLIENTS_OWN | OTHER_PROCESSES
    named = {word for page in PAGES for word in re.findall(r"SEATRIAL_[A-Z][A-Z0-9_]*[A-Z0-9]", page.read_text(encoding="utf-8"))}
    assert named - known == set()


def test_every_command_that_is_named_exists():
    commands = set(main.list_commands(Context(main)))
    named = {word for page in PAGES for word in re.findall(r"(?:`|^ {4})seatrial ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)}
    assert named - commands == set()


def test_operator_commands_join_the_clients_command_line():
    assert {"up", "down", "doctor", "demo", "settings"} <= {entry.name for entry in entry_points(group="seatrial.commands")}


def test_no_installed_distribution_ships_a_top_level_name_of_ours():
    assert OURS & set(packages_distributions()) == set()
