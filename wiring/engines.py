"""The supervisor of the engines of this machine."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from core.ports.clock import SystemClock
from core.settings import Settings, base_environ

if TYPE_CHECKING:
    from serving.engines.supervisor import EngineSupervisor


def engine_supervisor(settings: Settings) -> EngineSupervisor:
    """Return the supervisor of this machine's engines, with a fork server if the engine's module has one."""
    from serving.engines.files import fork_server_file  # noqa: PLC0415
    from serving.engines.fork_server import ForkServer  # noqa: PLC0415
    from serving.engines.launcher import VllmLauncher  # noqa: PLC0415
    from serving.engines.supervisor import EngineSupervisor, Limits  # noqa: PLC0415

    environ = base_environ()
    launcher = VllmLauncher(settings.engine_python, settings.engine_module, environ)
    clock = SystemClock()
    fork_server = None
    if settings.engine_fork_server and settings.engine_module == "seatrial_engine.serve":
        log_file = settings.logs / "fork_server.log"
        with suppress(FileNotFoundError):
            (settings.logs / "standby.log").replace(log_file)  # the name that an earlier release gave it
        fork_server = ForkServer(
            settings.engine_python,
            settings.engine_module,
            launcher.base_environ(),
            log_file,
            clock,
            address_file=fork_server_file(settings.engines),
        )
    return EngineSupervisor(
        settings.engines,
        launcher,
        clock,
        limits=Limits(start_s=settings.models.engine_start_limit_s, log_bytes=settings.retention.log_bytes),
        fork_server=fork_server,
    )
