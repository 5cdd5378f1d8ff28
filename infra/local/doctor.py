"""What this machine lacks: quick looks, none of which needs the stack."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from core.engines import EnginePhase
from core.errors import Fault, SeatrialError
from core.leases import HOUSEKEEPING, RECONCILE, Lease
from core.ports import Clock
from core.settings import GIB, Settings
from infra.findings import Finding, answers
from infra.local import cpu
from infra.local.backup import database_file, require_database
from infra.local.earlier_stack import Left, read_left
from infra.local.ports import DEFAULTS, free, holder
from infra.local.runs_watch import trouble
from infra.local.stack import at_ports
from serving.engines import files
from serving.engines.processes import alive

_DISK_BYTES = 10 * GIB
_MEMORY_BYTES = 6 * GIB  # the platform's own 1.5 GiB, one engine of 3, and room
_NEWEST = (3, 14)


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield every finding, in the order in which to correct them."""
    yield _python()
    yield from (Finding(*look) for look in cpu.looks())
    yield _engine_environment(settings)
    yield _home(settings.home)
    yield _disk(settings.home)
    yield _memory()
    yield _database(settings)
    yield from _stack(settings)
    yield from _services(settings)
    yield from _engines(settings)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] < _NEWEST
    return Finding("python", ok, version, "" if ok else "run with Python 3.11, 3.12 or 3.13")


def _engine_environment(settings: Settings) -> Finding:
    """Find vLLM without importing it, which takes ten seconds: its folder must be where that interpreter looks."""
    python = Path(settings.engine_python)
    hint = "set up the engine's environment with `make`, or point SEATRIAL_ENGINE_PYTHON at one"
    if not os.access(python, os.X_OK):
        return Finding("engine", ok=False, what=f"{python} is not there", next=hint)
    top = settings.engine_module.partition(".")[0]
    wanted = ("vllm", "torch", "tensorizer", top) if top == "seatrial_engine" else (top,)
    look = f"import importlib.util as u; print(*[n for n in {wanted!r} if u.find_spec(n) is None])"
    try:
        found = subprocess.run([str(python), "-c", look], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("engine", ok=False, what=f"{python} does not run: {error}", next=hint)
    missing = found.stdout.split()
    return Finding("engine", not missing, f"{python} lacks {', '.join(missing)}" if missing else str(python), hint if missing else "")


def _home(home: Path) -> Finding:
    there = _nearest(home)
    ok = os.access(there, os.W_OK | os.X_OK)
    what = str(home) if home.exists() else f"{home} does not exist yet; `seatrial up` creates it"
    return Finding("home", ok, what, "" if ok else f"{there} is not writable: change its owner, or give --home another folder")


def _disk(home: Path) -> Finding:
    free_bytes = shutil.disk_usage(_nearest(home)).free
    ok = free_bytes >= _DISK_BYTES
    return Finding("disk", ok, f"{free_bytes / GIB:.1f} GiB free", "" if ok else f"free some: {_DISK_BYTES // GIB} GiB are the least")


def _memory() -> Finding:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    ok = available >= _MEMORY_BYTES
    return Finding(
        "memory", ok, f"{available / GIB:.1f} GiB available", "" if ok else f"an engine and the platform need {_MEMORY_BYTES // GIB} GiB"
    )


def _database(settings: Settings) -> Finding:
    parts = urlsplit(settings.database_url)
    if parts.scheme.startswith("sqlite"):
        return _sqlite(settings)
    if not parts.scheme.startswith("postgres"):
        return Finding("database", ok=True, what=parts.scheme)
    where = f"{parts.hostname or 'localhost'}:{parts.port or 5432}"  # never the URL: it holds the password
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or 5432), timeout=1).close()
    except OSError as error:
        return Finding("database", ok=False, what=f"PostgreSQL at {where}: {error}", next="start it, or correct SEATRIAL_DATABASE_URL")
    return Finding("database", ok=True, what=f"PostgreSQL at {where}")


def _sqlite(settings: Settings) -> Finding:
    """Check the file of a database. A home that no `up` has prepared has none."""
    try:
        file = database_file(settings)
        if file is None or not file.exists():
            return Finding("database", ok=True, what=f"SQLite; {file} does not exist yet, `seatrial up` creates it")
        require_database(settings)
    except SeatrialError as error:
        return Finding("database", ok=False, what=error.what, next=error.hint)
    return Finding("database", ok=True, what=f"SQLite: {file}")


