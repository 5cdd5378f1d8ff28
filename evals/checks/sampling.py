"""generation_config.json: the engine takes its values as the defaults of every request, so each has to be one that the engine accepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from core.versions import Finding
from evals.checks.model_files import ModelFiles
from evals.checks.names import GENERATION_CONFIG
from evals.checks.reading import shown
from evals.checks.report import fail


def default_sampling(files: ModelFiles) -> Iterator[Finding]:
    """Hold the keys that vLLM takes from generation_config.json against its own limits (`SamplingParams`); it ignores all others."""
    document = files.json(GENERATION_CONFIG) or {}
    for key, (accepts, expected) in _LIMITS.items():
        value = document.get(key)
        if value is not None and not accepts(value):
            yield fail(
                "bad_generation_config",
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
_LARGEST_FLOAT = (2 - 2**-23) * 2.0**127
"""The largest numbers of int32 and float32, in which vLLM's sampler keeps these values."""

_LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (_between(0, 2), "a number between 0 and 2"),
    "top_p": (_between(0, 1, above=True), "a number above 0 and at most 1"),
    "min_p": (_between(0, 1), "a number between 0 and 1"),
    "top_k": (_whole(-1), f"a whole number between -1 and {_LARGEST_INT}"),
    "repetition_penalty": (_between(0, _LARGEST_FLOAT, above=True), f"a number above 0 and at most {_LARGEST_FLOAT:.3g}"),
    "presence_penalty": (_between(-2, 2), "a number between -2 and 2"),
    "frequency_penalty": (_between(-2, 2), "a number between -2 and 2"),
    "max_new_tokens": (_whole(1), f"a whole number between 1 and {_LARGEST_INT}"),
}
