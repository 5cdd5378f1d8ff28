"""The engine supervisor reaches its warm fork server wherever the home lies: a unix socket's address has 107 bytes, a path any number."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.ports.clock import SystemClock
from serving.engines.fork_server import ForkServer
from tests.e2e.harness import within

PROGRAM = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
connection, _ = listener.accept()
connection.makefile("rb").readline()
connection.sendall(b'{"pid": 4711}\\n')
sys.stdin.read()
"""


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of temporary files at the end of a long path with spaces and letters beyond ASCII."""
    folder = tmp_path / ("a home über " + "d" * 150) / "tmp"
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == [], "the fork server left files behind"


@pytest.mark.usefixtures("deep")
def test_a_fork_server_below_a_long_path_forks(tmp_path: Path) -> None:
    (tmp_path / "warm.py").write_text(PROGRAM)
    fork_server = ForkServer(
        sys.executable, "warm", {**os.environ, "PYTHONPATH": str(tmp_path)}, tmp_path / "fork_server.log", SystemClock()
    )
    fork_server.ensure()
    try:
        within(30, fork_server.ready, "the fork server listens")
        assert fork_server.fork(["--port", "1"], tmp_path / "engine.log", {}) == 4711
    finally:
        fork_server.close()
