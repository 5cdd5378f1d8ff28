"""After an endpoint has changed what it serves: gateways follow, then unwanted engines are stopped."""

from __future__ import annotations

from lifecycle.engines import GATEWAY_ALIVE_S, retire_unwanted
from wiring import Platform


def settle_engines(here: Platform) -> None:
    """Wait until every living gateway follows the present routes, then stop the unwanted engines.

    A submitter who learns afterwards that a model serves can use it at once; after a cancellation no engine is left running.
    """
    generation = here.records.gateways.generation()
    while here.records.gateways.lagging(generation, here.clock.now() - GATEWAY_ALIVE_S):
        here.clock.wait(0.05)
    retire_unwanted(here.records, here.engines, here.clock, drain_s=here.settings.rollout.drain_s)
