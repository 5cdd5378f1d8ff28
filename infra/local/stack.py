"""The embedded stack: which services there are, on which ports, and what is written down about them."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any
from urllib.parse import urlsplit

from core.errors import Conflict, Fault, Refused, Transient
from core.ports.clock import Clock
from core.reasons import Reason
from core.settings import RetentionPolicy, Settings, base_environ, default_home
from infra.findings import answers
from infra.local import privacy
from infra.local.ports import Chosen, choose, listens
from infra.local.supervisor import Service, end
from serving.engines import files, processes
from serving.engines.processes import Identity, alive, identify, members

_CHECKOUT = Path(__file__).resolve().parents[2]
_STOP_ORDER = ("runner", "gateway", "control", "engines", "mlflow", "prefect")
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
_LARGEST_PORT = 65_535
_MLFLOW_QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


@dataclass(frozen=True, slots=True)
class Left:
    """What an `up` wrote down: its own identity, the services', and the ports."""

    supervisor: Identity | None
    services: Mapping[str, Identity]
    ports: Mapping[str, int]


def with_ports(settings: Settings, given: Mapping[str, int | None]) -> tuple[Settings, Chosen]:
    """Return the settings with the URLs that this stack will have. Raises Conflict for a given port that is taken."""
    chosen = choose(given, _readable_left(settings.home).ports)
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


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the home for one `up`. Raises Conflict, which names the other one's pid."""
    if home.resolve() in {Path("/"), Path(os.path.expanduser("~")).resolve()}:  # noqa: PTH111 - never raises
        raise Refused(f"{home} holds other files than the stack's", reason=Reason.BAD_HOME, hint="give --home a folder of its own")
    folder = home / "run"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        other = _readable_left(home).supervisor
        who = f"process {other.pid}" if other else "another process"
        raise Conflict(f"{who} runs the stack of {home} already", hint="`seatrial down` stops it; --home takes another folder") from error
    try:
        yield
    finally:
        os.close(handle)


def make_private(home: Path) -> int:
    """Close the home to other users, make its folder of temporary files, and return how many entries were open before."""
    tightened = privacy.tighten(home)
    if not any(_engine_lives(home)):
        privacy.empty_temporary(home)
    privacy.temporary(home).mkdir(exist_ok=True, mode=0o700)
    return tightened


def client_command(home: Path) -> str:
    """Return how client commands of this machine are called for a stack: with its home, unless that is the user's default one."""
    return "seatrial" if home == default_home(os.environ).absolute() else f"seatrial --home {shlex.quote(str(home))}"


def write_left(settings: Settings, running: Mapping[str, Identity], ports: Mapping[str, int]) -> None:
    """Write down who runs and where, for `down`, the next `up`, and clients on this machine (run/client.json)."""
    me = identify(os.getpid())
    document = {
        "supervisor": asdict(me) if me and running else None,
        "services": {name: asdict(identity) for name, identity in running.items()},
        "ports": dict(ports),
    }
    files.write(_left_file(settings.home), document)
    if not running:
        (settings.home / "run" / "client.json").unlink(missing_ok=True)  # its ports may be another user's tomorrow: no key goes there
        return
    client = {"control_url": settings.control_url, "gateway_url": settings.gateway_url, "key_file": str(settings.home / "operator.key")}
    files.write(settings.home / "run" / "client.json", client)


