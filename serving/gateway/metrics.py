"""What operators see of a gateway. Labels hold endpoints and versions of the routes only, and go when the version does."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from core.conversations import Completion, Outcome
from core.endpoints import Snapshot
from core.ids import VersionId

_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BY_VERSION = ("endpoint", "version")
_COUNTED = tuple(outcome for outcome in Outcome if outcome is not Outcome.LOST)
"""Ends that a living gateway sees. A lost completion is found in a dead one's spool and goes straight into the database."""
SHORT = 12


def short(version: VersionId) -> str:
    """Return the version as people read it."""
    return version[:SHORT]


class Metrics:
    """The gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter("seatrial_requests", "Completions by their end", (*_BY_VERSION, "outcome"), registry=registry)
        self._tokens_in = Counter("seatrial_tokens_in", "Prompt tokens", _BY_VERSION, registry=registry)
        self._tokens_out = Counter("seatrial_tokens_out", "Completion tokens", _BY_VERSION, registry=registry)
        self._ttft = Histogram("seatrial_ttft_seconds", "Time to first token", _BY_VERSION, buckets=_TTFT_BUCKETS, registry=registry)
        self._share = Gauge("seatrial_candidate_share", "Candidate's share of new conversations", ("endpoint",), registry=registry)
        self.rejected = Counter("seatrial_rejected", "Requests that reached no engine", ("status",), registry=registry)
        self.in_flight = Gauge("seatrial_in_flight", "Completions under way", registry=registry)
        self.generation = Gauge("seatrial_generation", "Generation of the routes that this gateway follows", registry=registry)
        self.shipped = Counter("seatrial_spool_shipped", "Records brought from the spool into the database", registry=registry)
        backlog = Gauge("seatrial_spool_backlog", "Records spooled by this process and not shipped yet", registry=registry)
        backlog.set_function(lambda: self.spooled - self.shipped_up_to)
        self.spooled = 0
        self.shipped_up_to = 0
        self.ledger_faults = Counter("seatrial_ledger_faults", "Ends of completions that could not be written down", registry=registry)
        self._children: dict[tuple[str, str], dict[Outcome, Counter]] = {}
        self._endpoints: set[str] = set()

    def completed(self, completion: Completion) -> None:
        """Count one ended completion."""
        labels = (completion.endpoint, short(completion.version))
        self._born(labels)[completion.outcome].inc()
        if completion.usage is not None:
            self._tokens_in.labels(*labels).inc(completion.usage.prompt_tokens)
            self._tokens_out.labels(*labels).inc(completion.usage.completion_tokens)
        if completion.ttft_s is not None:
            self._ttft.labels(*labels).observe(completion.ttft_s)

    def follow(self, snapshot: Snapshot, now: float) -> None:
        """Show the routes in use and drop what is gone from them."""
        self.generation.set(snapshot.generation)
        live: set[tuple[str, str]] = set()
        for name, route in snapshot.routes.items():
            self._share.labels(name).set(route.share_at(now))
            live.update((name, short(target.version)) for target in (route.stable, route.candidate) if target is not None)
        for gone in self._endpoints - {str(name) for name in snapshot.routes}:
            self._share.remove(gone)
        self._endpoints = {str(name) for name in snapshot.routes}
        self._drop(labels for labels in set(self._children) - live)
        for labels in live:
            self._born(labels)

    def _born(self, labels: tuple[str, str]) -> dict[Outcome, Counter]:
        """Return a version's counters by outcome, all of them from 0: the increase of a series that is born at 1 is none."""
        if labels not in self._children:
            self._children[labels] = {outcome: self._requests.labels(*labels, outcome.value) for outcome in _COUNTED}
        return self._children[labels]

    def _drop(self, gone: Iterable[tuple[str, str]]) -> None:
        for labels in gone:
            for outcome in self._children.pop(labels):
                self._requests.remove(*labels, outcome.value)
            for metric in (self._tokens_in, self._tokens_out, self._ttft):
                metric.remove(*labels)

    def page(self) -> bytes:
        """Return the page that Prometheus scrapes."""
        return generate_latest(self._registry)
