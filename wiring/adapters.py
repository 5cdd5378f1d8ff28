"""The adapters of one process, chosen by its settings. Embedded and scale-out differ here and nowhere else.

SDKs are imported where their adapter is made, so that a process pays only for what it uses (the gateway never imports MLflow).
"""

from __future__ import annotations

import os
import socket
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from core.errors import Refused
from core.hosts import EngineHost, cpu_host
from core.ids import VersionId
from core.links import Links
from core.ports.clock import Clock, SystemClock
from core.ports.null import NullActivator, NullCapacity, NullEventRecorder
from core.reasons import Reason
from core.settings import Settings, read_settings

if TYPE_CHECKING:
    from core.ports import (
        Activator,
        Capacity,
        EnginePrograms,
        Engines,
        EventRecorder,
        FlowRuns,
        Hub,
        ModelRegistry,
        Records,
        Sandbox,
        WeightsStore,
    )
    from core.ports.benchmark_runner import BenchmarkRunner, SamplingStudy
    from core.ports.history import BenchmarkHistory
    from core.versions import ModelRef
    from evals.suites.suite import PromptTemplate
    from lifecycle.rollouts.driver import Driver
    from registry.answers import Answers
    from registry.prompts import MlflowPrompts
    from serving.engines.kubernetes.api import Api
    from serving.engines.kubernetes.engines import KubernetesEngines
    from serving.webhook import Webhook

_REUSE_S = 300.0


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
            reason=Reason.BAD_SETTING,
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

    @cached_property
    def engine_programs(self) -> EnginePrograms:
        """Where programs of the engine's environment run: on one machine in forks of the fork server while it is ready."""
        from serving.engines.files import fork_server_file  # noqa: PLC0415
        from serving.engines.programs import ForkedPrograms, SpawnedPrograms  # noqa: PLC0415

        spawned = SpawnedPrograms(self.settings.tensorize_python)
        if self.settings.engines_url or self.settings.tensorize_python != self.settings.engine_python:
            return spawned
        return ForkedPrograms(fork_server_file(self.settings.engines), spawned)

    @property
    def capacity(self) -> Capacity:
        """Checks whether a candidate fits."""
        return self._cluster or NullCapacity()

    @property
    def event_recorder(self) -> EventRecorder:
        """Records events and roles beside engines, for people."""
        return self._cluster or NullEventRecorder()

    @cached_property
    def activator(self) -> Activator:
        """Starts an engine of a version that is scaled to zero."""
        if not self._namespace or self.settings.kubernetes.min_engines > 0:
            return NullActivator()
        from serving.engines.kubernetes.activator import KubernetesActivator  # noqa: PLC0415

        return KubernetesActivator(self._api())

    @property
    def longest_start_s(self) -> float:
        """How long to wait for an engine, in seconds: on a cluster also for a node and the image, whose limits the adapter enforces.

        Adding a node to a cluster and pulling an image do not count towards the model's own limit.
        """
        policy = self.settings.kubernetes
        elsewhere_s = policy.queue_s + policy.pull_limit_s if self._namespace else 0.0
        return self.settings.models.engine_start_limit_s + elsewhere_s

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
            f"SEATRIAL_ENGINES_URL is {self.settings.engines_url!r}",
            reason=Reason.BAD_SETTING,
            hint="write kubernetes://NAMESPACE, or nothing",
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
        """Enter a suite's prompt in MLflow's prompt registry and return its `name@version`.

        The version is the file's, so that equal plans stay equal; the registry has it as a tag. A changed text with an old version is
        refused.
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
        """The webhook that receives regressions; None without a URL."""
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
    def links(self) -> Links:
        """The pages and addresses that people are shown."""
        return Links(prefect_ui=self.prefect_page, mlflow_ui=self.settings.mlflow_url, gateway_url=self.settings.shown_url)

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
