"""The RBAC rules that the adapter needs: the chart renders exactly these, and the tests run with them."""

from __future__ import annotations

from dataclasses import dataclass

from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.kinds import Kind

_FOLLOW = ("list", "watch")
_KEEP = ("create", "patch")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a Role, or of a ClusterRole."""

    kind: Kind
    verbs: tuple[str, ...]
    sub: str = ""

    def document(self) -> dict[str, list[str]]:
        """Return it as RBAC writes it."""
        resource = f"{self.kind.plural}/{self.sub}" if self.sub else self.kind.plural
        return {"apiGroups": [self.kind.group], "resources": [resource], "verbs": list(self.verbs)}


ROLE = (
    Rule(kinds.DEPLOYMENTS, ("get", *_FOLLOW, *_KEEP, "delete")),
    Rule(kinds.SERVICES, (*_FOLLOW, *_KEEP)),
    Rule(kinds.POLICIES, (*_FOLLOW, *_KEEP)),
    Rule(kinds.AUTOSCALERS, (*_FOLLOW, *_KEEP, "delete")),
    Rule(kinds.SCALED_OBJECTS, (*_FOLLOW, *_KEEP, "delete")),
    Rule(kinds.PODS, (*_FOLLOW, "delete")),
    Rule(kinds.PODS, ("get",), "log"),
    Rule(kinds.EVENTS, ("create",)),
    Rule(kinds.QUOTAS, ("list",)),
)
"""In the engines' namespace, for the services that manage engines. No delete for Services and policies: their Deployment owns them."""

CONTROL_ROLE = (Rule(kinds.DEPLOYMENTS, _FOLLOW), Rule(kinds.PODS, _FOLLOW), Rule(kinds.PODS, ("get",), "log"))
"""In the namespace of the engines, for the control API, which reads their states and logs."""

CLUSTER_ROLE = (Rule(kinds.NODES, ("list",)), Rule(kinds.PODS, ("list",)))
"""In the whole cluster, for the capacity check. Without them only quotas are checked, and the scheduler decides the rest."""
