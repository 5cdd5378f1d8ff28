"""Model versions and the reports of their trials."""

from __future__ import annotations

from typing import Protocol

from core.fidelity import Reference
from core.ids import VersionId
from core.versions import ModelVersion, TrialKind, TrialReport


class Versions(Protocol):
    """Model versions, with the reports of their trials."""

    def put(self, version: ModelVersion, reference: Reference | None = None) -> ModelVersion:
        """Store a version; the same id again keeps the first row but fills `registered_uri` when that was None.

        Stores the reference of its probabilities in the same transaction. One with prompts replaces one without; otherwise the first stays.

        Also remembers (source, commit) -> version, for `find`.
        """
        ...

    def get(self, version: VersionId) -> ModelVersion:
        """NotFound when unknown. A unique prefix of 8 or more characters is enough."""
        ...

    def find(self, *, source: str | None = None, commit: str | None = None, limit: int = 100) -> tuple[ModelVersion, ...]:
        """Return versions, newest first; by source and commit also those that were entered first under another source."""
        ...

    def reference(self, version: VersionId) -> Reference | None:
        """Return the reference of a version's probabilities; None where none was computed (a version of an earlier release)."""
        ...

    def report(self, report: TrialReport) -> None:
        """Keep a trial's report; (version, kind, key) again replaces it."""
        ...

    def reports(self, version: VersionId, kind: TrialKind | None = None, key: str | None = None) -> tuple[TrialReport, ...]:
        """Return reports, newest first."""
        ...
