"""Real vLLM in a restricted pod: its environment from the node, its model from S3 and from nowhere else."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from core.engines import EnginePhase, EngineSpec
from core.ids import Digest, VersionId
from core.versions import FileDigest
from infra.testcluster.addresses import GATEWAY
from infra.testcluster.cluster import Cluster
from registry.weights.s3 import S3Weights
from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.kinds import Kind
from tests.equipment.cluster_env import ask, bare_image
from tests.equipment.kube_env import eventually
from tests.equipment.kube_real import admin_client, engines_on, namespace, vllm_settings
from tests.equipment.s3_server import S3Server

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow, pytest.mark.vllm, pytest.mark.release]

ROOT = Path(__file__).resolve().parents[2]
ENGINE_PYTHON = ROOT / "serving/engines/vllm/.venv/bin/python"
STEADY = ROOT / "tests/equipment/models/steady"
SECRETS = Kind("api/v1", "secrets")
BUCKET = "weights"
LIMIT_S = 300.0


@pytest.fixture
def store(cluster: Cluster, tmp_path: Path) -> Iterator[S3Server]:
    """An S3 server on the address by which pods reach this machine."""
    assert cluster.kubeconfig.exists()
    with S3Server(tmp_path / "s3", GATEWAY) as server:
        server.bucket(BUCKET)
        yield server


def staged(store: S3Server, folder: Path, *, without: str = "") -> tuple[str, Digest]:
    """Stage a folder as the platform does, and return its address."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != (without or "-"))
    files = [FileDigest(path.name, path.stat().st_size, Digest(hashlib.sha256(path.read_bytes()).hexdigest())) for path in paths]
    digest = Digest(hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest())
    return S3Weights(BUCKET, "models", store.client()).stage(digest, folder, files).uri, digest


def steady(store: S3Server, folder: Path) -> EngineSpec:
    tensors = folder / "tensors"
    command = [str(ENGINE_PYTHON), "-m", "seatrial_engine.tensorize", str(STEADY), str(tensors)]
    subprocess.run(command, check=True, cwd=ROOT / "serving/engines/vllm", capture_output=True)
    tensors_uri, _ = staged(store, tensors)
    model_uri, digest = staged(store, STEADY, without=".safetensors")
    manifest = Digest(hashlib.sha256((tensors / "tensors.json").read_bytes()).hexdigest())
    size = sum(path.stat().st_size for path in tensors.iterdir())
    return EngineSpec(VersionId(digest), model_uri, tensors_uri, manifest, 1024, "bfloat16", 4 * 2**30, size)


def give(space: Api, name: str, values: Mapping[str, str]) -> None:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    space.create(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})


def test_real_vllm_serves_from_s3_in_a_restricted_pod(cluster: Cluster, store: S3Server, tmp_path: Path) -> None:
    spec = steady(store, tmp_path)
    with namespace(cluster.kubeconfig) as space:
        keys = {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key, "AWS_DEFAULT_REGION": "us-east-1"}
        give(space, "weights", keys)
        where = vllm_settings(space.namespace, bare_image(cluster, tmp_path), store.url, weights_secret="weights")
        engines = engines_on(admin_client(cluster.kubeconfig), where, tmp_path)
        engines.apply(spec)
        eventually(lambda: engines.state(spec.version).phase in {EnginePhase.READY, EnginePhase.FAILED}, limit_s=LIMIT_S)
        ready = engines.state(spec.version)
        assert ready.phase is EnginePhase.READY, (ready, engines.logs(spec.version, 40))
        status, said = ask(ready.address, model="any", max_tokens=8)
        assert status == 200
        assert json.loads(said)["model"] == spec.version
        engines.stop(spec.version, drain_s=5)
        eventually(lambda: not space.list(kinds.PODS).items, limit_s=60.0)
        engines.close()
