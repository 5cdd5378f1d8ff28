"""Quantised checkpoints in the layouts that AutoAWQ, GPTQModel and llm-compressor write, made by rounding to the nearest step."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

Tensors = dict[str, torch.Tensor]
GROUP: Final = 32  # inputs that share one scale; small, so that the tiny shapes hold several groups
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ's: the output that each group of four bits of a word holds


def packed_rows(values: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Pack unsigned 4-bit values along the last axis, eight to an int32, the first in the lowest bits."""
    blocks = values.reshape(*values.shape[:-1], -1, 8).to(torch.int64)
    word = sum(blocks[..., order[place]] << (4 * place) for place in range(8))
    return torch.where(word >= 2**31, word - 2**32, word).to(torch.int32).contiguous()


def _groups(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return symmetric 4-bit values (0 to 15, zero at 8) of [out, in] and their scales [out, in / GROUP]."""
    grouped = weight.float().reshape(weight.shape[0], -1, GROUP)
    scale = (grouped.abs().amax(-1, keepdim=True) / 7).clamp(min=1e-6)
    return ((grouped / scale).round().clamp(-8, 7) + 8).reshape(weight.shape), scale[..., 0]


def _awq(weight: torch.Tensor, dtype: torch.dtype) -> Tensors:
    values, scale = _groups(weight)
    zeros = torch.full_like(scale.t(), 8)
    order = _AWQ_ORDER
    return {"qweight": packed_rows(values.t(), order), "qzeros": packed_rows(zeros, order), "scales": scale.t().to(dtype).contiguous()}


def _gptq(weight: torch.Tensor, dtype: torch.dtype) -> Tensors:
    values, scale = _groups(weight)
    zeros = torch.full_like(scale.t(), 7)  # version 1 of the format stores the zero point less one
    g_idx = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
    packed = packed_rows(values).t().contiguous()
    return {"qweight": packed, "qzeros": packed_rows(zeros), "scales": scale.t().to(dtype).contiguous(), "g_idx": g_idx}


def _w4a16(weight: torch.Tensor, dtype: torch.dtype) -> Tensors:
    values, scale = _groups(weight)
    return {"weight_packed": packed_rows(values), "weight_scale": scale.to(dtype), "weight_shape": torch.tensor(weight.shape)}


def _w8a8(weight: torch.Tensor, dtype: torch.dtype) -> Tensors:
    scale = weight.float().abs().amax(-1, keepdim=True) / 127
    return {"weight": (weight.float() / scale).round().to(torch.int8), "weight_scale": scale.to(dtype)}


def _fp8(weight: torch.Tensor, _dtype: torch.dtype) -> Tensors:
    scale = weight.float().abs().amax(-1, keepdim=True) / 448
    return {"weight": (weight.float() / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


def _compressed(kind: str, weights: Mapping[str, Any], activations: Mapping[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


_INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP, "dynamic": False}
_INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
_FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False}

LAYOUTS: Final[Mapping[str, tuple[Callable[[torch.Tensor, torch.dtype], Tensors], dict[str, Any]]]] = {
    "awq": (_awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
    "gptq": (_gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True}),
    "w4a16": (_w4a16, _compressed("pack-quantized", _INT4, None)),
    "w8a8": (_w8a8, _compressed("int-quantized", _INT8, {**_INT8, "strategy": "token", "dynamic": True})),
    "fp8": (_fp8, _compressed("float-quantized", _FP8, {**_FP8, "strategy": "token", "dynamic": True})),
    "gptq-8bit": (_gptq, {"quant_method": "gptq", "bits": 8, "group_size": GROUP, "desc_act": False, "sym": True}),
    "bitsandbytes": (_w8a8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
}


def quantised(state: Tensors, layout: str, skip: str = "") -> tuple[Tensors, dict[str, Any]]:
    """Return `state` with the projections of its layers in `layout`, and config.json's quantization_config.

    Projections whose name contains `skip` stay as they are, as AutoAWQ and GPTQModel leave layers out without a word in the configuration.
    """
    convert, described = LAYOUTS[layout]
    made: Tensors = {}
    for name, tensor in state.items():
        module, _dot, kind = name.rpartition(".")
        if kind == "weight" and tensor.ndim == 2 and module.endswith("_proj") and not (skip and skip in name):
            made |= {f"{module}.{part}": value for part, value in convert(tensor, tensor.dtype).items()}
        else:
            made[name] = tensor
    return made, described
