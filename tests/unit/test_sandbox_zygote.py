"""The zygote imports only what judges and cells use: every fork copies the tables of its pages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORT = "import json, sys; sys.path.insert(0, {root!r}); import evals.sandbox.zygote; print(json.dumps(sorted(sys.modules)))"
OURS = {
    *("evals", "evals.sandbox", "evals.sandbox.cell", "evals.sandbox.cell_client", "evals.sandbox.codec", "evals.sandbox.judge"),
    *("evals.sandbox.landlock", "evals.sandbox.linux", "evals.sandbox.messages", "evals.sandbox.raised", "evals.sandbox.seccomp"),
    "evals.sandbox.zygote",
}
NEEDLESS = {"pathlib", "platform", "urllib.parse", "ipaddress", "traceback", "subprocess", "threading", "dataclasses", "inspect"}


def test_the_zygote_imports_no_module_without_need() -> None:
    command = [sys.executable, "-I", "-S", "-E", "-B", "-c", IMPORT.format(root=str(ROOT))]
    loaded = set(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
    assert {name for name in loaded if name.partition(".")[0] in {"core", "evals"}} == OURS
    assert loaded & NEEDLESS == set()
