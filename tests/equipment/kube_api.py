"""An API server of our own over HTTP: it stores objects, applies, lists in pages, watches, and fails when told to.

`step()` is its controllers and kubelet: Deployments get pods, which become ready or crash as `behave` says; the owned goes with its owner.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from kubernetes.client import ApiClient, Configuration

from core.ports.clock import Clock
from tests.equipment.kube_apply import Refusal, applied

Object = dict[str, Any]
Key = tuple[str, str, str]

CLUSTER_WIDE = frozenset({"nodes"})
GROUPS = {
    "apis/apps/v1": ["deployments"],
    "apis/autoscaling/v2": ["horizontalpodautoscalers"],
    "apis/networking.k8s.io/v1": ["networkpolicies"],
}
TOO_LARGE = {
    "kind": "Status",
    "code": 504,
    "reason": "Timeout",
    "message": "Timeout: Too large resource version",
    "details": {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1},
}


@dataclass(slots=True)
class Fault:
    """Answer `status` to the next `times` calls that match; empty words match all. `seconds` delays instead, or as well.

    -1 cuts the connection without an answer, -2 within it; 200 answers `body`.
    """

    status: int = 0
    times: int = 1
    verb: str = ""
    plural: str = ""
    seconds: float = 0.0
    retry_after: str = ""
    body: str = ""


@dataclass(slots=True)
class Behaviour:
    """What the kubelet sees of a version's pods."""

    starts_after: int = 2
    """Steps until a pod is ready."""
    dies: str = ""
    """The last words of a container that ends at its start."""
    waiting: tuple[str, str] | None = None
    """Reason and message of a container that cannot be made."""
    unschedulable: str = ""


