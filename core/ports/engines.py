"""Where engines run."""

from __future__ import annotations

from typing import Protocol

from core.engines import EngineSpec, EngineState, Role, Room
from core.ids import EndpointName, VersionId


class Engines(Protocol):
    """Engines by model version, each started from an immutable spec. Adapters: local vLLM processes, Kubernetes.

    The port takes the desired state and reports the actual state. A separate supervisor (a keeper process, the kubelet) keeps engines
    alive: it restarts an engine that died, with growing pauses, and adopts engines that outlived it. Errors: Transient, Fault.
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
        """Return the state of every engine that is wished for or still there, by version."""
        ...

    def stop(self, version: VersionId, *, drain_s: float) -> None:
        """Wish it gone: no new requests are expected, those in flight may take `drain_s`, then it is killed. Returns at once.

        Its phase is `stopping` until its processes are gone, then `absent`. Stopping what is gone does nothing.
        """
        ...

    def logs(self, version: VersionId, lines: int) -> tuple[str, ...]:
        """Return the last `lines` lines of its output, oldest first; empty when there are none. Kept after it stopped."""
        ...


class Capacity(Protocol):
    """Tells before anything is touched whether an engine would find room. Only where engines share machines that somebody else allots."""

    def room(self, spec: EngineSpec) -> Room:
        """Compare what the engine asks for with what is there now. An engine that runs already has its room. Errors: Transient, Fault."""
        ...


class Waker(Protocol):
    """Wakes what an autoscaler put to sleep, for trials and benchmarks, which ask engines directly. Only where engines may sleep."""

    def wake(self, version: VersionId) -> bool:
        """Bring one engine of a sleeping version up, and keep it up for as long as a start may take; return whether it slept.

        What is awake, stopped or was never applied is left as it is. Returns before the engine is ready. Errors: Transient, Fault.
        """
        ...


class Noticeboard(Protocol):
    """Where people look at engines: the actions on an engine, their reasons and its owner. Raises nothing; skips an unavailable board."""

    def tell(self, version: VersionId, reason: str, message: str, *, warning: bool = False) -> None:
        """Show one event beside the engine. `reason` is a word in CamelCase for programs. The same event again shows once."""
        ...

    def mark(self, version: VersionId, endpoint: EndpointName, role: Role | None) -> None:
        """Show what the version is to an endpoint; None: nothing any more. Marking again changes nothing."""
        ...
