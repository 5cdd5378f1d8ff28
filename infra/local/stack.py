"""The embedded stack: its services, their ports, commands and environment."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL
from urllib.parse import urlsplit

from core.errors import Transient
from core.settings import RetentionPolicy, Settings, base_environ, default_home
from infra.findings import answers
from infra.local import privacy
from infra.local.earlier_stack import readable_left
from infra.local.ports import Chosen, choose, listens
from infra.local.supervisor import Service
from serving.engines import files
from serving.engines.processes import identify, members

_CHECKOUT = Path(__file__).resolve().parents[2]
_PREFECT_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    # Not used by the embedded stack (no work pools with workers, no automations): each wakes the database every few seconds.
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
    "DO_NOT_TRACK": "1",
}
_MLFLOW_QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def with_ports(settings: Settings, given: Mapping[str, int | None]) -> tuple[Settings, Chosen]:
    """Return the settings with the URLs that this stack will have. Raises Conflict for a given port that is taken."""
    chosen = choose(given, readable_left(settings.home).ports)
    return at_ports(settings, chosen.ports), chosen


def at_ports(settings: Settings, ports: Mapping[str, int]) -> Settings:
    """Return the settings with the URLs of a stack on these ports; Prefect or MLflow on another machine stay what they are."""
    here = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    return replace(
        settings,
        prefect_api_url=_ours(settings.prefect_api_url, f"{here['prefect']}/api"),
        mlflow_url=_ours(settings.mlflow_url, here["mlflow"]),
        control_url=here["control"],
        gateway_url=here["gateway"],
    )


def services(settings: Settings) -> tuple[Service, ...]:
    """Return the stack's services. Prefect or MLflow on another machine (by their settings) are used, not started."""
    theirs = tuple(_external(settings))
    ours = tuple(service for service in (_prefect(settings), _mlflow(settings)) if service.name not in theirs)
    names = tuple(service.name for service in ours)
    flow_needs = (*names, "control")
    control = _platform("control", settings, _http(settings, "control", f"{settings.control_url}/healthz"), url=settings.control_url)
    gateway = _platform("gateway", settings, _http(settings, "gateway", f"{settings.gateway_url}/healthz"), url=settings.gateway_url)
    engines = replace(
        _platform("engines", settings, _supervises(settings.engines)),
        death_signal=SIGKILL,  # SIGTERM would stop the engines, which must outlive this process
        owns_children=False,
    )
    runner = replace(_platform("runner", settings, _takes_runs(settings)), needs=flow_needs)
    return (*ours, engines, control, gateway, runner)


def client_command(home: Path) -> str:
    """Return how client commands of this machine are called for a stack: with its home, unless that is the user's default one."""
    return "seatrial" if home == default_home(os.environ).absolute() else f"seatrial --home {shlex.quote(str(home))}"


def _prefect(settings: Settings) -> Service:
    port = str(urlsplit(settings.prefect_api_url).port)
    command = (sys.executable, "-m", "infra.entrypoints.prefect", "--host", "127.0.0.1", "--port", port)
    ready = _http(settings, "prefect", f"{settings.prefect_api_url}/health")
    return _service("prefect", command, settings, ready, url=settings.prefect_api_url.removesuffix("/api"))


def _mlflow(settings: Settings) -> Service:
    port = str(urlsplit(settings.mlflow_url).port)
    command = (
        *(sys.executable, "-m", "infra.entrypoints.mlflow", "--host", "127.0.0.1", "--port", port, "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{settings.home / 'mlflow.db'}"),
        *("--artifacts-destination", str(settings.home / "mlflow-artifacts")),
    )
    ready = _http(settings, "mlflow", f"{settings.mlflow_url}/health")
    return _service("mlflow", command, settings, ready, url=settings.mlflow_url, **_MLFLOW_QUIET)


def _platform(name: str, settings: Settings, ready: Callable[[int], bool], url: str = "") -> Service:
    return _service(name, (sys.executable, "-m", f"infra.entrypoints.{name}"), settings, ready, url=url)


def _service(name: str, command: tuple[str, ...], settings: Settings, ready: Callable[[int], bool], url: str, **more: str) -> Service:
    return Service(
        name=name,
        command=command,
        environ={**environ(settings), **more},
        ready=ready,
        log=settings.logs / f"{name}.log",
        folder=_folder(settings, name),
        url=url,
        port=urlsplit(url).port or 0,
    )


def _folder(settings: Settings, name: str) -> Path:
    return settings.home / "run" / name


def environ(settings: Settings) -> dict[str, str]:
    """Return what the stack's processes get: ours, the settings, and where Prefect is. Bytecode is kept, for quicker starts."""
    inherited = {name: value for name, value in base_environ().items() if name != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(_CHECKOUT), *filter(None, [inherited.get("PYTHONPATH")])]
    return {
        **inherited,
        **settings.environ(),
        **_PREFECT_QUIET,
        **privacy.environ(settings.home, inherited),
        **prefect_retention(settings.retention),
        "PYTHONPATH": os.pathsep.join(paths),
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_UI_STATIC_DIRECTORY": str(settings.home / "prefect" / "ui"),  # default: the installed package, which may be read-only
        "PREFECT_API_URL": settings.prefect_api_url,
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "PYTHONUNBUFFERED": "1",
    }


def prefect_retention(policy: RetentionPolicy) -> dict[str, str]:
    """Return how long Prefect's own vacuum service keeps runs (with their logs and artifacts) and events."""
    return {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # its default: events only
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": f"{policy.runs_days * 86_400:.0f}",
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"PT{policy.events_days * 86_400:.0f}S",  # a duration, where the other takes seconds
    }


def _http(settings: Settings, name: str, url: str) -> Callable[[int], bool]:
    """Ready when the service's own process answers: two stacks that start at one moment may have chosen the same port."""
    folder, port = _folder(settings, name), urlsplit(url).port or 0

    def ready(pid: int) -> bool:
        return answers(url) and listens(port, [process.pid for process in members(folder, identify(pid))])

    return ready


def _takes_runs(settings: Settings) -> Callable[[int], bool]:
    """Ready when the runner of this process has left a heartbeat: it leaves the first one once it takes runs."""
    from wiring import Platform  # noqa: PLC0415 - brings in SQLAlchemy, which the other commands do not need

    here = Platform(settings)

    def ready(pid: int) -> bool:
        try:
            beat = here.records.runners.latest()
        except Transient:
            return False
        return beat is not None and (beat.host, beat.pid) == (socket.gethostname(), pid) and not beat.lost(here.clock.now())

    return ready


def _supervises(engines: Path) -> Callable[[int], bool]:
    def ready(pid: int) -> bool:
        supervisor = files.supervisor(engines)  # an earlier process may have left it; ours replaces it
        return supervisor is not None and supervisor == identify(pid)

    return ready


def _external(settings: Settings) -> Iterator[str]:
    for name, url in (("prefect", settings.prefect_api_url), ("mlflow", settings.mlflow_url)):
        if not _loopback(url):
            yield name


def _ours(configured: str, here: str) -> str:
    return here if _loopback(configured) else configured


def _loopback(url: str) -> bool:
    return urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}
