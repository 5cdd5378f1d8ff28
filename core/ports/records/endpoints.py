"""Endpoints, with their stable and candidate versions."""

from __future__ import annotations

from typing import Protocol

from core.endpoints import Endpoint, EndpointPolicy
from core.ids import EndpointName, Epoch


class Endpoints(Protocol):
    """Endpoints, with their stable and candidate versions."""

    def ensure(self, name: EndpointName, now: Epoch) -> Endpoint:
        """Return the endpoint, made when it is not there."""
        ...

    def get(self, name: EndpointName) -> Endpoint:
        """NotFound when unknown."""
        ...

    def list(self) -> tuple[Endpoint, ...]:
        """Return all by name."""
        ...

    def set_policy(self, name: EndpointName, policy: EndpointPolicy) -> Endpoint:
        """Set the endpoint's policy and increment the routes' generation. Refused by `EndpointPolicy.check`, NotFound."""
        ...

    def remove(self, name: EndpointName, now: Epoch) -> Endpoint:
        """Take the endpoint out of the routes and return its last state. Its usage, votes, rollouts and benchmarks are kept.

        Conflict while a submission or a rollout of it is open, NotFound. `ensure` creates it again, with no version that serves.
        """
        ...

    def removed(self, since: Epoch) -> tuple[EndpointName, ...]:
        """Return the names of endpoints that were removed at or after `since` and not created again."""
        ...
