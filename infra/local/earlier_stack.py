"""The remains of an earlier `seatrial up` in a home: the file with its services and ports, and its processes, which are ended here."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

from core.errors import Conflict, Fault, Refused
from core.ports.clock import Clock
from core.reasons import Reason
from core.settings import Settings
from infra.local import privacy
from infra.local.supervisor import end
from serving.engines import files, processes
from serving.engines.processes import Identity, alive, identify, identity_in

_STOP_ORDER = ("runner", "gateway", "control", "engines", "mlflow", "prefect")
_LARGEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Left:
    """The record of an `up`: its own identity, the services', and the ports."""

    supervisor: Identity | None
    services: Mapping[str, Identity]
    ports: Mapping[str, int]


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the home for one `up`. Raises Conflict, which names the other one's pid."""
    if home.resolve() in {Path("/"), Path(os.path.expanduser("~")).resolve()}:  # noqa: PTH111 - never raises
        raise Refused(f"{home} holds other files than the stack's", reason=Reason.BAD_HOME, hint="give --home a folder of its own")
    folder = home / "run"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        other = readable_left(home).supervisor
        who = f"process {other.pid}" if other else "another process"
        raise Conflict(f"{who} runs the stack of {home} already", hint="`seatrial down` stops it; --home takes another folder") from error
    try:
        yield
    finally:
        os.close(handle)


def make_private(home: Path) -> int:
    """Close the home to other users, make its folder of temporary files, and return how many entries were open before."""
    tightened = privacy.tighten(home)
    if not any(_engine_lives(home)):
        privacy.empty_temporary(home)
    privacy.temporary(home).mkdir(exist_ok=True, mode=0o700)
    return tightened


def write_left(settings: Settings, running: Mapping[str, Identity], ports: Mapping[str, int]) -> None:
    """Write down who runs and where, for `down`, the next `up`, and clients on this machine (run/client.json)."""
    me = identify(os.getpid())
    document = {
        "supervisor": asdict(me) if me and running else None,
        "services": {name: asdict(identity) for name, identity in running.items()},
        "ports": dict(ports),
    }
    files.write(_left_file(settings.home), document)
    if not running:
        (settings.home / "run" / "client.json").unlink(missing_ok=True)  # its ports may be another user's tomorrow: no key goes there
        return
    client = {"control_url": settings.control_url, "gateway_url": settings.gateway_url, "key_file": str(settings.home / "operator.key")}
    files.write(settings.home / "run" / "client.json", client)


def read_left(home: Path) -> Left:
    """Return the services and ports that the last `up` wrote. They may be out of date.

    Raises Fault for a file that is damaged or that another release wrote.
    """
    path = _left_file(home)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        supervisor, services, ports = document["supervisor"], document["services"], document["ports"]
        return Left(
            identity_in(supervisor) if supervisor else None,
            {name: identity_in(identity) for name, identity in services.items()},
            {name: _port(port) for name, port in ports.items()},
        )
    except FileNotFoundError:
        return Left(None, {}, {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Fault(
            f"{path} cannot be read ({_cause(error)}): it is damaged, or another release wrote it",
            hint="run `seatrial down`, then `seatrial up`",
        ) from error


def readable_left(home: Path) -> Left:
    """Return the services and ports that the last `up` wrote, or none if the file cannot be read.

    Services that are not in it are found by their environment.
    """
    try:
        return read_left(home)
    except Fault:
        return Left(None, {}, {})


def clear_left(home: Path, clock: Clock) -> tuple[str, ...]:
    """Kill what a killed `up` left (never the engines: the next engine supervisor adopts them); return the names of what still ran."""
    left = readable_left(home).services
    found = []
    for name in _STOP_ORDER:
        folder = home / "run" / name
        still = processes.members(folder, left.get(name), descendants=name != "engines")
        if still:
            found.append(name)
            end(folder, left.get(name), descendants=name != "engines", clock=clock)
    files.rename_former_files(home / "engines")  # the engine supervisor that wrote them has ended
    return tuple(found)


def bring_down(home: Path, clock: Clock, *, limit_s: float = 30.0) -> tuple[str, ...]:
    """Stop a running `up`, or the processes that a killed one left, including engines. Return the names of the stopped processes.

    Raises Fault where the file that names a running `up` cannot be read.
    """
    left = _left_to_stop(home)
    if left.supervisor is not None and alive(left.supervisor):
        processes.send(left.supervisor, SIGTERM)
        if not _gone(left.supervisor, clock, limit_s):
            processes.send(left.supervisor, SIGKILL)
            _gone(left.supervisor, clock, 5)
    stopped = [name for name, identity in left.services.items() if not alive(identity)]
    stopped += clear_left(home, clock)
    stopped += end_engines(home, clock)
    privacy.empty_temporary(home)
    return tuple(dict.fromkeys(stopped))


def end_engines(home: Path, clock: Clock) -> list[str]:
    """End engines that a killed engine supervisor left. Their desired states stay, so that the next `up` starts them again."""
    root = home / "engines"
    ended = []
    for version in files.versions(root):
        engine = files.EngineFiles(root / version)
        process = _engine_process(engine)
        if processes.members(engine.folder, process):
            if process is not None:
                processes.send(process, SIGTERM)
                _gone(process, clock, 10)
            end(engine.folder, process, descendants=True, clock=clock)
            engine.drop_status()
            ended.append(f"engine {version[:12]}")
    return ended


def _left_to_stop(home: Path) -> Left:
    """Return the services and ports that the last `up` wrote.

    An unreadable file is removed. Raises Fault if an `up` still runs: it would start its services again.
    """
    try:
        return read_left(home)
    except Fault as error:
        try:
            with only_one(home):
                _left_file(home).unlink(missing_ok=True)
        except Conflict:
            raise Fault(
                f"{error.what}; a `seatrial up` of this home still runs", hint="stop it with Ctrl-C in its terminal, then run this again"
            ) from error
        return Left(None, {}, {})


def _left_file(home: Path) -> Path:
    return home / "run" / "stack.json"


def _port(value: object) -> int:
    if type(value) is not int or not 0 < value <= _LARGEST_PORT:
        raise ValueError(f"a port must be from 1 to {_LARGEST_PORT}, got {value!r:.100}")
    return value


def _cause(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)[:200]


def _engine_lives(home: Path) -> Iterator[bool]:
    root = home / "engines"
    for version in files.versions(root):
        engine = files.EngineFiles(root / version)
        yield bool(processes.members(engine.folder, _engine_process(engine)))


def _engine_process(engine: files.EngineFiles) -> Identity | None:
    """Return the process in an engine's status. None where that cannot be read: its processes are then found by their environment."""
    try:
        status = engine.status()
    except Fault:
        return None
    return None if status is None else status.process


def _gone(identity: Identity, clock: Clock, limit_s: float) -> bool:
    give_up = clock.monotonic() + limit_s
    while alive(identity):
        if clock.monotonic() > give_up:
            return False
        clock.wait(0.05)
    return True
