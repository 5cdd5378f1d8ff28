"""The kinds of objects that the adapter handles, as the API's paths name them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `api` is the path of its group and version."""

    api: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The group as RBAC names it; the core group's name is empty."""
        return self.api.split("/")[1] if self.api.startswith("apis/") else ""

    def path(self, namespace: str, name: str = "", sub: str = "") -> str:
        """Return the path of the collection, of one object, or of a part of it. An empty namespace means all of them."""
        scope = ("namespaces", namespace) if self.namespaced and namespace else ()
        return "/" + "/".join(part for part in (self.api, *scope, self.plural, name, sub) if part)


DEPLOYMENTS = Kind("apis/apps/v1", "deployments")
PODS = Kind("api/v1", "pods")
SERVICES = Kind("api/v1", "services")
EVENTS = Kind("api/v1", "events")
NODES = Kind("api/v1", "nodes", namespaced=False)
QUOTAS = Kind("api/v1", "resourcequotas")
POLICIES = Kind("apis/networking.k8s.io/v1", "networkpolicies")
AUTOSCALERS = Kind("apis/autoscaling/v2", "horizontalpodautoscalers")
SCALED_OBJECTS = Kind("apis/keda.sh/v1alpha1", "scaledobjects")
