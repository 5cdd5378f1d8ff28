"""Checks of a cluster: RBAC, kinds, capacity, storage, network, pod security. Each failed check gives the next step.

On a laptop the checks use the kubeconfig's permissions, and the settings of the installed release; they review the worker's permissions if
they may. Inside the cluster (`helm test`) they use the worker's permissions, and check storage, database, Prefect and MLflow too.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from core.engines import EngineSpec
from core.errors import Fault, SeatrialError
from core.ids import Digest, VersionId, new_id
from core.settings import GIB, KubernetesPolicy, Settings
from infra.findings import Finding, answers
from infra.kubernetes.release import Release, Subject, find_release, spool, worker_of
from registry.weights.s3_client import s3_client
from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.autoscaling import METRIC, may_scale
from serving.engines.kubernetes.capacity import fit_of
from serving.engines.kubernetes.kinds import Kind
from serving.engines.kubernetes.pod import resources
from serving.engines.kubernetes.pod_settings import pod_settings
from serving.engines.kubernetes.quantity import amount
from serving.engines.kubernetes.rbac import CLUSTER_ROLE, ROLE, Rule
from wiring import Platform

_NAMESPACES = Kind("api/v1", "namespaces", namespaced=False)
_API_GROUPS = Kind("apis", "", namespaced=False)
_EXTERNAL = "external.metrics.k8s.io"
_ENFORCE = "pod-security.kubernetes.io/enforce"
_SMALLEST_WEIGHTS = 2**20
_GRANT = "grant what serving/engines/kubernetes/rbac.py lists, or install with the chart, which does"


def examine(settings: Settings, api: Api) -> Iterator[Finding]:
    """Yield every finding, in the order in which to correct them. When the cluster does not answer, that is the only finding."""
    first = _cluster(api)
    yield first
    if not first.ok:
        return
    inside = bool(settings.engines_url)
    if inside:
        yield from _permissions(Subject(api))
        yield from _engines(api, settings)
        yield from _inside(settings)
        return
    release, told = _installed(api)
    yield told
    if release is not None:
        settings = replace(settings, kubernetes=release.settings.kubernetes, models=release.settings.models)
    subject, told = worker_of(api, release)
    yield told
    yield from _permissions(subject)
    yield from _engines(api, settings)
    yield _told("spool", lambda: spool(api, release))
    yield Finding("reach", ok=True, what="storage, database, Prefect and MLflow are looked at from inside: `helm test seatrial`")


def _engines(api: Api, settings: Settings) -> Iterator[Finding]:
    yield _told("pod security", lambda: _pod_security(api))
    yield _told("autoscaling", lambda: _autoscaling(api, settings.kubernetes))
    yield _image(settings.kubernetes, inside=bool(settings.engines_url))
    yield _told("capacity", lambda: _capacity(api, settings))


def _told(name: str, look: Callable[[], Finding], hint: str = "") -> Finding:
    """Turn an error of a check into its finding; `hint` is the hint when the error has none."""
    try:
        return look()
    except SeatrialError as error:
        return Finding(name, ok=False, what=error.what, next=error.hint or hint)


def _cluster(api: Api) -> Finding:
    def look() -> Finding:
        served = api.knows(kinds.DEPLOYMENTS)
        return Finding(
            "cluster", served, f"the API server answers; namespace {api.namespace}", "" if served else "is this a Kubernetes API?"
        )

    return _told("cluster", look)


def _installed(api: Api) -> tuple[Release | None, Finding]:
    """Return the release of the namespace, and which settings are looked at."""
    name = "settings"
    try:
        release = find_release(api)
    except Fault:
        return None, Finding(name, ok=True, what="this machine's: this account may not list ConfigMaps, where a release's are")
    except SeatrialError as error:
        return None, Finding(name, ok=False, what=f"a release's cannot be read: {error.what}", next=error.hint)
    if release is None:
        return None, Finding(name, ok=True, what=f"this machine's: no release in namespace {api.namespace}")
    return release, Finding(name, ok=True, what=f"those of release {release.name}")


def _permissions(subject: Subject) -> Iterator[Finding]:
    """Ask the API server itself, one review per verb: roles may come from anywhere."""
    yield from (_told(f"rbac: {_shown(rule)}", lambda rule=rule: _permission(subject, rule)) for rule in ROLE)  # type: ignore[misc]  # bound now
    missing = [rule for rule in CLUSTER_ROLE if _missing(subject, rule, everywhere=True)]
    lacks = f"may not list {' and '.join(_shown(rule) for rule in missing)} of the whole cluster: only quotas are checked before a start"
    yield Finding("rbac: nodes", ok=True, what=lacks if missing else "may list nodes and pods, for the capacity check")


def _permission(subject: Subject, rule: Rule) -> Finding:
    missing = _missing(subject, rule)
    what = f"may not {', '.join(missing)}" if missing else f"may {', '.join(rule.verbs)}"
    return Finding(f"rbac: {_shown(rule)}", not missing, what, _GRANT if missing else "")


def _shown(rule: Rule) -> str:
    return f"{rule.kind.plural}/{rule.sub}" if rule.sub else rule.kind.plural


def _missing(subject: Subject, rule: Rule, *, everywhere: bool = False) -> list[str]:
    return [verb for verb in rule.verbs if not subject.may(rule, verb, everywhere=everywhere)]


def _pod_security(api: Api) -> Finding:
    name = "pod security"
    try:
        found = api.get(_NAMESPACES, api.namespace)
    except Fault:
        return Finding(name, ok=True, what="this account may not look at the namespace; an administrator's doctor does")
    if found is None:
        return Finding(name, ok=False, what=f"there is no namespace {api.namespace}", next=f"`kubectl create namespace {api.namespace}`")
    level = (found["metadata"].get("labels") or {}).get(_ENFORCE)
    label = f"`kubectl label namespace {api.namespace} {_ENFORCE}=restricted`"
    if level == "restricted":
        return Finding(name, ok=True, what="restricted is enforced")
    return Finding(name, ok=False, what=f"the namespace enforces {level or 'nothing'}; all of ours pass restricted", next=label)


def _autoscaling(api: Api, policy: KubernetesPolicy) -> Finding:
    name, keda = "autoscaling", api.knows(kinds.SCALED_OBJECTS)
    if policy.min_engines == 0 and not keda:
        return Finding(name, ok=False, what="min_engines is 0, and only KEDA scales to none", next="install KEDA, or set min_engines to 1")
    if policy.min_engines == 0 and not policy.prometheus_url:
        what = "min_engines is 0 without prometheus_url: nothing could wake an engine that sleeps, and the worker refuses such settings"
        return Finding(name, ok=False, what=what, next="give engines.prometheus_url, or set min_engines to 1")
    if not may_scale(policy):
        return Finding(name, ok=True, what=f"not asked for: {policy.min_engines} engine(s) a version{', KEDA is there' * keda}")
    if keda:
        return Finding(name, ok=True, what="KEDA is there: ScaledObjects")
    if api.get(_API_GROUPS, _EXTERNAL) is None:
        what = f"no KEDA, and no API serves {_EXTERNAL}: the HorizontalPodAutoscalers get no metric and never scale"
        return Finding(name, ok=False, what=what, next="install KEDA, or prometheus-adapter with infra/kubernetes/prometheus-adapter/")
    return Finding(name, ok=True, what=f"no KEDA: HorizontalPodAutoscalers on {METRIC} of {_EXTERNAL}")


def _image(policy: KubernetesPolicy, *, inside: bool) -> Finding:
    image = policy.image
    if not image:
        return Finding(
            "engine image", ok=not inside, what="SEATRIAL_KUBERNETES_IMAGE is not set", next="give images.engine in the values" * inside
        )
    pinned = "@sha256:" in image or bool(policy.allow_tags)
    hint = "pin it by digest: a tag may become another image under a running version, and the worker refuses it"
    return Finding("engine image", pinned, image, hint * (not pinned))


def _capacity(api: Api, settings: Settings) -> Finding:
    """Check whether one engine of the configured size fits."""
    policy = replace(settings.kubernetes, image=settings.kubernetes.image or "any", allow_tags=1)  # another check covers the image
    spec = EngineSpec(
        version=VersionId("0" * 64),
        model_uri="s3://any/model",
        tensors_uri="s3://any/tensors",
        tensors_manifest=Digest("0" * 64),
        max_model_len=settings.models.max_model_len or 8192,
        dtype="auto",
        memory_bytes=settings.models.engine_memory_bytes,
        weights_bytes=_SMALLEST_WEIGHTS,
    )
    pods = pod_settings(api.namespace, policy)
    fit = fit_of(api, spec, pods)
    memory = amount(resources(spec, pods)["requests"]["memory"])
    asks = f"one engine: {policy.cpu:g} cores, {memory / GIB:.1f} GiB" + (f", 1 {policy.gpu_resource}" if policy.gpu_resource else "")
    if fit.fits:
        return Finding("capacity", ok=True, what=f"{asks} fits")
    hint = "free some, or add a node" if fit.ever else "add a larger node, or lower models_engine_memory_bytes or engines.cpu"
    return Finding("capacity", ok=False, what=f"{asks} does not fit: {fit.reason}", next=hint)


def _inside(settings: Settings) -> Iterator[Finding]:
    yield _storage(settings)
    yield _told("database", lambda: _database(settings), "correct database-url in the Secret, or the NetworkPolicy's ports")
    yield from _http(
        ("prefect", f"{settings.prefect_api_url}/health"),
        ("flow runner", f"{settings.prefect_api_url}/deployments/name/deploy-model/submit"),
        ("mlflow", f"{settings.mlflow_url}/health"),
        ("control", f"{settings.control_url}/healthz"),
        ("gateway", f"{settings.gateway_url}/healthz"),
    )
    if settings.redis_url:
        yield _redis(settings.redis_url)


def _storage(settings: Settings) -> Finding:
    """Write, read, list and delete a small object, and begin an upload in parts: what publishing and loading weights need."""
    url = urlsplit(settings.weights_url)
    if url.scheme != "s3":
        return Finding(
            "storage", ok=False, what=f"weights_url is {settings.weights_url}", next="engines on a cluster read from s3://bucket/prefix"
        )
    client = s3_client(settings.s3_endpoint_url or None, read_timeout_s=10)
    bucket, key = url.netloc, f"{url.path.strip('/')}/.doctor/{new_id('probe')}".lstrip("/")
    doing = "write"
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"seatrial doctor")
        doing = "read"
        client.get_object(Bucket=bucket, Key=key)["Body"].read()
        doing = "list"
        client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        doing = "upload in parts to"
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        doing = "delete from"
        client.delete_object(Bucket=bucket, Key=key)
    except (ClientError, BotoCoreError) as error:
        hint = (
            "the bucket, its region and endpoint, the permissions of the role or key (infra/terraform/modules/identity), "
            "the NetworkPolicy's ports"
        )
        return Finding("storage", ok=False, what=f"could not {doing} {settings.weights_url}: {error}", next=f"look at {hint}")
    return Finding("storage", ok=True, what=f"{settings.weights_url}: written, read, listed, uploaded in parts, deleted")


def _database(settings: Settings) -> Finding:
    """Ask for one row of ours: the server is there, the login holds, and the schema is this release's."""
    parts = urlsplit(settings.database_url)
    if not parts.scheme.startswith("postgres"):
        return Finding("database", ok=False, what="SQLite, which pods cannot share", next="give database-url in the Secret")
    generation = Platform(settings).records.gateways.generation()
    return Finding("database", ok=True, what=f"PostgreSQL at {parts.hostname}:{parts.port or 5432}, generation {generation}")


def _http(*looks: tuple[str, str]) -> Iterable[Finding]:
    for name, url in looks:
        ok = answers(url, 3)
        yield Finding(name, ok, url, "" if ok else f"`kubectl get pods -l app.kubernetes.io/part-of=seatrial`; then the pod's log ({name})")


def _redis(url: str) -> Finding:
    """Knock at the port and ask PING: any answer is one, also that it wants a password."""
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port or 6379}"
    try:
        with socket.create_connection((parts.hostname or "localhost", parts.port or 6379), timeout=3) as connection:
            if parts.scheme == "redis":
                connection.sendall(b"PING\r\n")
                connection.recv(64)
    except OSError as error:
        return Finding("redis", ok=False, what=f"{where}: {error}", next="correct redis-url in the Secret, or the NetworkPolicy's ports")
    return Finding("redis", ok=True, what=where)
