"""Processes by what they are: pid and start time, sessions and descendants. Linux only (/proc).

A pid alone is not an identity: the kernel gives it out again. With its start time (field 22 of /proc/<pid>/stat) it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

MARK = "SEATRIAL_ENGINE_FOLDER"
"""In the environment of an engine and all it starts: whose it is, also where a child made a session of its own."""

_PROC = Path("/proc")
_GONE = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that no other can be mistaken for; `started` is in clock ticks since the boot whose id is `boot`."""

    pid: int
    started: int
    boot: str


def identity_in(document: Mapping[str, Any]) -> Identity:
    """Return the identity in a JSON document. Raises TypeError or KeyError for a document of another form."""
    pid, started, boot = document["pid"], document["started"], document["boot"]
    if type(pid) is not int or type(started) is not int or not isinstance(boot, str):
        raise TypeError(f"{dict(document)!r:.100} does not identify a process")
    return Identity(pid, started, boot)


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    parent: int
    session: int
    started: int


def identify(pid: int) -> Identity | None:
    """Return the identity of the process with this pid, None when there is none. A zombie counts as none."""
    stat = _stat(pid)
    return None if stat is None or stat.state in _GONE else Identity(pid, stat.started, _boot())


def ended(pid: int) -> Identity:
    """Return an identity for a child that ended before it could be looked up. No process matches it, as only init starts at tick 0."""
    return Identity(pid, 0, _boot())


def alive(identity: Identity | None) -> bool:
    """Say whether that very process still runs."""
    return identity is not None and identify(identity.pid) == identity


def send(identity: Identity, number: signal.Signals) -> None:
    """Signal that very process; nothing happens when it is gone. A pidfd keeps the pid from changing hands in between."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(identity.pid)
        try:
            if alive(identity):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def start(command: Sequence[str], environ: Mapping[str, str], *, log: Path, folder: Path) -> Popen[bytes]:
    """Start a process in a session of its own: no terminal, no input, output appended to `log`. Raises OSError."""
    with log.open("ab") as output:
        return Popen(
            list(command),
            env={**environ, MARK: str(folder)},
            cwd=folder,
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def members(folder: Path, leader: Identity | None, *, descendants: bool = True) -> tuple[Identity, ...]:
    """Return every live process of the leader's session, every process with the folder's mark in its environment, and their descendants."""
    stats = dict(_all())
    known = leader if leader is not None and leader.boot == _boot() else None
    found = {pid for pid, stat in stats.items() if (known and _follows(stat, known)) or _marked(pid, folder)}
    grown = descendants
    while grown:
        more = {pid for pid, stat in stats.items() if stat.parent in found} - found
        found |= more
        grown = bool(more)
    return tuple(Identity(pid, stats[pid].started, _boot()) for pid in sorted(found) if pid != os.getpid())


def _follows(stat: _Stat, leader: Identity) -> bool:
    return stat.session == leader.pid and stat.started >= leader.started


@cache
def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _all() -> Iterator[tuple[int, _Stat]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat is not None and stat.state not in _GONE:
                yield int(entry.name), stat


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    return _Stat(state=fields[0], parent=int(fields[1]), session=int(fields[3]), started=int(fields[19]))


def _marked(pid: int, folder: Path) -> bool:
    """Say whether a process carries the folder's mark, or writes the folder's log: a forked engine has the fork server's environment."""
    process = _PROC / str(pid)
    try:
        if (process / "fd/1").readlink() == (folder / "engine.log").resolve():
            return True
        environ = (process / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"{MARK}={folder}".encode() in environ.split(b"\0")
