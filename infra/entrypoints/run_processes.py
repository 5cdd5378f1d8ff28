"""The processes of flow runs are forked from a warm one, so that a run begins in tens of milliseconds.

Prefect (3.8) starts each run with multiprocessing's `spawn`: the process imports Prefect and our flows, and MLflow when its first step
needs it, which takes about 5 s of CPU time. multiprocessing's `forkserver` imports them once. The fork server is a child of the flow
runner and ends after the runner and its last run.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from types import SimpleNamespace
from typing import TYPE_CHECKING

from prefect import flow_engine

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

IMPORTS = "infra.entrypoints.run_imports"
_METHOD = "forkserver"


def fork_runs() -> None:
    """Have Prefect fork its runs, in this process, and start the fork server, which imports in the background. Idempotent."""
    multiprocessing.get_context(_METHOD).set_forkserver_preload([IMPORTS])
    # run_flow_in_subprocess has no parameter for it
    flow_engine.multiprocessing = SimpleNamespace(context=multiprocessing.context, get_context=_context)  # type: ignore[assignment, attr-defined]
    forkserver.ensure_running()


def _context(_asked: str) -> BaseContext:
    """Return the context for a run's process, whichever Prefect asks for."""
    return multiprocessing.get_context(_METHOD)
