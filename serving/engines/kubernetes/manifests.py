"""The objects of an engine as pure functions: from its spec and the pod settings to plain documents that share one name.

The Deployment owns the others (`ownerReferences`), so deleting it in any way removes all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from core.engines import EngineSpec
from core.ids import VersionId
from serving.engines.kubernetes.names import APPLIED, PORT, SPEC, VERSION, labels, object_name, selector
from serving.engines.kubernetes.pod import pod_template
from serving.engines.kubernetes.pod_settings import PodSettings

Object = dict[str, Any]


def deployment(spec: EngineSpec, settings: PodSettings) -> Object:
    """Return the Deployment. It carries its spec and its own applied form, by which a manual change is detected and reverted.

    It does not set `replicas`, which the autoscaler owns. Its pods are replaced one at a time, the new pod first.
    """
    body = _document("apps/v1", "Deployment", spec.version, settings)
    body["metadata"]["annotations"] = {VERSION: spec.version, SPEC: encode_spec(spec)}
    body["spec"] = {
        "selector": {"matchLabels": selector(spec.version)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": round(settings.start_limit_s) + 60,
        "template": pod_template(spec, settings),
    }
    return with_memory(body)


def service(version: VersionId, settings: PodSettings, owner: Mapping[str, str]) -> Object:
    """Return the Service: ready engines only, so that a request while none is ready fails at once instead of after a timeout."""
    body = _owned(_document("v1", "Service", version, settings), owner)
    body["spec"] = {
        "type": "ClusterIP",
        "selector": selector(version),
        "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}],
    }
    return with_memory(body)


def network_policy(version: VersionId, settings: PodSettings, owner: Mapping[str, str]) -> Object:
    """Return the policy: in come only our own callers (and who scrapes), out go only name look-ups and the weights' store.

    An engine has no key of its own: vLLM's leaves routes open.
    """
    body = _owned(_document("networking.k8s.io/v1", "NetworkPolicy", version, settings), owner)
    mine = {"app.kubernetes.io/part-of": "seatrial"}
    component = {"key": "app.kubernetes.io/component", "operator": "In", "values": list(settings.callers)}
    peers: list[Object] = [{"podSelector": {"matchLabels": mine, "matchExpressions": [component]}}]
    peers += [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}} for name in settings.scrapers]
    body["spec"] = {
        "podSelector": {"matchLabels": selector(version)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers, "ports": [{"port": PORT, "protocol": "TCP"}]}],
        "egress": [
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
            {"ports": [{"port": port, "protocol": "TCP"} for port in _store_ports(settings.s3_endpoint_url)]},
        ],
    }
    return with_memory(body)


def owner_reference(live: Mapping[str, Any]) -> dict[str, str]:
    """Return what an object writes that is to go with the Deployment `live`."""
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": live["metadata"]["name"], "uid": live["metadata"]["uid"]}


def encode_spec(spec: EngineSpec) -> str:
    """Return the spec as an annotation holds it."""
    return json.dumps(asdict(spec), sort_keys=True, separators=(",", ":"))


def decode_spec(text: str) -> EngineSpec | None:
    """Return the spec of an annotation, None when it is not a valid spec (changed by hand, or written by another release)."""
    try:
        return EngineSpec(**json.loads(text))
    except (ValueError, TypeError):
        return None


def with_memory(body: Object) -> Object:
    """Return the body with itself as an annotation: what was applied, to compare with what is there later."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    metadata = body["metadata"]
    return {**body, "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), APPLIED: text}}}


def applied(live: Mapping[str, Any]) -> Object | None:
    """Return the body as it was applied, from the object's own annotation; None when that was lost."""
    try:
        body = json.loads(live["metadata"].get("annotations", {}).get(APPLIED, ""))
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _document(api: str, kind: str, version: VersionId, settings: PodSettings) -> Object:
    metadata = {"name": object_name(version), "namespace": settings.namespace, "labels": labels(version, settings.policy.installation)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata}


def _owned(body: Object, owner: Mapping[str, str]) -> Object:
    body["metadata"]["ownerReferences"] = [dict(owner)]
    return body


def _store_ports(endpoint_url: str) -> tuple[int, ...]:
    url = urlsplit(endpoint_url)
    other = url.port or {"http": 80, "https": 443}.get(url.scheme, 443)
    return tuple(sorted({443, other}))
