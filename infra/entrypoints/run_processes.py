"""The processes of flow runs are forked from a warm one, so that a run begins in tens of milliseconds.

Prefect (3.8) starts each run with multiprocessing's `spawn`: the process imports Prefect and our flows, and MLflow when its first step
needs it, which takes about 5 s of CPU time. multiprocessing's `forkserver` imports them once. The fork server is a child of the flow
runner and ends after the runner and its last run.

A start through a fork server waits until its imports are done, and the runner's event loop waits with it. So a thread of its own starts
the fork server and watches it. While it is not ready, runs are spawned.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import SimpleNamespace
from typing import TYPE_CHECKING

import structlog
from prefect import flow_engine

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

log = structlog.get_logger(__name__)

IMPORTS = "infra.entrypoints.run_imports"
_MOST_STARTS = 5
"""After this many starts of the fork server, runs are spawned until the runner starts again."""


class RunProcesses:
    """Chooses how Prefect starts the process of a run in this process. One for each process."""

    def __init__(self, imports: str = IMPORTS) -> None:
        self._imports = imports
        self._forking = multiprocessing.get_context("forkserver")
        self._ready = threading.Event()

    def install(self, tried: Callable[[], object]) -> None:
        """Start the fork server in the background, and have Prefect ask here for the context of each run's process.

        Calls `tried`, in another thread, once the fork server is ready or has failed.
        """
        self._forking.set_forkserver_preload([self._imports])
        # run_flow_in_subprocess has no parameter for it
        flow_engine.multiprocessing = SimpleNamespace(  # type: ignore[assignment, attr-defined]
            context=multiprocessing.context, get_context=lambda _asked: self.context()
        )
        threading.Thread(target=self._keep, args=(tried,), name="fork-server", daemon=True).start()

    def context(self) -> BaseContext:
        """Return the context that starts a run's process without waiting for imports in this process."""
        return self._forking if self._ready.is_set() else multiprocessing.get_context("spawn")

    def _keep(self, tried: Callable[[], object]) -> None:
        for _ in range(_MOST_STARTS):
            server = self._started()
            if server is not None:
                self._ready.set()
            tried()
            if server is not None:
                wait([server])  # the descriptor of a process is readable once the process has ended
                self._ready.clear()
                os.close(server)
                log.warning("fork_server.ended")
        log.error("fork_server.given_up", starts=_MOST_STARTS, consequence="runs start some seconds later")

    def _started(self) -> int | None:
        """Start the fork server unless it runs, and wait for its imports. Return a descriptor of its process, None when it failed."""
        here, there = multiprocessing.Pipe(duplex=False)
        first = self._forking.Process(target=_tell, args=(there, self._imports), name="fork-server-probe")
        try:
            first.start()
            there.close()  # so that `recv` ends when the process does
            server, imported = here.recv()
            first.join()
            if imported:
                return os.pidfd_open(server)
        except (EOFError, OSError) as error:  # it ended while it imported: its traceback is in the runner's log
            log.warning("fork_server.failed", error=repr(error))
        else:
            log.warning("fork_server.imports_failed", module=self._imports)
        finally:
            here.close()
            there.close()
        return None


def _tell(there: Connection, imports: str) -> None:
    """In the first process that a fork server forks: tell its pid, and whether it has the imports (multiprocessing ignores ImportError)."""
    there.send((os.getppid(), imports in sys.modules))
