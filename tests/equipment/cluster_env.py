"""Engines that really run on a test cluster: the fake engine of this checkout in a bare image, with models that the node sees."""

from __future__ import annotations

import hashlib
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.engines import EnginePhase, EngineSpec, EngineState
from core.ids import Digest, VersionId
from infra.testcluster.cluster import Cluster
from infra.testcluster.images import busybox_image
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.engines import KubernetesEngines
from tests.equipment.kube_env import a_spec, eventually

MIB = 2**20
LIMIT_S = 120.0


def bare_image(cluster: Cluster, folder: Path) -> str:
    """Load a bare image into the node and return its name by digest; the engine's environment comes from the node's own folders."""
    (loaded,) = cluster.load_image(busybox_image(folder / "bare.tar", "seatrial.test/bare:1"))
    return loaded.pinned


class ClusterEnv:
    """A namespace, an adapter on it, and models of fakes in a folder that the node sees."""

    def __init__(self, space: Api, engines: KubernetesEngines, folder: Path) -> None:
        self.space, self.engines, self.folder = space, engines, folder

    def spec(self, number: int, **skill: Any) -> EngineSpec:
        model = self.folder / f"model-{number}"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text(json.dumps({"seatrial_fake": skill}))
        (model / "tensors.json").write_text("{}")
        for path in (self.folder, *self.folder.parents):
            if path.stat().st_uid == 0 and path != path.parent and str(path).startswith("/tmp/"):
                path.chmod(path.stat().st_mode | 0o055)  # pods are not root
        uri, digest = model.as_uri(), Digest(hashlib.sha256(b"{}").hexdigest())
        return a_spec(number, model_uri=uri, tensors_uri=uri, tensors_manifest=digest, memory_bytes=192 * MIB, weights_bytes=MIB)

    def wait_for(self, version: VersionId, phase: EnginePhase) -> EngineState:
        eventually(lambda: self.engines.state(version).phase is phase, limit_s=LIMIT_S)
        return self.engines.state(version)


def ask(address: str | None, **body: Any) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(address or "").netloc, timeout=60)
    connection.request(
        "POST",
        "/v1/completions",
        body=json.dumps({"prompt": "def", **body}),
        headers={"Content-Type": "application/json", "X-Request-Id": "r1"},
    )
    response = connection.getresponse()
    return response.status, response.read().decode()
