"""The one place that turns settings into adapters. Embedded and scale-out differ here and nowhere else.

SDKs are imported where their adapter is made, so that a process pays only for what it uses (the gateway never imports MLflow).
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from core.access import Key, Role, new_secret, secret_digest
from core.errors import Conflict, Refused, Transient
from core.hosts import EngineHost, cpu_host
from core.ids import VersionId
from core.links import Links
from core.ports.clock import Clock, SystemClock
from core.settings import Settings, base_environ, read_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from fastapi import FastAPI

    from core.benchmarks import Benchmark, Sample
    from core.ports import Activator, Capacity, Engines, EventRecorder, FlowRuns, Hub, ModelRegistry, Records, Sandbox, WeightsStore
    from core.ports.benchmark_runner import BenchmarkRunner, SamplingStudy
    from core.ports.history import BenchmarkHistory
    from core.versions import ModelRef
    from evals.suites.suite import PromptTemplate
    from lifecycle.rollouts.driver import Driver
    from registry.answers import Answers
    from registry.prompts import MlflowPrompts
    from serving.control.health_probes import LocalHealthProbes
    from serving.control.platform_problems import ProblemThresholds
    from serving.engines.kubernetes.api import Api
    from serving.engines.kubernetes.engines import KubernetesEngines
    from serving.engines.supervisor import EngineSupervisor
    from serving.webhook import Webhook

_REUSE_S = 300.0
_REMEMBERED_S = 24 * 3600.0
_REMEMBERED = 200_000
_SHORTEST_KEY = 24


class Platform:
    """Every adapter of one process, made when first asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock: Clock = SystemClock()

    @cached_property
    def engine_host(self) -> EngineHost:
        """The hardware of engines. The CPUs of a cluster's nodes are not known here: AVX-512 and bfloat16 are assumed."""
        if not self.settings.engines_url:
            return cpu_host(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
        return EngineHost(gpu=bool(self.settings.kubernetes.gpu_resource))

    @cached_property
    def records(self) -> Records:
        """The database."""
        from registry.database import open_database  # noqa: PLC0415

        return open_database(self.settings.database_url, slow_ttft_s=self.settings.rollout.slow_ttft_s)

    @cached_property
    def weights(self) -> WeightsStore:
        """The store of tensorized weights."""
        url = urlsplit(self.settings.weights_url)
        if url.scheme == "file":
            from registry.weights.folder import FolderWeights  # noqa: PLC0415

            return FolderWeights(Path(url.path))
        if url.scheme == "s3":
            from registry.weights.s3 import S3Weights  # noqa: PLC0415
            from registry.weights.s3_client import s3_client  # noqa: PLC0415

            return S3Weights(url.netloc, url.path.strip("/"), s3_client(self.settings.s3_endpoint_url or None))
        raise Refused(
            f"SEATRIAL_WEIGHTS_URL is {self.settings.weights_url!r}",
            reason="bad_setting",
            hint="write file:///folder or s3://bucket/prefix",
        )

    def hub(self, ref: ModelRef) -> Hub:
        """Return where `ref` comes from: a folder on this machine, or the hub."""
        if ref.is_folder:
            from registry.hub.folder import FolderHub  # noqa: PLC0415

            return FolderHub()
        from registry.hub.huggingface import HuggingFaceHub  # noqa: PLC0415

        policy = self.settings.models
        return HuggingFaceHub(
            self.settings.hub_endpoint or None,
            self.settings.hub_token or None,
            stall_s=policy.download_stall_s,
            limit_s=policy.download_limit_s,
            clock=self.clock,
        )

    @cached_property
    def engines(self) -> Engines:
        """Where engines run: processes of this machine, or a cluster."""
        if self._cluster is not None:
            return self._cluster
        from serving.engines.local import LocalEngines  # noqa: PLC0415

        return LocalEngines(self.settings.engines, self.clock)

    @property
    def capacity(self) -> Capacity | None:
        """Checks whether a candidate fits; None if no scheduler assigns engines to machines."""
        return self._cluster

    @property
    def event_recorder(self) -> EventRecorder | None:
        """Records events and roles beside engines, for people; None if there is no such store."""
        return self._cluster

    @cached_property
    def activator(self) -> Activator | None:
        """Starts an engine of a version that is scaled to zero; None if no version ever is."""
        if not self._namespace or self.settings.kubernetes.min_engines > 0:
            return None
        from serving.engines.kubernetes.activator import KubernetesActivator  # noqa: PLC0415

        return KubernetesActivator(self._api())

    @cached_property
    def _cluster(self) -> KubernetesEngines | None:
        """Engines on Kubernetes, where the settings say so."""
        namespace = self._namespace
        if not namespace:
            return None
        from serving.engines.kubernetes.engines import KubernetesEngines  # noqa: PLC0415
        from serving.engines.kubernetes.pod_settings import pod_settings  # noqa: PLC0415

        settings = self.settings
        pods = pod_settings(
            namespace,
            settings.kubernetes,
            module=settings.engine_module,
            drain_s=settings.rollout.drain_s,
            start_limit_s=settings.models.engine_start_limit_s,
            s3_endpoint_url=settings.s3_endpoint_url,
        )
        return KubernetesEngines(self._api(), pods, self.clock, kept_logs=settings.engines)

    def _api(self) -> Api:
        """Return a connection to the cluster's API server."""
        from serving.engines.kubernetes.api import Api, connect  # noqa: PLC0415

        policy = self.settings.kubernetes
        return Api(connect(policy.kubeconfig, policy.context), self._namespace, self.clock)

    @property
    def _namespace(self) -> str:
        """The namespace of the engines; empty where they are processes of this machine."""
        url = urlsplit(self.settings.engines_url)
        if not self.settings.engines_url:
            return ""
        if url.scheme == "kubernetes" and url.netloc:
            return url.netloc
        raise Refused(
            f"SEATRIAL_ENGINES_URL is {self.settings.engines_url!r}", reason="bad_setting", hint="write kubernetes://NAMESPACE, or nothing"
        )

    @cached_property
    def models(self) -> ModelRegistry:
        """The catalogue for people."""
        from registry.models import MlflowModels  # noqa: PLC0415

        return MlflowModels(self.settings.mlflow_url)

    @cached_property
    def history(self) -> BenchmarkHistory:
        """Where benchmarks are browsed over time."""
        from registry.benchmarks import MlflowBenchmarks  # noqa: PLC0415

        return MlflowBenchmarks(self.settings.mlflow_url, **self._mlflow_store())

    def _mlflow_store(self) -> dict[str, str]:
        """Return where the embedded MLflow keeps its database and files; nothing where the server is not this home's."""
        database, artifacts = self.settings.home / "mlflow.db", self.settings.home / "mlflow-artifacts"
        return {"store_url": f"sqlite:///{database}", "artifacts": str(artifacts)} if database.is_file() else {}

    @cached_property
    def answers(self) -> Answers:
        """The answers of benchmarks, sample by sample."""
        from registry.answers import Answers  # noqa: PLC0415

        return Answers(self.settings.answers, self.history)

    @cached_property
    def benchmark_runner(self) -> BenchmarkRunner:
        """Sends the problems of a suite to a model and judges its answers."""
        from evals.benchmark_runner import SuiteBenchmarkRunner  # noqa: PLC0415

        return SuiteBenchmarkRunner(lambda: self.sandbox, self.settings.trials, self.pinned)

    def pinned(self, prompt: PromptTemplate) -> str:
        """Return `name@version` of a suite's prompt, which from then on stands in MLflow's prompt registry too.

        The version is the file's, so that equal plans stay equal whatever the registry counts; it is a tag there, and a text that was
        changed without a new one is refused.
        """
        self.prompts.pin(prompt)
        return prompt.pinned

    @cached_property
    def prompts(self) -> MlflowPrompts:
        """The prompts of benchmarks, for people and by version."""
        from registry.prompts import MlflowPrompts  # noqa: PLC0415

        return MlflowPrompts(self.settings.mlflow_url)

    @cached_property
    def sampling_study(self) -> SamplingStudy:
        """Compares policies that choose among stored answers."""
        from evals.benchmark_runner import SuiteSamplingStudy  # noqa: PLC0415

        return SuiteSamplingStudy(lambda: self.sandbox, self.settings.trials, self.settings.benchmarks.ranker_key, self.clock)

    @cached_property
    def alarm(self) -> Webhook | None:
        """Where regressions are told, None where nowhere."""
        from serving.webhook import Webhook  # noqa: PLC0415

        policy = self.settings.benchmarks
        if not policy.webhook_url:
            return None
        return Webhook(policy.webhook_url, policy.webhook_secret, self.clock, timeout_s=policy.webhook_timeout_s)

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where generated code runs."""
        from evals.sandbox import ProcessSandbox  # noqa: PLC0415

        return ProcessSandbox(workers=max(2, (os.cpu_count() or 2) - 1), scratch=self.settings.scratch)

    @cached_property
    def driver(self) -> Driver:
        """The driver of rollouts."""
        from lifecycle.rollouts.driver import Driver  # noqa: PLC0415

        owner = f"{socket.gethostname()}:{os.getpid()}"
        return Driver(self.records, self.engines, self.clock, self.settings.rollout, owner, self.event_recorder)

    @cached_property
    def runs(self) -> FlowRuns:
        """Prefect, as the control API and reconcile speak to it."""
        from registry.flow_runs import PrefectRuns  # noqa: PLC0415

        return PrefectRuns(self.settings.prefect_api_url)

    @property
    def prefect_page(self) -> str:
        """Prefect's page."""
        return self.settings.prefect_api_url.removesuffix("/api")

    @property
    def synthetic_key(self) -> str:
        """The bearer key of the rollout's own conversations: one of the settings, else this home's operator key."""
        given = self.settings.synthetic_key or self.settings.operator_key
        return given or (self.settings.home / "operator.key").read_text(encoding="ascii").strip()

    @property
    def hold_s(self) -> float:
        """How long the gateway keeps a request for an engine that cannot be reached.

        Not at all on one machine, where a new engine has a new address, and where engines may sleep: what wakes them is the 503.
        """
        policy = self.settings.kubernetes
        return policy.hold_s if self._namespace and policy.min_engines > 0 else 0.0

    @property
    def reuse_s(self) -> float:
        """How old the gateway lets a connection to an engine become.

        On a cluster half of the pause between an engine's leaving its Service and its being told to end: the other half is for the
        news to reach every node. On one machine an address is one engine, and connections may be kept.
        """
        return self.settings.kubernetes.pre_stop_s / 2 if self._namespace else _REUSE_S

    def address(self, version: VersionId) -> str | None:
        """Return the address of a version, or None while it has no ready engine.

        On a cluster it is the Service's name: a gateway needs no permissions in the cluster, and works without the API server.
        A Service without a ready engine refuses the connection at once, which the client sees as 503 with Retry-After.
        """
        namespace = self._namespace
        if namespace and self.settings.kubernetes.address == "service":
            from serving.engines.kubernetes.names import service_address  # noqa: PLC0415

            return service_address(version, namespace)
        return self.engines.state(version).address


@cache
def platform() -> Platform:
    """Return the adapters of this process, from its environment."""
    return Platform(read_settings())


def prepare(settings: Settings) -> str:
    """Bring the home to the present schema, with an operator's key (the settings' or `<home>/operator.key`), and return it.

    Idempotent, also by several processes at once.
    """
    from registry.database import migrate  # noqa: PLC0415

    for folder in (settings.home, settings.downloads, settings.engines, settings.spool, settings.logs, settings.scratch, settings.answers):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrate(settings.database_url)
    return _operator_key(Platform(settings))


def gateway_app(of: Platform) -> Callable[..., Awaitable[None]]:
    """Return the gateway as an ASGI application."""
    from registry.ledger import SpoolLedger  # noqa: PLC0415
    from registry.routes import DatabaseRoutes  # noqa: PLC0415
    from serving.gateway.app import gateway  # noqa: PLC0415
    from serving.gateway.assignments import InProcessAssignments  # noqa: PLC0415

    conversations = of.records.conversations
    return gateway(
        DatabaseRoutes(of.records.gateways, of.address, of.clock),
        SpoolLedger(of.settings.spool, conversations),
        InProcessAssignments(),
        of.clock,
        name=f"{socket.gethostname()}:{urlsplit(of.settings.gateway_url).port}",
        stored_assignments=lambda: conversations.assignments(of.clock.now() - _REMEMBERED_S, _REMEMBERED),
        hold_s=of.hold_s,
        reuse_s=of.reuse_s,
    )


def control_app(of: Platform) -> FastAPI:
    """Return the control API."""
    from serving.control.app import control  # noqa: PLC0415
    from serving.control.context import ControlContext  # noqa: PLC0415

    links = Links(prefect_ui=of.prefect_page, mlflow_ui=of.settings.mlflow_url, gateway_url=of.settings.shown_url)
    results, probes, thresholds = StoredBenchmarkResults(of.answers), health_probes(of.settings), problem_thresholds(of.settings)
    return control(ControlContext(of.records, of.runs, of.engines, of.clock, links, results, probes, thresholds))


def health_probes(settings: Settings) -> LocalHealthProbes:
    """Return the probes of the other services and of this machine."""
    from serving.control.health_probes import LocalHealthProbes  # noqa: PLC0415

    health = {
        "prefect": f"{settings.prefect_api_url}/health",
        "mlflow": f"{settings.mlflow_url}/health",
        "gateway": f"{settings.gateway_url}/healthz",
    }
    return LocalHealthProbes(health, settings.prefect_api_url, settings.home, settings.spool)


def problem_thresholds(settings: Settings) -> ProblemThresholds:
    """Return the thresholds of the platform's problems."""
    from serving.control.platform_problems import ProblemThresholds  # noqa: PLC0415

    return ProblemThresholds(settings.rollout.max_error_rate, settings.pickup_s, settings.rollout.step_s, settings.rollout.deadline_s)


class StoredBenchmarkResults:
    """`BenchmarkResults` on stored answers. Few are read at a time, so that many requests neither fill the memory nor delay other calls."""

    _AT_ONCE = 2
    _PATIENCE_S = 10.0

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._room = threading.BoundedSemaphore(self._AT_ONCE)

    def answers(self, benchmark: Benchmark) -> tuple[Sample, ...]:
        """Return a benchmark's samples. Transient while too many are read."""
        with self._turn():
            return self._answers.read(benchmark)

    def compare(self, candidate: Sequence[Sample], baseline: Sequence[Sample], margin: float) -> dict[str, Any]:
        """Return the paired comparison as JSON."""
        from evals.statistics import compare  # noqa: PLC0415 - numpy, which only this needs

        with self._turn():
            return compare(candidate, baseline, margin=margin).shown()

    def points(self, problems: int, samples: int, *, pass_rate: float | None, power: float) -> float:
        """Return how many points of a drop are caught."""
        from evals.statistics import detectable_points  # noqa: PLC0415

        return detectable_points(problems, samples, pass_rate=pass_rate, power=power)

    def samples(self, problems: int, points: float, *, pass_rate: float | None, power: float) -> int:
        """Return the least samples a problem that catch so many points."""
        from evals.statistics import samples_needed  # noqa: PLC0415

        return samples_needed(problems, points, pass_rate=pass_rate, power=power)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._room.acquire(timeout=self._PATIENCE_S):
            raise Transient("too many benchmarks are read at once", retry_after_s=2.0, hint="ask again in a moment")
        try:
            yield
        finally:
            self._room.release()


def engine_supervisor(settings: Settings) -> EngineSupervisor:
    """Return the supervisor of this machine's engines, with a fork server if the engine's module has one."""
    from serving.engines.fork_server import ForkServer  # noqa: PLC0415
    from serving.engines.launcher import VllmLauncher  # noqa: PLC0415
    from serving.engines.supervisor import EngineSupervisor, Limits  # noqa: PLC0415

    environ = base_environ()
    launcher = VllmLauncher(settings.engine_python, settings.engine_module, environ)
    clock = SystemClock()
    fork_server = None
    if settings.engine_standby and settings.engine_module == "seatrial_engine.serve":
        log_file = settings.logs / "standby.log"
        fork_server = ForkServer(settings.engine_python, settings.engine_module, launcher.base_environ(), log_file, clock)
    return EngineSupervisor(
        settings.engines,
        launcher,
        clock,
        limits=Limits(start_s=settings.models.engine_start_limit_s, log_bytes=settings.retention.log_bytes),
        fork_server=fork_server,
    )


def _operator_key(of: Platform) -> str:
    secret = _given_key(of.settings.operator_key) if of.settings.operator_key else _kept_key(of.settings.home / "operator.key")
    if of.records.access.by_secret(secret_digest(secret)) is None:
        now = of.clock.now()
        principal = of.records.access.principal("operator", now)
        key_id, _ = new_secret()
        with suppress(Conflict):  # another process entered it a moment ago
            of.records.access.add_key(
                Key(key_id, principal.id, principal.name, Role.OPERATOR, (), secret_digest(secret), now, note="made at start")
            )
    return secret


def _given_key(secret: str) -> str:
    if len(secret) < _SHORTEST_KEY or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise Refused(
            "SEATRIAL_OPERATOR_KEY must have 24 characters or more, all of them valid in an HTTP header",
            reason="bad_setting",
            hint="make one: `openssl rand -hex 24`",
        )
    return secret


def _kept_key(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    _, secret = new_secret()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
    return secret
