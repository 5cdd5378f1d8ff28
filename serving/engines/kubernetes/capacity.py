"""Whether an engine fits: its requests against the nodes' free resources and the namespace's quotas, before it is created."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.engines import EngineSpec, Fit
from core.errors import Fault
from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.pod import pod_template, resources
from serving.engines.kubernetes.pod_settings import PodSettings
from serving.engines.kubernetes.quantity import amount

Object = Mapping[str, Any]

_SCOPES = frozenset({"NotBestEffort", "NotTerminating"})
_ENDED = frozenset({"Succeeded", "Failed"})
_BLOCKING = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the scheduler sees it; amounts in cores, bytes and pieces."""

    name: str
    allocatable: Mapping[str, float]
    free: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Object, ...] = ()
    open: bool = True
    """Ready, and not cordoned."""


def fit_of(api: Api, spec: EngineSpec, settings: PodSettings) -> Fit:
    """Query the cluster and compare. Without permission to list nodes, only the quotas count. Errors: Transient."""
    asked = {name: amount(value) for name, value in resources(spec, settings)["requests"].items()}
    pod, engines = pod_template(spec, settings)["spec"], max(1, settings.policy.min_engines)
    quotas = within_quotas(asked, api.list(kinds.QUOTAS).items, priority=pod.get("priorityClassName", ""), engines=engines)
    try:
        nodes = read_nodes(api.list(kinds.NODES).items, api.list(kinds.PODS, everywhere=True).items)
    except Fault:
        return quotas
    return on_nodes(asked, pod, nodes, grows=settings.policy.grows == 1, engines=engines) if quotas.fits else quotas


def within_quotas(asked: Mapping[str, float], quotas: Iterable[Object], *, priority: str = "", engines: int = 1) -> Fit:
    """Compare what `engines` of these ask for with what each quota leaves that counts them. One too small even when empty never fits."""
    wanted = {"pods": 1.0} | {f"requests.{name}": value for name, value in asked.items()} | dict(asked) | {"limits.memory": asked["memory"]}
    wanted = {name: engines * value for name, value in wanted.items()}
    wanted |= {"count/pods": float(engines), "count/deployments.apps": 1.0, "count/services": 1.0, "services": 1.0}
    for quota in filter(lambda quota: _counts(quota, priority), quotas):
        status = quota.get("status", {})
        for name, hard in (status.get("hard") or {}).items():
            need, limit, used = wanted.get(name, 0.0), amount(hard), amount((status.get("used") or {}).get(name))
            if need and used + need > limit:
                left = _shown(name, max(0.0, limit - used))
                return Fit(
                    fits=False,
                    ever=need <= limit,
                    reason=f"the quota {quota['metadata']['name']} leaves {left} {name} of {_shown(name, limit)}, "
                    f"the engine asks for {_shown(name, need)}",
                )
    return Fit(fits=True)


def on_nodes(asked: Mapping[str, float], pod: Object, nodes: Sequence[Node], *, grows: bool, engines: int = 1) -> Fit:
    """Compare what each of `engines` pods asks for with the nodes that it may run on."""
    if grows:
        return Fit(fits=True)  # a pod that waits is what makes such a cluster grow
    suitable = [node for node in nodes if _admits(node, pod)]
    if not suitable:
        return Fit(fits=False, ever=False, reason=_none_suitable(nodes, pod))
    now = sum(_holds(node.free, asked) for node in suitable if node.open)
    if now >= engines:
        return Fit(fits=True)
    most = sum(_holds(node.allocatable, asked) for node in suitable)
    ever = most >= engines
    if (now if ever else most) > 0:
        lacks = f"they fit {now if ever else most} of the {engines} engines of SEATRIAL_KUBERNETES_MIN_ENGINES"
    else:
        lacks = f"{'none fits it now' if ever else 'none ever fits it'}: {_tightest(asked, suitable, free=ever)}"
    return Fit(fits=False, ever=ever, reason=f"{len(suitable)} of {len(nodes)} nodes may run it, {lacks}")


def read_nodes(nodes: Iterable[Object], pods: Iterable[Object]) -> tuple[Node, ...]:
    """Return the nodes with what pods that have not ended leave of them."""
    used: dict[str, dict[str, float]] = {}
    for pod in pods:
        node = pod.get("spec", {}).get("nodeName")
        if node and pod.get("status", {}).get("phase") not in _ENDED:
            of_node = used.setdefault(node, {"pods": 0.0})
            of_node["pods"] += 1
            for name, value in requested(pod["spec"]).items():
                of_node[name] = of_node.get(name, 0.0) + value
    return tuple(_node(node, used.get(node["metadata"]["name"], {})) for node in nodes)


