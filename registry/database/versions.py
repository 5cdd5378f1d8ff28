"""Model versions, where they came from, and what trials said of them."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, select

from core.errors import NotFound
from core.fidelity import Reference
from core.ids import VersionId
from core.reasons import Reason
from core.versions import ModelVersion, TrialKind, TrialReport
from registry.codec import plain, restore
from registry.database.connection import Connections
from registry.database.tables import trial_reports, version_references, version_sources, versions
from registry.database.upsert import insert_new, replacing, upsert
from registry.reference import read_reference, written

_SHORTEST_PREFIX = 8


class VersionsTable:
    """Implements `Versions`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def put(self, version: ModelVersion, reference: Reference | None = None) -> ModelVersion:
        """Enter a version; keeps what is there but fills `registered_uri`."""
        row = plain(version)
        row["commit_id"] = row.pop("commit")
        came_from = {"source": version.source, "commit_id": version.commit, "version": version.id}
        with self._connections.write() as connection:
            insert_new(connection, versions, [row])
            if version.registered_uri is not None:
                unset = versions.update().where(versions.c.id == version.id, versions.c.registered_uri.is_(None))
                connection.execute(unset.values(registered_uri=version.registered_uri))
            insert_new(connection, version_sources, [came_from])
            if reference is not None:
                _keep_reference(connection, version.id, reference)
            return _version(connection.execute(select(versions).where(versions.c.id == version.id)).mappings().one())

    def get(self, version: VersionId) -> ModelVersion:
        """Return the version of this id, or of the only id that begins so."""
        with self._connections.read() as connection:
            found = _matches(connection, version)
        if len(found) == 1:
            return _version(found[0])
        if found:
            raise NotFound(f"several versions begin with {version[:64]}", reason=Reason.AMBIGUOUS_VERSION, hint="write more of the id")
        raise NotFound(f"there is no model version {version[:64]}", reason=Reason.NO_VERSION, hint="`seatrial models` lists them")

    def find(self, *, source: str | None = None, commit: str | None = None, limit: int = 100) -> tuple[ModelVersion, ...]:
        """Return versions, newest first."""
        query = select(versions).order_by(versions.c.created_at.desc(), versions.c.id).limit(limit)
        came = select(version_sources.c.version)
        if source is not None:
            came = came.where(version_sources.c.source == source)
        if commit is not None:
            came = came.where(version_sources.c.commit_id == commit)
        if source is not None or commit is not None:
            query = query.where(versions.c.id.in_(came))
        with self._connections.read() as connection:
            return tuple(_version(row) for row in connection.execute(query).mappings())

    def reference(self, version: VersionId) -> Reference | None:
        """Return a version's reference."""
        query = select(version_references.c.document).where(version_references.c.version == version)
        with self._connections.read() as connection:
            found = connection.execute(query).scalar_one_or_none()
        return None if found is None else read_reference(found)

    def report(self, report: TrialReport) -> None:
        """Keep a trial's report; the same (version, kind, key) replaces it."""
        with self._connections.write() as connection:
            upsert(connection, trial_reports, [plain(report)], replacing(trial_reports))

    def reports(self, version: VersionId, kind: TrialKind | None = None, key: str | None = None) -> tuple[TrialReport, ...]:
        """Return reports, newest first."""
        query = select(trial_reports).where(trial_reports.c.version == version)
        if kind is not None:
            query = query.where(trial_reports.c.kind == kind)
        if key is not None:
            query = query.where(trial_reports.c.key == key)
        with self._connections.read() as connection:
            rows = connection.execute(query.order_by(trial_reports.c.at.desc(), trial_reports.c.kind, trial_reports.c.key)).mappings()
            return tuple(restore(TrialReport, row) for row in rows)


def _keep_reference(connection: Connection, version: VersionId, reference: Reference) -> None:
    row = {"version": version, "document": written(reference)}
    if reference.prompts:
        upsert(connection, version_references, [row], replacing(version_references))
    else:
        insert_new(connection, version_references, [row])


def _matches(connection: Connection, version: VersionId) -> list[RowMapping]:
    exact = connection.execute(select(versions).where(versions.c.id == version)).mappings().one_or_none()
    if exact is not None:
        return [exact]
    if len(version) < _SHORTEST_PREFIX:
        return []
    like = versions.c.id.startswith(version, autoescape=True)
    return list(connection.execute(select(versions).where(like).limit(2)).mappings())


def _version(row: RowMapping) -> ModelVersion:
    return restore(ModelVersion, dict(row) | {"commit": row["commit_id"]})
