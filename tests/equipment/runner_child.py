"""A flow runner of ours in a process of its own, with one flow that holds a lease until it is ended."""

from __future__ import annotations

import asyncio
import signal
import threading
from pathlib import Path

from prefect import flow

from core.ports.clock import SystemClock
from core.settings import read_settings
from infra.entrypoints.deployments import Entry
from infra.entrypoints.runner import serve
from tasks.lease import renewed


@flow(name="endless", persist_result=False)
def endless(folder: str, *, deaf: bool) -> None:
    if deaf:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with renewed(SystemClock(), read_settings().lease_s, lambda _until: None):
            Path(folder, "begun").touch()
            threading.Event().wait(300)
    finally:
        Path(folder, "let-go").touch()


def main() -> None:
    asyncio.run(serve([Entry(endless, "seatrial")], warm_s=600.0))  # its runs are forked, however busy the machine is