def requested(pod: Object) -> dict[str, float]:
    """Return what a pod takes from its node: its containers together, or its largest init container where that is more."""
    total: dict[str, float] = {}
    for container in pod.get("containers", ()):
        for name, value in _requests(container).items():
            total[name] = total.get(name, 0.0) + value
    for container in pod.get("initContainers", ()):
        for name, value in _requests(container).items():
            total[name] = max(total.get(name, 0.0), value)
    for name, value in (pod.get("overhead") or {}).items():
        total[name] = total.get(name, 0.0) + amount(value)
    return total


def tolerated(taint: Object, tolerations: Iterable[Object]) -> bool:
    """Tell whether one of the tolerations bears the taint."""
    return any(
        toleration.get("effect") in {None, "", taint.get("effect")}
        and (not toleration.get("key") or toleration["key"] == taint.get("key"))
        and (toleration.get("operator") == "Exists" or (toleration.get("value") or "") == (taint.get("value") or ""))
        for toleration in tolerations
    )


def _requests(container: Object) -> dict[str, float]:
    asked = container.get("resources") or {}
    return {name: amount(value) for name, value in {**(asked.get("limits") or {}), **(asked.get("requests") or {})}.items()}


def _node(node: Object, used: Mapping[str, float]) -> Node:
    status, spec = node.get("status", {}), node.get("spec", {})
    allocatable = {name: amount(value) for name, value in (status.get("allocatable") or {}).items()}
    ready = any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in status.get("conditions") or ())
    return Node(
        name=node["metadata"]["name"],
        allocatable=allocatable,
        free={name: value - used.get(name, 0.0) for name, value in allocatable.items()},
        labels=node["metadata"].get("labels") or {},
        taints=tuple(taint for taint in spec.get("taints") or () if not str(taint.get("key", "")).startswith("node.kubernetes.io/")),
        open=ready and not spec.get("unschedulable", False),
    )


def _admits(node: Node, pod: Object) -> bool:
    chosen = all(node.labels.get(key) == value for key, value in (pod.get("nodeSelector") or {}).items())
    return chosen and all(tolerated(taint, pod.get("tolerations") or ()) for taint in node.taints if taint.get("effect") in _BLOCKING)


def _holds(there: Mapping[str, float], asked: Mapping[str, float]) -> int:
    """Return how many pods that ask for this fit beside each other."""
    parts = [there.get(name, 0.0) / value for name, value in asked.items() if value]
    return max(0, math.floor(min([there.get("pods", 1.0), *parts])))


def _counts(quota: Object, priority: str) -> bool:
    """Tell whether a quota counts engines. Their pods ask for memory (so they are not best-effort), have no deadline and no affinity.

    A priority class that the cluster gives by default is not known here: the pod then waits, and says why.
    """
    spec = quota.get("spec") or {}
    expressions = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    scopes = [*({"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()), *expressions]
    return all(_in_scope(scope, priority) for scope in scopes)


def _in_scope(scope: Object, priority: str) -> bool:
    if scope.get("scopeName") != "PriorityClass":
        return scope.get("scopeName") in _SCOPES
    values = scope.get("values") or ()
    return {
        "In": priority in values,
        "NotIn": priority not in values,
        "Exists": bool(priority),
        "DoesNotExist": not priority,
    }.get(str(scope.get("operator")), False)


def _tightest(asked: Mapping[str, float], nodes: Sequence[Node], *, free: bool) -> str:
    """Name the resource that the best node lacks most, with the numbers."""
    lacks = []
    for name, need in asked.items():
        best = max((node.free if free else node.allocatable).get(name, 0.0) for node in nodes)
        lacks.append((best / need if need else 1.0, name, best, need))
    _part, name, best, need = min(lacks)
    return f"it asks for {_shown(name, need)} {name}, the largest has {_shown(name, max(0.0, best))} {name}" + (" free" if free else "")


def _none_suitable(nodes: Sequence[Node], pod: Object) -> str:
    selector = ",".join(f"{key}={value}" for key, value in (pod.get("nodeSelector") or {}).items())
    taints = sorted({str(taint.get("key")) for node in nodes for taint in node.taints if taint.get("effect") in _BLOCKING})
    said = [f"the selector {selector}" if selector else "", f"the taints {', '.join(taints)}" if taints else ""]
    return f"none of {len(nodes)} nodes may run it; see {' and '.join(filter(None, said)) or 'the nodes'}"


def _shown(name: str, value: float) -> str:
    if "memory" in name or "storage" in name:
        return f"{value / 2**30:.1f} GiB of"
    return f"{value:g}"
