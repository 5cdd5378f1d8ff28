"""The files in an engine's folder, and their writers.

    <engines>/<version>/desired.json  the desired state, written by LocalEngines: the spec, and whether the engine should run
    <engines>/<version>/status.json   the status, written by the engine supervisor: the process and its phase
    <engines>/<version>/engine.log    the engine's output, kept after it stopped; engine.log.1 is the part before
    <engines>/<version>/.lock         held briefly by a process that changes or removes the desired state
    <engines>/supervisor.json         the identity of the engine supervisor
    <engines>/supervisor.lock         held by the engine supervisor while it runs
    <engines>/fork-server.json        the fork server while it can fork: its socket and its process

Each write replaces a whole file, so a reader sees the old or the new content, never a mixture.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from core.engines import EngineCause, EnginePhase, EngineSpec
from core.errors import Fault
from core.ids import Epoch, VersionId
from serving.engines.processes import Identity, alive, identity_in

R = TypeVar("R")

HOME = "home:"
"""Begins an address below the home, in a desired-state file."""
LOG_BYTES = 20_000_000
DESIRED = "desired.json"
FORMER_DESIRED = "wish.json"
"""The name of a desired state in a home that an earlier release wrote."""
_STATUS = "status.json"
_SUPERVISOR = "supervisor.json"
_FORMER_NAMES = {FORMER_DESIRED: DESIRED, "record.json": _STATUS}


@dataclass(frozen=True, slots=True)
class DesiredState:
    """The desired state of an engine. `attempt` grows with each new start; `deadline` ends the drain of an engine that should stop."""

    spec: EngineSpec
    attempt: int
    wanted: bool = True
    deadline: Epoch = 0.0


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The status of an attempt. `process` is the server, which leads its session; None between two starts."""

    attempt: int
    phase: EnginePhase
    since: Epoch
    process: Identity | None = None
    port: int | None = None
    detail: str = ""
    cause: EngineCause | None = None
    restarts: int = 0
    failed_starts: int = 0
    crashes: int = 0
    """Deaths in short order, which make the pauses grow."""
    not_before: Epoch = 0.0
    launched: Epoch = 0.0
    load_seconds: float | None = None
    unhealthy_since: Epoch | None = None
    asked_to_stop: bool = False

    @property
    def address(self) -> str:
        """The engine's base URL."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """The files of one version's engine."""

    folder: Path

    @property
    def log(self) -> Path:
        """The engine's output."""
        return self.folder / "engine.log"

    def desired(self) -> DesiredState | None:
        """Return the desired state, None when there is none. Raises Fault for a file that is damaged or that another release wrote."""
        return _read(self.folder / DESIRED, self._desired_in)

    def status(self) -> EngineStatus | None:
        """Return the status, None when there is none. Raises Fault for a file that is damaged or that another release wrote."""
        return _read(self.folder / _STATUS, _status_in)

    def save_desired(self, desired: DesiredState) -> None:
        """Replace the desired state. Addresses below the home are stored relative to it, so that a home can be restored elsewhere."""
        spec = desired.spec
        moved = replace(spec, model_uri=self._relative(spec.model_uri), tensors_uri=self._relative(spec.tensors_uri))
        write(self.folder / DESIRED, asdict(replace(desired, spec=moved)))

    def _desired_in(self, document: Mapping[str, Any]) -> DesiredState:
        spec = EngineSpec(**document["spec"])
        placed = replace(spec, model_uri=self._absolute(spec.model_uri), tensors_uri=self._absolute(spec.tensors_uri))
        return DesiredState(**{**document, "spec": placed, "attempt": _attempt_in(document)})

    @property
    def _home(self) -> Path:
        return self.folder.absolute().parent.parent

    def _relative(self, uri: str) -> str:
        below = f"{self._home.as_uri()}/"
        return HOME + uri.removeprefix(below) if uri.startswith(below) else uri

    def _absolute(self, uri: str) -> str:
        """Return the address that was stored. One that an earlier release wrote under another home is looked for in this one."""
        if uri.startswith(HOME):
            return f"{self._home.as_uri()}/{uri.removeprefix(HOME)}"
        stored = Path(unquote(urlsplit(uri).path))
        here = self._home.joinpath(*stored.parts[-3:])  # weights/bundles/DIGEST
        return here.as_uri() if uri.startswith("file:") and not stored.exists() and here.exists() else uri

    def save_status(self, status: EngineStatus) -> None:
        """Replace the status."""
        write(self.folder / _STATUS, asdict(status))

    def drop_status(self) -> None:
        """Remove the status; the desired state stays."""
        (self.folder / _STATUS).unlink(missing_ok=True)

    def forget_unwanted(self) -> None:
        """Remove desired state and status, unless the engine is wanted again. The log stays."""
        with self.locked():
            desired = self.desired()
            if desired is None or not desired.wanted:
                self.drop_status()
                (self.folder / DESIRED).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for a read and the write that rests on it. Housekeeping may remove the folder before the lock is held."""
        while (handle := self._lock()) is None:
            pass
        try:
            yield
        finally:
            os.close(handle)

    def _lock(self) -> int | None:
        """Return a handle on the held lock, None when its file was removed while we waited."""
        path = self.folder / ".lock"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)
        return None

    def note(self, line: str) -> None:
        """Write a line of ours into the log; `since_last_start` looks for it."""
        with self.log.open("ab") as log:
            log.write(f"{line}\n".encode())

    def tail(self, lines: int, size: int = 400_000) -> tuple[str, ...]:
        """Return the log's last lines, from its last `size` bytes."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - size))
                text = log.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ()
        return tuple(text.splitlines()[-lines:]) if lines > 0 else ()

    def bound_log(self, limit: int = LOG_BYTES) -> None:
        """Keep the log small; see `bound`."""
        bound(self.log, limit)


