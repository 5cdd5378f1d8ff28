"""Starts an engine of a version that its autoscaler scaled to zero, for callers that bypass the gateway."""

from __future__ import annotations

from typing import Any

from core.errors import Conflict
from core.ids import VersionId
from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.names import FIRST_SIZE, object_name


class KubernetesActivator:
    """The port Activator. Deletes the ScaledObject first, because KEDA would scale an engine without requests to zero within seconds.

    Reconcile creates the ScaledObject again, and a new one does not scale to zero for as long as a start may take (`autoscaling.py`).
    If the process is killed in between, the next pass over the engines still reaches that state.
    """

    def __init__(self, api: Api) -> None:
        self._api = api

    def activate(self, version: VersionId) -> bool:
        """See the port."""
        live = self._api.get(kinds.DEPLOYMENTS, object_name(version))
        if live is None or live["metadata"].get("deletionTimestamp") or live["spec"].get("replicas", 1) != 0:
            return False
        self._api.delete(kinds.SCALED_OBJECTS, object_name(version))
        metadata = {"name": live["metadata"]["name"], "uid": live["metadata"]["uid"]}  # of this very one: never made by this
        size: dict[str, Any] = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": 1}}
        try:
            self._api.apply(kinds.DEPLOYMENTS, size, manager=FIRST_SIZE)
        except Conflict:  # stopped meanwhile, and perhaps created again with one engine
            return False
        return True
