"""The Kubernetes API as plain documents: every call with a limit, retries where they help, and our own errors.

It uses the official client for what that knows best (credentials, certificates, contexts) and hands dicts through: its typed models are
strict, and would refuse what a newer server answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

from core.errors import Conflict, Fault, NotFound, SeatrialError, Transient
from core.ports.clock import Clock
from serving.engines.kubernetes.kinds import Kind

T = TypeVar("T")
Object = dict[str, Any]

APPLY = "application/apply-patch+yaml"
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_TIMEOUT_S = (5.0, 30.0)
_PAGE = 2000
"""Objects a list call brings: a fleet of this size costs one call per kind."""


class Gone(Transient):
    """The server has no history since that resource version, or has not come to it (etcd was restored): list again."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list call answered, and from where a watch goes on."""

    items: tuple[Object, ...]
    version: str


@dataclass(slots=True)
class Calls:
    """How many calls were made, by verb and kind: for measurements."""

    counts: dict[tuple[str, str], int]

    def count(self, verb: str, kind: Kind) -> None:
        """Count one."""
        key = (verb, kind.plural)
        self.counts[key] = self.counts.get(key, 0) + 1


def connect(kubeconfig: str = "", context: str = "") -> ApiClient:
    """Return a client: of `kubeconfig` where one is named, else of the pod we run in, else of the usual kubeconfig. Raises Fault."""
    configuration = Configuration()
    configuration.retries = False  # ours know which errors are worth it
    try:
        if not kubeconfig and not context:
            try:
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # the client has no types
                return ApiClient(configuration)
            except ConfigException:
                pass  # not in a pod
        config.load_kube_config(kubeconfig or None, context or None, configuration, persist_config=False)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError, ValueError) as error:
        raise Fault(
            f"no way to the cluster: {error}", hint="see SEATRIAL_KUBERNETES_KUBECONFIG or KUBECONFIG, then `kubectl get ns`"
        ) from error
    return ApiClient(configuration)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call as it goes out; `content` is the body's type where it is not plain JSON."""

    verb: str
    kind: Kind
    path: str
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    content: str | None = None


class Api:
    """Calls to one API server, in one namespace unless told otherwise. Thread-safe.

    Errors: NotFound, Conflict, Fault (RBAC, a refused body), Transient (unavailable, overloaded) after some attempts.
    """

    def __init__(self, client: ApiClient, namespace: str, clock: Clock, *, random: Callable[[], float] = random.random) -> None:
        self._client = client
        self.namespace = namespace
        self._clock = clock
        self._random = random
        self._attempts = _ATTEMPTS
        self.calls = Calls({})

    def once(self) -> Api:
        """Return the same, but with one attempt a call: for what may be lost rather than waited for."""
        hasty = copy(self)
        hasty._attempts = 1  # noqa: SLF001 - our own copy
        return hasty

    def get(self, kind: Kind, name: str) -> Object | None:
        """Return one object, None when there is none."""
        try:
            return self._json("get", kind, self._path(kind, name))
        except NotFound:
            return None

    def list(self, kind: Kind, selector: str = "", *, everywhere: bool = False) -> Listing:
        """Return all objects that the label selector chooses, in pages of one consistent state."""
        path = kind.path("" if everywhere else self.namespace)
        items: list[Object] = []
        token = ""
        while True:
            query = {"labelSelector": selector, "limit": str(_PAGE), "continue": token}
            page = self._json("list", kind, path, query=query)
            items.extend(page.get("items") or ())
            metadata = page.get("metadata") or {}
            token = metadata.get("continue") or ""
            if not token:
                return Listing(tuple(items), metadata.get("resourceVersion", ""))

    def apply(self, kind: Kind, body: Mapping[str, Any], *, manager: str, force: bool = True) -> Object:
        """Server-side apply: make the fields that `body` names ours and as it says; fields that we named before and no more are removed."""
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return self._json("patch", kind, self._path(kind, body["metadata"]["name"]), query=query, body=body, content=APPLY)

    def create(self, kind: Kind, body: Mapping[str, Any]) -> Object:
        """Create an object. Conflict when it is there."""
        return self._json("create", kind, self._path(kind), method="POST", body=body)

    def delete(self, kind: Kind, name: str, *, uid: str = "", grace_s: int | None = None) -> Object | None:
        """Delete an object, and in the background what it owns; only the one of `uid`, where that is given.

        Returns what the server answers (an object on its way out, or a Status), None when it is not there any more.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            return self._json("delete", kind, self._path(kind, name), method="DELETE", body=options)
        except (NotFound, Conflict):  # gone, or another of the same name has taken its place
            return None

    def log(self, pod: str, container: str, lines: int, *, previous: bool = False) -> tuple[str, ...]:
        """Return the last lines of a container, none when it has not spoken or is gone."""
        query = {"container": container, "tailLines": str(lines), "previous": "true" if previous else "false"}
        path = self._pods_log(pod)
        try:
            raw = self._answered(_Call("log", path[0], path[1], query=query), _read)
        except (NotFound, Fault):  # a container that waits to be created has no log: 400
            return ()
        return tuple(raw.decode("utf-8", "replace").splitlines())

    def knows(self, kind: Kind) -> bool:
        """Tell whether the server serves this kind (its CRD is there)."""
        try:
            document = self._json("discover", kind, "/" + kind.api)
        except NotFound:
            return False
        return any(resource.get("name") == kind.plural for resource in document.get("resources", ()))

    def watch(self, kind: Kind, selector: str, version: str, *, timeout_s: int) -> Iterator[tuple[str, Object]]:
        """Yield (ADDED | MODIFIED | DELETED | BOOKMARK, object) since `version`, for about `timeout_s`.

        Gone: list again. Transient: watch on from the last version that was seen.
        """
        query = {
            "watch": "true",
            "labelSelector": selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_s),
        }
        path = kind.path(self.namespace)
        response = self._once(_Call("watch", kind, path, query=query), (5.0, timeout_s + 15.0))
        try:
            yield from _events(response)
        except (HTTPError, OSError) as error:
            raise Transient(f"the watch of {kind.plural} broke off: {error}") from error
        finally:
            response.close()

    def _path(self, kind: Kind, name: str = "") -> str:
        return kind.path(self.namespace, name)

    def _pods_log(self, pod: str) -> tuple[Kind, str]:
        kind = Kind("api/v1", "pods")
        return kind, kind.path(self.namespace, pod, "log")

    def _json(
        self,
        verb: str,
        kind: Kind,
        path: str,
        *,
        method: str = "",
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str | None = None,
    ) -> Object:
        chosen = method or ("PATCH" if verb == "patch" else "GET")
        return self._answered(_Call(verb, kind, path, chosen, query or {}, body, content), _document)

    def _answered(self, call: _Call, read: Callable[[BaseHTTPResponse], T]) -> T:
        """Ask until the whole answer is read, with growing, jittered, capped pauses, or the server's Retry-After if it is longer."""
        for attempt in range(self._attempts):
            try:
                return read(self._once(call, _TIMEOUT_S))
            except Gone:
                raise
            except Transient as error:
                if attempt == self._attempts - 1:
                    raise
                pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * (0.5 + self._random())
                self._clock.wait(max(pause, min(error.retry_after_s or 0.0, _LONGEST_PAUSE_S)))
        raise AssertionError("unreachable")

    def _once(self, call: _Call, timeout_s: tuple[float, float]) -> BaseHTTPResponse:
        self.calls.count(call.verb, call.kind)
        parameters = [(name, value) for name, value in call.query.items() if value]
        headers = {"Accept": "application/json", "Content-Type": call.content or "application/json"}
        # A patch goes as text: the client would otherwise choose its own way to write a body of this content type.
        sent = json.dumps(call.body) if call.body is not None and call.content else call.body
        request = self._client.param_serialize(
            call.method, call.path, query_params=parameters, header_params=headers, body=sent, auth_settings=["BearerToken"]
        )
        try:
            response: BaseHTTPResponse = self._client.call_api(*request, _request_timeout=timeout_s).response
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise _refusal(f"{call.verb} {call.path}", response)
        except (HTTPError, OSError, ApiException) as error:  # the client's own error stands for a TLS handshake that failed
            raise Transient(f"{call.verb} {call.path}: the API server is unavailable: {error}", hint="retried automatically") from error
        return response


