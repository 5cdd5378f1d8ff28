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


@dataclass(frozen=True, slots=True)
class Leftover:
    """What is stored under a digest without being a bundle: a withdrawn one, or half of one that was cut off."""

    digest: Digest
    since: Epoch
    """When it was withdrawn, or when its newest file was written."""
    bytes: int


class WeightsStore(Protocol):
    """Bundles of files: staged first, published once the trials passed. Adapters: a folder, S3.

    Garbage collection takes two steps. `withdraw` hides a bundle and keeps its files; `purge` deletes them after a grace period, unless
    the bundle was reclaimed meanwhile. `reclaim` and `stage` restore a withdrawn bundle. A process that reuses a bundle records its
    need first and then reclaims the bundle; a process that collects withdraws the bundle first and then reads the needs. One of the two
    always sees the other, and a purge that meets a reclaim never leaves a bundle that opens without all of its files.

    A bundle exists when its manifest does, and the manifest is written last: an interrupted bundle does not exist.
    Errors: NotFound, Transient (store unavailable), Fault (disk full, no rights, a bundle that disagrees with its manifest).
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

    def withdraw(self, digest: Digest) -> bool:
        """Hide a bundle: from now on it is a leftover, and `open` raises NotFound. Return whether there was one to hide."""
        ...

    def reclaim(self, digest: Digest) -> Bundle:
        """Return the bundle as `open` does, after taking it back where it was withdrawn. NotFound, Transient while it is purged."""
        ...

    def leftovers(self) -> tuple[Leftover, ...]:
        """Return what is stored without being a bundle, by digest."""
        ...

    def claim(self, installation: str, *, take_over: bool = False) -> str:
        """Return the installation that may remove bundles from this store: the first that claimed it, or the last with `take_over`.

        Two installations on one store, such as production and a restored copy, know different needs; only one of them may remove.
        """
        ...

    def purge(self, digest: Digest, before: Epoch) -> bool:
        """Delete a leftover that is one since before `before`, checked in the same operation; return whether it was deleted.

        A bundle, one that was taken back included, is left as it is.
        """
        ...
