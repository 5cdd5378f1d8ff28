"""The routes that a gateway follows, from the database (port: core/ports/routes.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from core.endpoints import Route, Snapshot, Target
from core.ids import VersionId
from core.ports.clock import Clock
from core.ports.records import Gateways

AddressOf = Callable[[VersionId], str | None]


class DatabaseRoutes:
    """Implements `Routes`: polls the generation, reads the rest when it grew, and fills in the address of each version.

    `address` is called at each load: engines start and stop without any change in the database.
    """

    def __init__(self, gateways: Gateways, address: AddressOf, clock: Clock) -> None:
        self._gateways = gateways
        self._address = address
        self._clock = clock
        self._bare: Snapshot | None = None
        self._addresses: Mapping[VersionId, str | None] = {}

    def load(self, seen: int | None) -> Snapshot | None:
        """Return the snapshot, or None when its generation is `seen` and every address is as this object gave it last."""
        bare = self._bare
        if bare is None or bare.generation != self._gateways.generation():
            bare = self._gateways.snapshot()
        addresses = {version: self._address(version) for version in _versions(bare)}
        same = bare is self._bare and addresses == self._addresses
        self._bare, self._addresses = bare, addresses
        if same and bare.generation == seen:
            return None
        return replace(bare, routes={name: _fill(route, addresses) for name, route in bare.routes.items()})

    def report(self, gateway: str, generation: int) -> None:
        """Tell which generation a gateway follows now."""
        self._gateways.report(gateway, generation, self._clock.now())


def _versions(snapshot: Snapshot) -> set[VersionId]:
    targets = (target for route in snapshot.routes.values() for target in (route.stable, route.candidate))
    return {target.version for target in targets if target is not None}


def _fill(route: Route, addresses: Mapping[VersionId, str | None]) -> Route:
    return replace(route, stable=_at(route.stable, addresses), candidate=_at(route.candidate, addresses))


def _at(target: Target | None, addresses: Mapping[VersionId, str | None]) -> Target | None:
    return None if target is None else Target(target.version, addresses[target.version])
