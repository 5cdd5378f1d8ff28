"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The first text that is drawn makes hypothesis tabulate Unicode: seconds on a busy machine, of which a clock says nothing about a test.
settings.register_profile("seatrial", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seatrial")
