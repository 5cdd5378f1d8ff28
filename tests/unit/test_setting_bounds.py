"""A setting that cannot hold is refused when it is read, by its name, with its value and its bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from core.errors import Refused
from core.settings import Settings, numbers, read_settings, shares


def numeric(kind: Any = Settings, prefix: str = "SEATRIAL_") -> list[str]:
    hints = get_type_hints(kind)
    below = [name for item in fields(kind) if is_dataclass(hints[item.name]) for name in numeric(hints[item.name], f"{prefix}{item.name}_")]
    return [*below, *(f"{prefix}{item.name}".upper() for item in fields(kind) if hints[item.name] in {int, float})]


def test_there_are_numbers_to_check() -> None:
    assert {"SEATRIAL_LEASE_S", "SEATRIAL_RETENTION_GRACE_HOURS", "SEATRIAL_MODELS_MAX_BYTES"} <= {name.upper() for name in numeric()}


@pytest.mark.parametrize("name", numeric())
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "x", ""])
def test_no_number_is_infinite_or_none(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(Refused, match=rf"{name.upper()} must be .*, got '{text}'"):
        read_settings({name.upper(): text}, home=tmp_path)


@pytest.mark.parametrize("name", sorted({name.upper() for name in numeric()} - {"SEATRIAL_ROLLOUT_SYNTHETIC_AFTER_S"}))
def test_only_the_setting_that_means_never_by_it_is_negative(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match=rf"{name} must be (at least|between) "):
        read_settings({name: "-1"}, home=tmp_path)
    assert read_settings({"SEATRIAL_ROLLOUT_SYNTHETIC_AFTER_S": "-1"}, home=tmp_path).rollout.synthetic_after_s == -1


@pytest.mark.parametrize(
    ("name", "text", "bounds"),
    [
        ("SEATRIAL_TRIALS_MARGIN", "1.5", "between 0 and 1"),
        ("SEATRIAL_ROLLOUT_ALPHA", "0.6", "between 0 and 0.5"),
        ("SEATRIAL_RETENTION_VERSIONS", "1", "at least 2"),
        ("SEATRIAL_LEASE_S", "0", "at least 0.1"),
        ("SEATRIAL_ROLLOUT_SHARES", "nan,1.0", r"text, got 'nan,1.0' \('nan,1.0' has a number that is not finite\)"),
        ("SEATRIAL_ROLLOUT_SHARES", "nan,2", "text"),
        ("SEATRIAL_ROLLOUT_SHARES", "0.5,0.1,1.0", r"text, got '0.5,0.1,1.0' \(write ascending shares that end in 1.0"),
        ("SEATRIAL_BENCHMARKS_TEMPERATURE", "0.2,inf", "text"),
    ],
)
def test_bounds_are_those_of_the_setting(tmp_path: Path, name: str, text: str, bounds: str) -> None:
    with pytest.raises(Refused, match=f"{name} must be {bounds}") as refused:
        read_settings({name: text}, home=tmp_path)
    assert refused.value.reason == "bad_setting"
    assert refused.value.hint.startswith("correct it (")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("retention = 3", "retention in seatrial.toml must be a table, got 3"),
        ("lease_s = true", "SEATRIAL_LEASE_S must be a number, got True"),
        ('lease_s = "30"', "SEATRIAL_LEASE_S must be a number, got '30'"),
        ("lease_s = nan", "SEATRIAL_LEASE_S must be at least 0.1, got nan"),
        ("most_runs = inf", "SEATRIAL_MOST_RUNS must be a whole number, got inf"),
        ("most_runs = true", "SEATRIAL_MOST_RUNS must be a whole number, got True"),
        ("[benchmarks]\ntemperature = true", "SEATRIAL_BENCHMARKS_TEMPERATURE must be text, got True"),
        ("most_runs = 2.5", "SEATRIAL_MOST_RUNS must be a whole number, got 2.5"),
        ("[benchmarks]\ncron = 5", "SEATRIAL_BENCHMARKS_CRON must be text, got 5"),
    ],
)
def test_values_of_the_file_have_the_setting_s_type(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "seatrial.toml").write_text(text)
    with pytest.raises(Refused, match=message):
        read_settings({}, home=tmp_path)


def test_home_of_a_user_that_does_not_exist_is_refused() -> None:
    with pytest.raises(Refused, match="~nosuchuser/home is not a path"):
        read_settings({"SEATRIAL_HOME": "~nosuchuser/home"})


def test_a_whole_number_in_the_file_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "seatrial.toml").write_text("lease_s = 45\n[rollout]\nsynthetic_after_s = -1\nshares = '0.2,1.0'\n")
    settings = read_settings({}, home=tmp_path)
    assert (settings.lease_s, settings.rollout.synthetic_after_s, shares(settings.rollout.shares)) == (45.0, -1.0, (0.2, 1.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("engine_fork_server = false", lambda settings: settings.engine_fork_server == 0),
        ("most_runs = 9.0", lambda settings: settings.most_runs == 9),
        ("[benchmarks]\ntemperature = 0.4", lambda settings: settings.benchmarks.temperature == "0.4"),
        ("[rollout]\nshares = 1.0", lambda settings: settings.rollout.shares == "1.0"),
        ("home = '/elsewhere'", lambda settings: settings.home.name != "elsewhere"),  # the file is in the home
    ],
)
def test_values_that_mean_the_same_are_taken(tmp_path: Path, text: str, expected: Callable[[Settings], bool]) -> None:
    (tmp_path / "seatrial.toml").write_text(text)
    assert expected(read_settings({}, home=tmp_path))


def test_every_default_is_within_its_bounds(tmp_path: Path) -> None:
    settings = read_settings({}, home=tmp_path)
    assert numbers(settings.benchmarks.temperature) == (0.2,)
    for name in numeric():
        group: Any = settings
        *groups, last = _path(name)
        for part in groups:
            group = getattr(group, part)
        read_settings({name.upper(): str(getattr(group, last))}, home=tmp_path)


def _path(name: str) -> list[str]:
    rest = name.removeprefix("SEATRIAL_").lower()
    group = next((item.name for item in fields(Settings) if rest.startswith(f"{item.name}_") and item.name in _GROUPS), None)
    return [rest] if group is None else [group, rest.removeprefix(f"{group}_")]


_GROUPS = {name for name, hint in get_type_hints(Settings).items() if is_dataclass(hint)}
