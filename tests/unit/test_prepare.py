"""What a pod's init container does: migrate, enter the operator's key, wait for a database that is away."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from core.access import Role, secret_digest
from core.errors import Refused, Transient
from core.ports.clock import VirtualClock
from core.settings import read_settings
from infra.entrypoints.prepare import prepare_when_there
from wiring import Platform

KEY = "st-an-operators-key-from-a-secret"


def test_the_key_of_a_secret_opens_the_operators_doors_and_no_file_is_written(tmp_path: Path):
    settings = read_settings({"SEATRIAL_OPERATOR_KEY": KEY}, home=tmp_path)
    prepare_when_there(settings, VirtualClock())
    caller = Platform(settings).records.access.by_secret(secret_digest(KEY))
    assert caller is not None
    assert caller.role is Role.OPERATOR
    assert not (tmp_path / "operator.key").exists()
    assert Platform(settings).synthetic_key == KEY


def test_three_pods_that_start_at_once_enter_one_key(tmp_path: Path):
    settings = read_settings({"SEATRIAL_OPERATOR_KEY": KEY}, home=tmp_path)
    threads = [threading.Thread(target=prepare_when_there, args=(settings, VirtualClock())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Platform(settings).records.access.keys()) == 1


@pytest.mark.parametrize("key", ["short", "with a space in its middle somewhere", "ümlaut-ümlaut-ümlaut-ümlaut"])
def test_a_key_that_no_header_could_carry_is_refused(tmp_path: Path, key: str):
    with pytest.raises(Refused, match="openssl rand"):
        prepare_when_there(read_settings({"SEATRIAL_OPERATOR_KEY": key}, home=tmp_path), VirtualClock())


def test_a_database_that_stays_away_ends_the_wait_with_its_name(tmp_path: Path):
    clock = VirtualClock()
    away = read_settings({"SEATRIAL_DATABASE_URL": "postgresql://someone@127.0.0.1:1/seatrial"}, home=tmp_path)
    with pytest.raises(Transient):
        prepare_when_there(away, clock, limit_s=10)
    assert clock.monotonic() >= 10