def read_left(home: Path) -> Left:
    """Return the services and ports that the last `up` wrote. They may be out of date.

    Raises Fault for a file that is damaged or that another release wrote.
    """
    path = _left_file(home)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        supervisor, services, ports = document["supervisor"], document["services"], document["ports"]
        return Left(
            _identity(supervisor) if supervisor else None,
            {name: _identity(identity) for name, identity in services.items()},
            {name: _port(port) for name, port in ports.items()},
        )
    except FileNotFoundError:
        return Left(None, {}, {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Fault(
            f"{path} cannot be read ({_cause(error)}): it is damaged, or another release wrote it",
            hint="run `seatrial down`, then `seatrial up`",
        ) from error


def engine_status(engine: files.EngineFiles) -> files.EngineStatus | None:
    """Return the status of an engine, None without one. Raises Fault for a file that is damaged or that another release wrote."""
    try:
        status = engine.status()
        if status is not None and status.process is not None:
            _identity(asdict(status.process))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Fault(
            f"{engine.folder / 'record.json'} cannot be read ({_cause(error)}): it is damaged, or another release wrote it",
            hint="run `seatrial down`, remove the file, then run `seatrial up`",
        ) from error
    return status


def _left_file(home: Path) -> Path:
    return home / "run" / "stack.json"


def _readable_left(home: Path) -> Left:
    """Return the services and ports that the last `up` wrote, or none if the file cannot be read.

    Services that are not in it are found by their environment.
    """
    try:
        return read_left(home)
    except Fault:
        return Left(None, {}, {})


def _identity(document: Mapping[str, Any]) -> Identity:
    """Return the identity in a document. Raises TypeError or KeyError for a document of another form."""
    pid, started, boot = document["pid"], document["started"], document["boot"]
    if type(pid) is not int or type(started) is not int or not isinstance(boot, str):
        raise TypeError(f"{dict(document)!r:.100} does not identify a process")
    return Identity(pid, started, boot)


def _port(value: object) -> int:
    if type(value) is not int or not 0 < value <= _LARGEST_PORT:
        raise ValueError(f"a port must be from 1 to {_LARGEST_PORT}, got {value!r:.100}")
    return value


def _cause(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)[:200]


def clear_left(home: Path, clock: Clock) -> tuple[str, ...]:
    """Kill what a killed `up` left (never the engines: the next engine supervisor adopts them); return the names of what still ran."""
    left = _readable_left(home).services
    found = []
    for name in _STOP_ORDER:
        folder = home / "run" / name
        still = processes.members(folder, left.get(name), descendants=name != "engines")
        if still:
            found.append(name)
            end(folder, left.get(name), descendants=name != "engines", clock=clock)
    return tuple(found)


def bring_down(home: Path, clock: Clock, *, limit_s: float = 30.0) -> tuple[str, ...]:
    """Stop a running `up`, or the processes that a killed one left, including engines. Return the names of the stopped processes.

    Raises Fault where the file that names a running `up` cannot be read.
    """
    left = _left_to_stop(home)
    if left.supervisor is not None and alive(left.supervisor):
        processes.send(left.supervisor, SIGTERM)
        if not _gone(left.supervisor, clock, limit_s):
            processes.send(left.supervisor, SIGKILL)
            _gone(left.supervisor, clock, 5)
    stopped = [name for name, identity in left.services.items() if not alive(identity)]
    stopped += clear_left(home, clock)
    stopped += end_engines(home, clock)
    privacy.empty_temporary(home)
    return tuple(dict.fromkeys(stopped))


def _left_to_stop(home: Path) -> Left:
    """Return the services and ports that the last `up` wrote.

    An unreadable file is removed. Raises Fault if an `up` still runs: it would start its services again.
    """
    try:
        return read_left(home)
    except Fault as error:
        try:
            with only_one(home):
                _left_file(home).unlink(missing_ok=True)
        except Conflict:
            raise Fault(
                f"{error.what}; a `seatrial up` of this home still runs", hint="stop it with Ctrl-C in its terminal, then run this again"
            ) from error
        return Left(None, {}, {})


def end_engines(home: Path, clock: Clock) -> list[str]:
    """End engines that a killed engine supervisor left. Their desired states stay, so that the next `up` starts them again."""
    root = home / "engines"
    ended = []
    for version in files.versions(root):
        engine = files.EngineFiles(root / version)
        process = _engine_process(engine)
        if processes.members(engine.folder, process):
            if process is not None:
                processes.send(process, SIGTERM)
                _gone(process, clock, 10)
            end(engine.folder, process, descendants=True, clock=clock)
            engine.drop_status()
            ended.append(f"engine {version[:12]}")
    return ended


def _engine_lives(home: Path) -> Iterator[bool]:
    root = home / "engines"
    for version in files.versions(root):
        engine = files.EngineFiles(root / version)
        yield bool(processes.members(engine.folder, _engine_process(engine)))


def _engine_process(engine: files.EngineFiles) -> Identity | None:
    """Return the process in an engine's status. None where that cannot be read: its processes are then found by their environment."""
    try:
        status = engine_status(engine)
    except Fault:
        return None
    return None if status is None else status.process


def _gone(identity: Identity, clock: Clock, limit_s: float) -> bool:
    give_up = clock.monotonic() + limit_s
    while alive(identity):
        if clock.monotonic() > give_up:
            return False
        clock.wait(0.05)
    return True


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
        try:
            supervisor = files.supervisor(engines)
        except (Fault, TypeError, ValueError):  # an earlier process left it; ours replaces it
            return False
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
