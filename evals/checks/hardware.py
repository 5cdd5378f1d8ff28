"""The quantisation and the attention heads are ones that the engines' hardware runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from core.reasons import Reason
from core.versions import Finding
from evals.checks.memory import engine_dtype
from evals.checks.model_files import ModelFiles
from evals.checks.quantization import served_methods
from evals.checks.report import fail

_INT4: Final = ("awq", "gptq")
_HALF_ONLY: Final = {"awq", "gptq"}  # activations that vLLM's AWQ and GPTQ layers take
_CPU_METHODS: Final = {"awq", "gptq", "compressed-tensors"}
_SMALLEST_HEAD: Final = 32  # of vLLM's CPU attention; smaller ones load, and the first request kills the engine
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What config.json says of the weights: the method, and bits per weight where it is an integer layout."""

    method: str
    bits: int
    integer: bool


def quantization_on_cpu(files: ModelFiles) -> Iterator[Finding]:
    """Refuse layouts that vLLM has no CPU kernel for, and number types that a method does not take."""
    found = quantisation(files.config)
    if found is None or found.method not in served_methods():
        return
    if found.method in _HALF_ONLY and engine_dtype(files) == "float32":
        reason = f"{files.model}: {found.method} runs in float16 or bfloat16 only, config.json states float32"
        yield fail(Reason.UNSUPPORTED_QUANTIZATION, reason, "Set dtype to float16 in config.json and submit again")
    elif not files.host.gpu:
        yield from _on_cpu(files, found)


def heads_served(files: ModelFiles) -> Iterator[Finding]:
    """Refuse heads that vLLM's CPU attention has no kernel for."""
    if files.host.gpu:
        return
    size = _head_size(files.text_config)
    if 0 < size < _SMALLEST_HEAD:
        yield fail(
            Reason.HEADS_NOT_ON_CPU,
            f"{files.model}: attention heads of {size} numbers; vLLM's CPU attention needs {_SMALLEST_HEAD} or more",
            "Submit a model with larger heads, or run engines on GPUs",
        )


def quantisation(config: Mapping[str, Any]) -> Quantisation | None:
    """Return how the weights are quantised, None when they are not."""
    described = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(described, dict):
        return None
    method = str(described.get("quant_method") or "compressed-tensors")
    if method == "compressed-tensors":
        weights = _first_group(described).get("weights")
        weights = weights if isinstance(weights, dict) else {}
        bits = weights.get("num_bits")
        return Quantisation(method, bits if type(bits) is int else 0, integer=weights.get("type") == "int")
    bits = described.get("bits", described.get("w_bit"))
    return Quantisation(method, bits if type(bits) is int else 0, integer=method in _INT4)


def _on_cpu(files: ModelFiles, found: Quantisation) -> Iterator[Finding]:
    why = ""
    if found.method not in _CPU_METHODS:
        why = f"the quantisation method {found.method} runs on GPUs only"
    elif found.integer and _has_experts(files.text_config):
        why = f"{found.method} with {found.bits} bits of a mixture of experts runs on GPUs only"
    elif found.integer and found.method in _INT4 and found.bits != 4:  # noqa: PLR2004 - bits
        why = f"{found.method} with {found.bits} bits runs on GPUs only"
    elif found.integer and found.bits == 4 and not files.host.avx512:  # noqa: PLR2004 - bits
        why = f"{found.method} with 4 bits needs AVX-512, which the CPU of the engines lacks"
    if why:
        hint = "Submit compressed-tensors W8A8 or the unquantised weights, or run engines on GPUs"
        yield fail(Reason.QUANTIZATION_NOT_ON_CPU, f"{files.model}: {why}", hint)


def _first_group(described: Mapping[str, Any]) -> Mapping[str, Any]:
    groups = described.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    return first if isinstance(first, dict) else {}


def _has_experts(config: Mapping[str, Any]) -> bool:
    return any(type(config.get(name)) is int and config[name] > 1 for name in _EXPERTS)


def _head_size(config: Mapping[str, Any]) -> int:
    """Return the size of attention heads, 0 where the configuration does not say or attention is latent (MLA)."""
    if config.get("kv_lora_rank"):
        return 0
    heads = _first_number(config, "num_attention_heads", "n_head", "n_heads")
    if not heads:
        return 0
    return _first_number(config, "head_dim") or _first_number(config, "hidden_size", "n_embd", "d_model") // heads


def _first_number(config: Mapping[str, Any], *names: str) -> int:
    return next((config[name] for name in names if type(config.get(name)) is int and config[name] > 0), 0)
