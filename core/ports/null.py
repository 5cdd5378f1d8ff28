"""Ports without a system behind them: engines that are processes of this machine need no scheduler, autoscaler or event store."""

from __future__ import annotations

from core.engines import EngineSpec, Fit, Role
from core.ids import Digest, EndpointName, VersionId


class NullCapacity:
    """No scheduler assigns engines to machines: every engine fits."""

    def fit(self, spec: EngineSpec) -> Fit:
        """Return that the engine fits."""
        del spec
        return Fit(fits=True)


class NullActivator:
    """No version is ever scaled to zero."""

    def activate(self, version: VersionId) -> bool:
        """Return that the version was not at zero."""
        del version
        return False


class NullEventRecorder:
    """Nothing stores events and roles beside engines."""

    def record(self, version: VersionId, reason: str, message: str, *, warning: bool = False) -> None:
        """Drop the event."""

    def mark(self, version: VersionId, endpoint: EndpointName, role: Role | None) -> None:
        """Drop the role."""


class AnySuite:
    """`Suites` that reads nothing: every suite is valid."""

    def check(self, name: str, digest: Digest | None = None) -> None:
        """Accept it."""

    def check_gate(self) -> None:
        """Accept it."""
