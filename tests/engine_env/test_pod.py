"""The first process of an engine's pod, with a small program in the server's place."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equipment import wait_until
from seatrial_engine.pod import termination_message

SERVER = """
import http.server, os, signal, sys, threading
port = int(sys.argv[sys.argv.index("--port") + 1])
if os.environ.get("DIES"):
    print(os.environ["DIES"])
    print("and some more words")
    sys.exit(3)
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self): self.say(200)
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.say(200 if os.path.exists(os.environ["WARM"]) else 500)
    def say(self, status):
        self.send_response(status); self.send_header("Content-Length", "0"); self.end_headers()
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
def stop(*_):
    print("finishing the answers in flight", flush=True)
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, stop)
print("serving", flush=True)
server.serve_forever()
"""

POD = "import sys; from pathlib import Path; from seatrial_engine.pod import main; sys.exit(main(sys.argv[2:], Path(sys.argv[1])))"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Pod:
    def __init__(self, folder: Path, **environ: str) -> None:
        (folder / "small_server.py").write_text(SERVER)
        self.port, self.status_port = free_port(), free_port()
        self.message, self.warm = folder / "message", folder / "warm"
        arguments = ["--module", "small_server", "--status-port", str(self.status_port), "--", "--model", "/m", "--port", str(self.port)]
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", POD, str(self.message), *arguments, "--served-model-name", "tiny"],
            env={**os.environ, "PYTHONPATH": path, "WARM": str(self.warm), **environ},
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self, path: str = "/ready") -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()


@contextmanager
def pod(folder: Path, **environ: str) -> Iterator[Pod]:
    started = Pod(folder, **environ)
    try:
        yield started
    finally:
        started.process.terminate()  # its server ends with it; a kill would leave that behind
        started.process.communicate(timeout=20)


def test_a_pod_is_ready_only_after_a_completion_came_out(tmp_path: Path):
    with pod(tmp_path) as here:
        wait_until(lambda: here.ready() == 503, 20, "it answers, and is not ready: /health is fine, completions are not")
        here.warm.touch()
        wait_until(lambda: here.ready() == 200, 20, "ready")
        assert here.ready("/other") == 404


def test_a_stop_goes_on_to_the_server_and_its_end_is_the_pods(tmp_path: Path):
    with pod(tmp_path) as here:
        here.warm.touch()
        wait_until(lambda: here.ready() == 200, 20, "ready")
        here.process.send_signal(signal.SIGTERM)
        said, _ = here.process.communicate(timeout=20)
        assert here.process.returncode == 0
        assert "finishing the answers in flight" in said
        assert not here.message.exists()


def test_a_server_that_dies_leaves_the_end_of_its_log_and_its_exit_code(tmp_path: Path):
    with pod(tmp_path, DIES="ERROR 11-21 [loader.py:62] seatrial: weights refused: tensors.json: there is none") as here:
        said, _ = here.process.communicate(timeout=20)
        assert here.process.returncode == 3
        assert "weights refused" in said
        assert here.message.read_text().splitlines()[0].endswith("weights refused: tensors.json: there is none")


def test_a_model_that_cannot_be_fetched_ends_the_pod_with_a_line_that_says_so(tmp_path: Path):
    message = tmp_path / "message"
    given = ["--status-port", str(free_port()), "--model-folder", str(tmp_path), "--", "--model", "s3://nobody/nothing", "--port", "1"]
    environ = {
        **os.environ,
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    ended = subprocess.run(
        [sys.executable, "-c", POD, str(message), *given],
        env={**environ, "AWS_MAX_ATTEMPTS": "1"},
        timeout=120,
        check=False,
        capture_output=True,
    )
    assert ended.returncode == 4
    assert message.read_text().startswith("seatrial: weights not readable: s3://nobody/nothing/manifest.json")


def test_the_termination_message_keeps_the_cause_however_long_the_log_is():
    lines = ["noise"] * 300 + ["ERROR seatrial: weights refused: x; y"] + [f"  File {number}, in a long traceback" for number in range(900)]
    lines += ["RuntimeError: Engine core initialization failed", "bye"]
    message = termination_message(lines)
    assert "seatrial: weights refused: x; y" in message
    assert message.splitlines()[-2:] == ["RuntimeError: Engine core initialization failed", "bye"]
    assert len(message.encode()) <= 3800
    assert termination_message([]) == ""
