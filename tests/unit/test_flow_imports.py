"""The process of a flow run loads the layers below it, and no web framework. Its imports start no thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_process_of_a_flow_run_loads_no_web_framework() -> None:
    code = (
        "import sys, flows.benchmark, flows.deploy_model, flows.study; "
        "print([name for name in sys.modules if name == 'fastapi' or name.startswith('serving.control')])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


def test_what_the_fork_server_of_flow_runs_imports_starts_no_thread_and_leaves_the_environment_as_it_was() -> None:
    code = (
        "import os; before = dict(os.environ); import infra.entrypoints.run_imports; "
        "print(sorted(os.listdir('/proc/self/task')) == [str(os.getpid())], dict(os.environ) == before)"
    )
    as_started = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CI", "MLFLOW"))}
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=as_started, capture_output=True, text=True, check=True)
    assert loaded.stdout == "True True\n"
