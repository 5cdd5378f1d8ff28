"""Before anything is touched: a candidate that finds no room is refused, or queued with the reason."""

from __future__ import annotations

from collections.abc import Callable

from core.engines import EngineSpec
from core.errors import Refused
from core.ports import Capacity, Clock

_LOOK_S = 5.0


def await_room(
    capacity: Capacity, spec: EngineSpec, clock: Clock, *, queue_s: float, say: Callable[[str], None], wanted: Callable[[], bool]
) -> None:
    """Return when the engine fits. Refused when it never will, or did not within `queue_s`, or when it is not wanted any more.

    `say` is told why it waits. Errors of the port: Transient, Fault.
    """
    limit = clock.monotonic() + queue_s
    while not (room := capacity.room(spec)).fits:
        if not room.ever:
            raise Refused(
                f"no machine of the cluster can run {spec.version[:12]}: {room.reason}",
                reason="unschedulable",
                hint="add a larger node, lower SEATRIAL_MODELS_ENGINE_MEMORY_BYTES or SEATRIAL_KUBERNETES_CPU, or submit a smaller model",
            )
        if clock.monotonic() >= limit:
            raise Refused(
                f"{spec.version[:12]} found no room within {queue_s:.0f} s: {room.reason}",
                reason="no_room",
                hint="stop other engines, add a node, or raise SEATRIAL_KUBERNETES_QUEUE_S; then submit again",
            )
        if not wanted():
            raise Refused("cancelled while it waited for room", reason="cancelled")
        say(f"queued: {room.reason}")
        clock.wait(_LOOK_S)
