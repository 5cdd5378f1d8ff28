"""Where models come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from core.versions import FileDigest, HubFile, ModelRef, ResolvedModel

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); may raise to stop the work."""


class Hub(Protocol):
    """A place that lists and hands out models. Adapters: a folder, the Hugging Face hub (and its mirrors).

    Errors: Refused when the reference is at fault (missing, gated, private, bytes that differ from the hub's own sha256 again
    and again), Transient when the hub or the way there is (429 with its Retry-After, 5xx, cut or stalled connections), Fault
    when this machine is (disk full).
    """

    def resolve(self, ref: ModelRef) -> ResolvedModel:
        """Pin `ref` to a commit and list its files. Reads only. A folder's commit is a digest of its listing (path, size, mtime)."""
        ...

    def download(self, model: ResolvedModel, files: Sequence[HubFile], target: Path, progress: Progress) -> tuple[FileDigest, ...]:
        """Bring exactly `files` of the pinned commit into `target`, below their paths, and return what was read, sorted by path.

        Idempotent and resumable: what is complete and verified in `target` is not fetched again, what was cut is continued.
        Every file's size and sha256 (or git oid) is checked against the listing before it stands under its name.
        A connection on which nothing arrives for the stall limit is cut and counts as Transient.
        """
        ...
