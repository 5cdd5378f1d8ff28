"""A real PostgreSQL of our own: a throw-away cluster on a unix socket (and an address, where one is given), stopped by process id.

The binaries are Debian's package `postgresql`. Without them the tests that need them fail;
SEATRIAL_TEST_WITHOUT_POSTGRES=1 skips them, loudly.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

WITHOUT = "SEATRIAL_TEST_WITHOUT_POSTGRES"
_START_LIMIT_S = 30.0


def postgres_binaries() -> Path:
    """Return the folder of initdb and postgres, or fail the test with what to install."""
    if os.environ.get(WITHOUT) == "1":
        message = f"{WITHOUT}=1: NOTHING WAS TESTED ON POSTGRESQL"
        warnings.warn(message, stacklevel=2)
        pytest.skip(message)
    on_path = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    found = [folder for folder in [*folders, *([Path(on_path).parent] if on_path else [])] if (folder / "initdb").exists()]
    if not found:
        pytest.fail(f"PostgreSQL's server is not on this machine: install Debian's package postgresql, or set {WITHOUT}=1", pytrace=False)
    return found[0]


class PostgresServer:
    """One cluster. `start` and `stop` may be called again and again; the data stays until the context ends."""

    def __init__(self, folder: Path, binaries: Path, host: str = "") -> None:
        self._host = host
        self._port = free_port(host) if host else 5432
        self._data = folder / "data"
        self._folder = folder
        self._binaries = binaries
        self._user = "postgres" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def initialise(self) -> None:
        if self._user is not None:  # initdb refuses root
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        command: list[str | Path] = [
            self._binaries / "initdb",
            "-D",
            self._data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        subprocess.run(command, check=True, capture_output=True, user=self._user, group=self._user, cwd="/", extra_groups=self._groups())
        if self._host:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {self._host}/16 trust\n")

    def start(self) -> None:
        settings = [f"listen_addresses={self._host}", f"port={self._port}", f"unix_socket_directories={self._folder}"]
        settings += ["fsync=off", "max_connections=200"]
        options = [part for setting in settings for part in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*dying_with_us("QUIT"), self._binaries / "postgres", "-D", self._data, *options],
                user=self._user,
                group=self._user,
                extra_groups=self._groups(),
                cwd="/",
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop at once, cutting connections, as an administrator's fast shutdown does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=30)
            self._process = None

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._folder}&port={self._port}"

    def address(self, database: str, driver: str = "postgresql") -> str:
        """Return the URL by which others than this machine's processes reach it, for SQLAlchemy's `driver`."""
        return f"{driver}://postgres@{self._host}:{self._port}/{database}"

    def new_database(self, template: str = "template1", name: str = "") -> str:
        """Return the URL of a fresh database, a copy of `template`."""
        self._databases += 1
        name = name or f"test_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return self.url(name)

    def _groups(self) -> list[int] | None:
        return None if self._user is None else []

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                threading.Event().wait(0.05)
            else:
                return
        pytest.fail(f"PostgreSQL did not start:\n{(self._folder / 'log').read_text()[-2000:]}", pytrace=False)


def dying_with_us(signal_name: str) -> list[str]:
    """Return the words before a command by which the kernel ends it when this process is killed.

    The kernel looks at the thread that starts it, so nothing is promised for what other threads than the first one start.
    """
    program = shutil.which("setpriv")
    first = threading.current_thread() is threading.main_thread()
    return [program, "--pdeathsig", signal_name, "--"] if program and first else []


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_postgres(host: str = "") -> Iterator[PostgresServer]:
    """Give a running server, which listens on `host` too; it and its folder are gone afterwards."""
    binaries = postgres_binaries()
    folder = Path(tempfile.mkdtemp(prefix="st-pg-", dir="/tmp"))
    server = PostgresServer(folder, binaries, host)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