def bound(log: Path, limit: int = LOG_BYTES) -> None:
    """Cut a log that has grown past `limit` bytes: its last quarter moves to NAME.1. Its writer appends, so it goes on at the new end."""
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return
    if size <= limit:
        return
    with log.open("rb+") as file:
        file.seek(size - limit // 4)
        log.with_name(f"{log.name}.1").write_bytes(file.read(limit // 4))
        file.truncate(0)


def stopped(desired: DesiredState, deadline: Epoch) -> DesiredState:
    """Return the desired state of an engine that stops, at the latest soon after `deadline`."""
    return replace(desired, wanted=False, deadline=deadline)


def versions(root: Path) -> tuple[VersionId, ...]:
    """Return every version that has a desired state or a status, in order."""
    if not root.is_dir():
        return ()
    return tuple(VersionId(folder.name) for folder in sorted(root.iterdir()) if _has_state(folder))


@dataclass(frozen=True, slots=True)
class Retired:
    """The folder of an engine that has neither desired state nor status: its logs."""

    folder: Path
    bytes: int
    written_at: Epoch

    @property
    def version(self) -> VersionId:
        """The engine's version."""
        return VersionId(self.folder.name)

    def remove(self) -> bool:
        """Delete the logs, unless the engine is wanted again. The folder and its lock stay where another process uses them."""
        files = EngineFiles(self.folder)
        with files.locked():
            if _has_state(self.folder):
                return False
            for path in self.folder.iterdir():
                if path.name != ".lock" and not path.is_dir():
                    path.unlink()
            (self.folder / ".lock").unlink()
        with suppress(OSError):
            self.folder.rmdir()
        return True


def retired(root: Path) -> tuple[Retired, ...]:
    """Return every engine's folder that holds nothing but logs, in order."""
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not folder.is_dir() or _has_state(folder):
            continue
        stats = [path.stat() for path in folder.iterdir() if path.is_file()]
        written_at = max((stat.st_mtime for stat in stats), default=folder.stat().st_mtime)
        found.append(Retired(folder, sum(stat.st_size for stat in stats), written_at))
    return tuple(found)


def supervisor(root: Path) -> Identity | None:
    """Return the process that wrote itself down as the engine supervisor; it may have ended.

    None where there is none, or where the file cannot be read: the next engine supervisor replaces it.
    """
    with suppress(Fault):
        return _read(root / _SUPERVISOR, identity_in)
    return None


def save_supervisor(root: Path, identity: Identity) -> None:
    """Write down a process as the engine supervisor."""
    write(root / _SUPERVISOR, asdict(identity))


def supervisor_lock(root: Path) -> Path:
    """Return the lock file of the engine supervisor. One of an earlier release is renamed; a process that holds it keeps it."""
    path = root / "supervisor.lock"
    with suppress(FileNotFoundError):
        (root / "keeper.lock").replace(path)
    return path


def rename_former_files(root: Path) -> None:
    """Rename the files that an earlier release wrote. Call it while no engine supervisor of that release runs.

    A file with a former name is the newer one of two: this release writes none, so the earlier release ran later.
    """
    with suppress(FileNotFoundError):
        (root / "keeper.json").replace(root / _SUPERVISOR)
    for former, name in _FORMER_NAMES.items():
        for path in root.glob(f"*/{former}"):
            with EngineFiles(path.parent).locked(), suppress(FileNotFoundError):
                path.replace(path.with_name(name))


def fork_server_file(root: Path) -> Path:
    """Return the file that has the address of the fork server."""
    return root / "fork-server.json"


def save_fork_server(file: Path, socket: Path, process: Identity) -> None:
    """Write the address of a fork server that listens."""
    write(file, {"socket": str(socket), "process": asdict(process)})


def fork_server_socket(file: Path) -> Path | None:
    """Return the socket of the fork server; None where there is none, or the file is left of one that ended, or damaged."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return Path(document["socket"]) if alive(Identity(**document["process"])) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(path: Path, document: dict[str, Any]) -> None:
    """Replace a JSON file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _has_state(folder: Path) -> bool:
    return (folder / DESIRED).exists() or (folder / _STATUS).exists()


def _read(path: Path, parse: Callable[[Mapping[str, Any]], R]) -> R | None:
    """Return the record in a JSON file, None without the file. Raises Fault for a file that is damaged or that another release wrote."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        cause = f"no {error}" if isinstance(error, KeyError) else str(error)[:200]
        raise Fault(
            f"{path} cannot be read ({cause}): it is damaged, or another release wrote it",
            hint="run `seatrial down`, remove the file, then run `seatrial up`",
        ) from error


def _status_in(document: Mapping[str, Any]) -> EngineStatus:
    process, cause = document["process"], document.get("cause")
    typed = {
        "attempt": _attempt_in(document),
        "phase": EnginePhase(document["phase"]),
        "process": identity_in(process) if process else None,
        "cause": EngineCause(cause) if cause else None,
    }
    return EngineStatus(**{**document, **typed})


def _attempt_in(document: Mapping[str, Any]) -> int:
    attempt = document["attempt"]
    if type(attempt) is not int:
        raise TypeError(f"attempt must be a whole number, got {attempt!r:.100}")
    return attempt
