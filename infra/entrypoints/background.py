"""The background services, as threads of the process that starts flow runs: reconcile each minute, housekeeping once a day.

They need nothing of Prefect to run: with Prefect unavailable, engines are still kept and rollouts still driven. Long flow runs do
not delay them, and several such processes share the work by leases (`tasks/service.py`).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from core.settings import Settings
from tasks.housekeeping import housekeeping_duty
from tasks.reconcile import reconcile_duty
from tasks.service import Duty, Service
from wiring import Platform, platform

log = structlog.get_logger(__name__)


def duties(settings: Settings) -> tuple[Duty, ...]:
    """Return every background duty."""
    return (reconcile_duty(settings), housekeeping_duty(settings))


@contextmanager
def background() -> Iterator[None]:
    """Run the services while the block runs."""
    here, over = platform(), threading.Event()
    for duty in duties(here.settings):
        threading.Thread(target=_run, args=(here, duty, over), name=duty.name, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _run(here: Platform, duty: Duty, over: threading.Event) -> None:
    """Run one service. Should it end before its time, this process ends too: its supervisor starts another."""
    try:
        Service(here, duty, f"{socket.gethostname()}:{os.getpid()}").run(over)
    finally:
        if not over.is_set():
            log.error("service.ended", service=duty.name)
            os.kill(os.getpid(), signal.SIGTERM)
