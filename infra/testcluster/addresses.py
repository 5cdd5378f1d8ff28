"""Addresses and ports of a cluster.

A cluster with a node lives on a bridge of its own with ranges of RFC 2544 (198.18.0.0/15, for tests of devices): no real network uses
them, nothing is ever routed there, and what is sent to them never leaves this machine. Everything listens on the bridge's address,
so ports are the usual ones and clash with nothing. Simulated nodes need no network: all is on loopback, on ports that were free.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

BRIDGE = "seatrial0"
GATEWAY = "198.18.0.1"
POD_RANGE = "198.18.0.0/16"
SIMULATED_POD_RANGE = "198.18.128.1/17"
"""Of pods that do not exist; pods of a real node come from the lower half."""
SERVICE_RANGE = "198.19.0.0/16"
API_SERVICE = "198.19.0.1"
NODE = "seatrial-node"
DOMAIN = "cluster.local"
LOOPBACK = "127.0.0.1"

NODE_PORTS: Mapping[str, int] = {
    "etcd": 2379,
    "etcd-peer": 2380,
    "api": 6443,
    "controller-manager": 10257,
    "scheduler": 10259,
    "kubelet": 10250,
    "proxy-health": 10256,
    "proxy-metrics": 10249,
    "dns": 53,
    "keda-grpc": 9666,
    "keda-api": 9443,
    "keda-metrics": 9081,
    "keda-health": 9082,
    "keda-adapter-metrics": 9083,
    "metrics-server": 9444,
}
SIMULATED_PORTS = ("etcd", "etcd-peer", "api", "controller-manager", "scheduler", "kwok")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the control plane listens."""

    host: str
    ports: Mapping[str, int]

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.host}:{self.ports['api']}"

    @property
    def etcd(self) -> str:
        """Where clients of etcd go."""
        return f"http://{self.host}:{self.ports['etcd']}"


def free_ports() -> dict[str, int]:
    """Return a free loopback port for each process of a simulated cluster."""
    probes = [socket.socket() for _ in SIMULATED_PORTS]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return {name: int(probe.getsockname()[1]) for name, probe in zip(SIMULATED_PORTS, probes, strict=True)}
    finally:
        for probe in probes:
            probe.close()
