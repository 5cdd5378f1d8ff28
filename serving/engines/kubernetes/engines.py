"""Engines on Kubernetes: the desired state is a Deployment, the kubelet supervises it, and reads come from an informer."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import structlog

from core.engines import EnginePhase, EngineSpec, EngineState, Fit, Role
from core.errors import Conflict, Refused, SeatrialError
from core.ids import EndpointName, VersionId
from core.ports.clock import Clock
from core.reasons import Reason
from serving.engines.causes import START
from serving.engines.kubernetes import kinds, names
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.autoscaling import autoscaled, horizontal_autoscaler, scaled_object
from serving.engines.kubernetes.capacity import fit_of
from serving.engines.kubernetes.drift import difference
from serving.engines.kubernetes.events import event
from serving.engines.kubernetes.informer import FOREIGN, SIZED, Informer
from serving.engines.kubernetes.kinds import Kind
from serving.engines.kubernetes.manifests import applied, decode_spec, deployment, network_policy, owner_reference, service
from serving.engines.kubernetes.pod import CONTAINER
from serving.engines.kubernetes.pod_settings import PodSettings
from serving.engines.kubernetes.reading import Patience, read_state

Object = dict[str, Any]

log = structlog.get_logger(__name__)

_VERSION = re.compile(r"[0-9a-f]{64}")
_KEPT_LINES = 400
_MARGIN_S = 5
"""What a pod gets beyond its pause and its drain until it is killed: answers end by the engine's own limit, and not by the kernel's."""


class KubernetesEngines:
    """The ports Engines, Capacity and EventRecorder on one namespace. Any number of processes may work on it.

    `kept_logs` is where the end of a stopped engine's log is kept: with its pod the cluster drops it.
    """

    def __init__(self, api: Api, settings: PodSettings, clock: Clock, *, kept_logs: Path | None = None) -> None:
        self._api = api
        self._settings = settings
        self._clock = clock
        self._kept_logs = kept_logs
        self._informers: dict[Kind, Informer] = {}
        self._checked: dict[tuple[str, str], str] = {}
        self._recorded: set[str] = set()
        self._patience = Patience(settings.start_limit_s, settings.policy.pull_limit_s, settings.policy.queue_s)

    def apply(self, spec: EngineSpec) -> None:
        """Make the version's objects, or see that they are as they were made. See the port. Conflict where another installation has it.

        An engine of another spec is first reconciled with its own spec; then Conflict is raised.
        """
        live = self._deployment(spec.version)
        if live is None:
            self._make(spec)
            return
        made_from = _made_from(live) or spec
        self._keep(made_from, live)
        if made_from != spec:
            raise Conflict(f"engine {spec.version[:12]} runs from another spec", hint="stop it first")

    def state(self, version: VersionId) -> EngineState:
        """Read the informers. See the port."""
        live, pods = self._deployment(version), self._pods(version)
        return read_state(version, live, pods, self._clock.now(), address=self._address(version), patience=self._patience)

    def list(self) -> tuple[EngineState, ...]:
        """Return the states of all, without a call. See the port."""
        found = {
            str(entry["metadata"].get("annotations", {}).get(names.VERSION, ""))
            for kind in (kinds.DEPLOYMENTS, kinds.PODS)
            for entry in self._informer(kind).all()
            if self._ours(entry)
        }
        states = (self.state(VersionId(version)) for version in sorted(found) if _VERSION.fullmatch(version))
        return tuple(state for state in states if state.phase is not EnginePhase.ABSENT)

    def stop(self, version: VersionId, *, drain_s: float) -> None:
        """Delete the Deployment, which takes all the rest along; pods leave their Service, pause, and drain. See the port."""
        live = self._deployment(version) or self._api.get(kinds.DEPLOYMENTS, names.object_name(version))
        if live is not None and self._ours(live) and not live["metadata"].get("deletionTimestamp"):
            self._keep_log(version)
            self.record(version, "Stopped", f"{version[:12]} is no longer wanted; answers in flight get {drain_s:.0f} s")
            self._delete_scalers(version)
            self._delete(kinds.DEPLOYMENTS, live)
        if drain_s < self._settings.drain_s:  # else pods have what they were made with, which is longer than pause and drain together
            self._hurry(version, round(self._settings.policy.pre_stop_s + drain_s) + _MARGIN_S if drain_s > 0 else 1)

    def logs(self, version: VersionId, lines: int) -> tuple[str, ...]:
        """Ask the newest pod; of a stopped engine return what was kept. See the port."""
        pods = sorted(self._pods(version), key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        if not pods:
            return self._kept_log(version)[-lines:]
        name = pods[-1]["metadata"]["name"]
        spoken = self._api.log(name, CONTAINER, lines)
        before = self._api.log(name, CONTAINER, lines, previous=True) if len(spoken) < lines else ()
        return ((*before, f"{START} {version[:12]}", *spoken) if before else spoken)[-lines:]

    def fit(self, spec: EngineSpec) -> Fit:
        """See the port Capacity."""
        if self._deployment(spec.version) is not None:
            return Fit(fits=True)
        return fit_of(self._api, spec, self._settings)

    def record(self, version: VersionId, reason: str, message: str, *, warning: bool = False) -> None:
        """Write an event about the Deployment. See the port EventRecorder."""
        try:
            live = self._deployment(version)
            if live is None:
                return
            body = event(live, reason, message, self._clock.now(), warning=warning)
            if body["metadata"]["name"] not in self._recorded:
                self._api.once().create(kinds.EVENTS, body)
                self._recorded.add(body["metadata"]["name"])
        except Conflict:
            self._recorded.add(body["metadata"]["name"])  # another process recorded it
        except SeatrialError as error:
            log.warning("event.lost", version=version[:12], reason=reason, error=str(error))

    def mark(self, version: VersionId, endpoint: EndpointName, role: Role | None) -> None:
        """Label the Deployment. See the port EventRecorder."""
        try:
            live = self._deployment(version)
            name = names.endpoint_label(endpoint)
            if live is None or live["metadata"].get("labels", {}).get(name) == (role.value if role else None):
                return
            metadata: Object = {"name": live["metadata"]["name"], "uid": live["metadata"]["uid"]}  # of this very one: never made by this
            if role is not None:
                metadata["labels"] = {name: role.value}
            body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
            self._take(kinds.DEPLOYMENTS, self._api.once().apply(kinds.DEPLOYMENTS, body, manager=names.endpoint_manager(endpoint)))
        except SeatrialError as error:
            log.warning("mark.lost", version=version[:12], endpoint=endpoint, error=str(error))

    def close(self) -> None:
        """Stop the informers."""
        for informer in self._informers.values():
            informer.close()

    @cached_property
    def scaler(self) -> Kind | None:
        """The kind of autoscaler that is made: the best that this cluster offers; None where the number of engines never moves."""
        return self._scalers[0] if autoscaled(self._settings) else None

    @cached_property
    def _scalers(self) -> tuple[Kind, ...]:
        """The kinds of autoscalers that this cluster knows, the best first."""
        return (kinds.SCALED_OBJECTS, kinds.AUTOSCALERS) if self._api.knows(kinds.SCALED_OBJECTS) else (kinds.AUTOSCALERS,)

    def _make(self, spec: EngineSpec) -> None:
        self._refuse_another(spec.version)
        live = self._api.apply(kinds.DEPLOYMENTS, deployment(spec, self._settings), manager=names.MANAGER)
        self._take(kinds.DEPLOYMENTS, live)
        self._size(spec.version)
        self._companions(spec.version, live)
        self.record(spec.version, "Made", f"engine of {spec.version[:12]}: {spec.dtype}, {spec.max_model_len} tokens")

    def _size(self, version: VersionId) -> None:
        """Set the first number of engines, unless the number is already set; afterwards the autoscaler owns it."""
        live, first = self._deployment(version), self._settings.policy.min_engines
        if first <= 1 or live is None or live["metadata"].get(SIZED):
            return
        metadata = {"name": live["metadata"]["name"], "uid": live["metadata"]["uid"]}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": first}}
        self._take(kinds.DEPLOYMENTS, self._api.apply(kinds.DEPLOYMENTS, body, manager=names.FIRST_SIZE))

    def _refuse_another(self, version: VersionId) -> None:
        """Raise Conflict where another installation has an engine of the version here: the name, made of the version, is taken."""
        for entry in self._informer(kinds.DEPLOYMENTS).of(names.version_label(version)):
            if not self._ours(entry):
                whose = names.installation_of(entry["metadata"]["labels"])
                raise Conflict(
                    f"the engine of {version[:12]} in the namespace {self._settings.namespace} belongs to the installation {whose!r}",
                    reason=Reason.ENGINE_OF_ANOTHER,
                    hint="give each installation a namespace of its own",
                )

    def _ours(self, entry: Object) -> bool:
        """Tell whether an object is of this installation, or of none."""
        return names.installation_of(entry["metadata"].get("labels") or {}) in {None, self._settings.policy.installation}

    def _keep(self, spec: EngineSpec, live: Object) -> None:
        """See that what was made from `spec` is there, as it was made, and begin a new attempt where it has failed."""
        live = self._put_right(kinds.DEPLOYMENTS, live, spec.version) if applied(live) is not None else self._make_anew(spec)
        self._size(spec.version)
        self._companions(spec.version, live)
        if self.state(spec.version).phase is EnginePhase.FAILED:
            self._try_again(spec.version)

    def _make_anew(self, spec: EngineSpec) -> Object:
        """Render the Deployment again: it has lost the memory of how it was applied."""
        self._report(spec.version, "PutRight", "its Deployment had lost its spec; it was created again from the spec")
        live = self._api.apply(kinds.DEPLOYMENTS, deployment(spec, self._settings), manager=names.MANAGER)
        self._take(kinds.DEPLOYMENTS, live)
        return live

    def _put_right(self, kind: Kind, live: Object, version: VersionId) -> Object:
        """Undo what was changed by hand in fields of ours, and report who wrote into others. Costs no call where nothing changed."""
        metadata = live["metadata"]
        key = (kind.plural, metadata["uid"])
        if self._checked.get(key) == metadata["resourceVersion"]:
            return live
        wanted = applied(live)
        found = difference(_content(wanted), live) if wanted is not None else None
        if wanted is not None and found is not None:
            live = self._api.apply(kind, with_its_memory(wanted, live), manager=names.MANAGER)
            self._take(kind, live)
            self._report(version, "PutRight", f"{kind.plural} {metadata['name']}: {found} was changed by hand, and is as before again")
        elif metadata.get(FOREIGN):
            who = ", ".join(metadata[FOREIGN])
            self._report(version, "ChangedByHand", f"{kind.plural} {metadata['name']}: {who} set fields of its spec that are not ours")
        self._checked[key] = live["metadata"]["resourceVersion"]
        return live

    def _companions(self, version: VersionId, live: Object) -> None:
        """See that Service, policy and autoscaler are there and as the settings of today say."""
        self._delete_scalers(version, but=self.scaler)  # first: KEDA refuses a Deployment that another autoscaler has
        owner = owner_reference(live)
        wanted = {kinds.SERVICES: service(version, self._settings, owner), kinds.POLICIES: network_policy(version, self._settings, owner)}
        if self.scaler is not None:
            make = scaled_object if self.scaler is kinds.SCALED_OBJECTS else horizontal_autoscaler
            wanted[self.scaler] = make(version, self._settings, owner)
        for kind, body in wanted.items():
            there = self._find(kind, version)
            if there is None or _memory(there) != _memory(body):
                self._take(kind, self._api.apply(kind, body, manager=names.MANAGER))
            else:
                self._put_right(kind, there, version)

    def _try_again(self, version: VersionId) -> None:
        """Begin a new attempt: delete the failed pods, which the Deployment replaces."""
        for pod in self._pods(version):
            self._delete(kinds.PODS, pod)
        self.record(version, "NewAttempt", f"it had failed; tried again at {self._clock.now():.0f}")

    def _hurry(self, version: VersionId, grace_s: int) -> None:
        """Shorten what pods get until they are killed; the server never lengthens it."""
        for pod in self._pods(version):
            if pod["metadata"].get("deletionGracePeriodSeconds", self._settings.grace_s) > grace_s:
                self._delete(kinds.PODS, pod, grace_s=grace_s)

    def _delete_scalers(self, version: VersionId, *, but: Kind | None = None) -> None:
        """Delete the version's autoscalers, also of a kind that settings of today would not make."""
        for kind in self._scalers:
            there = self._find(kind, version) if kind is not but else None
            if there is not None:
                self._delete(kind, there)

    def _delete(self, kind: Kind, live: Object, *, grace_s: int | None = None) -> None:
        metadata = live["metadata"]
        answer = self._api.delete(kind, metadata["name"], uid=metadata["uid"], grace_s=grace_s)
        leaving = answer is not None and bool(answer.get("metadata", {}).get("deletionTimestamp"))
        if answer is not None and leaving:
            self._take(kind, answer)
        else:
            self._informer(kind).forget(live)

    def _report(self, version: VersionId, reason: str, message: str) -> None:
        log.warning("engine.changed", version=version[:12], reason=reason, message=message)
        self.record(version, reason, message, warning=True)

    def _deployment(self, version: VersionId) -> Object | None:
        return self._find(kinds.DEPLOYMENTS, version)

    def _find(self, kind: Kind, version: VersionId) -> Object | None:
        name = names.object_name(version)
        return next((entry for entry in self._of(kind, version) if entry["metadata"]["name"] == name), None)

    def _pods(self, version: VersionId) -> tuple[Object, ...]:
        return self._of(kinds.PODS, version)

    def _of(self, kind: Kind, version: VersionId) -> tuple[Object, ...]:
        return tuple(entry for entry in self._informer(kind).of(names.version_label(_checked(version))) if self._ours(entry))

    def _informer(self, kind: Kind) -> Informer:
        if kind not in self._informers:
            self._informers[kind] = Informer(self._api, kind, names.SELECTOR, self._clock)
        return self._informers[kind]

    def _take(self, kind: Kind, entry: Object) -> None:
        informer = self._informer(kind)
        informer.ensure()
        informer.put(entry)

    def _address(self, version: VersionId) -> str | None:
        if self._settings.policy.address == "service":
            return names.service_address(version, self._settings.namespace)
        there = self._find(kinds.SERVICES, version)
        return f"http://{there['spec']['clusterIP']}:{names.PORT}" if there is not None else None

    def _keep_log(self, version: VersionId) -> None:
        if self._kept_logs is None:
            return
        try:
            lines = self.logs(version, _KEPT_LINES)
            self._kept_logs.mkdir(parents=True, exist_ok=True)
            (self._kept_logs / f"{version}.log").write_text("\n".join(lines), encoding="utf-8")
        except (SeatrialError, OSError) as error:
            log.warning("log.lost", version=version[:12], error=str(error))

    def _kept_log(self, version: VersionId) -> tuple[str, ...]:
        if self._kept_logs is None:
            return ()
        try:
            return tuple((self._kept_logs / f"{version}.log").read_text(encoding="utf-8").splitlines())
        except FileNotFoundError:
            return ()


def with_its_memory(wanted: Object, live: Object) -> Object:
    """Return the body as it was applied with the annotation that remembers it, letter by letter: applied again, it changes nothing."""
    annotations = {**wanted["metadata"].get("annotations", {}), names.APPLIED: _memory(live)}
    return {**wanted, "metadata": {**wanted["metadata"], "annotations": annotations}}


def _made_from(live: Object) -> EngineSpec | None:
    """Return the spec that a Deployment was made from, None when that was lost. Its memory counts more than what it says now."""
    return decode_spec((applied(live) or live)["metadata"].get("annotations", {}).get(names.SPEC, ""))


def _memory(entry: Object) -> str:
    return str(entry["metadata"].get("annotations", {}).get(names.APPLIED, ""))


def _content(body: Object) -> Object:
    """Return a body without its kind, which a list's entries do not repeat."""
    return {name: value for name, value in body.items() if name not in {"apiVersion", "kind"}}


def _checked(version: VersionId) -> VersionId:
    if _VERSION.fullmatch(version) is None:
        raise Refused(f"{version!r} is not a version id", hint="give the 64 hexadecimal digits that `seatrial models` shows")
    return version
