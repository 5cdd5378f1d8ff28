"""vLLM's CPU platform, with the engine process forked from the server instead of spawned.

vLLM's own CPU platform forces `spawn`: its worker processes take their thread binding from the environment at their start. With
the one-process executor there is no such worker, and a spawned engine only imports torch and vLLM a second time.
"""

import os
from typing import TYPE_CHECKING

from vllm.platforms.cpu import CpuPlatform

from seatrial_engine.forking import UNIPROC_EXECUTOR

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class ForkingCpuPlatform(CpuPlatform):
    """The CPU platform that forks an engine process which runs its own worker."""

    @classmethod
    def check_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """As vLLM's, then choose `fork` where the one-process executor was asked for."""
        super().check_and_update_config(vllm_config)
        if vllm_config.parallel_config.distributed_executor_backend == UNIPROC_EXECUTOR:
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
