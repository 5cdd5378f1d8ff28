"""The metrics of a gateway. Labels are endpoints and versions in the routes; a version's series are removed with the version."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from core.conversations import Completion, Outcome
from core.endpoints import Snapshot
from core.ids import VersionId

_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BY_VERSION = ("endpoint", "version")
_COUNTED = tuple(outcome for outcome in Outcome if outcome is not Outcome.LOST)
"""The outcomes that a running gateway counts. A lost completion is found in the spool of an ended one and stored in the database."""
_DEGENERATE = (_LOOP, _NONSENSE) = ("loop", "nonsense")
SHORT = 12


def short(version: VersionId) -> str:
    """Return the beginning of the version, for people."""
    return version[:SHORT]


class Metrics:
    """The gateway's metrics, in a separate registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter("seatrial_requests", "Completions by their end", (*_BY_VERSION, "outcome"), registry=registry)
        self._tokens_in = Counter("seatrial_tokens_in", "Prompt tokens", _BY_VERSION, registry=registry)
        self._tokens_out = Counter("seatrial_tokens_out", "Completion tokens", _BY_VERSION, registry=registry)
        self._ttft = Histogram("seatrial_ttft_seconds", "Time to first token", _BY_VERSION, buckets=_TTFT_BUCKETS, registry=registry)
        self._degenerate = Counter(
            "seatrial_degenerate", "Completions that loop or are nonsense", (*_BY_VERSION, "kind"), registry=registry
        )
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
        self._counters(labels)[completion.outcome].inc()
        if completion.looped:
            self._degenerate.labels(*labels, _LOOP).inc()
        if completion.nonsense:
            self._degenerate.labels(*labels, _NONSENSE).inc()
        if completion.usage is not None:
            self._tokens_in.labels(*labels).inc(completion.usage.prompt_tokens)
            self._tokens_out.labels(*labels).inc(completion.usage.completion_tokens)
        if completion.ttft_s is not None:
            self._ttft.labels(*labels).observe(completion.ttft_s)

    def show_routes(self, snapshot: Snapshot, now: float) -> None:
        """Set the gauges from the routes in use and remove the series of endpoints and versions that are not in them."""
        self.generation.set(snapshot.generation)
        live: set[tuple[str, str]] = set()
        for name, route in snapshot.routes.items():
            self._share.labels(name).set(route.share_at(now))
            live.update((name, short(target.version)) for target in (route.stable, route.candidate) if target is not None)
        for gone in self._endpoints - {str(name) for name in snapshot.routes}:
            self._share.remove(gone)
        self._endpoints = {str(name) for name in snapshot.routes}
        self._remove(labels for labels in set(self._children) - live)
        for labels in live:
            self._counters(labels)

    def _counters(self, labels: tuple[str, str]) -> dict[Outcome, Counter]:
        """Return a version's counters by outcome, all created at 0: Prometheus sees no increase in a series that begins at 1."""
        if labels not in self._children:
            for kind in _DEGENERATE:
                self._degenerate.labels(*labels, kind)
            self._children[labels] = {outcome: self._requests.labels(*labels, outcome.value) for outcome in _COUNTED}
        return self._children[labels]

    def _remove(self, gone: Iterable[tuple[str, str]]) -> None:
        for labels in gone:
            for outcome in self._children.pop(labels):
                self._requests.remove(*labels, outcome.value)
            for kind in _DEGENERATE:
                self._degenerate.remove(*labels, kind)
            for metric in (self._tokens_in, self._tokens_out, self._ttft):
                metric.remove(*labels)

    def page(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)
