"""After an endpoint has changed what it serves: gateways follow, then engines that nobody wants are stopped."""

from __future__ import annotations

from serving.rollout.retire import GATEWAY_ALIVE_S, retire_unwanted
from wiring import Platform


def settle_engines(here: Platform) -> None:
    """Wait until every living gateway follows the present routes, then stop the engines that nobody wants.

    Who is told afterwards that a model serves can ask it that moment; who cancelled finds nothing running.
    """
    generation = here.records.gateways.generation()
    while here.records.gateways.lagging(generation, here.clock.now() - GATEWAY_ALIVE_S):
        here.clock.wait(0.05)
    retire_unwanted(here.records, here.engines, here.clock, drain_s=here.settings.rollout.drain_s)
