"""From a Deployment and its pods to the port's phases, in words for the submitter of the model. Pure functions.

Starting or failed is decided like this. A cause that another attempt cannot remove (weights refused, an invalid image name) fails at
once. A cause that may pass without action (an image that cannot be pulled, no node on which it fits) fails after a limit. The kubelet
restarts a container that ends; it fails when it has ended three times without ever having been ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.engines import EngineCause, EnginePhase, EngineState
from core.ids import Epoch, VersionId
from core.settings import GIB
from serving.engines.causes import Diagnosis, diagnose, killed
from serving.engines.endings import Ending
from serving.engines.kubernetes.pod import CONTAINER
from serving.engines.kubernetes.quantity import amount

Object = Mapping[str, Any]

_STARTS = 3
_CRASHES = 6
_SHORT_RUN_S = 60.0
_CONFIG_LIMIT_S = 60.0
_ADMISSION_LIMIT_S = 10.0
_FORBIDDEN = ("is forbidden", "is invalid", "denied the request")
"""By these words the API server, which gives no other sign, tells a pod that it will not take from one that it could not take just now."""
_USED_UP = "exceeded quota"
_NEVER = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_PULLING = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError", "SignatureValidationFailed"})
_CREATING = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "PreCreateHookError", "PostStartHookError"}
)


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits in seconds for conditions that may pass without action."""

    start_s: float = 600.0
    pull_s: float = 300.0
    scheduling_s: float = 600.0
    settle_s: float = 3.0
    """What nodes take, after a pod is ready, to lead its Service's address to it (kube-proxy writes rules once a second at most)."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a pod from being ready. `failed`: waiting does not help; `cause` is None while nothing went wrong."""

    detail: str
    cause: EngineCause | None = None
    failed: bool = False


def read_state(
    version: VersionId, deployment: Object | None, pods: Sequence[Object], now: Epoch, *, address: str | None, patience: Patience
) -> EngineState:
    """Return the state that these objects show at `now`. `address` is where its Service answers."""
    if deployment is None or deployment["metadata"].get("deletionTimestamp"):
        phase = EnginePhase.STOPPING if pods or deployment is not None else EnginePhase.ABSENT
        return EngineState(version, phase)
    living = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp") and pod.get("status", {}).get("phase") != "Failed"]
    serving = [pod for pod in living if is_ready(pod)]
    restarts = sum(_status(pod).get("restartCount", 0) for pod in living)
    if serving and now - min(map(_ready_since, serving)) >= patience.settle_s:
        return _ready(version, deployment, living, serving, restarts, address)
    return _coming(version, deployment, living, restarts, now, patience)


def is_ready(pod: Object) -> bool:
    """Tell whether a pod is ready and not on its way out."""
    return not pod["metadata"].get("deletionTimestamp") and _condition(pod, "Ready").get("status") == "True"


def epoch(text: str | None) -> Epoch:
    """Return a time of the API as seconds since 1970; 0 for none."""
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _ready(
    version: VersionId, deployment: Object, living: Sequence[Object], serving: Sequence[Object], restarts: int, address: str | None
) -> EngineState:
    first = min(serving, key=_ready_since)
    started = epoch((_status(first).get("state", {}).get("running") or {}).get("startedAt"))
    since = _ready_since(first)
    wanted = deployment.get("spec", {}).get("replicas", 1)
    detail = "" if len(serving) == wanted == 1 else f"{len(serving)} of {max(wanted, len(living))} engines are ready"
    load = max(0.0, since - started) if started else 0.0
    return EngineState(version, EnginePhase.READY, address=address, detail=detail, restarts=restarts, since=since, load_seconds=load)