def _read(response: BaseHTTPResponse) -> bytes:
    try:
        return bytes(response.read())
    except (HTTPError, OSError) as error:
        raise Transient(f"the API server's answer broke off: {error}", hint="retried automatically") from error


def _document(response: BaseHTTPResponse) -> Object:
    return _object(_read(response))


def _object(raw: bytes) -> Object:
    """Return the JSON object that `raw` holds. Anything else comes from a proxy between, or a server that is going down: Transient."""
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise Transient(f"the API server returned invalid JSON: {raw[:80]!r}", hint="retried automatically") from error
    if not isinstance(document, dict):
        raise Transient(f"the API server answered no object: {raw[:80]!r}", hint="retried automatically")
    return document


def _events(response: BaseHTTPResponse) -> Iterator[tuple[str, Object]]:
    """Read one document a line. A silence longer than the server's own limit ends the watch like its end does."""
    rest = b""
    try:
        for chunk in response.stream(1 << 16, decode_content=True):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield _event(_object(line))
    except ReadTimeoutError:
        return


def _event(document: Object) -> tuple[str, Object]:
    kind, entry = document.get("type"), document.get("object")
    if not isinstance(kind, str) or not isinstance(entry, dict):
        raise Transient("the watch ended: the API server told no event")
    if kind == "ERROR":
        message = str(entry.get("message", "unknown"))
        if entry.get("code") == HTTPStatus.GONE or _ahead(entry):
            raise Gone(message)
        raise Transient(f"the watch ended: {message}")
    if not isinstance(entry.get("metadata"), dict):
        raise Transient(f"the watch ended: the API server told {kind} of no object")
    return kind, entry


def _ahead(status: Mapping[str, Any]) -> bool:
    """Tell whether the server says, in a Status, that it has not come to the resource version that we know."""
    causes = (status.get("details") or {}).get("causes") or ()
    return any(cause.get("reason") == "ResourceVersionTooLarge" for cause in causes)


def _refusal(doing: str, response: BaseHTTPResponse) -> SeatrialError:
    said = _status(_read(response))
    message = str(said.get("message", ""))[:600]
    status = response.status
    what = f"{doing}: {message or status}"
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(what)
    if status == HTTPStatus.CONFLICT:
        return Conflict(what)
    if status == HTTPStatus.GONE or _ahead(said):
        return Gone(what)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return Fault(what, hint="grant what serving/engines/kubernetes/rbac.py lists; see `seatrial doctor --kubernetes`")
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT} or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        delay = response.headers.get("Retry-After", "")
        return Transient(what, retry_after_s=float(delay) if delay.isdigit() else None)
    return Fault(what, hint="the API server does not take this object; see the message")


def _status(raw: bytes) -> Object:
    """Return the Status of a refusal; what a proxy between says becomes its message."""
    try:
        document = json.loads(raw)
    except ValueError:
        return {"message": raw[:200].decode("utf-8", "replace")}
    return document if isinstance(document, dict) else {}
