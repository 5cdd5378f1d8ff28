"""Helm's post-renderer of the tests: mounts claims into every pod that the chart makes, and into those that Prefect's worker makes by the
chart's job template. Imports little: it runs as a process of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours

_TEMPLATE = "job-template.json"


def mounted(text: str, claims: Mapping[str, Sequence[str]]) -> str:
    """Return the manifests with each claim mounted, read-only, at its folders in all containers."""
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        if document["kind"] == "ConfigMap" and _TEMPLATE in document["data"]:
            template = json.loads(document["data"][_TEMPLATE])
            _mount(template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"], claims)
            document["data"][_TEMPLATE] = json.dumps(template)
        pod = document.get("spec", {}).get("template", {}).get("spec") if document["kind"] != "Pod" else document["spec"]
        if pod:
            _mount(pod, claims)
    return "\n---\n".join(json.dumps(document) for document in documents)  # JSON: Go's YAML takes an unquoted 12e3 for a number


def _mount(pod: dict[str, Any], claims: Mapping[str, Sequence[str]]) -> None:
    sources = [{"name": f"host-{name}", "persistentVolumeClaim": {"claimName": name, "readOnly": True}} for name in claims]
    mounts = [{"name": f"host-{name}", "mountPath": folder, "readOnly": True} for name, folders in claims.items() for folder in folders]
    pod["volumes"] = [*pod.get("volumes", ()), *sources]
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        container["volumeMounts"] = [*container.get("volumeMounts", ()), *mounts]
