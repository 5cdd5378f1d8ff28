"""Where engines run."""

from __future__ import annotations

from typing import Protocol

from core.engines import EngineSpec, EngineState, Fit, Role
from core.ids import EndpointName, VersionId


class Engines(Protocol):
    """Engines by model version, each started from an immutable spec. Adapters: local vLLM processes, Kubernetes.

    The port takes the desired state and reports the actual state. A separate supervisor (the engine supervisor, the kubelet) restarts an
    engine that died, with growing pauses, and adopts engines that outlived it. Errors: Transient, Fault.
    """

    def apply(self, spec: EngineSpec) -> None:
        """Request an engine. Returns before it is ready.

        The same spec again changes nothing. Another spec for the same version raises Conflict, and the existing engine stays unchanged.
        After `failed`, the same spec again is a new attempt. After `stop`, it starts the engine again.
        """
        ...

    def state(self, version: VersionId) -> EngineState:
        """Return what is known now; phase `absent` for what was never applied or is stopped and gone. Never blocks on the engine."""
        ...

    def list(self) -> tuple[EngineState, ...]:
        """Return the state of every engine that is requested or still exists, by version."""
        ...

    def stop(self, version: VersionId, *, drain_s: float) -> None:
        """Request the end of an engine: answers in flight get `drain_s`, then it is killed. Returns at once.

        Its phase is `stopping` until its processes are gone, then `absent`. Stopping an absent engine does nothing.
        """
        ...

    def logs(self, version: VersionId, lines: int) -> tuple[str, ...]:
        """Return the last `lines` lines of its output, oldest first; empty when there are none. Kept after it stopped."""
        ...


class Capacity(Protocol):
    """Checks before a start whether an engine fits. Only where a scheduler assigns engines to shared machines."""

    def fit(self, spec: EngineSpec) -> Fit:
        """Compare the engine's requests with the free resources. An engine that already runs fits. Errors: Transient, Fault."""
        ...


class Activator(Protocol):
    """Starts an engine of a version that is scaled to zero, for trials and benchmarks, which call engines directly."""

    def activate(self, version: VersionId) -> bool:
        """Start one engine of a version that is scaled to zero, and keep it for as long as a start may take; return whether it was at zero.

        A version that is running, stopped or was never applied stays unchanged. Returns before the engine is ready. Errors: Transient,
        Fault.
        """
        ...


class EventRecorder(Protocol):
    """Shows events and roles beside engines, for people who look there. Raises nothing; drops an event if its store is unavailable."""

    def record(self, version: VersionId, reason: str, message: str, *, warning: bool = False) -> None:
        """Record one event of an engine. `reason` is a word in CamelCase for programs. The same event again is shown once."""
        ...

    def mark(self, version: VersionId, endpoint: EndpointName, role: Role | None) -> None:
        """Show the role of the version at an endpoint; None removes it. Marking again changes nothing."""
        ...
