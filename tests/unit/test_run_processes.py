"""When the process of a flow run is forked and when it is spawned, on real fork servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PROBE = """
import os, signal, sys, threading
from multiprocessing import forkserver
from infra.entrypoints.run_processes import RunProcesses

def within(seconds, true):
    pause = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if true():
            return True
        pause.wait(0.05)
    return False

imports, kills = sys.argv[1], int(sys.argv[2])
answers = open(sys.argv[3], "w")  # standard output has the log of other threads
tried = threading.Event()
runs = RunProcesses(imports)
method = lambda: runs.context().get_start_method()
runs.install(tried.set)
tried.wait()
print(method(), file=answers, flush=True)
for _ in range(kills):
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGKILL)
    replaced = within(120, lambda: forkserver._forkserver._forkserver_pid not in (None, server) and method() == "forkserver")
    print("replaced" if replaced else method(), file=answers, flush=True)
    if not replaced:
        break
"""


def outcome(folder: Path, imports: str, *, kills: int = 0, **environ: str) -> list[str]:
    given = {**os.environ, **environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    answers = folder / "answers"
    subprocess.run([sys.executable, "-c", PROBE, imports, str(kills), str(answers)], cwd=ROOT, env=given, capture_output=True, check=True)
    return answers.read_text().splitlines()


@pytest.mark.parametrize(
    ("source", "method"),
    [("", "forkserver"), ("import no_such_module", "spawn"), ("raise RuntimeError", "spawn"), ("import os; os._exit(3)", "spawn")],
    ids=["imported", "import error", "other error", "ended"],
)
def test_a_run_is_spawned_where_the_fork_server_cannot_import(tmp_path: Path, source: str, method: str) -> None:
    (tmp_path / "of_a_run.py").write_text(source)
    assert outcome(tmp_path, "of_a_run") == [method]


def test_a_fork_server_that_dies_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "of_a_run.py").write_text("")
    assert outcome(tmp_path, "of_a_run", kills=2) == ["forkserver", "replaced", "replaced"]


def test_a_run_is_spawned_where_the_path_of_the_temporary_folder_is_too_long_for_a_socket(tmp_path: Path) -> None:
    (tmp_path / "of_a_run.py").write_text("")
    long = tmp_path / ("d" * 100)
    long.mkdir()
    assert outcome(tmp_path, "of_a_run", TMPDIR=str(long)) == ["spawn"]
