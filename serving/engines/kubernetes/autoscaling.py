"""The autoscaler of a version's engines: a KEDA ScaledObject where the cluster has KEDA, else a HorizontalPodAutoscaler.

Both scale on the requests that run and wait in the version's own engines, so another version's load has no effect. Every query gives one
series. A missing value does not mean idle: an autoscaler without a value never scales in, and never goes below `min_engines`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.ids import VersionId
from core.settings import KubernetesPolicy
from serving.engines.kubernetes.manifests import with_memory
from serving.engines.kubernetes.names import DOMAIN, PORT, labels, object_name, version_label
from serving.engines.kubernetes.pod_settings import PodSettings

Object = dict[str, Any]

METRIC = "seatrial_engine_requests"
"""The external metric that a HorizontalPodAutoscaler reads, by version; `infra/kubernetes/prometheus-adapter/` makes it."""
TOKEN_METRIC = "seatrial_engine_token_seconds"  # noqa: S105 - a token of text
"""The same for the 90th percentile of the time per output token."""

_POLLING_S = 5
_UP_WINDOW_S = 30
_SEEN_S = 300
"""Least window of a query over a gateway's counter: several scrapes, also where Prometheus scrapes once a minute."""


def autoscaled(settings: PodSettings) -> bool:
    """Tell whether the number of engines moves at all."""
    return may_scale(settings.policy)


def may_scale(policy: KubernetesPolicy) -> bool:
    """Tell whether these settings let the number of engines move."""
    return policy.max_engines > max(1, policy.min_engines) or policy.min_engines == 0


def scaled_object(version: VersionId, settings: PodSettings, owner: Mapping[str, str]) -> Object:
    """Return the ScaledObject."""
    policy = settings.policy
    body = _document("keda.sh/v1alpha1", "ScaledObject", version, settings, owner)
    body["spec"] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": object_name(version)},
        "minReplicaCount": policy.min_engines,
        "maxReplicaCount": max(1, policy.max_engines),
        "pollingInterval": _POLLING_S,
        "cooldownPeriod": round(policy.scale_down_s),
        "initialCooldownPeriod": round(settings.start_limit_s + policy.scale_down_s),  # a candidate under trial does not fall asleep
        "fallback": {"failureThreshold": 3, "replicas": max(1, policy.min_engines), "behavior": "currentReplicasIfHigher"},
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behaviour(settings)}},
        "triggers": _triggers(version, settings),
    }
    return with_memory(body)


def horizontal_autoscaler(version: VersionId, settings: PodSettings, owner: Mapping[str, str]) -> Object:
    """Return the HorizontalPodAutoscaler. It never goes to zero: that takes KEDA."""
    policy = settings.policy
    body = _document("autoscaling/v2", "HorizontalPodAutoscaler", version, settings, owner)
    metrics = [_external(METRIC, version, {"type": "AverageValue", "averageValue": _thousandths(policy.target_requests)})]
    if policy.target_token_s > 0:
        metrics.append(_external(TOKEN_METRIC, version, {"type": "Value", "value": _thousandths(policy.target_token_s)}))
    body["spec"] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": object_name(version)},
        "minReplicas": max(1, policy.min_engines),
        "maxReplicas": max(1, policy.max_engines),
        "metrics": metrics,
        "behavior": _behaviour(settings),
    }
    return with_memory(body)


def _external(name: str, version: VersionId, target: Object) -> Object:
    metric = {"name": name, "selector": {"matchLabels": {"version": version_label(version)}}}
    return {"type": "External", "external": {"metric": metric, "target": target}}


def _thousandths(value: float) -> str:
    return f"{max(1, round(value * 1000))}m"


def load_query(version: VersionId, settings: PodSettings) -> str:
    """Return the query of the requests, running and waiting, in all engines of a version: one series, or none when none is scraped.

    A sleeping version correctly has no series; the value is then 0 only if the gateways' own series show no requests for a while.
    """
    chosen = f'namespace="{settings.namespace}",model_name="{version}"'
    return _or_unasked(f'sum({{__name__=~"vllm:num_requests_(running|waiting)",{chosen}}})', version, settings)