def _stack(settings: Settings) -> Iterator[Finding]:
    """Taken ports are not a fault, as `up` chooses others; a running stack that does not answer is a fault."""
    try:
        left = read_left(settings.home)
    except Fault as error:
        yield Finding("stack", ok=False, what=error.what, next=error.hint)
        return
    if left.supervisor is None or not alive(left.supervisor):
        taken = [f"{port} ({holder(port)})" for port in DEFAULTS.values() if not free(port)]
        yield Finding("ports", ok=True, what=f"taken: {', '.join(taken)}; `up` takes others" if taken else "the usual ones are free")
        yield Finding("stack", ok=True, what="not running; `seatrial up` starts it")
        return
    for name, path in (("prefect", "/api/health"), ("mlflow", "/health"), ("control", "/healthz"), ("gateway", "/healthz")):
        if name not in left.ports:
            what = f"{settings.home / 'run' / 'stack.json'} has no port of {name}"
            yield Finding(name, ok=False, what=what, next="run `seatrial down`, then `seatrial up`")
            continue
        url = f"http://127.0.0.1:{left.ports[name]}"
        ok = answers(url + path, 0.5)
        yield Finding(name, ok, url, "" if ok else f"it does not answer; its log: {settings.logs / f'{name}.log'}")
    yield _runs_of(settings, left)


def _runs_of(settings: Settings, left: Left) -> Finding:
    """Check flow runs where the ports of the stack and its database are known: the look itself would create a missing file."""
    missing = [name for name in DEFAULTS if name not in left.ports]
    if missing:
        return Finding(
            "runs", ok=False, what=f"the ports of {', '.join(missing)} are unknown", next="run `seatrial down`, then `seatrial up`"
        )
    try:
        require_database(settings)
    except SeatrialError as error:
        return Finding("runs", ok=False, what=error.what, next=error.hint)
    return _runs(settings, left)


def _runs(settings: Settings, left: Left, clock: Clock | None = None) -> Finding:
    """Return whether flow runs can start, for the running stack at its ports."""
    try:
        found = trouble(at_ports(settings, left.ports), clock)
    except SeatrialError as error:
        return Finding("runs", ok=False, what=error.what, next=error.hint)
    if found is None:
        return Finding("runs", ok=True, what="the flow runner starts runs")
    return Finding("runs", ok=False, what=found.what, next=found.hint)


def _services(settings: Settings) -> Iterator[Finding]:
    """Look at the last passes of the background services, in the database."""
    try:
        left = read_left(settings.home)
        require_database(settings)
    except SeatrialError:  # reported by the checks of the stack and the database
        return
    if left.supervisor is None or not alive(left.supervisor):
        return
    from wiring import Platform  # noqa: PLC0415 - brings in SQLAlchemy, which the other looks do not need

    platform = Platform(settings)
    for name, every_s in ((RECONCILE, settings.reconcile_s), (HOUSEKEEPING, settings.retention.housekeeping_s)):
        try:
            lease = platform.records.leases.get(name)
        except SeatrialError as error:
            yield Finding(name, ok=False, what=error.what, next=error.hint)
            continue
        yield _service(name, lease, platform.clock.now(), every_s, settings)


def _service(name: str, lease: Lease | None, now: float, every_s: float, settings: Settings) -> Finding:
    log = f"see {settings.logs / 'runner.log'}"
    if lease is None or not lease.began_at:
        return Finding(name, ok=True, what="no pass yet")
    age_s = now - lease.began_at
    if lease.failures:
        return Finding(name, ok=False, what=f"{lease.failures} passes in a row failed: {lease.failed[:300]}", next=log)
    late = every_s > 0 and age_s > 3 * every_s + 60
    return Finding(name, not late, f"last pass {age_s:.0f} s ago by {lease.holder}", log if late else "")


def _engines(settings: Settings) -> Iterator[Finding]:
    """Name every engine that was given up, with its cause."""
    for version in files.versions(settings.engines):
        engine = files.EngineFiles(settings.engines / version)
        try:
            status = engine.status()
        except Fault as error:
            yield Finding(f"engine {version[:12]}", ok=False, what=error.what, next=error.hint)
            continue
        if status is not None and status.phase is EnginePhase.FAILED:
            step = f"correct the cause, then submit the same model again; its log: {engine.log}"
            yield Finding(f"engine {version[:12]}", ok=False, what=f"does not start: {status.detail}", next=step)


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder
