"""The imports of a flow run's process. The fork server of `run_processes.py` imports this module once, before it forks runs.

A process that forks must have one thread: another one could hold a lock at the moment of the fork, and the child has no thread that would
release it. Two libraries start a thread when they are imported (OpenBLAS below numpy, jemalloc below pyarrow, which MLflow loads), unless
a variable says otherwise. The variables are set during these imports only, since what a run starts must not inherit them.

Importing this module turns the process into a fork server: it ignores SIGTERM from then on.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
_FLOWS = (
    "flows.benchmark",
    "flows.deploy_model",
    "flows.study",
    "infra.entrypoints.background",  # this and the next three: multiprocessing runs the runner's main module in each child
    "infra.entrypoints.deployments",
    "infra.entrypoints.heartbeat",
    "infra.entrypoints.run_processes",
)
_ADAPTERS = (
    "evals.benchmark_runner",
    "evals.sandbox",
    "lifecycle.rollouts.driver",
    "mlflow.entities.model_registry",
    "mlflow.tracking",
    "numpy",
    "registry.answers",
    "registry.benchmarks",
    "registry.database",
    "registry.flow_runs",
    "registry.hub.huggingface",
    "registry.models",
    "registry.prompts",
    "registry.weights.folder",
    "serving.engines.local",
    "serving.engines.programs",
    "serving.webhook",
)
"""Imported by `wiring` and by these adapters when they are first used."""


@contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _outlive_signals() -> None:
    """Ignore SIGTERM in the fork server, and not in its runs: a signal to a whole session must not end the parent of the runs first."""
    import numpy as np  # noqa: PLC0415 - it has been imported by now, with one thread

    server = os.getpid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def in_child() -> None:
        if os.getppid() == server:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            np.random.seed()  # noqa: NPY002 - the global generator, for libraries that use it; Python seeds its own

    os.register_at_fork(after_in_child=in_child)


with _environ(_ONE_THREAD):
    for _name in (*_FLOWS, *_ADAPTERS):
        import_module(_name)
gc.collect()
gc.freeze()  # a collection in a run would write to, and so copy, every page
_outlive_signals()