@dataclass(slots=True)
class KubeApi:
    """The server's state and its controllers. One lock over all."""

    clock: Clock
    keda: bool = False
    lock: threading.Condition = field(default_factory=threading.Condition)
    objects: dict[Key, Object] = field(default_factory=dict)
    history: list[tuple[int, str, Key, Object]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    permissions: set[tuple[str, str, bool]] = field(default_factory=set)
    """What a caller would have needed, as a real server asks for it: verb, resource, and whether in the whole cluster."""
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    default: Behaviour = field(default_factory=Behaviour)
    logs: dict[str, list[str]] = field(default_factory=dict)
    compacted: int = 0
    version: int = 0
    epoch: int = 0
    """Grows when watches are cut."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def behave(self, version: str, behaviour: Behaviour) -> None:
        self.behaviours[version[:32]] = behaviour

    def fail(self, status: int, **more: Any) -> None:
        with self.lock:
            self.faults.append(Fault(status, **more))

    def cut_watches(self, *, compact: bool = False) -> None:
        """End every watch now; with `compact` their history is gone, so that they are answered 410."""
        with self.lock:
            self.epoch += 1
            if compact:
                self.compacted = self.version
                self.history.clear()
            self.lock.notify_all()

    def restore(self, version: int) -> None:
        """Go back to an earlier version, as etcd does when a snapshot is restored; objects stay, watches end."""
        with self.lock:
            self.version = version
            self.history = [item for item in self.history if item[0] <= version]
            self.cut_watches()

    def find(self, plural: str, namespace: str = "") -> list[Object]:
        with self.lock:
            return [entry for (kind, space, _), entry in sorted(self.objects.items()) if kind == plural and namespace in {"", space}]

    def put(self, plural: str, entry: Object) -> Object:
        """Store an object as it is, as a controller or a person would."""
        with self.lock:
            metadata = entry.setdefault("metadata", {})
            key = (plural, metadata.get("namespace", ""), metadata["name"])
            known = self.objects.get(key)
            metadata.setdefault("uid", known["metadata"]["uid"] if known else f"uid-{next(self.numbers)}")
            metadata.setdefault("creationTimestamp", self.time())
            metadata.setdefault("labels", {})
            if known is not None and {**known, "metadata": _bare(known)} == {**entry, "metadata": _bare(entry)}:
                return known
            self._record("MODIFIED" if known else "ADDED", key, entry)
            return self.objects[key]

    def edit(self, plural: str, name: str, change: Callable[[Object], object], *, manager: str = "kubectl-edit") -> Object:
        """Change an object by hand, as `kubectl edit` does."""
        with self.lock:
            (key,) = [key for key in self.objects if key[0] == plural and key[2] == name]
            entry: Object = json.loads(json.dumps(self.objects[key]))
            change(entry)
            fields: Object = {"f:spec": {"f:template": {}}}
            entry["metadata"].setdefault("managedFields", []).append({"manager": manager, "operation": "Update", "fieldsV1": fields})
            return self.put(plural, entry)

    def remove(self, key: Key) -> None:
        with self.lock:
            entry = self.objects.get(key)
            if entry is None:
                return
            self._record("DELETED", key, entry)
            del self.objects[key]
            uid = entry["metadata"]["uid"]
            owned = [other for other, thing in self.objects.items() if any(o["uid"] == uid for o in _owners(thing))]
            for other in owned:
                self.retire(other) if other[0] == "pods" else self.remove(other)

    def retire(self, key: Key, grace_s: int | None = None) -> Object:
        """Mark a pod as on its way out; the next step removes it."""
        with self.lock:
            pod = json.loads(json.dumps(self.objects[key]))
            grace = grace_s if grace_s is not None else pod["spec"].get("terminationGracePeriodSeconds", 30)
            known = pod["metadata"].get("deletionGracePeriodSeconds")
            pod["metadata"]["deletionTimestamp"] = pod["metadata"].get("deletionTimestamp") or self.time()
            pod["metadata"]["deletionGracePeriodSeconds"] = grace if known is None else min(known, grace)
            return self.put("pods", pod)

    def step(self) -> None:
        """One round of controllers, scheduler and kubelet."""
        with self.lock:
            for pod in self.find("pods"):
                if pod["metadata"].get("deletionTimestamp"):
                    self.remove(("pods", pod["metadata"]["namespace"], pod["metadata"]["name"]))
            for live in self.find("deployments"):
                self._deploy(live)
            for pod in self.find("pods"):
                self._run(pod)

    def time(self) -> str:
        return datetime.fromtimestamp(self.clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _record(self, what: str, key: Key, entry: Object) -> None:
        self.version += 1
        stored: Object = json.loads(json.dumps(entry))
        stored["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = stored
        self.history.append((self.version, what, key, stored))
        self.lock.notify_all()

    def _deploy(self, live: Object) -> None:
        metadata = live["metadata"]
        pods = [pod for pod in self.find("pods", metadata["namespace"]) if any(o["uid"] == metadata["uid"] for o in _owners(pod))]
        living = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        wanted = live["spec"].get("replicas", 1)
        for pod in living[wanted:]:
            self.retire(("pods", metadata["namespace"], pod["metadata"]["name"]))
        for _ in range(wanted - len(living)):
            self._make_pod(live)
        if any(is_ready(pod) for pod in living):
            status = {"conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]}
            self.put("deployments", {**live, "status": status})

    def _make_pod(self, live: Object) -> None:
        template = json.loads(json.dumps(live["spec"]["template"]))
        metadata = live["metadata"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"]}
        about = {"name": f"{metadata['name']}-{next(self.numbers)}", "namespace": metadata["namespace"], "ownerReferences": [owner]}
        pod = {"metadata": {**template["metadata"], **about}, "spec": template["spec"], "status": {"phase": "Pending", "age": 0}}
        self.put("pods", pod)

    def _run(self, pod: Object) -> None:
        if pod["metadata"].get("deletionTimestamp") or is_ready(pod):
            return
        label = pod["metadata"]["labels"].get("seatrial.dev/version", "")
        behaviour = self.behaviours.get(label, self.default)
        age = pod["status"].get("age", 0) + 1
        status = {**_pod_status(behaviour, age, self.time()), "age": age, "startTime": pod["status"].get("startTime") or self.time()}
        if age == 1:
            self.logs.setdefault(pod["metadata"]["name"], []).append("the engine says hello")
        self.put("pods", {**pod, "status": status})

    def served(self, plural: str) -> bool:
        return plural != "scaledobjects" or self.keda


def is_ready(pod: Object) -> bool:
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in pod["status"].get("conditions", ()))


def _pod_status(behaviour: Behaviour, age: int, time: str) -> Object:
    container: Object = {"name": "engine", "restartCount": 0, "state": {"running": {"startedAt": time}}}
    if behaviour.unschedulable:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": behaviour.unschedulable}
        return {"phase": "Pending", "conditions": [{**condition, "lastTransitionTime": time}]}
    if behaviour.waiting is not None:
        reason, message = behaviour.waiting
        container["state"] = {"waiting": {"reason": reason, "message": message}}
    elif behaviour.dies and age >= behaviour.starts_after:
        ends = age - behaviour.starts_after + 1
        over = {"exitCode": 1, "reason": "Error", "message": behaviour.dies, "startedAt": time, "finishedAt": time}
        container |= {"restartCount": ends - 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": over}}
    ready = age >= behaviour.starts_after and not behaviour.dies and behaviour.waiting is None
    conditions = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": time}]
    return {"phase": "Running", "conditions": conditions, "containerStatuses": [{**container, "ready": ready}]}


def _owners(entry: Object) -> list[Object]:
    return list(entry["metadata"].get("ownerReferences", ()))


def _bare(entry: Object) -> Object:
    return {name: value for name, value in entry["metadata"].items() if name != "resourceVersion"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kube: KubeApi

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def do_GET(self) -> None:
        self._route("get")

    def do_POST(self) -> None:
        self._route("create")

    def do_PUT(self) -> None:
        self._route("update")

    def do_PATCH(self) -> None:
        self._route("patch")

    def do_DELETE(self) -> None:
        self._route("delete")

    def _route(self, verb: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        group = "/".join(parts[:2] if parts[0] == "api" else parts[:3])
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        if not rest:
            self._discover(group)
            return
        namespace = rest[1] if rest[0] == "namespaces" and len(rest) > 2 else ""
        plural, name, sub = [*(rest[2:] if namespace else rest), "", ""][:3]
        if verb == "get" and not name:
            verb = "watch" if query.get("watch") == "true" else "list"
        self.kube.permissions.add((verb, f"{plural}/{sub}" if sub else plural, not namespace))
        if self._faulted(verb if not sub else "log", plural):
            return
        try:
            answer = self._answer(verb, (plural, namespace, name), sub, query, raw)
        except Refusal as refusal:
            self._refuse(refusal.status, str(refusal))
            return
        if answer is not None:
            self._send(201 if verb == "create" else 200, answer)

    def _answer(self, verb: str, key: Key, sub: str, query: dict[str, str], raw: bytes) -> Any:
        if not self.kube.served(key[0]):
            raise Refusal(404, "the server could not find the requested resource")
        if sub == "log":
            return self._log(key[2], query)
        if verb == "watch":
            return self._watch(key, query)
        with self.kube.lock:
            if verb == "list":
                return self._list(key, query)
            if verb in {"get", "delete"}:
                return self._get(key) if verb == "get" else self._delete(key, json.loads(raw or b"{}"))
            return self._apply(key, query, json.loads(raw)) if verb == "patch" else self._write(verb, key, json.loads(raw))

    def _apply(self, key: Key, query: dict[str, str], body: Object) -> Object:
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        body["metadata"].setdefault("namespace", key[1])
        if key not in self.kube.objects:
            self.kube.permissions.add(("create", key[0], not key[1]))
        return self.kube.put(key[0], applied(self.kube.objects.get(key), body, query["fieldManager"], force=query.get("force") == "true"))

    def _get(self, key: Key) -> Object:
        if key not in self.kube.objects:
            raise Refusal(404, f'{key[0]} "{key[2]}" not found')
        return self.kube.objects[key]

    def _write(self, verb: str, key: Key, body: Object) -> Object:
        key = (key[0], key[1], key[2] or body["metadata"]["name"])
        known = self.kube.objects.get(key)
        if verb == "create" and known is not None:
            raise Refusal(409, f'{key[0]} "{key[2]}" already exists')
        if verb == "update" and known is None:
            raise Refusal(404, f'{key[0]} "{key[2]}" not found')
        if verb == "update" and known is not None and body["metadata"].get("resourceVersion") != known["metadata"]["resourceVersion"]:
            raise Refusal(409, "the object has been modified; please apply your changes to the latest version")
        body["metadata"].setdefault("namespace", key[1])
        return self.kube.put(key[0], body)

    def _delete(self, key: Key, options: Object) -> Object:
        live = self._get(key)
        if (options.get("preconditions") or {}).get("uid") not in {None, live["metadata"]["uid"]}:
            raise Refusal(409, "the UID in the precondition does not match")
        if key[0] == "pods" and options.get("gracePeriodSeconds") != 0:
            return self.kube.retire(key, options.get("gracePeriodSeconds"))
        self.kube.remove(key)
        return {"kind": "Status", "status": "Success", "metadata": {}}

    def _list(self, key: Key, query: dict[str, str]) -> Object:
        found = [entry for entry in self.kube.find(key[0], key[1]) if _chosen(entry, query.get("labelSelector", ""))]
        start, size = int(query.get("continue") or 0), int(query.get("limit") or 500)
        more = str(start + size) if start + size < len(found) else ""
        metadata = {"resourceVersion": str(self.kube.version), "continue": more}
        items = [
            {name: value for name, value in entry.items() if name not in {"apiVersion", "kind"}} for entry in found[start : start + size]
        ]
        return {"kind": "List", "items": items, "metadata": metadata}

    def _log(self, pod: str, query: dict[str, str]) -> str:
        if query.get("previous") == "true":
            raise Refusal(400, "previous terminated container not found")
        return "\n".join(self.kube.logs.get(pod, [])[-int(query.get("tailLines", 100)) :])

    def _watch(self, key: Key, query: dict[str, str]) -> None:
        since, selector = int(query.get("resourceVersion") or 0), query.get("labelSelector", "")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        kube = self.kube
        with kube.lock:
            epoch = kube.epoch
            if since < kube.compacted:
                self._chunk({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}})
            if since > kube.version:
                self._chunk({"type": "ERROR", "object": TOO_LARGE})
                since = -1
            while since >= max(0, kube.compacted) and kube.epoch == epoch:
                news = [item for item in kube.history if item[0] > since and item[2][0] == key[0] and key[1] in {"", item[2][1]}]
                for number, what, _key, entry in news:
                    since = number
                    if _chosen(entry, selector):
                        self._chunk({"type": what, "object": {**entry, "metadata": {**entry["metadata"], "resourceVersion": str(number)}}})
                kube.lock.wait(timeout=1.0)
        self._end()

    def _faulted(self, verb: str, plural: str) -> bool:
        with self.kube.lock:
            self.kube.calls[(verb, plural)] += 1
            fault = next((one for one in self.kube.faults if one.verb in {"", verb} and one.plural in {"", plural}), None)
            if fault is None:
                return False
            fault.times -= 1
            if fault.times <= 0:
                self.kube.faults.remove(fault)
        if fault.seconds:
            threading.Event().wait(fault.seconds)
        if fault.status < 0:
            if fault.status < -1:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()
        elif fault.body:
            self._send(fault.status, fault.body)
        elif fault.status:
            self._refuse(fault.status, "told to fail", fault.retry_after)
        return fault.status != 0

    def _discover(self, group: str) -> None:
        names = list(GROUPS.get(group, []))
        if group == "apis/keda.sh/v1alpha1" and self.kube.keda:
            names = ["scaledobjects"]
        self.kube.calls[("discover", group)] += 1
        if not names:
            self._refuse(404, "no such group")
            return
        self._send(200, {"kind": "APIResourceList", "resources": [{"name": name} for name in names]})

    def _refuse(self, status: int, message: str, retry_after: str = "") -> None:
        self._send(status, {"kind": "Status", "status": "Failure", "code": status, "message": message}, retry_after)

    def _send(self, status: int, document: Any, retry_after: str = "") -> None:
        body = document.encode() if isinstance(document, str) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self, document: Object) -> None:
        data = json.dumps(document).encode() + b"\n"
        self._write_raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _end(self) -> None:
        self._write_raw(b"0\r\n\r\n")

    def _write_raw(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the watcher went


def _chosen(entry: Object, selector: str) -> bool:
    labels = entry["metadata"].get("labels") or {}
    pairs = (part.partition("=") for part in selector.split(",") if part)
    return all(labels.get(key) == value for key, _, value in pairs)


class KubeServer:
    """The server on the loopback while its context lasts."""

    def __init__(self, kube: KubeApi) -> None:
        self.kube = kube
        handler = type("BoundHandler", (Handler,), {"kube": kube})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def client(self) -> ApiClient:
        configuration = Configuration(host=f"http://127.0.0.1:{self._server.server_port}")
        configuration.retries = False
        return ApiClient(configuration)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kube.cut_watches()
        self._server.shutdown()
        self._server.server_close()
