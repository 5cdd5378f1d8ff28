"""The capacity check before a candidate starts: a candidate that does not fit is queued with the reason, or refused."""

from __future__ import annotations

from collections.abc import Callable

from core.engines import EngineSpec
from core.errors import Refused
from core.ports import Capacity, Clock
from core.reasons import Reason

_LOOK_S = 5.0


def await_fit(
    capacity: Capacity, spec: EngineSpec, clock: Clock, *, queue_s: float, say: Callable[[str], None], wanted: Callable[[], bool]
) -> None:
    """Return when the engine fits. Refused if it never will, did not within `queue_s`, or is no longer wanted.

    `say` receives the reason of the wait. Errors of the port: Transient, Fault.
    """
    limit = clock.monotonic() + queue_s
    while not (fit := capacity.fit(spec)).fits:
        if not fit.ever:
            raise Refused(
                f"no machine of the cluster can run {spec.version[:12]}: {fit.reason}",
                reason=Reason.UNSCHEDULABLE,
                hint="add a larger node, lower SEATRIAL_MODELS_ENGINE_MEMORY_BYTES or SEATRIAL_KUBERNETES_CPU, or submit a smaller model",
            )
        if clock.monotonic() >= limit:
            raise Refused(
                f"{spec.version[:12]} did not fit within {queue_s:.0f} s: {fit.reason}",
                reason=Reason.NO_ROOM,
                hint="stop other engines, add a node, or raise SEATRIAL_KUBERNETES_QUEUE_S; then submit again",
            )
        if not wanted():
            raise Refused("cancelled while it waited for capacity", reason=Reason.CANCELLED)
        say(f"queued: {fit.reason}")
        clock.wait(_LOOK_S)
