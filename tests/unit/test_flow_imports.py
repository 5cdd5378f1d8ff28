"""The process of a flow run loads the layers below it, and no web framework."""

from __future__ import annotations

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
