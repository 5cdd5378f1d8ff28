"""Work under way on this machine: downloads and scratch files, and the removal of those that were left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from core.ids import Epoch


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A folder or file of work: `downloads/NAME` or `scratch/NAME`. `written_at` is the time of its newest file."""

    name: str
    bytes: int
    written_at: Epoch


class Work:
    """The folders `downloads` and `scratch`. A process that works in an item holds the lock file `NAME.lock` beside it."""

    def __init__(self, downloads: Path, scratch: Path) -> None:
        self._folders = {"downloads": downloads, "scratch": scratch}

    def items(self) -> Iterator[WorkItem]:
        """Yield everything in both folders. A lock file counts where the thing that it locks is gone."""
        for prefix, folder in self._folders.items():
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix != ".lock" or not path.with_suffix("").exists():
                    with suppress(FileNotFoundError):  # another process has removed it since the listing
                        yield _item(f"{prefix}/{path.name}", path)

    def remove(self, name: str, *, before: Epoch) -> bool:
        """Delete one that nothing has written to since `before`; return False where a process holds it, or it is newer or gone."""
        prefix, _, child = name.partition("/")
        path = self._folders[prefix] / child
        lock = path if path.suffix == ".lock" else path.with_name(f"{path.name}.lock")
        with _claimed(lock) as claimed:
            try:
                if not claimed or _item(name, path).written_at >= before:
                    return False
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except FileNotFoundError:  # another process was faster; what is left of a folder goes with the next pass
                return False
            lock.unlink(missing_ok=True)
            return True


@contextmanager
def _claimed(lock: Path) -> Iterator[bool]:
    """Hold an existing lock file; yield False where another process holds it. An item without a lock file has no owner: yield True."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _item(name: str, path: Path) -> WorkItem:
    size, newest = 0, path.lstat().st_mtime
    for child in path.rglob("*") if path.is_dir() else (path,):
        with suppress(FileNotFoundError):  # it is worked on
            status = child.lstat()
            size, newest = size + status.st_size, max(newest, status.st_mtime)
    return WorkItem(name, size, newest)
