"""The plugin by which vLLM finds our CPU platform, which forks the engine process; light enough to be imported before vLLM is."""

import os
from typing import Final

FORK_VARIABLE: Final = "SEATRIAL_ENGINE_FORK"
UNIPROC_EXECUTOR: Final = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


def platform_plugin() -> str | None:
    """Name our platform class for vLLM's plugin group, or return None where vLLM's own choice stands.

    vLLM calls this in each of its processes before anything else of ours, so a CPU's kernels are restricted here.
    """
    from vllm.platforms import cpu_platform_plugin  # noqa: PLC0415 - vLLM reads its environment when it is imported

    if cpu_platform_plugin() is None:
        return None
    from seatrial_engine.kernels import restrict_cpu  # noqa: PLC0415 - this module is imported before torch

    restrict_cpu()
    if os.environ.get(FORK_VARIABLE) != "1":
        return None
    return "seatrial_engine.cpu_platform.ForkingCpuPlatform"