def activation_query(version: VersionId, settings: PodSettings) -> str:
    """Return the query of whether a gateway turned a request away, for want of a ready engine, since an engine could have started: 1 or 0.

    None where no gateway is scraped, or none serves the version (a benchmark's), which nothing could wake: that keeps what there is.
    """
    window_s = max(_SEEN_S, round(settings.start_limit_s))
    return f'sum(increase({_asked_for(version, settings)},outcome="engine_error"}}[{window_s}s])) > bool 0'


def token_query(version: VersionId, settings: PodSettings) -> str:
    """Return the query of the 90th percentile of the time per output token, in seconds; 0 while its engines say that they generate none."""
    name, chosen = "vllm:request_time_per_output_token_seconds", f'{{namespace="{settings.namespace}",model_name="{version}"}}[2m]'
    slow = f"(histogram_quantile(0.9, sum by (le) (rate({name}_bucket{chosen}))) > 0)"
    return _or_unasked(f"{slow} or (sum(rate({name}_count{chosen})) == 0)", version, settings)


def _or_unasked(query: str, version: VersionId, settings: PodSettings) -> str:
    if settings.policy.min_engines > 0:
        return query
    window_s = max(_SEEN_S, round(settings.policy.scale_down_s))
    return f"{query} or (sum(increase({_asked_for(version, settings)}}}[{window_s}s])) == 0)"


def _asked_for(version: VersionId, settings: PodSettings) -> str:
    """Begin the selector of what gateways count; other namespaces may serve the very same version."""
    return f'seatrial_requests_total{{namespace="{settings.namespace}",version="{version[:12]}"'


def _triggers(version: VersionId, settings: PodSettings) -> list[Object]:
    policy = settings.policy
    if not policy.prometheus_url:
        return [_asked(version, settings, name) for name in ("running", "waiting")]
    triggers = [_trigger(settings, load_query(version, settings), policy.target_requests, "AverageValue", name="load")]
    if policy.min_engines == 0:
        triggers.append(_trigger(settings, activation_query(version, settings), 1.0, "AverageValue", name="wake"))
    if policy.target_token_s > 0:
        triggers.append(_trigger(settings, token_query(version, settings), policy.target_token_s, "Value", name="token"))
    return triggers


def _trigger(settings: PodSettings, query: str, threshold: float, kind: str, *, name: str) -> Object:
    metadata = {
        "serverAddress": settings.policy.prometheus_url,
        "query": query,
        "threshold": f"{threshold:g}",
        "activationThreshold": "0",
        "ignoreNullValues": "false",  # an error, on which KEDA keeps what there is
    }
    return {"type": "prometheus", "name": name, "metricType": kind, "metadata": metadata}


def _asked(version: VersionId, settings: PodSettings, name: str) -> Object:
    """Without Prometheus: KEDA asks each ready engine for its own page and adds up."""
    metadata = {
        "url": f"http://{object_name(version)}.{settings.namespace}.svc:{PORT}/metrics",
        "format": "prometheus",
        "valueLocation": f'vllm:num_requests_{name}{{model_name="{version}"}}',
        "targetValue": f"{settings.policy.target_requests:g}",
        "activationTargetValue": "0",
        "aggregateFromKubeServiceEndpoints": "true",
        "aggregationType": "sum",
    }
    return {"type": "metrics-api", "name": name, "metricType": "AverageValue", "metadata": metadata}


def _behaviour(settings: PodSettings) -> Object:
    """Up at once, two at a time; down one a minute, after the load was lower all along."""
    return {
        "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": _UP_WINDOW_S}]},
        "scaleDown": {
            "stabilizationWindowSeconds": round(settings.policy.scale_down_s),
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }


def _document(api: str, kind: str, version: VersionId, settings: PodSettings, owner: Mapping[str, str]) -> Object:
    metadata: Object = {
        "name": object_name(version),
        "namespace": settings.namespace,
        "labels": labels(version, settings.policy.installation),
        "annotations": {f"{DOMAIN}/scales-on": "requests running and waiting"},
        "ownerReferences": [dict(owner)],
    }
    return {"apiVersion": api, "kind": kind, "metadata": metadata}
