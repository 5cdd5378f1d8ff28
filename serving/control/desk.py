"""What every handler of the control API works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

from core.access import Caller
from core.ids import Epoch, PrincipalId, VersionId
from core.leases import RECONCILE
from core.ports import Clock, Engines, FlowRuns, Records
from core.ports.records import AuditEntry
from core.ports.vitals import Vitals
from core.versions import ModelVersion
from serving.control.diagnosis import Limits
from serving.control.trials import Trials
from serving.control.vitals import NoVitals
from serving.control.waiting import Waiting, waiting


@dataclass(frozen=True, slots=True)
class Links:
    """Where the other pages are, as a person's browser reaches them."""

    prefect_ui: str
    mlflow_ui: str
    gateway_url: str

    def run(self, flow_run: str | None) -> str | None:
        """Return Prefect's page of a flow run."""
        return f"{self.prefect_ui.rstrip('/')}/runs/flow-run/{flow_run}" if flow_run else None

    def model(self, version: ModelVersion) -> str | None:
        """Return MLflow's page of a registered version (`models:/name/3`)."""
        if not version.registered_uri:
            return None
        name, _, number = version.registered_uri.removeprefix("models:/").rpartition("/")
        return f"{self.mlflow_ui.rstrip('/')}/#/models/{name}/versions/{number}"


@dataclass(frozen=True, slots=True)
class Desk:
    """The ports and links that handlers use."""

    records: Records
    runs: FlowRuns
    engines: Engines
    clock: Clock
    links: Links
    trials: Trials | None = None
    vitals: Vitals = field(default_factory=NoVitals)
    limits: Limits = field(default_factory=Limits)

    def audit(self, caller: Caller, action: str, subject: str, **detail: Any) -> None:
        """Write down who changed what."""
        self.records.audit.add(AuditEntry(self.clock.now(), f"{caller.name} ({caller.key})", action, subject, detail))

    def waiting(self, flow_run: str | None, lease_until: Epoch) -> Waiting | None:
        """Return why an open submission or benchmark waits; None while a process drives it."""
        if lease_until >= self.clock.now():
            return None
        return waiting(flow_run, self.records.runners.latest(), self.runs, self.clock)

    def reconcile_soon(self) -> None:
        """Have reconcile make a pass now instead of at its interval."""
        self.records.leases.call(RECONCILE, self.clock.now())

    def names(self) -> dict[PrincipalId, str]:
        """Return the principals' names by id, as far as they ever had a key."""
        return {key.principal: key.principal_name for key in self.records.access.keys()}  # noqa: SIM118 - a query, no dict

    def versions_of(self, submitter: PrincipalId) -> frozenset[VersionId]:
        """Return the versions that came of a submitter's submissions."""
        mine = self.records.submissions.find(submitter=submitter, limit=10_000)
        return frozenset(submission.version for submission in mine if submission.version)


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


TheDesk = Annotated[Desk, Depends(_desk)]
