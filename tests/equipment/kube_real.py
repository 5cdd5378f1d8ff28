"""The Kubernetes adapter on a real API server, in its own namespace, with exactly its RBAC rules and with fake engines."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client import ApiClient, Configuration

from core.ports.clock import SystemClock
from core.settings import KubernetesPolicy
from serving.engines.kubernetes.api import Api, connect
from serving.engines.kubernetes.engines import KubernetesEngines
from serving.engines.kubernetes.kinds import Kind
from serving.engines.kubernetes.pod_settings import PodSettings, pod_settings
from serving.engines.kubernetes.rbac import CLUSTER_ROLE, ROLE

ROOT = Path(__file__).resolve().parents[2]
NAMESPACES = Kind("api/v1", "namespaces", namespaced=False)
ACCOUNTS = Kind("api/v1", "serviceaccounts")
ROLES = Kind("apis/rbac.authorization.k8s.io/v1", "roles")
BINDINGS = Kind("apis/rbac.authorization.k8s.io/v1", "rolebindings")
CLUSTER_ROLES = Kind("apis/rbac.authorization.k8s.io/v1", "clusterroles", namespaced=False)
CLUSTER_BINDINGS = Kind("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", namespaced=False)
RBAC = "rbac.authorization.k8s.io"


def admin(kubeconfig: Path, namespace: str) -> Api:
    return Api(admin_client(kubeconfig), namespace, SystemClock())


def admin_client(kubeconfig: Path) -> ApiClient:
    return connect(str(kubeconfig))


@contextmanager
def namespace(kubeconfig: Path, *, restricted: bool = False) -> Iterator[Api]:
    """Make a namespace and yield an administrator's view of it; with `restricted`, pods must pass that standard."""
    name = f"models-{secrets.token_hex(4)}"
    api = admin(kubeconfig, name)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"} if restricted else {}
    api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        yield api
    finally:
        api.delete(NAMESPACES, name)


@contextmanager
def least_permissions(kubeconfig: Path, api: Api) -> Iterator[ApiClient]:
    """Yield a client of a service account that may do exactly what serving/engines/kubernetes/rbac.py lists."""
    name = f"seatrial-{api.namespace}"
    subject = {"kind": "ServiceAccount", "name": "platform", "namespace": api.namespace}
    api.create(ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "platform"}})
    for kind, bindings, rules in ((ROLES, BINDINGS, ROLE), (CLUSTER_ROLES, CLUSTER_BINDINGS, CLUSTER_ROLE)):
        word = "Role" if kind is ROLES else "ClusterRole"
        about = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": name}}
        api.create(kind, {**about, "kind": word, "rules": [rule.document() for rule in rules]})
        reference = {"apiGroup": RBAC, "kind": word, "name": name}
        api.create(bindings, {**about, "kind": f"{word}Binding", "subjects": [subject], "roleRef": reference})
    command = ["kubectl", "--kubeconfig", str(kubeconfig), "-n", api.namespace, "create", "token", "platform"]
    token = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield client_of(kubeconfig, token)
    finally:
        api.delete(CLUSTER_BINDINGS, name)
        api.delete(CLUSTER_ROLES, name)


def client_of(kubeconfig: Path, token: str) -> ApiClient:
    """Return a client of the same server with another identity."""
    configuration = Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
    configuration.cert_file = configuration.key_file = None
    configuration.api_key = {"BearerToken": f"Bearer {token}"}
    configuration.refresh_api_key_hook = None  # it would bring the kubeconfig's own token back
    configuration.retries = False
    return ApiClient(configuration)


def fake_settings(space: str, image: str, *, folders: tuple[Path, ...] = (), **more: Any) -> PodSettings:
    """Return a place whose engines are tests/equipment/fake_engine.py, run from this checkout by this very interpreter."""
    interpreter = Path(sys.executable)
    home = {Path("/usr"), Path("/lib"), Path("/lib64"), ROOT, interpreter.parents[1], Path(sys.base_prefix), *folders}
    policy: dict[str, Any] = {
        "image": image,
        "python": str(interpreter),
        "environ": f"PYTHONPATH={ROOT}:{ROOT / 'serving/engines/vllm'},PYTHONDONTWRITEBYTECODE=1",
        "host_paths": ",".join(map(str, _outermost(home))),
        "address": "ip",
        "cpu": 0.05,
        "pre_stop_s": 1.0,
    }
    chosen = KubernetesPolicy(**{**policy, **more})
    return pod_settings(space, chosen, module="tests.equipment.fake_engine", drain_s=20.0, start_limit_s=120.0)


def vllm_settings(space: str, image: str, s3_endpoint_url: str, **more: Any) -> PodSettings:
    """Return a place whose engines are real vLLM, its environment from the node's own folders."""
    python = ROOT / "serving/engines/vllm/.venv/bin/python"
    prefix = Path(
        subprocess.run([str(python), "-c", "import sys; print(sys.base_prefix)"], check=True, capture_output=True, text=True).stdout.strip()
    )
    folders = {Path("/usr"), Path("/lib"), Path("/lib64"), ROOT / "serving/engines/vllm", python.parents[1].resolve(), prefix}
    policy: dict[str, Any] = {
        "image": image,
        "python": str(python.parents[1].resolve() / "bin/python"),
        "environ": f"PYTHONPATH={ROOT / 'serving/engines/vllm'}",
        "host_paths": ",".join(map(str, _outermost(folders))),
        "address": "ip",
        "cpu": 1.0,
        "pre_stop_s": 1.0,
    }
    return pod_settings(space, KubernetesPolicy(**{**policy, **more}), drain_s=20.0, start_limit_s=300.0, s3_endpoint_url=s3_endpoint_url)


def _outermost(folders: set[Path]) -> list[Path]:
    return [path for path in sorted(folders) if path.exists() and not any(other != path and other in path.parents for other in folders)]


def engines_on(client: ApiClient, where: PodSettings, folder: Path) -> KubernetesEngines:
    clock = SystemClock()
    return KubernetesEngines(Api(client, where.namespace, clock), where, clock, kept_logs=folder / "kept")
