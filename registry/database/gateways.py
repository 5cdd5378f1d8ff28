"""What gateways follow, and whether they do."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, RowMapping, or_, select

from core.access import Caller, Key
from core.endpoints import Endpoint, Rollout, RolloutState, Route, Snapshot, Target
from core.ids import EndpointName, Epoch, RolloutId
from core.ports.clock import Clock
from registry.codec import restore
from registry.database.access import keys_with_names
from registry.database.connection import Connections
from registry.database.endpoints import standing, to_endpoint
from registry.database.generation import current
from registry.database.tables import endpoints, gateways, keys, rollouts
from registry.database.upsert import replacing, upsert


class GatewaysTable:
    """Implements `Gateways`."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self._connections = connections
        self._clock = clock

    def snapshot(self) -> Snapshot:
        """Return routes without addresses, and the callers with live keys, all of one moment."""
        with self._connections.read() as connection:
            generation = current(connection)
            served = [to_endpoint(row) for row in connection.execute(select(endpoints).where(standing)).mappings()]
            trying = _open_rollouts(connection)
            callers = _live_callers(connection, self._clock.now())
        routes = {endpoint.name: _route(endpoint, trying) for endpoint in served}
        return Snapshot(generation=generation, routes=routes, callers=callers)

    def generation(self) -> int:
        """Return the routes' generation."""
        with self._connections.read() as connection:
            return current(connection)

    def report(self, gateway: str, generation: int, now: Epoch) -> None:
        """Note which generation a gateway follows."""
        row = {"name": gateway, "generation": generation, "at": now}
        with self._connections.write() as connection:
            upsert(connection, gateways, [row], replacing(gateways))

    def lagging(self, generation: int, since: Epoch) -> tuple[str, ...]:
        """Return the living gateways that follow an older generation, by name."""
        query = select(gateways.c.name).where(gateways.c.at > since, gateways.c.generation < generation)
        with self._connections.read() as connection:
            return tuple(sorted(connection.execute(query).scalars()))


def _open_rollouts(connection: Connection) -> dict[RolloutId, Rollout]:
    """Return the rollouts whose candidates may get conversations; one that is rolled back is withdrawn already."""
    states = [state for state in RolloutState if not state.ended and state is not RolloutState.ROLLING_BACK]
    rows = connection.execute(select(rollouts).where(rollouts.c.state.in_(states))).mappings()
    return {row["id"]: restore(Rollout, row) for row in rows}


def _route(endpoint: Endpoint, trying: Mapping[RolloutId, Rollout]) -> Route:
    name: EndpointName = endpoint.name
    stable = Target(endpoint.stable, None) if endpoint.stable else None
    rollout = trying.get(endpoint.rollout) if endpoint.rollout else None
    if rollout is None or endpoint.candidate is None:
        return Route(name, stable, policy=endpoint.policy)
    candidate = Target(endpoint.candidate, None)
    return Route(name, stable, candidate, rollout.share, rollout.deadline, rollout.id, endpoint.policy)


def _live_callers(connection: Connection, now: Epoch) -> dict[str, Caller]:
    unexpired = or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
    rows = connection.execute(keys_with_names().where(keys.c.revoked_at.is_(None), unexpired)).mappings()
    return {row["secret_sha256"]: _caller(row) for row in rows}


def _caller(row: RowMapping) -> Caller:
    key = restore(Key, row)
    return Caller(key.id, key.principal, key.principal_name, key.role, frozenset(key.endpoints), key.expires_at)
