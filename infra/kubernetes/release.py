"""The release installed in a namespace: settings, permissions of the worker, volume claim. Read from outside, with a kubeconfig."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import Fault
from core.settings import Settings, read_settings
from infra.findings import Finding
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.kinds import Kind
from serving.engines.kubernetes.rbac import ROLE, Rule

_CONFIG_MAPS = Kind("api/v1", "configmaps")
_CLAIMS = Kind("api/v1", "persistentvolumeclaims")
_CLASSES = Kind("apis/storage.k8s.io/v1", "storageclasses", namespaced=False)
_SELF_REVIEWS = Kind("apis/authorization.k8s.io/v1", "selfsubjectaccessreviews", namespaced=False)
_REVIEWS = Kind("apis/authorization.k8s.io/v1", "subjectaccessreviews", namespaced=False)
_SETTINGS = "app.kubernetes.io/part-of=seatrial,app.kubernetes.io/component=settings"
_INSTANCE = "app.kubernetes.io/instance"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_CLASS = (
    "give gateway.spool.storageClass, or mark one: `kubectl annotate storageclass NAME storageclass.kubernetes.io/is-default-class=true`"
)


@dataclass(frozen=True, slots=True)
class Release:
    """One installation of the chart and what it runs with."""

    name: str
    settings: Settings


def find_release(api: Api) -> Release | None:
    """Return the release of the namespace, the first by name; None where there is none. Errors: Fault, Transient, Refused."""
    found = sorted(api.list(_CONFIG_MAPS, _SETTINGS).items, key=lambda item: str(item["metadata"]["name"]))
    if not found:
        return None
    metadata = found[0]["metadata"]
    name = metadata.get("labels", {}).get(_INSTANCE) or metadata["name"].removesuffix("-settings")
    return Release(name, read_settings({"HOME": "/nowhere", **(found[0].get("data") or {})}))


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of an access review: a service account of the namespace, or with an empty name our own user."""

    api: Api
    account: str = ""

    def may(self, rule: Rule, verb: str, *, everywhere: bool = False) -> bool:
        """Ask the API server itself: roles may come from anywhere. Fault where asking for another is not allowed."""
        namespace = self.api.namespace
        attributes = {"group": rule.kind.group, "resource": rule.kind.plural, "subresource": rule.sub, "verb": verb}
        spec: dict[str, object] = {"resourceAttributes": attributes if everywhere else {**attributes, "namespace": namespace}}
        if self.account:
            spec["user"] = f"system:serviceaccount:{namespace}:{self.account}"
            spec["groups"] = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
        kind = "SubjectAccessReview" if self.account else "SelfSubjectAccessReview"
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        return bool(self.api.create(_REVIEWS if self.account else _SELF_REVIEWS, body).get("status", {}).get("allowed"))


def worker_of(api: Api, release: Release | None) -> tuple[Subject, Finding]:
    """Return the subject to review, the worker if there is one and we may review it, and the finding that names it."""
    if release is None:
        return Subject(api), Finding("rbac", ok=True, what="this kubeconfig's own: an administrator's always suffice, the worker's may not")
    worker = Subject(api, f"{release.name}-worker")
    try:
        worker.may(ROLE[0], ROLE[0].verbs[0])
    except Fault:
        what = f"this kubeconfig's own, as it may not ask for those of {worker.account} (create subjectaccessreviews)"
        return Subject(api), Finding("rbac", ok=True, what=what)
    return worker, Finding("rbac", ok=True, what=f"those of service account {worker.account}")


def spool(api: Api, release: Release | None) -> Finding:
    """Look at the claim of the gateway's spool; before it is made, at the class that it would get. Errors: Transient."""
    try:
        return _claimed(api, f"spool-{release.name}-gateway-0") if release is not None else _claimable(api)
    except Fault:
        return Finding("spool", ok=True, what="this account may not look at claims and storage classes; an administrator's doctor does")


def _claimed(api: Api, name: str) -> Finding:
    claim = api.get(_CLAIMS, name)
    if claim is None:
        return Finding("spool", ok=True, what=f"no claim {name}: the spool is ephemeral, or not made yet")
    phase = claim.get("status", {}).get("phase", "Pending")
    if phase == "Bound":
        return Finding("spool", ok=True, what=f"claim {name} is bound")
    if claim.get("spec", {}).get("storageClassName") or _has_default(api):
        return Finding("spool", ok=False, what=f"claim {name} is {phase}", next=f"`kubectl -n {api.namespace} describe pvc {name}`")
    return Finding("spool", ok=False, what=f"claim {name} is {phase}: it names no class, and there is no default one", next=_CLASS)


def _claimable(api: Api) -> Finding:
    if _has_default(api):
        return Finding("spool", ok=True, what="there is a default StorageClass, which the spool's claim gets")
    return Finding("spool", ok=False, what="no default StorageClass: a spool's claim that names none would stay Pending", next=_CLASS)


def _has_default(api: Api) -> bool:
    return any((item["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true" for item in api.list(_CLASSES).items)
