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
from wiring.home import prepare

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


@pytest.mark.parametrize(
    "content",
    ["schlüssel\n".encode(), b"\xff\xfe\x00s", b"", b"two words\n", b"st-one\nst-two\n"],
    ids=["umlaut", "binary", "empty", "space", "lines"],
)
def test_a_kept_key_that_no_header_could_carry_is_refused_with_its_file(tmp_path: Path, content: bytes):
    (tmp_path / "operator.key").write_bytes(content)
    with pytest.raises(Refused, match=f"{tmp_path / 'operator.key'} must hold one key") as refused:
        prepare(read_settings({}, home=tmp_path))
    assert "remove it" in refused.value.hint
    assert (tmp_path / "operator.key").read_bytes() == content


def test_a_kept_key_is_used_again(tmp_path: Path):
    (tmp_path / "operator.key").write_text("st-kept\n")
    assert prepare(read_settings({}, home=tmp_path)) == "st-kept"
