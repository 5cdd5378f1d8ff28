"""The kernels of a CPU engine: without AMX, and none compiled at run time.

vLLM 0.32 chooses its AMX attention kernel for bfloat16 on every CPU that has AMX tiles (Intel Xeon since Sapphire Rapids). Measured on
such a CPU with plain vLLM: a first prompt of one token ends the engine process with SIGILL, because the kernel runs before its tile
configuration was loaded, and where it runs it computes wrong answers without an error. With `torch.cpu._is_amx_tile_supported` false
vLLM takes its vector kernels, whose answers agree with transformers.

vLLM asks that one function for every AMX kernel: attention, latent attention (MLA), small linear layers, quantised linear layers and
mixtures of experts. All are switched off, since only this combination was measured to be right. oneDNN, which multiplies the large
matrices, decides about AMX itself and is left as it is; it was right in the same measurement.

vLLM marks a few functions of its sampler for `torch.compile`, whatever `--enforce-eager` says. On a CPU that calls g++: the first request
of a model took 7 to 17 s longer on two cores, and a machine without a compiler failed it. The functions run uncompiled here.

Each process decides for itself, so both switches are set wherever one begins: by the launcher, by the platform plugin (the first of our
code that vLLM calls in any process) and by the general plugin.
"""

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import torch

_ATTENTION: Final = "vllm.v1.attention.backends.cpu_attn"
_CHOICE: Final = "_get_attn_isa"
_AMX: Final = "amx"


class ForbiddenKernelError(RuntimeError):
    """vLLM chose a kernel that computes wrong answers; the engine must not serve with it."""


def restrict_cpu() -> None:
    """Set both switches of a CPU engine, in this process and in what it starts. Idempotent."""
    switch_amx_off()
    compile_nothing()


def compile_nothing() -> None:
    """Have `torch.compile` return its function as it is. Idempotent.

    torch reads the variable when it imports its compiler; where that has happened the setting itself is changed.
    """
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    config = sys.modules.get("torch._dynamo.config")
    if config is not None:
        config.disable = True


def switch_amx_off() -> None:
    """Have vLLM take this CPU for one without AMX tiles, from now on in this process and in what it forks. Idempotent.

    Raises AttributeError when torch no longer has the function that vLLM asks.
    """
    supported = torch.cpu._is_amx_tile_supported  # noqa: SLF001 - the function that vLLM asks; a test fails when it moves
    if supported is not _off:
        _off.hidden = _off.hidden or bool(supported())
        torch.cpu._is_amx_tile_supported = _off  # noqa: SLF001 - as above


def report_attention_kernel() -> None:
    """Log vLLM's choice of the attention kernel, once for each outcome, and refuse AMX. Idempotent.

    Raises AttributeError or ImportError when vLLM no longer chooses where it did: find out what it does before an engine serves.
    """
    module = importlib.import_module(_ATTENTION)
    choose = getattr(module, _CHOICE)
    if not hasattr(choose, "__wrapped__"):
        setattr(module, _CHOICE, _reported(choose))


class _Off:
    """Answers that there are no AMX tiles, and remembers whether there are."""

    def __init__(self) -> None:
        self.hidden = False

    def __call__(self) -> bool:
        return False


_off: Final = _Off()


def _reported(choose: Callable[..., str]) -> Callable[..., str]:
    from vllm.logger import init_logger  # noqa: PLC0415 - vLLM reads its environment when it is imported

    logger = init_logger("vllm.seatrial")  # below vLLM's logger, so that its handler and level apply
    said: set[str] = set()

    @functools.wraps(choose)
    def reported(*args: Any, **kwargs: Any) -> str:
        kernel = choose(*args, **kwargs)
        if kernel == _AMX:
            message = (
                "vLLM chose the AMX attention kernel, which computes wrong answers; its switch in seatrial_engine.kernels has no effect"
            )
            raise ForbiddenKernelError(message)
        if kernel not in said:
            said.add(kernel)
            amx = "AMX is switched off, because vLLM's AMX attention computes wrong answers" if _off.hidden else "this CPU has no AMX"
            logger.info("seatrial: attention kernel %s; %s", kernel, amx)
        return kernel

    return reported
