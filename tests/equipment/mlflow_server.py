"""A real MLflow server on SQLite for contract tests, one for all of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from infra.local import parent_death
from infra.local.database_templates import MLFLOW

T = TypeVar("T")


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store, artifacts = f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts")
    command = [
        *("-I", "-S", parent_death.__file__, str(os.getpid()), str(signal.SIGTERM.value), sys.executable),  # also if pytest is killed
        "-m",
        "infra.entrypoints.mlflow",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        store,
        "--artifacts-destination",
        artifacts,
    ]
    environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    MLFLOW.provide(folder)
    with (folder / "log").open("wb") as log, subprocess.Popen([sys.executable, *command], env=environ, stdout=log, stderr=log) as server:
        try:
            await_health(f"http://127.0.0.1:{port}", folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def await_health(url: str, log: Path) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            threading.Event().wait(0.1)
    pytest.fail(f"MLflow did not start: {log.read_text()[-500:]}")


def at_once(many: int, act: Callable[[int], T]) -> list[T]:
    """Let `many` threads do the same at the same moment, each with a number of its own; return what they return, by number."""
    start = threading.Barrier(many)

    def together(number: int) -> T:
        start.wait(30)
        return act(number)

    with ThreadPoolExecutor(many) as pool:
        return list(pool.map(together, range(many)))
