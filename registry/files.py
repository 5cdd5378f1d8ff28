"""Files on this machine: names that stay inside their folder, digests, and writes that a crash cannot halve."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from core.errors import DiskFull, Fault, Refused
from core.ids import Digest
from core.reasons import Reason

CHUNK_BYTES = 1024 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def inside(folder: Path, name: str) -> Path:
    """Return the path of `name` below `folder`. Raises Refused for a name that leaves it, is not in its shortest form, or is not text."""
    parts = PurePosixPath(name).parts
    leaves = not parts or ".." in parts or name.startswith("/") or "/".join(parts) != name
    if leaves or "\0" in name or "\\" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise Refused(
            f"{name[:200]!r} is not a path inside a model's folder", reason=Reason.UNSAFE_PATH, hint="rename the file and submit again"
        )
    return folder.joinpath(*parts)


def chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's content, `CHUNK_BYTES` at a time."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def file_sha256(path: Path) -> Digest:
    """Return the sha256 of a file's content."""
    digest = hashlib.sha256()
    for chunk in chunks(path):
        digest.update(chunk)
    return Digest(digest.hexdigest())


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that `path` is either what it was or all of it, even when the machine loses power."""
    with scratch_beside(path) as scratch:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    sync_folder(path.parent)


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Lend a name of our own in `path`'s folder; whatever still lies there afterwards is removed."""
    scratch = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raise Fault, with the numbers, when the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"disk full: {what} needs {needed / 1e6:.1f} MB, {folder} has {free / 1e6:.1f} MB free",
            hint="free some space, or move the home to a larger disk, and submit again",
        )


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn the operating system's errors into Fault, with what to do next."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"disk full while {what}", hint="free some space and submit again") from error
        hint = "see that the folder exists and belongs to the platform's user" if isinstance(error, PermissionError) else "see the disk"
        raise Fault(f"{what}: {error.strerror or error}: {error.filename or ''}".rstrip(": "), hint=hint) from error
