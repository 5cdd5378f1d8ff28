"""All repositories of one database (port: core/ports/records/)."""

from __future__ import annotations

from types import TracebackType

from core.ports.clock import Clock, SystemClock
from registry.database.access import AccessTable
from registry.database.audit import AuditTable
from registry.database.benchmarks import BenchmarksTable
from registry.database.connection import Connections, make_engine
from registry.database.conversations import ConversationsTable
from registry.database.endpoints import EndpointsTable
from registry.database.gateways import GatewaysTable
from registry.database.installation import InstallationTable
from registry.database.leases import LeasesTable
from registry.database.rollouts import RolloutsTable
from registry.database.runners import RunnersTable
from registry.database.submissions import SubmissionsTable
from registry.database.versions import VersionsTable


class Database:
    """Implements `Records`. Safe to share between threads; every process opens its own."""

    def __init__(self, connections: Connections, *, slow_ttft_s: float, clock: Clock) -> None:
        self._connections = connections
        self.submissions = SubmissionsTable(connections)
        self.versions = VersionsTable(connections)
        self.endpoints = EndpointsTable(connections)
        self.rollouts = RolloutsTable(connections, slow_ttft_s)
        self.conversations = ConversationsTable(connections)
        self.benchmarks = BenchmarksTable(connections)
        self.access = AccessTable(connections)
        self.audit = AuditTable(connections)
        self.gateways = GatewaysTable(connections, clock)
        self.runners = RunnersTable(connections)
        self.leases = LeasesTable(connections)
        self.installation = InstallationTable(connections)

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()

    def __enter__(self) -> Database:
        """Return the database itself."""
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        """Close it."""
        self.close()


def open_database(url: str, *, slow_ttft_s: float = 10.0, clock: Clock | None = None) -> Database:
    """Return the database at an SQLAlchemy URL: `sqlite:////file` or `postgresql://...`. Connects on first use.

    `slow_ttft_s`: a first token that takes longer makes a conversation bad (seconds). `clock` decides which keys are live.
    Raises Refused when the URL is none of ours. `migrate(url)` must have run.
    """
    return Database(Connections(make_engine(url)), slow_ttft_s=slow_ttft_s, clock=clock or SystemClock())
