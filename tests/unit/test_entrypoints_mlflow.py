"""MLflow's server, started in one process."""

from __future__ import annotations

import os
import sys

import pytest
import uvicorn

from infra.entrypoints.mlflow import serve_here

COMMAND = [sys.executable, "-m", "uvicorn", "--port", "5000", "--workers", "1", "mlflow.server.fastapi_app:app"]


def test_uvicorn_runs_in_this_process_with_mlflows_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[object] = []

    def main(*, args: list[str], prog_name: str) -> int:
        served.append((args, prog_name, os.environ["MLFLOW_OF_THE_TEST"]))
        return 3

    monkeypatch.setattr(uvicorn, "main", main)
    monkeypatch.setenv("MLFLOW_OF_THE_TEST", "before")
    with pytest.raises(SystemExit) as ended:
        serve_here(COMMAND, extra_env={"MLFLOW_OF_THE_TEST": "given"}, capture_output=False, synchronous=False)
    assert ended.value.code == 3
    assert served == [(COMMAND[3:], "uvicorn", "given")]


def test_another_server_than_uvicorn_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'gunicorn -b :5000', expected python -m uvicorn"):
        serve_here(["gunicorn", "-b", ":5000"], extra_env={})
