"""Where tensorized weights and model files are kept, addressed by content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.ids import Digest, Epoch
from core.versions import FileDigest


@dataclass(frozen=True, slots=True)
class Bundle:
    """An immutable set of files under one content address. `uri` stays the same from staging to publication."""

    digest: Digest
    uri: str
    """`file:///...` or `s3://bucket/prefix`; the files lie below it by their paths."""
    files: tuple[FileDigest, ...]
    published: bool
    created_at: Epoch


class WeightsStore(Protocol):
    """Bundles of files: staged first, published once the trials passed. Adapters: a folder, S3.

    A bundle exists when its manifest does, and the manifest is written last: a bundle that is cut off half way is not there.
    Errors: NotFound, Transient (the store is away), Fault (disk full, no rights, a bundle that disagrees with its manifest).
    """

    def stage(self, digest: Digest, source: Path, files: Sequence[FileDigest]) -> Bundle:
        """Take `files` (paths below `source`) in under `digest`, unpublished. `source` may be emptied: files can be moved.

        Idempotent: a bundle that is there already, staged or published, is returned and nothing is stored again.
        Each stored file's size and sha256 equals what `files` says, else Fault and nothing stands.
        """
        ...

    def publish(self, digest: Digest) -> Bundle:
        """Make a staged bundle permanent. Publishing what is published changes nothing. NotFound when it was never staged."""
        ...

    def open(self, digest: Digest) -> Bundle:
        """Return the bundle, staged or published. NotFound when there is none or only part of one."""
        ...

    def list(self) -> tuple[Bundle, ...]:
        """Return every bundle, by digest."""
        ...

    def delete(self, digest: Digest) -> None:
        """Remove a bundle and whatever half of one is there, its manifest first, so that no half bundle can be opened.

        Deleting what is gone does nothing.
        """
        ...
