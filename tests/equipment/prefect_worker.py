"""The environment of Prefect's Kubernetes worker, as its image has it: made from the same locked file, once for this machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from infra.testcluster.build import default_cache

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "infra/images/prefect-worker/requirements.txt"
_LIMIT_S = 600


def prefect_worker() -> Path:
    """Return the folder of the environment; the first call installs it (a minute)."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = default_cache().parents[1] / f"prefect-worker-{digest}"
    done = place / "installed"
    if not done.exists():
        python = place / "bin/python"
        _uv("venv", "--clear", "--python", str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"), str(place))
        _uv("pip", "install", "--python", str(python), "--require-hashes", "--compile-bytecode", "--requirements", str(REQUIREMENTS))
        done.touch()
    return place


def _uv(*words: str) -> None:
    program = subprocess.run([str(ROOT / "infra/bin/find-uv")], capture_output=True, text=True, check=True).stdout.strip()
    ran = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    assert ran.returncode == 0, ran.stderr[-2000:]
