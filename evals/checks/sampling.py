"""generation_config.json: transformers has to read it, and the engine takes its values as the defaults of every request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from core.reasons import Reason
from core.versions import Finding
from evals.checks.model_files import ModelFiles
from evals.checks.names import GENERATION_CONFIG
from evals.checks.reading import shown
from evals.checks.report import fail


def default_sampling(files: ModelFiles) -> Iterator[Finding]:
    """Hold the keys that vLLM takes from generation_config.json against its limits (`SamplingParams`), and others against transformers'.

    vLLM ignores the values of the others, but does not start with a file that `GenerationConfig` refuses.
    """
    document = files.json(GENERATION_CONFIG) or {}
    for key, (accepts, expected) in _LIMITS.items():
        value = document.get(key)
        if value is not None and not accepts(value):
            yield fail(
                Reason.BAD_GENERATION_CONFIG,
                f"{files.model}: {key} in {GENERATION_CONFIG} must be {expected}, got {shown(value)}",
                f"Correct or remove {key} in {GENERATION_CONFIG} and submit again",
            )


def _between(low: float, high: float, *, above: bool = False) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (isinstance(value, int) or math.isfinite(value)) and low <= value <= high and not (above and value == low)

    return accepts


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= _LARGEST_INT


_LARGEST_INT = 2**31 - 1
"""The largest number of int32, in which vLLM's sampler keeps whole numbers."""
_CACHES = (
    "static",
    "offloaded_static",
    "sliding_window",
    "hybrid",
    "hybrid_chunked",
    "offloaded_hybrid",
    "offloaded_hybrid_chunked",
    "dynamic",
    "offloaded",
    "quantized",
)

_LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (_between(0, 2), "a number between 0 and 2"),
    "top_p": (_between(0, 1, above=True), "a number above 0 and at most 1"),
    "min_p": (_between(0, 1), "a number between 0 and 1"),
    "top_k": (_whole(-1), f"a whole number between -1 and {_LARGEST_INT}"),
    "repetition_penalty": (_between(0.01, 100), "a number between 0.01 and 100"),
    "presence_penalty": (_between(-2, 2), "a number between -2 and 2"),
    "frequency_penalty": (_between(-2, 2), "a number between -2 and 2"),
    "early_stopping": (lambda value: isinstance(value, bool) or value == "never", 'true, false or "never"'),
    "cache_implementation": (lambda value: value in _CACHES, f"one of {', '.join(_CACHES)}"),
    "compile_config": (lambda _value: False, "null"),
    "watermarking_config": (lambda value: isinstance(value, dict), "an object"),
    "max_new_tokens": (_whole(1), f"a whole number between 1 and {_LARGEST_INT}"),
}
