"""How an engine's objects are called and labelled. Imports no Kubernetes client: the gateway needs no more than this module."""

from __future__ import annotations

from collections.abc import Mapping

from core.ids import EndpointName, VersionId

MANAGER = "seatrial"
"""Field manager of everything that the adapter owns. It never owns `replicas`."""
FIRST_SIZE = "seatrial-first-size"
"""Field manager that sets `replicas` once, when a Deployment is created; the autoscaler then takes the field over."""

DOMAIN = "seatrial.dev"
INSTANCE = "app.kubernetes.io/instance"
VERSION_LABEL = f"{DOMAIN}/version"
VERSION = f"{DOMAIN}/version-id"
SPEC = f"{DOMAIN}/spec"
APPLIED = f"{DOMAIN}/applied"

PORT = 8000
STATUS_PORT = 8001
_SHORT = 32
_ENGINE = "engine-"
_ENDPOINT = f"endpoint.{DOMAIN}/"
_LABEL_NAME = 63


def object_name(version: VersionId) -> str:
    """Return the name that a version's Deployment, Service, policy and autoscaler share: 128 bits of its digest."""
    return f"{_ENGINE}{version[:_SHORT].lower()}"


def version_label(version: VersionId) -> str:
    """Return the label's value; a label may have 63 characters, one less than a digest."""
    return version[:_SHORT]


def labels(version: VersionId, installation: str) -> dict[str, str]:
    """Return the labels of all of a version's objects."""
    return {
        "app.kubernetes.io/name": "seatrial-engine",
        INSTANCE: installation,
        "app.kubernetes.io/version": version[:12],
        "app.kubernetes.io/component": "engine",
        "app.kubernetes.io/part-of": "seatrial",
        "app.kubernetes.io/managed-by": "seatrial",
        VERSION_LABEL: version_label(version),
    }


SELECTOR = "app.kubernetes.io/name=seatrial-engine,app.kubernetes.io/managed-by=seatrial"
"""Selects every object of every engine of every installation: those that are made before they were told apart are still found."""


def installation_of(labels: Mapping[str, str]) -> str | None:
    """Return whose an engine's object is, by its labels; None for one made when they named the engine itself, which is anybody's."""
    named = labels.get(INSTANCE)
    return None if named == f"{_ENGINE}{labels.get(VERSION_LABEL)}" else named


def selector(version: VersionId) -> dict[str, str]:
    """Return what a version's pods are selected by; a Deployment's selector can never be changed."""
    return {"app.kubernetes.io/name": "seatrial-engine", VERSION_LABEL: version_label(version)}


def endpoint_label(endpoint: EndpointName) -> str:
    """Return the label that tells what a version is to an endpoint: `kubectl get deployments -L endpoint.seatrial.dev/demo`."""
    return _ENDPOINT + endpoint[:_LABEL_NAME].rstrip("-")


def endpoint_manager(endpoint: EndpointName) -> str:
    """Return the field manager of that label: one per endpoint, so that two endpoints of one version do not undo each other."""
    return f"seatrial-endpoint-{endpoint}"


def service_address(version: VersionId, namespace: str) -> str:
    """Return where a version's engines answer, whether or not one is ready: its Service's name, as pods resolve it."""
    return f"http://{object_name(version)}.{namespace}.svc:{PORT}"
