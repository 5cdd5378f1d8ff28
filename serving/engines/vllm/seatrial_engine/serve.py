"""Starts vLLM's OpenAI server: the one place for what makes its start short.

`python -m seatrial_engine.serve VLLM_ARGUMENTS...` becomes the server.
`python -m seatrial_engine.serve --fork-server SOCKET` imports everything once and then forks a server or a program per request: see
`fork_server`.

Every argument goes to vLLM as it is. Two things are added where the caller left them open: the executor (one engine process
instead of an engine and a worker, on a CPU with no parallelism asked for), and forking the engine process from the server, so
that vLLM and torch are imported once and not two or three times.
"""

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from seatrial_engine import programs
from seatrial_engine.endings import report_endings_of_children
from seatrial_engine.fork_server import serve_forks
from seatrial_engine.forking import FORK_VARIABLE, UNIPROC_EXECUTOR
from seatrial_engine.parent_death import end_forked_children_with_this_process

_DEFAULT_ENVIRONMENT: Final = {
    FORK_VARIABLE: "1",
    "VLLM_PLUGINS": "seatrial",  # other plugins of the environment are neither needed nor trusted
    "VLLM_NO_USAGE_STATS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # numpy's, which starts its threads at import: nothing may run beside a fork; torch has its own
    "TOKENIZERS_PARALLELISM": "false",  # its threads would not survive the fork of the engine process
}

# What a running server and its engine process have imported; an import that is missing here only costs time.
_HEAVY_MODULES: Final = (
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "seatrial_engine.loader",
)

_INSPECTION: Final = "_run_in_subprocess"

_PARALLEL_FLAGS: Final = (
    "--distributed-executor-backend",
    "--tensor-parallel-size",
    "--pipeline-parallel-size",
    "--data-parallel-size",
    "--nnodes",
    "-tp",
    "-pp",
    "-dp",
)


def main(argv: Sequence[str]) -> None:
    """Become vLLM's server, or a fork server if the first argument is `--fork-server`."""
    for name, value in _DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("OMP_NUM_THREADS", str(compute_threads(len(os.sched_getaffinity(0)))))
    forks = argv[:1] == ["--fork-server"]
    preload(programs.modules() if forks else ())
    if forks:
        argv = serve_forks(argv[1])
    become_server(argv)


def compute_threads(cores: int) -> int:
    """All cores but one, which the server needs, as vLLM's own CPU workers do: threads that wait for a core spin on the others.

    With two on a busy machine of two cores, 900 tokens took 12 s and not 1 s.
    """
    return max(1, cores - 1)


def preload(more: Sequence[str] = ()) -> None:
    """Import what server and engine need, and `more`, before anything is forked: all of them then share the pages."""
    for name in (*_HEAVY_MODULES, *more):
        importlib.import_module(name)
    if on_cpu():
        from seatrial_engine.kernels import restrict_cpu  # noqa: PLC0415 - torch reads the environment when it is imported

        restrict_cpu()
        inspect_models_here()
    gc.collect()
    gc.freeze()  # a collection after the fork would touch, and so copy, every page


def inspect_models_here() -> None:
    """Have vLLM look at a model's class in this process.

    It starts a Python of its own for that, so that a GPU is not initialised too early, and keeps what it found in its cache. On a CPU
    nothing is initialised, and importing torch and vLLM once more takes 13 s of CPU time with an empty cache: in each new home and pod.
    Raises AttributeError when vLLM no longer has that function.
    """
    registry = importlib.import_module("vllm.model_executor.models.registry")
    getattr(registry, _INSPECTION)
    setattr(registry, _INSPECTION, lambda inspect: inspect())


def become_server(argv: Sequence[str]) -> None:
    """Run vLLM's API server in this process with `argv`, until it is stopped."""
    from vllm.entrypoints.launchers.api_server.entry import main as serve  # noqa: PLC0415 - after `preload`

    end_forked_children_with_this_process()
    report_endings_of_children()
    sys.argv = ["seatrial_engine.serve", *with_executor(argv)]
    serve()


def with_executor(argv: Sequence[str]) -> list[str]:
    """Return `argv` with the one-process executor added, unless the caller decides about processes itself or a GPU serves."""
    flags = {argument.partition("=")[0].replace("_", "-") for argument in argv}
    if not on_cpu() or flags.intersection(_PARALLEL_FLAGS):
        return list(argv)
    return [*argv, "--distributed-executor-backend", UNIPROC_EXECUTOR]


def on_cpu() -> bool:
    """Return whether vLLM runs on this machine's CPU."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - after the environment is set

    return bool(current_platform.is_cpu())


if __name__ == "__main__":
    main(sys.argv[1:])
