"""A fleet on a cluster of simulated nodes (kwok): what a reconcile pass over it costs, in time, calls and memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.table import Table

from core.engine_memory import MIB
from core.engines import EnginePhase, EngineSpec, Role
from core.ids import EndpointName
from core.ports.clock import SystemClock
from serving.engines.kubernetes.api import Api, connect
from serving.engines.kubernetes.engines import KubernetesEngines
from serving.engines.kubernetes.pod_settings import pod_settings
from tests.equipment.clusters import running_cluster
from tests.equipment.kube_env import GIB, a_spec, policy
from tests.equipment.kube_real import namespace

ENDPOINTS = 200
VERSIONS = 1000
_READY_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: seconds, and calls to the API server by verb and kind (watches apart: they are streams that stay open)."""

    seconds: float
    calls: dict[str, int]


def bench(*, versions: int = VERSIONS, endpoints: int = ENDPOINTS) -> dict[str, Any]:
    """Bring a cluster of simulated nodes up, make a fleet on it, reconcile it, and take it all away again."""
    with running_cluster(simulated_nodes=8) as cluster:
        return measure(cluster.kubeconfig, versions=versions, endpoints=endpoints)


def measure(kubeconfig: Path, *, versions: int, endpoints: int) -> dict[str, Any]:
    """Make and reconcile a fleet. `kubeconfig` is an administrator's, and kwok plays the cluster's nodes."""
    with namespace(kubeconfig) as space:
        specs = [a_spec(number, memory_bytes=GIB, weights_bytes=MIB) for number in range(versions)]
        made = _made(kubeconfig, space.namespace, specs, endpoints)
        return {
            "versions": versions,
            "endpoints": endpoints,
            "made": _row(made),
            **_reconciled(kubeconfig, space.namespace, specs, endpoints),
        }


def table(results: dict[str, Any]) -> Table:
    """Return what is printed."""
    shown = Table(
        "pass",
        "seconds",
        "calls to the API server",
        title=f"{results['versions']} versions and {results['endpoints']} endpoints on simulated nodes; {results['memory_mb']} MB",
        title_justify="left",
    )
    passes = {"all made": results["made"], "first of a process": results["first_pass"]}
    passes |= {f"unchanged {number}": row for number, row in enumerate(results["later_passes"], 1)}
    for name, row in passes.items():
        shown.add_row(name, f"{row['seconds']:.2f}", ", ".join(f"{count} {call}" for call, count in row["calls"].items()) or "none")
    return shown


def _made(kubeconfig: Path, space: str, specs: list[EngineSpec], endpoints: int) -> Pass:
    engines = _engines(kubeconfig, space)
    made = _pass(engines, specs, endpoints)
    clock, give_up = SystemClock(), monotonic() + _READY_LIMIT_S
    while not all(state.phase is EnginePhase.READY for state in engines.list()):
        assert monotonic() < give_up, "the fleet does not get ready"
        clock.wait(1.0)
    engines.close()
    return made


def _reconciled(kubeconfig: Path, space: str, specs: list[EngineSpec], endpoints: int) -> dict[str, Any]:
    """A fresh process' first pass, which lists, and its later ones, which do not."""
    engines = _engines(kubeconfig, space)
    first = _pass(engines, specs, endpoints)
    later = [_pass(engines, specs, endpoints) for _ in range(3)]
    engines.close()
    informer_mb = _memory(kubeconfig, space, specs, endpoints)
    return {"first_pass": _row(first), "later_passes": [_row(one) for one in later], "memory_mb": informer_mb}


def _memory(kubeconfig: Path, space: str, specs: list[EngineSpec], endpoints: int) -> float:
    """What the copy of the cluster takes; traced in a pass of its own, because tracing slows it down."""
    tracemalloc.start()
    engines = _engines(kubeconfig, space)
    _pass(engines, specs, endpoints)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    engines.close()
    return round(kept / 1e6, 1)


def _pass(engines: KubernetesEngines, specs: list[EngineSpec], endpoints: int) -> Pass:
    """What `keep_engines` does: apply all, mark those that serve, look for the unwanted."""
    before, started = dict(engines._api.calls.counts), monotonic()
    for spec in specs:
        engines.apply(spec)
    for number in range(endpoints):
        engines.mark(specs[number].version, EndpointName(f"endpoint-{number}"), Role.STABLE)
    states = engines.list()
    assert len(states) == len(specs)
    after = engines._api.calls.counts
    calls = {f"{verb} {kind}": count - before.get((verb, kind), 0) for (verb, kind), count in after.items() if verb != "watch"}
    return Pass(monotonic() - started, {name: count for name, count in sorted(calls.items()) if count})


def _engines(kubeconfig: Path, space: str) -> KubernetesEngines:
    clock = SystemClock()
    where = pod_settings(space, policy(cpu=0.1, node_selector="seatrial.dev/simulated=true"), drain_s=1.0)
    return KubernetesEngines(Api(connect(str(kubeconfig)), space, clock), where, clock)


def _row(one: Pass) -> dict[str, Any]:
    return {"seconds": round(one.seconds, 3), "calls": one.calls}


if __name__ == "__main__":
    Console(width=140).print(table(bench()))
