"""The pod of an engine: restricted, read-only, ready only after a real completion."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any

from core.engine_memory import container_bytes
from core.engines import EngineSpec
from serving.engines.kubernetes.names import PORT, STATUS_PORT, VERSION, labels, selector
from serving.engines.kubernetes.pod_settings import PodSettings
from serving.engines.launcher import VLLM_ENVIRON, cpu_cache, cpu_flags, serve_flags

Object = dict[str, Any]

CONTAINER = "engine"
_USER = 10001
_PROBE_S = 2
_MODEL = "/model"
_CACHE = "/cache"
_SHARED_BYTES = 2 * 2**30
_SCRATCH_BYTES = 8 * 2**30


def pod_template(spec: EngineSpec, settings: PodSettings) -> Object:
    """Return the Deployment's pod template. Raises Refused for a model that no machine of the cluster can hold."""
    return {
        "metadata": {
            "labels": labels(spec.version, settings.policy.installation),
            "annotations": {
                VERSION: spec.version,
                "kubectl.kubernetes.io/default-container": CONTAINER,
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(PORT),
                "prometheus.io/path": "/metrics",
            },
        },
        "spec": _pod(spec, settings),
    }


def _pod(spec: EngineSpec, settings: PodSettings) -> Object:
    pod: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a variable per Service of the namespace would be thousands
        "terminationGracePeriodSeconds": settings.grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",  # else a start walks through all of the node's cache
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, settings)],
        "volumes": _volumes(settings),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(spec.version)},
            }
        ],
    }
    policy = settings.policy
    chosen = {
        "serviceAccountName": policy.service_account,
        "priorityClassName": policy.priority_class,
        "nodeSelector": dict(settings.node_selector),
        "tolerations": _tolerations(settings),
        "imagePullSecrets": [{"name": policy.pull_secret}] if policy.pull_secret else [],
    }
    return {**pod, **{name: value for name, value in chosen.items() if value}}


def _container(spec: EngineSpec, settings: PodSettings) -> Object:
    container: Object = {
        "name": CONTAINER,
        "image": settings.policy.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [settings.policy.python, "-m", "seatrial_engine.pod"],
        "args": _arguments(spec, settings),
        "env": [{"name": name, "value": value} for name, value in sorted(_environ(spec, settings).items())],
        "ports": [{"name": "http", "containerPort": PORT}, {"name": "status", "containerPort": STATUS_PORT}],
        "resources": resources(spec, settings),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {"preStop": {"sleep": {"seconds": max(1, round(settings.policy.pre_stop_s))}}},
        **_probes(settings),
    }
    if settings.policy.weights_secret:
        container["envFrom"] = [{"secretRef": {"name": settings.policy.weights_secret}}]
    return container


def resources(spec: EngineSpec, settings: PodSettings) -> Object:
    """Return what one engine asks for. Memory is bounded, cores are not: a bound would throttle the server beside the computation.

    The memory contains vLLM's own (see `container_bytes`). Request and limit are equal, because an engine allocates its whole cache when
    it starts.
    """
    gpus = settings.gpus(spec)
    weights, cache = (0, 0) if gpus else (spec.weights_bytes, cpu_cache(spec, spec.weights_bytes))  # GPUs have memory of their own
    memory = str(container_bytes(spec.memory_bytes, weights, cache))
    asked: dict[str, str] = {"cpu": f"{round(settings.policy.cpu * 1000)}m", "memory": memory}
    bound: dict[str, str] = {"memory": memory}
    if gpus:
        asked[settings.policy.gpu_resource] = bound[settings.policy.gpu_resource] = str(gpus)
    return {"requests": asked, "limits": bound}


def _arguments(spec: EngineSpec, settings: PodSettings) -> list[str]:
    flags = serve_flags(spec, host="0.0.0.0", port=PORT, drain_s=math.ceil(settings.drain_s))  # noqa: S104 - reached through its Service
    gpus = settings.gpus(spec)
    if gpus:
        flags += ["--tensor-parallel-size", str(gpus), "--gpu-memory-utilization", "0.9"]
    else:
        flags += cpu_flags(spec, spec.weights_bytes)
    return ["--module", settings.module, "--status-port", str(STATUS_PORT), "--model-folder", _MODEL, "--", *flags]


def _environ(spec: EngineSpec, settings: PodSettings) -> dict[str, str]:
    environ = {
        **VLLM_ENVIRON,
        "HOME": "/tmp",  # noqa: S108 - an empty folder of the pod
        "USER": "engine",  # the user has no entry in the image, and torch asks for its name
        "LOGNAME": "engine",
        "TMPDIR": "/tmp",  # noqa: S108
        "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108
        "HF_HOME": "/tmp/huggingface",  # noqa: S108
        "VLLM_CACHE_ROOT": "/tmp/vllm",  # noqa: S108
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if not settings.gpus(spec):
        environ["OMP_NUM_THREADS"] = str(max(1, int(settings.policy.cpu) - 1))  # the node's cores are not the pod's
    if settings.s3_endpoint_url:
        environ["AWS_ENDPOINT_URL_S3"] = settings.s3_endpoint_url
    if settings.policy.cache_claim:
        environ["SEATRIAL_WEIGHTS_CACHE"] = _CACHE
    return {**environ, **settings.environ}


def _probes(settings: PodSettings) -> Object:
    """Return the probes: a start may take long, a hung engine is restarted after a minute, a silent one leaves its Service in seconds.

    `/ready` answers 200 only after a completion came out of this very process (see `seatrial_engine.pod`).
    """
    ready = {"httpGet": {"path": "/ready", "port": "status"}, "periodSeconds": _PROBE_S, "timeoutSeconds": 5}
    return {
        "startupProbe": {**ready, "failureThreshold": math.ceil(settings.start_limit_s / _PROBE_S)},
        "readinessProbe": {**ready, "failureThreshold": 3},
        "livenessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def _volumes(settings: PodSettings) -> list[Object]:
    volumes: list[Object] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": str(_SCRATCH_BYTES)}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(_SHARED_BYTES)}},
        {"name": "model", "emptyDir": {"sizeLimit": str(2**30)}},
    ]
    if settings.policy.cache_claim:
        volumes.append({"name": "cache", "persistentVolumeClaim": {"claimName": settings.policy.cache_claim}})
    given: list[Object] = [
        *({"hostPath": {"path": path, "type": "Directory"}} for path in settings.host_paths),
        *({"persistentVolumeClaim": {"claimName": claim, "readOnly": True}} for claim in settings.claims),
    ]
    return volumes + [{"name": f"given-{number}", **source} for number, source in enumerate(given)]


def _mounts(settings: PodSettings) -> list[Object]:
    mounts: list[Object] = [
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an empty folder of the pod
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - tensor parallelism talks through it
        {"name": "model", "mountPath": _MODEL},
    ]
    if settings.policy.cache_claim:
        mounts.append({"name": "cache", "mountPath": _CACHE})
    given = enumerate((*map(str, map(PurePosixPath, settings.host_paths)), *settings.claims.values()))
    return mounts + [{"name": f"given-{number}", "mountPath": path, "readOnly": True} for number, path in given]


def _tolerations(settings: PodSettings) -> list[Object]:
    chosen = [toleration.document() for toleration in settings.tolerations]
    if settings.policy.gpu_resource:
        chosen.append({"key": settings.policy.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})
    return chosen
