"""An informer: a copy of the cluster's objects of one kind, kept by one list call and a watch that resumes after an interruption.

Readers never wait for the API server once the copy exists; while the server is unavailable they get the last known state.
"""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog

from core.errors import Fault, SeatrialError, Transient
from core.ports.clock import Clock
from serving.engines.kubernetes.api import Api, Gone
from serving.engines.kubernetes.kinds import Kind
from serving.engines.kubernetes.names import MANAGER, VERSION_LABEL

Object = dict[str, Any]

log = structlog.get_logger(__name__)

FOREIGN = "seatrial.dev/changed-by"
"""Set on copied objects: the other field managers, by `managedFields`, that wrote into the spec."""
SIZED = "seatrial.dev/sized-by"
"""Set on copied objects: the field manager, by `managedFields`, that set the number of replicas. Unset for the server's default."""

_WATCH_S = 240
_SILENCE_S = 200.0
"""Servers send a bookmark about once a minute: a watch silent for this long may hang on a version that etcd no longer has."""
_DOUBTFUL = 8
"""Failures in a row (about 40 s) after which the last resource version is discarded."""
_LONGEST_PAUSE_S = 10.0
_TOMBSTONES = 4096
_OTHERS = frozenset({MANAGER, "kube-controller-manager", "kube-scheduler", "kubelet", "keda", "seatrial-first-size"})


class Informer:
    """Objects of `kind` that `selector` matches, by version and by name. The first read lists them; a thread then watches.

    Errors of the first read: Transient, Fault. Later ones are logged and retried.
    """

    def __init__(self, api: Api, kind: Kind, selector: str, clock: Clock, *, random: Callable[[], float] = random.random) -> None:
        self.kind = kind
        self._api = api
        self._selector = selector
        self._clock = clock
        self._random = random
        self._lock = threading.RLock()
        self._objects: dict[str, dict[str, Object]] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._version: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.relists = 0
        """Number of list calls: one at the start, one after each 410, and one each time the resource version is in doubt."""

    def all(self) -> tuple[Object, ...]:
        """Return every object."""
        self.ensure()
        with self._lock:
            return tuple(entry for group in self._objects.values() for entry in group.values())

    def of(self, label: str) -> tuple[Object, ...]:
        """Return the objects of one version, by its label's value."""
        self.ensure()
        with self._lock:
            return tuple(self._objects.get(label, {}).values())

    def versions(self) -> frozenset[str]:
        """Return the version labels of which there is any object."""
        self.ensure()
        with self._lock:
            return frozenset(label for label, group in self._objects.items() if group)

    def put(self, entry: Object) -> None:
        """Store the response of our own write, so that readers see it before the watch delivers it."""
        with self._lock:
            self._keep(entry)

    def forget(self, entry: Object) -> None:
        """Drop an object that we deleted; later events of the same object are ignored."""
        with self._lock:
            self._bury(entry)

    def ensure(self) -> None:
        """List once, and start the watch."""
        if self._version is not None:
            return
        with self._lock:
            if self._version is None:
                self._relist()
                self._thread = threading.Thread(target=self._follow, name=f"informer-{self.kind.plural}", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop watching. The thread ends with its current watch; it is a daemon, so the process does not wait for it."""
        self._stop.set()

    def follow_once(self) -> None:
        """Follow one watch to its end, and list again if it delivered nothing. Raises Transient if it broke off."""
        begun, silent = self._clock.monotonic(), True
        try:
            for what, entry in self._api.watch(self.kind, self._selector, self._version or "", timeout_s=_WATCH_S):
                silent = False
                self._see(what, entry)
                if self._stop.is_set():
                    return
        except Gone:
            self._relist()
            return
        if silent and self._clock.monotonic() - begun >= _SILENCE_S:
            self._relist()

    def _follow(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                if failures >= _DOUBTFUL:
                    self._relist()
                self.follow_once()
                failures = 0
            except Fault as error:
                failures += 1
                log.warning("informer.refused", kind=self.kind.plural, error=str(error))
            except SeatrialError as error:
                failures += 1
                log.info("informer.unavailable", kind=self.kind.plural, error=str(error), failures=failures)
            if failures:
                self._stop.wait(min(_LONGEST_PAUSE_S, 0.2 * 2 ** min(failures, 6)) * (0.5 + self._random()))

    def _relist(self) -> None:
        listing = self._api.list(self.kind, self._selector)
        with self._lock:
            self.relists += 1
            self._objects = {}
            for entry in listing.items:
                self._keep(entry)
            self._version = listing.version
        if not listing.version:
            raise Transient(f"{self.kind.plural}: the API server listed without a resource version")

    def _see(self, what: str, entry: Object) -> None:
        with self._lock:
            if what == "DELETED":
                self._bury(entry)
            elif what != "BOOKMARK":
                self._keep(entry)
            self._version = entry["metadata"].get("resourceVersion", self._version)

    def _keep(self, entry: Object) -> None:
        metadata = entry["metadata"]
        if metadata.get("uid") in self._deleted:
            return
        group = self._objects.setdefault(_label(entry), {})
        known = group.get(metadata["name"])
        if known is None or known["metadata"].get("uid") != metadata.get("uid") or _number(known) <= _number(entry):
            group[metadata["name"]] = _trimmed(entry)

    def _bury(self, entry: Object) -> None:
        metadata = entry["metadata"]
        group = self._objects.get(_label(entry), {})
        known = group.get(metadata["name"])
        if known is not None and known["metadata"].get("uid") == metadata.get("uid"):
            del group[metadata["name"]]
            if not group:
                del self._objects[_label(entry)]
        self._deleted[metadata.get("uid", "")] = None
        while len(self._deleted) > _TOMBSTONES:
            self._deleted.popitem(last=False)


def _label(entry: Object) -> str:
    return str(entry["metadata"].get("labels", {}).get(VERSION_LABEL, ""))


def _number(entry: Object) -> int:
    """Return the resource version as a number; servers that do not count are believed in the order in which they speak."""
    text = str(entry["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


def _trimmed(entry: Object) -> Object:
    """Return the object without its managed fields, which are half of its size; who else wrote into its spec, and who scales, is kept."""
    metadata = {name: value for name, value in entry["metadata"].items() if name != "managedFields"}
    others = sorted(
        {
            str(item.get("manager", "?"))
            for item in entry["metadata"].get("managedFields", ())
            if item.get("manager") not in _OTHERS and not item.get("subresource") and _writes_spec(item)
        }
    )
    if others:
        metadata[FOREIGN] = others
    sized = sorted(
        str(item.get("manager", "?")) for item in entry["metadata"].get("managedFields", ()) if "f:replicas" in _spec_fields(item)
    )
    if sized:
        metadata[SIZED] = sized
    return {**entry, "metadata": metadata}


def _writes_spec(item: Object) -> bool:
    return bool(_spec_fields(item) - {"f:replicas", "."})


def _spec_fields(item: Object) -> set[str]:
    return set(item.get("fieldsV1", {}).get("f:spec", {}))
