"""Which stored weights the open submissions need."""

from __future__ import annotations

from core.ids import Digest, SubmissionId
from core.ports import Records
from lifecycle.submissions import OPEN


def bundles_in_use(records: Records, ended: SubmissionId | None = None) -> frozenset[Digest] | None:
    """Return the bundles that open submissions need, `ended` left out. None while one has no version yet: it may need any."""
    rows = [row for row in records.submissions.find(states=OPEN, limit=1000) if row.id != ended]
    if any(row.version is None for row in rows):
        return None
    versions = [records.versions.get(row.version) for row in rows if row.version is not None]
    return frozenset(digest for version in versions for digest in (Digest(version.id), version.tensors))
