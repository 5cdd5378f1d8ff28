"""The weights are quantized by a method that the engine serves, and config.json states it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from core.reasons import Reason
from core.versions import Finding
from evals.checks.model_files import ModelFiles
from evals.checks.names import QUANTIZATION
from evals.checks.reading import shown
from evals.checks.report import NotCheckable, fail

_KEYS = ("quantization_config", "compression_config")
_PACKED = (".qweight", ".weight_packed", ".absmax", ".quant_map")
_FULL = "Remove it from config.json if the weights have full precision; otherwise quantize the model by one of these methods; submit again"


@cache
def served_methods() -> frozenset[str]:
    """Return the names of `quant_method` that the engine's vLLM takes from a config.json, on any device."""
    return frozenset(Path(__file__).with_name("quantizations.txt").read_text(encoding="ascii").split())


def served_quantization(files: ModelFiles) -> Iterator[Finding]:
    """Hold config.json's quantization_config against vLLM's list."""
    key, stated = _stated(files)
    if stated is None:
        yield from _unstated(files)
        return
    if not isinstance(stated, dict):
        reason = f"{files.model}: `{key}` in config.json must be an object, got {shown(stated)}"
        yield fail(Reason.UNSUPPORTED_QUANTIZATION, reason, f"Correct or remove {key} in config.json and submit again")
        return
    method = stated.get("quant_method", "")
    name = method.lower().replace("compressed_tensors", "compressed-tensors") if isinstance(method, str) else shown(method)
    if not name:
        return  # vLLM takes this as not quantized, or as ModelOpt's by its other keys
    if name not in served_methods():
        reason = (
            f"{files.model}: {key} in config.json states the quantization method {shown(name)}, which vLLM does not serve; "
            f"it serves {', '.join(sorted(served_methods()))}"
        )
        yield fail(Reason.UNSUPPORTED_QUANTIZATION, reason, _FULL)


def is_quantized(files: ModelFiles) -> bool:
    """Whether config.json states any quantization: shapes of tensors then follow the method."""
    return _stated(files)[1] is not None or QUANTIZATION in files.paths


def _stated(files: ModelFiles) -> tuple[str, Any]:
    configs: tuple[Mapping[str, Any], ...] = (files.config, files.text_config)
    return next(((key, config[key]) for config in configs for key in _KEYS if config.get(key) is not None), (_KEYS[0], None))


def _unstated(files: ModelFiles) -> Iterator[Finding]:
    try:
        names = files.tensors
    except NotCheckable:
        return
    packed = next((name for name in sorted(names) if name.endswith(_PACKED)), None)
    if packed is not None and QUANTIZATION not in files.paths:
        yield fail(
            Reason.UNSUPPORTED_QUANTIZATION,
            f"{files.model}: the tensor {packed[:80]} holds quantized weights, but config.json has no quantization_config",
            "Add the quantization_config that the quantizing tool wrote to config.json and submit again",
        )
