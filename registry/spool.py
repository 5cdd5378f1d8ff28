"""Segments of a spool: append-only files of one JSON document a line, in a folder that one process at a time appends to."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.conversations import Assignment, Completion, Feedback
from core.errors import Conflict, Fault
from core.reasons import Reason
from registry.codec import restore

_DISK = "see whether the disk is full or read-only"


@dataclass(frozen=True, slots=True)
class Unit:
    """One line, read. A reservation has a completion (its draft) and an assignment, a settlement a completion, a vote a feedback."""

    line: bytes
    kind: str
    completion: Completion | None = None
    assignment: Assignment | None = None
    feedback: Feedback | None = None


class Segments:
    """The segments of one folder. Not thread-safe but for `closed`, `reject` and `delete`; its owner has the lock.

    Errors: Conflict (another process holds the folder), Fault (it cannot be written).
    """

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self._folder = folder
        self._limit = segment_bytes
        self.rejected = 0
        self._file = -1
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _hold(folder)
            self._first = max((_number(path) for path in folder.glob("*.log")), default=0) + 1
            self._number = self._first
            self._start(self._number)
        except OSError as error:
            raise Fault(f"the spool {folder} cannot be opened: {error}", hint=_DISK) from error

    def append(self, line: bytes) -> None:
        """Write one whole line: in the page cache, so it outlives this process. A line that did not fit leaves no trace."""
        try:
            if self._size + len(line) > self._limit and self._size:
                self._next()
            self._write(line)
        except OSError as error:
            raise Fault(f"the spool {self._path} cannot be written: {error}", hint=_DISK) from error
        self._size += len(line)

    def append_for_good(self, line: bytes) -> Callable[[], None]:
        """Write one whole line, and return what brings it and its file's name to the disk (call it without the owner's lock)."""
        self.append(line)
        try:
            copies = (os.dup(self._file), os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            raise Fault(f"the spool {self._path} cannot be flushed: {error}", hint=_DISK) from error
        return lambda: _flush(copies, self._folder)

    def rotate(self) -> None:
        """Close the segment in use, if anything is in it, and begin the next."""
        if self._size:
            try:
                self._next()
            except OSError as error:
                raise Fault(f"the spool {self._folder} cannot be written: {error}", hint=_DISK) from error

    def closed(self) -> list[Path]:
        """Return the segments that are no longer appended to, oldest first."""
        return sorted((path for path in self._folder.glob("*.log") if _number(path) < self._number), key=_number)

    def is_of_the_dead(self, path: Path) -> bool:
        """Whether an earlier process wrote this segment."""
        return _number(path) < self._first

    def reject(self, path: Path, lines: Sequence[bytes]) -> None:
        """Put lines aside for an operator."""
        if not lines:
            return
        aside = self._folder / "rejected"
        try:
            aside.mkdir(exist_ok=True, mode=0o700)
            with (aside / path.name).open("ab") as file:
                file.writelines(line + b"\n" for line in lines)
        except OSError as error:
            raise Fault(f"lines of {path} cannot be put aside: {error}", hint=_DISK) from error
        self.rejected += len(lines)

    def delete(self, path: Path) -> None:
        """Remove a segment that was shipped."""
        path.unlink(missing_ok=True)

    def size(self) -> int:
        """Return the bytes in all segments."""
        return self._size + sum(path.stat().st_size for path in self.closed() if path.exists())

    def close(self) -> None:
        """Let go of the folder. Closing twice changes nothing."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def _next(self) -> None:
        before = self._file
        self._start(self._number + 1)
        self._number += 1
        os.close(before)

    def _start(self, number: int) -> None:
        path = self._folder / f"{number:010d}.log"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._path = path
        self._size = 0

    def _write(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written != len(line):
            os.ftruncate(self._file, self._size)
            raise OSError(28, "no room for the whole line")


def read_units(path: Path) -> tuple[list[Unit], list[bytes]]:
    """Return the records of a segment, and the lines that are none. A torn last line was never acknowledged: it is left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise Fault(f"the spool's segment {path} cannot be read: {error}", hint="look at the disk") from error
    *lines, torn = content.split(b"\n")
    units: list[Unit] = []
    broken: list[bytes] = []
    for line in lines:
        unit = _unit(line)
        if unit is None:
            broken.append(line)
        else:
            units.append(unit)
    whole = _unit(torn)
    return (units if whole is None else [*units, whole]), broken


_PARTS: dict[str, dict[str, type[Any]]] = {
    "reserve": {"completion": Completion, "assignment": Assignment},
    "settle": {"completion": Completion},
    "vote": {"feedback": Feedback},
}


def _unit(line: bytes) -> Unit | None:
    try:
        document = json.loads(line)
        kind = document["kind"]
        parts = {name: restore(of, document[name]) for name, of in _PARTS[kind].items()}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return Unit(line + b"\n", kind, **parts)


def _hold(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        what = f"another process appends to the spool {folder}"
        raise Conflict(what, reason=Reason.SPOOL_TAKEN, hint="stop it, or give another folder") from error
    return descriptor


def _flush(copies: Sequence[int], folder: Path) -> None:
    try:
        for descriptor in copies:
            os.fsync(descriptor)
    except OSError as error:
        raise Fault(f"the spool {folder} cannot be flushed: {error}", hint=_DISK) from error
    finally:
        for descriptor in copies:
            os.close(descriptor)


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0