def _coming(version: VersionId, deployment: Object, living: Sequence[Object], restarts: int, now: Epoch, patience: Patience) -> EngineState:
    was_ready = _was_available(deployment)
    phase = EnginePhase.RESTARTING if was_ready else EnginePhase.STARTING
    made = epoch(deployment["metadata"].get("creationTimestamp"))
    if deployment.get("spec", {}).get("replicas", 1) == 0:
        return EngineState(version, phase, detail="asleep (scaled to zero); a request wakes it", cause=EngineCause.ASLEEP, since=made)
    if any(map(is_ready, living)):
        return EngineState(version, phase, detail="is ready; its Service follows", restarts=restarts, since=made)
    troubles = [trouble(pod, now, patience, was_ready=was_ready) for pod in living] or [_without_pods(deployment, now, patience)]
    found = next((one for one in troubles if one.failed), troubles[0])
    since = max((epoch(pod["metadata"].get("creationTimestamp")) for pod in living), default=made)
    hopeless = all(one.failed for one in troubles)
    return EngineState(
        version,
        EnginePhase.FAILED if hopeless else phase,
        detail=_one_line(found.detail),
        cause=found.cause,
        restarts=restarts,
        since=since,
    )


def trouble(pod: Object, now: Epoch, patience: Patience, *, was_ready: bool) -> Trouble:
    """Return what keeps a pod from being ready."""
    placed = _condition(pod, "PodScheduled")
    if placed.get("status") == "False":
        return _unplaced(placed, now, patience)
    status = _status(pod)
    waiting = status.get("state", {}).get("waiting") or {}
    last = status.get("lastState", {}).get("terminated") or status.get("state", {}).get("terminated")
    if waiting.get("reason") in _NEVER | _PULLING | _CREATING:
        return _kept_waiting(waiting, now - _down_since(pod), patience)
    if last is not None:
        return _ended(pod, last, was_ready=was_ready)
    return _loading(pod, now, patience, was_ready=was_ready)


def _unplaced(placed: Object, now: Epoch, patience: Patience) -> Trouble:
    """Say it in the scheduler's own words, which tell what is missing on how many nodes."""
    late = now - epoch(placed.get("lastTransitionTime")) > patience.scheduling_s
    why = placed.get("message") or placed.get("reason", "unschedulable")
    return Trouble(f"it fits on no node: {why}", EngineCause.NO_ROOM, failed=late)


def _loading(pod: Object, now: Epoch, patience: Patience, *, was_ready: bool) -> Trouble:
    """Count a start from the container's own: what its node and its image took is not the model's fault."""
    running = _status(pod).get("state", {}).get("running")
    begun = epoch(running.get("startedAt")) if running else _down_since(pod)
    late = not was_ready and bool(begun) and now - begun > patience.start_s
    if running:
        why = f"it was not ready after {patience.start_s:.0f} s" if late else "loads the weights"
        return Trouble(why, EngineCause.START_TIMEOUT if late else None, failed=late)
    why = f"its container was not made within {patience.start_s:.0f} s" if late else "waits for its container"
    return Trouble(why, EngineCause.CONTAINER if late else EngineCause.WAITING, failed=late)


def _down_since(pod: Object) -> Epoch:
    """Return since when a container has waited: since its node took the pod, it was last ready, or it last ended."""
    taken = pod.get("status", {}).get("startTime") or pod["metadata"].get("creationTimestamp")
    ended = (_status(pod).get("lastState", {}).get("terminated") or {}).get("finishedAt")
    return max(epoch(taken), epoch(ended), epoch(_condition(pod, "Ready").get("lastTransitionTime")))


def _kept_waiting(waiting: Object, waited_s: float, patience: Patience) -> Trouble:
    reason, message = waiting["reason"], waiting.get("message", "")
    if reason in _NEVER:
        return Trouble(f"its image cannot be had: {message or reason}; check SEATRIAL_KUBERNETES_IMAGE", EngineCause.IMAGE, failed=True)
    if reason in _PULLING:
        return Trouble(
            f"its image cannot be pulled: {message or reason}; check SEATRIAL_KUBERNETES_IMAGE and the pull secret",
            EngineCause.IMAGE,
            failed=waited_s > patience.pull_s,
        )
    return Trouble(f"its container cannot be made: {message or reason}", EngineCause.CONTAINER, failed=waited_s > _CONFIG_LIMIT_S)


