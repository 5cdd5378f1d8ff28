"""The manifest of a bundle: its files with their digests, and the stamps by which a store detects changes to the files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import Fault, NotFound, Refused
from core.ids import Digest, Epoch
from core.ports.weights import Bundle
from core.reasons import Reason
from core.versions import FileDigest
from registry.files import inside

STAGED = "manifest.staged.json"
PUBLISHED = "manifest.json"
WITHDRAWN = "manifest.withdrawn.json"
"""The manifest of a bundle that garbage collection has hidden; its files are still there."""
PURGING = "manifest.purging.json"
"""On S3: the files are being deleted. Written before the last look for a manifest."""
RESERVED = frozenset({STAGED, PUBLISHED, WITHDRAWN, PURGING})
BUNDLES = "bundles"
OWNER = "owner"
"""Beside the bundles: the installation that may remove them."""
_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Mismatch(Fault):
    """A bundle and its manifest, or a file and its announced size or digest, disagree. Staging the bundle again corrects it."""


class Incomplete(NotFound):
    """There is a manifest, but not all of its files. Staging the bundle again completes it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored file. `stamp` changes whenever the store's copy is written again: a time on disk, an entity tag on S3."""

    file: FileDigest
    stamp: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds. It is written after all its files."""

    digest: Digest
    entries: tuple[Entry, ...]
    created_at: Epoch

    def bundle(self, uri: str, *, published: bool) -> Bundle:
        """Return the bundle as the port shows it."""
        return Bundle(self.digest, uri, tuple(entry.file for entry in self.entries), published, self.created_at)

    def encode(self) -> bytes:
        """Return the manifest as JSON."""
        files = [{"path": e.file.path, "size": e.file.size, "sha256": e.file.sha256, "stamp": e.stamp} for e in self.entries]
        document = {"format": _FORMAT, "digest": self.digest, "created_at": self.created_at, "files": files}
        return json.dumps(document, indent=1).encode()


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A hidden manifest: what it was, and since when it is hidden."""

    manifest: Manifest
    published: bool
    at: Epoch

    @property
    def name(self) -> str:
        """The manifest's name once it is taken back."""
        return PUBLISHED if self.published else STAGED

    def encode(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(json.loads(self.manifest.encode()) | {"published": self.published, "withdrawn_at": self.at}, indent=1).encode()


def decode_withdrawn(raw: bytes, where: str) -> Withdrawn:
    """Read a hidden manifest. Raises Mismatch, naming `where`, for anything else."""
    manifest = decode(raw, where)
    document: dict[str, Any] = json.loads(raw)
    try:
        return Withdrawn(manifest, bool(document["published"]), float(document["withdrawn_at"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Mismatch(f"{where} is not a withdrawn manifest", hint="remove it; its files are deleted after the grace period") from error


def decode(raw: bytes, where: str) -> Manifest:
    """Read a manifest. Raises Fault, naming `where`, for anything else."""
    try:
        document: dict[str, Any] = json.loads(raw)
        if document["format"] != _FORMAT:
            raise Fault(f"{where}: a manifest of format {document['format']!r}", hint="it was written by another release of seatrial")
        entries = tuple(Entry(FileDigest(f["path"], f["size"], Digest(f["sha256"])), f["stamp"]) for f in document["files"])
        return Manifest(Digest(document["digest"]), entries, document["created_at"])
    except (ValueError, KeyError, TypeError) as error:
        raise Mismatch(
            f"{where} is not a valid manifest", hint="remove it; the bundle is then stored again by the next submission"
        ) from error


def checked_digest(digest: str) -> str:
    """Return `digest`, or raise Refused when it is not a hex sha256 (it becomes the name of a folder)."""
    if not is_digest(digest):
        raise Refused(f"{digest[:100]!r} is not a sha256", reason=Reason.BAD_DIGEST, hint="give 64 lower-case hexadecimal digits")
    return digest


def is_digest(name: str) -> bool:
    """Whether `name` is a hex sha256."""
    return _SHA256.fullmatch(name) is not None


def checked_files(files: Sequence[FileDigest]) -> tuple[FileDigest, ...]:
    """Return `files` by path. Raises Refused for a name that leaves the bundle, stands there twice, or is the manifest's own."""
    for file in files:
        inside(Path(), file.path)
        if file.path in RESERVED:
            raise Refused(f"{file.path}: a bundle's manifest has this name", reason=Reason.RESERVED_NAME, hint="rename the file")
    if len({file.path for file in files}) != len(files):
        raise Refused("a path stands twice in the listing of a bundle", reason=Reason.UNSAFE_PATH, hint="list each file once")
    return tuple(sorted(files, key=lambda file: file.path))


def mismatch(digest: str, path: str, problem: str) -> Mismatch:
    """Return the error for a file that is not what was said of it."""
    return Mismatch(
        f"weights {digest[:12]}: {path}: {problem}", hint="nothing was kept of it; submit again, and look at the disk if it recurs"
    )


def missing(digest: str) -> NotFound:
    """Return the error for a bundle that has no manifest."""
    return NotFound(
        f"weights {digest[:12]} are not stored", reason=Reason.NOT_FOUND, hint="submit the model again, so that they are stored again"
    )


def incomplete(digest: str, path: str) -> Incomplete:
    """Return the error for a bundle that lost a file."""
    return Incomplete(
        f"weights {digest[:12]}: {path} is gone", reason=Reason.NOT_FOUND, hint="submit the model again, so that it is stored again"
    )
