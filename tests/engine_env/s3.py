"""A real S3 server (`rclone serve s3`) over a folder whose folders are its buckets."""

import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from equipment import wait_until

RCLONE = Path(__file__).resolve().parents[2] / ".venv/bin/rclone"


@contextmanager
def s3_server(root: Path, environ: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve `root`, and let the usual AWS variables name the server, as a pod's environment does."""
    assert RCLONE.exists(), f"{RCLONE} is missing: set the platform's environment up with `make`"
    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    command = [str(RCLONE), "serve", "s3", "--config", "/dev/null", "--addr", address, "--auth-key", f"{key},{secret}", str(root)]
    given = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**given, "AWS_ENDPOINT_URL_S3": f"http://{address}"}.items():
        environ.setenv(name, value)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port), 20, "the S3 server listens")
        yield process
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
