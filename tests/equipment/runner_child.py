"""A flow runner of ours in a process of its own, with one flow that goes on until it is ended."""

from __future__ import annotations

import asyncio
import signal
import threading
from pathlib import Path

from prefect import flow

from infra.entrypoints.deployments import Entry
from infra.entrypoints.runner import serve


@flow(name="endless", persist_result=False)
def endless(folder: str, *, deaf: bool) -> None:
    if deaf:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Path(folder, "begun").touch()
    try:
        threading.Event().wait(300)
    finally:
        Path(folder, "let-go").touch()


def main() -> None:
    asyncio.run(serve([Entry(endless, "seatrial")]))
