"""The file of a run's answers: a line each, written as it arrives. What a kill leaves can be read and gone on with."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.errors import Fault, Transient
from evals.harness.seeds import Identity

FORMAT = 1
_SYNC_EVERY_S = 1.0  # what a dying machine loses at most; a dying process loses nothing that was written


@dataclass(frozen=True, slots=True)
class Row:
    """An unjudged answer. `failed`: the engine gave none (never the model's fault); `refused`: the engine rejects this prompt."""

    task_id: str
    sampling: str
    index: int
    seed: int
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    mean_logprob: float | None = None
    seconds: float = 0.0
    failed: str = ""
    refused: str = ""

    @property
    def identity(self) -> Identity:
        """What it answers."""
        return self.task_id, self.sampling, self.index

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises TypeError for anything else."""
        return cls(**document)


class Rows:
    """The open file of one run (`run` names it), for one process at a time. Safe for threads; to be closed.

    `done` holds the answers that an earlier process left; failed ones are not among them and are asked again. Raises Fault when the file
    is another run's, Transient while another process writes to it.
    """

    def __init__(self, path: Path, run: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._synced_at = time.monotonic()
        try:
            self._hold(path)
            self.done = self._resume(path, run)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close it."""
        self.close()

    def add(self, row: Row) -> None:
        """Append an answer."""
        with self._lock:
            _write(self._file, row.to_json().encode() + b"\n")
            if time.monotonic() - self._synced_at > _SYNC_EVERY_S:
                os.fsync(self._file)
                self._synced_at = time.monotonic()

    def close(self) -> None:
        """Bring all to disk and close the file."""
        with self._lock:
            os.fsync(self._file)
            os.close(self._file)

    def _hold(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Transient(f"another process writes to {path}", hint="wait until it has ended") from error

    def _resume(self, path: Path, run: str) -> dict[Identity, Row]:
        """Read what is there and cut a torn last line off; begin a new file with its header."""
        whole = path.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        if len(kept) < len(whole):
            os.ftruncate(self._file, len(kept))
        header = {"format": FORMAT, "run": run}
        if not kept:
            _write(self._file, json.dumps(header).encode() + b"\n")
            return {}
        first, *lines = kept.splitlines()
        if _document(first) != header:
            raise Fault(f"{path} holds the answers of another run", hint="give every run a file of its own, or remove this one")
        rows = [row for line in lines if (row := _row(line)) is not None]
        return {row.identity: row for row in rows if not row.failed}


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _document(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _row(line: bytes) -> Row | None:
    """Return a line's answer; None for one that a crash of the machine left unreadable: it is asked again."""
    document = _document(line)
    try:
        return Row.from_json(document) if isinstance(document, dict) else None
    except TypeError:
        return None
