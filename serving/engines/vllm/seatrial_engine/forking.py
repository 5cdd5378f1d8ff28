"""Whether the engine process is forked from the server; light enough to be imported before vLLM is."""

import os
from typing import Final

FORK_VARIABLE: Final = "SEATRIAL_ENGINE_FORK"
UNIPROC_EXECUTOR: Final = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


def platform_plugin() -> str | None:
    """Name our platform class for vLLM's plugin group, or return None where vLLM's own choice stands."""
    from vllm.platforms import cpu_platform_plugin  # noqa: PLC0415 - vLLM reads its environment when it is imported

    if os.environ.get(FORK_VARIABLE) != "1" or cpu_platform_plugin() is None:
        return None
    return "seatrial_engine.cpu_platform.ForkingCpuPlatform"
