"""The model registry that people browse (MLflow)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from core.ids import EndpointName, VersionId
from core.versions import ModelVersion, TrialReport


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """Where the registry shows a version: `models:/<endpoint>/<number>` and its page."""

    uri: str
    number: int
    page: str


class ModelRegistry(Protocol):
    """A catalogue for people. The truth of what serves is in `Records`; this mirrors it and may lag. Errors: Transient, Fault."""

    def register(
        self, endpoint: EndpointName, version: ModelVersion, reports: Sequence[TrialReport], links: Mapping[str, str], artifact_uri: str
    ) -> RegisteredModel:
        """Enter a version with its metrics, commit, digests, licence and links. The same version id again returns the same entry."""
        ...

    def mark(self, endpoint: EndpointName, *, champion: VersionId | None, challenger: VersionId | None) -> None:
        """Set the aliases `champion` and `challenger` of an endpoint; None removes one. Idempotent; unknown versions are NotFound."""
        ...
