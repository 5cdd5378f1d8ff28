"""A benchmark that is watched through a pipe says why it waits, once for each reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from seatrial.cli.plots import follow
from seatrial.scores import Benchmark, Waiting

ONE = Benchmark("bm-1", "a" * 64, "harbour", "chat", 1, "request", "running", datetime(2026, 11, 28, tzinfo=UTC))
BUSY = Waiting("busy", stuck=False, message="waiting: 3 runs before it")
DOWN = Waiting("runner_down", stuck=True, message="the flow runner is down (its last heartbeat was 31 s ago)")


def test_reasons_are_written_to_stderr_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    older = replace(DOWN, message="the flow runner is down (its last heartbeat was 36 s ago)")
    looks = [replace(ONE, waiting=why) for why in (BUSY, BUSY, DOWN, older, None)]
    assert follow(iter(looks), as_json=False) == ONE
    assert capsys.readouterr() == ("", f"{BUSY.message}\n{DOWN.message}\n")
