"""Prefect's own server in a process of its own: Prefect in the process of the tests would reach into every child that they fork."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from core.settings import base_environ
from infra.local.database_templates import PREFECT

_LIMIT_S = 180.0


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Yield the URL of the API of a fresh server whose state lies in `home`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "infra.entrypoints.prefect", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--no-services", "--no-ui"]
    environ = base_environ() | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    PREFECT.provide(home)
    with Path(home / "log").open("wb") as log, subprocess.Popen(command, env=environ, stdout=log, stderr=log) as process:
        url = f"http://127.0.0.1:{port}/api"
        try:
            _until_healthy(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            threading.Event().wait(0.5)
    pytest.fail(f"Prefect's server did not come up at {url}")
