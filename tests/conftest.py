"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.equipment.real_model import ABSENT

# The first text that is drawn makes hypothesis tabulate Unicode: seconds on a busy machine, of which a clock says nothing about a test.
settings.register_profile("seatrial", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seatrial")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for why in dict.fromkeys(ABSENT):
        terminalreporter.section("NOT TESTED WITH A REAL MODEL", red=True, bold=True)
        terminalreporter.line(why, red=True)
