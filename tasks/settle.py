"""After an endpoint has changed what it serves: gateways follow, then unwanted engines are stopped."""

from __future__ import annotations

from lifecycle import engines
from wiring import Platform


def settle_engines(here: Platform) -> None:
    """Settle the engines of this process's platform. See `lifecycle.engines.settle`."""
    engines.settle(here.records, here.engines, here.clock, drain_s=here.settings.rollout.drain_s)
