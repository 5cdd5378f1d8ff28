"""The flow runner against Prefect's own server: its runs are forked, and at SIGTERM they are left as reconcile resumes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import ROOT, children, fork_servers, run_processes, within
from tests.equipment.prefect_api import prefect_api
from tests.equipment.prefect_server import prefect_server

pytestmark = pytest.mark.slow
GRACE_S = 50
RUNNER = "from tests.equipment.runner_child import main; main()"  # no module is __main__: the run's process would import it again


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as url, prefect_api(url) as api:
        yield api


@contextmanager
def flow_runner(api: httpx.Client, folder: Path, *, lease_s: float = 3600.0) -> Iterator[subprocess.Popen[bytes]]:
    """A runner without the background services: there is no database."""
    given = {"PREFECT_API_URL": str(api.base_url), "SEATRIAL_HOME": str(folder), "SEATRIAL_LEASE_S": str(lease_s)}
    child = subprocess.Popen([sys.executable, "-c", RUNNER], cwd=ROOT, env={**os.environ, **given, "PYTHONPATH": str(ROOT)})
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def a_run(api: httpx.Client, folder: Path, *, deaf: bool) -> str:
    """Start a run and return its id when its process has begun."""
    where = "/deployments/name/endless/seatrial"
    found = within(700, lambda: (answer := api.get(where)).is_success and answer.json(), "the deployment is there")
    body = {"parameters": {"folder": str(folder), "deaf": deaf}}
    run = api.post(f"/deployments/{found['id']}/create_flow_run", json=body).raise_for_status().json()
    within(600, (folder / "begun").exists, "the run has begun")
    (folder / "begun").unlink()
    return str(run["id"])


def is_crashed(api: httpx.Client, run: str) -> bool:
    return bool(api.get(f"/flow_runs/{run}").json()["state"]["type"] == "CRASHED")


def tell_to_end(runner: subprocess.Popen[bytes]) -> None:
    """Ask it as a kubelet does, and expect that it is gone well before that would kill it."""
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(timeout=GRACE_S) == 0


def test_a_run_lets_go_of_its_row_and_is_crashed_not_cancelled(prefect: httpx.Client, tmp_path: Path) -> None:
    with flow_runner(prefect, tmp_path) as runner:
        run = a_run(prefect, tmp_path, deaf=False)
        processes = children(runner.pid)
        tell_to_end(runner)
    assert (tmp_path / "let-go").exists()
    assert is_crashed(prefect, run)
    within(10, lambda: not [pid for pid in processes if Path(f"/proc/{pid}").exists()], "no process of it is left")


def test_a_run_that_does_not_heed_it_is_killed(prefect: httpx.Client, tmp_path: Path) -> None:
    with flow_runner(prefect, tmp_path) as runner:
        run = a_run(prefect, tmp_path, deaf=True)
        tell_to_end(runner)
    assert not (tmp_path / "let-go").exists()
    assert prefect.get(f"/flow_runs/{run}").json()["state"]["type"] in {"RUNNING", "CRASHED"}  # as when all of it is killed


def test_runs_are_forked_from_one_process_and_go_on_to_start_when_it_is_killed(prefect: httpx.Client, tmp_path: Path) -> None:
    with flow_runner(prefect, tmp_path) as runner:
        runs = [a_run(prefect, tmp_path, deaf=False), a_run(prefect, tmp_path, deaf=False)]
        assert len(run_processes(runner.pid)) == 2
        (server,) = fork_servers(runner.pid)
        os.kill(server, signal.SIGKILL)
        for run in runs:  # the runner cannot cancel them any more
            within(60, partial(is_crashed, prefect, run), "the run is crashed")
        a_run(prefect, tmp_path, deaf=False)
        tell_to_end(runner)


def test_its_runs_and_their_fork_server_end_when_it_is_killed(prefect: httpx.Client, tmp_path: Path) -> None:
    with flow_runner(prefect, tmp_path, lease_s=0.4) as runner:
        a_run(prefect, tmp_path, deaf=False)
        processes = [*fork_servers(runner.pid), *run_processes(runner.pid)]
        assert len(processes) == 2
        runner.kill()
        within(60, lambda: not [pid for pid in processes if Path(f"/proc/{pid}").exists()], "no process of it is left")
