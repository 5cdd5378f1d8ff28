"""The Kubernetes adapter over our own API server, as tests need it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.engines import EngineSpec
from core.ids import Digest, VersionId
from core.ports.clock import VirtualClock
from core.settings import KubernetesPolicy
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.engines import KubernetesEngines
from serving.engines.kubernetes.pod_settings import PodSettings, pod_settings
from tests.equipment.kube_api import KubeApi, KubeServer

NAMESPACE = "models"
GIB = 2**30
IMAGE = "engine@sha256:" + "0" * 64


def policy(**more: Any) -> KubernetesPolicy:
    return KubernetesPolicy(**{"image": IMAGE, "pre_stop_s": 1.0, **more})


def where(**more: Any) -> PodSettings:
    return pod_settings(NAMESPACE, policy(**more), drain_s=10.0, start_limit_s=600.0)


def a_spec(number: int = 0, **more: Any) -> EngineSpec:
    version = VersionId(hashlib.sha256(str(number).encode()).hexdigest())
    given: dict[str, Any] = {
        "version": version,
        "model_uri": f"s3://bucket/bundles/{version}",
        "tensors_uri": "s3://bucket/bundles/tensors",
        "tensors_manifest": Digest("d" * 64),
        "max_model_len": 1024,
        "dtype": "bfloat16",
        "memory_bytes": 8 * GIB,
        "weights_bytes": 2 * GIB,
    }
    return EngineSpec(**{**given, **more})


@contextmanager
def cluster(clock: VirtualClock, folder: Path, *, keda: bool = False, **settings: Any) -> Iterator[tuple[KubeApi, KubernetesEngines]]:
    """Yield the server's state and an adapter on it."""
    kube = KubeApi(clock, keda=keda)
    with KubeServer(kube) as server:
        engines = adapter(server, clock, folder, **settings)
        yield kube, engines
        engines.close()


def adapter(server: KubeServer, clock: VirtualClock, folder: Path, **settings: Any) -> KubernetesEngines:
    api = Api(server.client(), NAMESPACE, clock, random=lambda: 0.5)
    return KubernetesEngines(api, where(**settings), clock, kept_logs=folder / "kept")


def pass_time(kube: KubeApi, clock: VirtualClock, seconds: float = 1.0) -> None:
    """Let the cluster do one round, and its news arrive."""
    clock.wait(seconds)
    kube.step()
    threading.Event().wait(0.02)


def eventually(holds: Callable[[], bool], act: Callable[[], None] = lambda: None, *, limit_s: float = 10.0) -> None:
    """Act until it holds."""
    give_up = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < give_up, "it never held"
        act()
        threading.Event().wait(0.01)
