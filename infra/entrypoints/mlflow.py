"""MLflow's server in one process. Arguments go to `mlflow server`.

`mlflow server` (3.x) prepares the stores and then starts `uvicorn` in a second process, which imports MLflow again: on 2 cores this takes
7 s of CPU time and 150 MB more. Here, uvicorn runs in the process that has prepared the stores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import uvicorn  # before MLflow: its application installs its security middleware only if uvicorn has been imported

_UVICORN = ["-m", "uvicorn"]


def main() -> None:
    """Become MLflow's server."""
    from mlflow import server  # noqa: PLC0415 - after uvicorn
    from mlflow.cli import cli  # noqa: PLC0415 - after uvicorn

    if not callable(server._exec_cmd):  # noqa: SLF001 - see `serve_here`
        raise TypeError("mlflow.server no longer starts uvicorn with _exec_cmd")
    server._exec_cmd = serve_here  # noqa: SLF001 - MLflow offers no other way to stay in one process
    cli.main(args=["server", *sys.argv[1:]], prog_name="mlflow")


def serve_here(command: Sequence[str], *, extra_env: Mapping[str, str], **_options: object) -> NoReturn:
    """Run the uvicorn command in this process, with `extra_env` in its environment. Ends the process with uvicorn's exit code.

    Raises ValueError where the command is not `python -m uvicorn ...`.
    """
    _python, *arguments = command
    if arguments[:2] != _UVICORN:
        raise ValueError(f"MLflow started {' '.join(command)!r}, expected python -m uvicorn")
    os.environ.update(extra_env)
    sys.exit(uvicorn.main(args=arguments[2:], prog_name="uvicorn"))


if __name__ == "__main__":
    main()
