"""Doubles of the gateway's ports, and a server for the gateway."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import uvicorn

from core.access import Caller, Role, secret_digest
from core.conversations import Assignment, Completion, Feedback
from core.endpoints import Route, Snapshot, Target
from core.errors import Fault, Transient
from core.ids import CompletionId, EndpointName, KeyId, PrincipalId, RolloutId, VersionId
from core.ports.ledger import Reservation
from serving.gateway.responses import ASGIApp

STABLE = VersionId("a" * 64)
CANDIDATE = VersionId("b" * 64)
HARBOUR = EndpointName("harbour")
SECRET = EndpointName("secret")


def until(met: Callable[[], object], limit_s: float = 5.0) -> None:
    """Wait for a condition; fail when it is not met in time."""
    deadline = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(0.005)


def caller(name: str, role: Role = Role.APPLICATION, *endpoints: str, expires_at: float | None = None) -> Caller:
    return Caller(KeyId(f"key-{name}"), PrincipalId(f"who-{name}"), name, role, frozenset(map(EndpointName, endpoints)), expires_at)


def route(stable: str | None, candidate: str | None = None, **fields: object) -> Route:
    """A route whose stable and candidate answer at these addresses ("" means: its engine is unavailable)."""
    found = Route(
        HARBOUR,
        None if stable is None else Target(STABLE, stable or None),
        None if candidate is None else Target(CANDIDATE, candidate or None),
        rollout=None if candidate is None else RolloutId("roll-1"),
    )
    return replace(found, **fields)  # type: ignore[arg-type]


class FixedRoutes:
    """Routes from memory. `away` makes every call Transient."""

    def __init__(self, callers: dict[str, Caller], *routes: Route) -> None:
        self._callers = {secret_digest(secret): who for secret, who in callers.items()}
        self.away = False
        self.reports: list[tuple[str, int]] = []
        self.snapshot = Snapshot(0, {}, {})
        self.set(*routes)

    def set(self, *routes: Route) -> None:
        self.snapshot = Snapshot(self.snapshot.generation + 1, {found.endpoint: found for found in routes}, self._callers)

    def revoke(self, secret: str) -> None:
        self._callers = {digest: who for digest, who in self._callers.items() if digest != secret_digest(secret)}
        self.set(*self.snapshot.routes.values())

    def load(self, seen: int | None) -> Snapshot | None:
        if self.away:
            raise Transient("the database is away")
        return None if seen == self.snapshot.generation else self.snapshot

    def report(self, gateway: str, generation: int) -> None:
        if self.away:
            raise Transient("the database is away")
        self.reports.append((gateway, generation))


@dataclass
class MemoryLedger:
    """A ledger that remembers everything. `full` makes every write a Fault, `away` every shipment Transient."""

    reserved: list[Reservation] = field(default_factory=list)
    settled: dict[CompletionId, Completion] = field(default_factory=dict)
    votes: list[Feedback] = field(default_factory=list)
    ships: int = 0
    full: bool = False
    away: bool = False

    def reserve(self, reservation: Reservation) -> None:
        self._writable()
        self.reserved.append(reservation)

    def settle(self, completion: Completion) -> None:
        self._writable()
        self.settled.setdefault(completion.id, completion)

    def vote(self, feedback: Feedback) -> None:
        self._writable()
        self.votes.append(feedback)

    def find(self, completion: CompletionId) -> Completion | None:
        drafts = {reservation.completion.id: reservation.completion for reservation in self.reserved}
        return self.settled.get(completion) or drafts.get(completion)

    def ship(self) -> int:
        if self.away:
            raise Transient("the database is away")
        self.ships += 1
        return 0

    def last(self) -> Completion:
        """Wait until the newest reservation is settled and return it."""
        until(lambda: self.reserved and self.reserved[-1].completion.id in self.settled)
        return self.settled[self.reserved[-1].completion.id]

    def assignment(self) -> Assignment:
        return self.reserved[-1].assignment

    def _writable(self) -> None:
        if self.full:
            raise Fault("the spool's disk is full")


@contextlib.contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve `app` with uvicorn in a thread and yield its base URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, http="httptools", lifespan="on", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the gateway does not stop"