def _ended(pod: Object, last: Object, *, was_ready: bool) -> Trouble:
    """Return why a container ended; the end of its log is in the termination message (see `seatrial_engine.pod`)."""
    status = _status(pod)
    why = _why_ended(last, _memory_limit(pod))
    state = status.get("state", {})
    ends = status.get("restartCount", 0) + (0 if state.get("running") else 1)
    if not was_ready:
        return Trouble(why.text, why.cause, failed=why.permanent or ends >= _STARTS)
    ran_s = epoch(last.get("finishedAt")) - epoch(last.get("startedAt"))
    looping = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff" and ran_s < _SHORT_RUN_S
    return Trouble(why.text, why.cause, failed=why.permanent or (looping and ends >= _CRASHES))


def _why_ended(last: Object, limit: str) -> Diagnosis:
    """Read how a container ended, in the same words as for a process of this machine."""
    if last.get("reason") == "OOMKilled":
        return Diagnosis(
            EngineCause.OUT_OF_MEMORY,
            f"out of memory: the kernel killed it at its limit{f' ({limit})' if limit else ''}; "
            "raise SEATRIAL_MODELS_ENGINE_MEMORY_BYTES or submit a smaller model",
        )
    ending = Ending.of_container(last.get("exitCode"))
    message = str(last.get("message", "")).strip().splitlines()
    if ending.signal == "SIGKILL" and not message:
        return killed(limit)  # by the kubelet or the kernel; the pod's first process could write nothing
    return diagnose(message, ending, memory=limit)


def _memory_limit(pod: Object) -> str:
    """Name the memory limit of the engine's container; empty where it has none."""
    containers = pod.get("spec", {}).get("containers") or ()
    limits = next((one.get("resources", {}).get("limits") or {} for one in containers if one.get("name") == CONTAINER), {})
    return f"the container's limit is {amount(limits['memory']) / GIB:.1f} GiB" if "memory" in limits else ""


def _without_pods(deployment: Object, now: Epoch, patience: Patience) -> Trouble:
    """Say what keeps pods from being made at all, by the Deployment. A quota that is used up may be freed, what is forbidden stays so."""
    refused = _condition(deployment, "ReplicaFailure")
    if refused.get("status") != "True":
        return Trouble("waits for its pod", EngineCause.WAITING)
    message = str(refused.get("message") or "see the Deployment")
    since = epoch(refused.get("lastTransitionTime") or deployment["metadata"].get("creationTimestamp"))
    limit_s = _ADMISSION_LIMIT_S if any(word in message for word in _FORBIDDEN) and _USED_UP not in message else patience.scheduling_s
    return Trouble(f"its pod is not admitted: {message}", EngineCause.NOT_ADMITTED, failed=now - since > limit_s)


def _was_available(deployment: Object) -> bool:
    """Tell whether its pods were ready once: `Progressing` says so until another template is rolled out."""
    return any(
        condition.get("type") == "Progressing" and condition.get("reason") == "NewReplicaSetAvailable"
        for condition in _conditions(deployment)
    )


def _ready_since(pod: Object) -> Epoch:
    return epoch(_condition(pod, "Ready").get("lastTransitionTime"))


def _condition(entry: Object, kind: str) -> Object:
    return next((condition for condition in _conditions(entry) if condition.get("type") == kind), {})


def _conditions(entry: Object) -> Iterable[Object]:
    conditions: Iterable[Object] = entry.get("status", {}).get("conditions") or ()
    return conditions


def _status(pod: Object) -> Object:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return next((status for status in statuses if status.get("name") == CONTAINER), {})


def _one_line(text: str) -> str:
    return " ".join(text.split())[:600]
