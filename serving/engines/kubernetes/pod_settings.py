"""The settings of engine pods on one cluster, read once into values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.engines import EngineSpec
from core.errors import Refused
from core.reasons import Reason
from core.settings import KubernetesPolicy

_PINNED = re.compile(r"@sha256:[0-9a-f]{64}$")
_SPREAD = 1.25
"""Memory that weights take on a GPU beside themselves: activations, graphs, and the smallest useful cache."""


@dataclass(frozen=True, slots=True)
class Toleration:
    """A taint that engines bear. Without a value any value is borne, without an effect any effect."""

    key: str
    value: str | None = None
    effect: str | None = None

    def document(self) -> dict[str, str]:
        """Return it as Kubernetes writes it."""
        document = {"key": self.key, "operator": "Exists"} if self.value is None else {"key": self.key, "value": self.value}
        return {**document, "effect": self.effect} if self.effect else document


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What the manifests need in addition to the engine's spec. Times in seconds."""

    namespace: str
    policy: KubernetesPolicy
    module: str = "seatrial_engine.serve"
    drain_s: float = 30.0
    start_limit_s: float = 600.0
    s3_endpoint_url: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    host_paths: tuple[str, ...] = ()
    claims: Mapping[str, str] = field(default_factory=dict)
    """Folder by claim."""
    callers: tuple[str, ...] = ("gateway", "worker")

    @property
    def grace_s(self) -> int:
        """What a pod gets from being told to leave until it is killed: longer than its pause and its drain together."""
        return round(self.policy.pre_stop_s + self.drain_s) + 15

    @property
    def scrapers(self) -> tuple[str, ...]:
        """Namespaces that may ask an engine for its metrics: those of the settings, and KEDA's where it has no Prometheus to ask."""
        asks = not self.policy.prometheus_url and self.policy.max_engines > self.policy.min_engines
        scaler = _items(self.policy.scaler_namespace) if asks else ()
        return tuple(dict.fromkeys((*_items(self.policy.metrics_namespace), *scaler)))

    def gpus(self, spec: EngineSpec) -> int:
        """Return over how many GPUs the model is split: a power of two, as attention heads divide; 0 where engines run on the CPU.

        Raises Refused when it needs more than `most_gpus`, or as many as its attention heads do not divide into.
        """
        if not self.policy.gpu_resource:
            return 0
        count = 1
        while count * self.policy.gpu_memory_bytes < spec.weights_bytes * _SPREAD:
            count *= 2
        if count > self.policy.most_gpus:
            raise Refused(
                f"{spec.version[:12]} has {spec.weights_bytes / 2**30:.0f} GiB of weights, which {self.policy.most_gpus} GPUs do not hold",
                reason=Reason.MODEL_TOO_LARGE,
                hint="submit a quantised model, or raise SEATRIAL_KUBERNETES_MOST_GPUS",
            )
        if spec.attention_heads % count:
            raise Refused(
                f"{spec.version[:12]} needs {count} GPUs, and its {spec.attention_heads} attention heads do not divide among them",
                reason=Reason.MODEL_TOO_LARGE,
                hint="submit a quantised model that fewer GPUs hold, or use GPUs with more memory (SEATRIAL_KUBERNETES_GPU_MEMORY_BYTES)",
            )
        return count


def pod_settings(
    namespace: str,
    policy: KubernetesPolicy,
    *,
    module: str = "seatrial_engine.serve",
    drain_s: float = 30.0,
    start_limit_s: float = 600.0,
    s3_endpoint_url: str = "",
) -> PodSettings:
    """Read the policy's lists. Raises Refused and names the setting that cannot be read."""
    if not policy.image:
        raise Refused(
            "SEATRIAL_KUBERNETES_IMAGE is not set",
            reason=Reason.BAD_SETTING,
            hint="give the engine's image, pinned by digest (NAME@sha256:...)",
        )
    if not policy.allow_tags and _PINNED.search(policy.image) is None:
        raise Refused(
            f"SEATRIAL_KUBERNETES_IMAGE is {policy.image!r}: a tag may become another image under a version that was tried",
            reason=Reason.BAD_SETTING,
            hint="pin it by digest (NAME@sha256:...); on a cluster without a registry set SEATRIAL_KUBERNETES_ALLOW_TAGS=1",
        )
    if policy.address not in {"service", "ip"}:
        raise Refused(f"SEATRIAL_KUBERNETES_ADDRESS is {policy.address!r}", reason=Reason.BAD_SETTING, hint="write service or ip")
    if not 0 <= policy.min_engines <= max(1, policy.max_engines):
        raise Refused(
            f"SEATRIAL_KUBERNETES_MIN_ENGINES is {policy.min_engines}, MAX_ENGINES {policy.max_engines}",
            reason=Reason.BAD_SETTING,
            hint="write 0 <= min <= max",
        )
    if policy.min_engines == 0 and not policy.prometheus_url:
        raise Refused(
            "SEATRIAL_KUBERNETES_MIN_ENGINES is 0 without SEATRIAL_KUBERNETES_PROMETHEUS_URL: nothing could wake an engine that sleeps",
            reason=Reason.BAD_SETTING,
            hint="give the URL of the Prometheus that scrapes gateways and engines, or set MIN_ENGINES to 1",
        )
    return PodSettings(
        namespace=namespace,
        policy=policy,
        module=module,
        drain_s=drain_s,
        start_limit_s=start_limit_s,
        s3_endpoint_url=s3_endpoint_url,
        environ=_pairs("ENVIRON", policy.environ),
        node_selector=_pairs("NODE_SELECTOR", policy.node_selector),
        tolerations=tuple(_toleration(text) for text in _items(policy.tolerations)),
        host_paths=_items(policy.host_paths),
        claims=_pairs("CLAIMS", policy.claims),
        callers=_items(policy.callers),
    )


def _items(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pairs(name: str, text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _items(text)]
    if any(not key or not equals for key, equals, _value in pairs):
        raise Refused(f"SEATRIAL_KUBERNETES_{name} is {text!r}", reason=Reason.BAD_SETTING, hint="write key=value, separated by commas")
    return {key: value for key, _equals, value in pairs}


def _toleration(text: str) -> Toleration:
    rest, _, effect = text.partition(":")
    key, equals, value = rest.partition("=")
    return Toleration(key, value if equals else None, effect or None)
