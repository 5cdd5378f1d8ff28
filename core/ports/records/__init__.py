"""The stored state, one repository per term. Adapter: SQLAlchemy, on SQLite and on PostgreSQL.

Every verb is one short transaction without any other network call inside it. Errors: NotFound, Conflict, Transient
(the database is unavailable or busy).
"""

from __future__ import annotations

from typing import Protocol

from core.ports.records.access import Access
from core.ports.records.audit import Audit, AuditEntry
from core.ports.records.benchmarks import Benchmarks
from core.ports.records.conversations import Conversations, LeaderboardRow, Recent
from core.ports.records.endpoints import Endpoints
from core.ports.records.gateways import Gateways
from core.ports.records.installation import Installation
from core.ports.records.leases import Leases
from core.ports.records.rollouts import Cohorts, Rollouts
from core.ports.records.runners import Runners
from core.ports.records.submissions import Submissions
from core.ports.records.versions import Versions

__all__ = [
    "Access",
    "Audit",
    "AuditEntry",
    "Benchmarks",
    "Cohorts",
    "Conversations",
    "Endpoints",
    "Gateways",
    "Installation",
    "LeaderboardRow",
    "Leases",
    "Recent",
    "Records",
    "Rollouts",
    "Runners",
    "Submissions",
    "Versions",
]


class Records(Protocol):
    """All repositories of one database."""

    @property
    def submissions(self) -> Submissions: ...  # noqa: D102
    @property
    def versions(self) -> Versions: ...  # noqa: D102
    @property
    def endpoints(self) -> Endpoints: ...  # noqa: D102
    @property
    def rollouts(self) -> Rollouts: ...  # noqa: D102
    @property
    def conversations(self) -> Conversations: ...  # noqa: D102
    @property
    def benchmarks(self) -> Benchmarks: ...  # noqa: D102
    @property
    def access(self) -> Access: ...  # noqa: D102
    @property
    def audit(self) -> Audit: ...  # noqa: D102
    @property
    def gateways(self) -> Gateways: ...  # noqa: D102
    @property
    def runners(self) -> Runners: ...  # noqa: D102
    @property
    def leases(self) -> Leases: ...  # noqa: D102
    @property
    def installation(self) -> Installation: ...  # noqa: D102
