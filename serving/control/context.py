"""The ports and links with which the routes of the control API work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.access import Caller
from core.ids import Epoch, PrincipalId, VersionId
from core.leases import RECONCILE
from core.links import Links
from core.ports import Clock, Engines, FlowRuns, Records
from core.ports.benchmark_results import BenchmarkResults
from core.ports.health_probes import HealthProbes
from core.ports.null import AnySuite
from core.ports.suites import Suites
from lifecycle.audit import write_audit
from serving.control.health_probes import NoHealthProbes
from serving.control.platform_problems import ProblemThresholds
from serving.control.wait_reasons import Waiting, waiting


@dataclass(frozen=True, slots=True)
class ControlContext:
    """The ports and links of one control API, with the queries and the changes that several routes share."""

    records: Records
    runs: FlowRuns
    engines: Engines
    clock: Clock
    links: Links
    results: BenchmarkResults | None = None
    probes: HealthProbes = field(default_factory=NoHealthProbes)
    thresholds: ProblemThresholds = field(default_factory=ProblemThresholds)
    suites: Suites = field(default_factory=AnySuite)
    queue: FlowRuns | None = None
    """The orchestrator with the short patience of a page, for reasons of waiting; `runs` where there is none."""

    def audit(self, caller: Caller, action: str, subject: str, **detail: Any) -> None:
        """Write down who changed what."""
        write_audit(self.records, self.clock, caller.actor, action, subject, **detail)

    def waiting(self, flow_run: str | None, lease_until: Epoch) -> Waiting | None:
        """Return why an open submission or benchmark waits; None while a process drives it."""
        if lease_until >= self.clock.now():
            return None
        return waiting(flow_run, self.records.runners.latest(), self.queue or self.runs, self.clock)

    def reconcile_soon(self) -> None:
        """Request a reconcile pass now instead of at its interval."""
        self.records.leases.call(RECONCILE, self.clock.now())

    def names(self) -> dict[PrincipalId, str]:
        """Return the names by id of all principals that have had a key."""
        return {key.principal: key.principal_name for key in self.records.access.keys()}  # noqa: SIM118 - a query, no dict

    def versions_of(self, submitter: PrincipalId) -> frozenset[VersionId]:
        """Return the versions of a submitter's submissions."""
        mine = self.records.submissions.find(submitter=submitter, limit=10_000)
        return frozenset(submission.version for submission in mine if submission.version)
